"""`streamlet broker`: a local Kinesis, up in milliseconds."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click

from streamlet.broker import ApiError, serve
from streamlet.broker.faults import FaultFile, read_faults
from streamlet.broker.limits import MEMORY_BYTES_MAX
from streamlet.broker.server import new_loop
from streamlet.broker.signatures import read_secrets
from streamlet.broker.tls import default_folder, files_in
from streamlet.cli.commands import exit_codes
from streamlet.errors import ConfigurationError, UsageError

__all__ = ["command"]


def streams_of(shards: tuple[str, ...]) -> dict[str, int]:
    """`("orders:4",)` as `{"orders": 4}`. Raises ConfigurationError."""
    streams: dict[str, int] = {}
    for text in shards:
        name, _, count = text.rpartition(":")
        if not name or not count.isascii() or not count.isdigit() or len(count) > 9 or int(count) < 1:
            raise ConfigurationError(f"--shards {text!r}: write NAME:N, for instance --shards orders:4")
        if name in streams:
            raise ConfigurationError(f"--shards names the stream {name!r} twice")
        streams[name] = int(count)
    return streams


def faults_of(path: str, seed: int | None) -> FaultFile:
    """What a file says, under a seed that was given beside it. Raises ConfigurationError."""
    try:
        content = read_faults(path)
    except OSError as error:
        raise ConfigurationError(f"--faults {path}: {error.strerror or error}") from error
    return content if seed is None else FaultFile(content.faults, seed)


def tls_of(tls: bool, folder: str | None, certificate: str | None, key: str | None) -> dict[str, Any]:
    """The broker's options for https. What clients are to trust is said on stderr: stdout has the address alone."""
    if certificate is not None or key is not None:
        return {"tls_cert": certificate, "tls_key": key}
    if not tls and folder is None:
        return {}
    found = default_folder(os.environ) if folder is None else Path(folder)
    path = files_in(found).certificate
    click.echo(f"clients trust {path}, for instance with AWS_CA_BUNDLE={path}", err=True)
    return {"tls": True, "tls_dir": found}


async def _serve(host: str, port: int, streams: dict[str, int], **options: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await serve(host, port, streams, lambda url: click.echo(f"listening on {url}"), stop=stop, **options)
    except ApiError as error:
        raise ConfigurationError(f"--shards: {error}") from error
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port, or 0 for any free one"
        ) from error


@click.command("broker", short_help="start a local Kinesis")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4567, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option("--shards", multiple=True, metavar="NAME:N", help="Create stream NAME with N shards at start. Repeatable.")
@click.option(
    "--control-delay-ms",
    type=click.IntRange(0, 10**9),
    default=0,
    show_default=True,
    help="How long a stream stays CREATING, UPDATING or DELETING.",
)
@click.option("--enforce-limits", is_flag=True, help="Enforce the service's rates per shard, consumer and account.")
@click.option("--faults", "faults_file", metavar="FILE", help="Arm the faults that a JSON or TOML file lists.")
@click.option("--faults-seed", type=int, help="Seed of their chances, in place of the file's.")
@click.option("--admin", is_flag=True, help="Have faults switched over HTTP at /_streamlet/faults.")
@click.option(
    "--admin-host",
    "admin_hosts",
    multiple=True,
    metavar="NAME",
    help="A Host that may ask it, or the console, besides loopback. Repeatable.",
)
@click.option("--tls", is_flag=True, help="Serve https with a certificate for this machine's loopback, made if there is none.")
@click.option("--tls-dir", metavar="DIR", help="Where that certificate is kept. Default: this user's cache.")
@click.option("--tls-cert", metavar="FILE", help="Serve https with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its key (PEM).")
@click.option("--verify-signatures", is_flag=True, help="Refuse calls that are not signed with a known secret.")
@click.option("--credentials-file", metavar="FILE", help="AWS credentials file with those secrets. Default: AWS_ACCESS_KEY_ID, …")
@click.option(
    "--subscription-s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="How long a fan-out subscription lasts.",
)
@click.option("--data-dir", metavar="DIR", help="Keep everything in this directory: what was acknowledged survives the process.")
@click.option(
    "--memory-bytes-max",
    type=click.IntRange(min=0),
    help="With --data-dir: bytes of records to hold in memory.  [default: 268435456]",
)
@click.option("--console/--no-console", default=True, show_default=True, help="Show a page to browsers at the broker's address.")
@exit_codes
def command(
    host: str,
    port: int,
    shards: tuple[str, ...],
    *,
    control_delay_ms: int,
    enforce_limits: bool,
    faults_file: str | None,
    faults_seed: int | None,
    admin: bool,
    admin_hosts: tuple[str, ...],
    tls: bool,
    tls_dir: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    verify_signatures: bool,
    credentials_file: str | None,
    subscription_s: float,
    data_dir: str | None,
    memory_bytes_max: int | None,
    console: bool,
) -> None:
    """Start a local Kinesis and print `listening on http://HOST:PORT`. SIGTERM stops it.

    Example: streamlet broker --port 4567 --shards orders:4

    Any AWS SDK works against it: AWS_ENDPOINT_URL_KINESIS=http://127.0.0.1:4567
    """
    streams = streams_of(shards)
    if memory_bytes_max is not None and data_dir is None:
        raise UsageError("--memory-bytes-max goes with --data-dir: without a log, everything is in memory")
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(
            _serve(
                host,
                port,
                streams,
                control_delay_ms=control_delay_ms,
                enforce_limits=enforce_limits,
                faults=None if faults_file is None else faults_of(faults_file, faults_seed),
                faults_seed=faults_seed or 0,
                admin=admin,
                admin_hosts=admin_hosts,
                console=console,
                verify=read_secrets(credentials_file, os.environ) if verify_signatures or credentials_file else None,
                subscription_s=subscription_s,
                data_dir=data_dir,
                memory_bytes_max=MEMORY_BYTES_MAX if memory_bytes_max is None else memory_bytes_max,
                **tls_of(tls, tls_dir, tls_cert, tls_key),
            )
        )
