"""`streamlet broker`: a local Kinesis, up in milliseconds."""

from __future__ import annotations

import asyncio
import signal

import click

from streamlet.broker import serve
from streamlet.broker.server import new_loop
from streamlet.cli.commands import exit_codes
from streamlet.errors import ConfigurationError, UsageError

__all__ = ["command"]


def streams_of(shards: tuple[str, ...]) -> dict[str, int]:
    """`("orders:4",)` as `{"orders": 4}`. Raises ConfigurationError."""
    streams: dict[str, int] = {}
    for text in shards:
        name, _, count = text.rpartition(":")
        if not name or not count.isdigit() or int(count) < 1:
            raise ConfigurationError(f"--shards {text!r}: write NAME:N, for instance --shards orders:4")
        if name in streams:
            raise ConfigurationError(f"--shards names the stream {name!r} twice")
        streams[name] = int(count)
    return streams


async def _serve(host: str, port: int, streams: dict[str, int]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await serve(host, port, streams, lambda url: click.echo(f"listening on {url}"), stop=stop)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port, or 0 for any free one"
        ) from error


@click.command("broker", short_help="start a local Kinesis")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4567, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option("--shards", multiple=True, metavar="NAME:N", help="Create stream NAME with N shards at start. Repeatable.")
@exit_codes
def command(host: str, port: int, shards: tuple[str, ...]) -> None:
    """Start a local Kinesis and print `listening on http://HOST:PORT`. SIGTERM stops it.

    Example: streamlet broker --port 4567 --shards orders:4

    Any AWS SDK works against it: AWS_ENDPOINT_URL_KINESIS=http://127.0.0.1:4567
    """
    streams = streams_of(shards)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(host, port, streams))
