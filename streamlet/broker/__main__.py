"""How is the broker run on its own? `python -m streamlet.broker --port 4567 --shards orders:4`.

Prints one line, `listening on http://HOST:PORT`, and runs until SIGTERM or SIGINT, then exits with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any

from streamlet.broker.errors import ApiError
from streamlet.broker.faults import read_faults
from streamlet.broker.server import new_loop, serve
from streamlet.errors import ConfigurationError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m streamlet.broker", description="A local Kinesis.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=4567, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--shards", type=_stream, action="append", default=[], metavar="NAME:N", help="create a stream; may be repeated")
    parser.add_argument("--enforce-limits", action="store_true", help="enforce the service's rates per shard, consumer and account")
    parser.add_argument("--faults", metavar="FILE", help="arm the faults that a JSON or TOML file lists")
    parser.add_argument("--admin", action="store_true", help="have faults switched over HTTP at /_streamlet/faults")
    parser.add_argument(
        "--admin-host", action="append", default=[], dest="admin_hosts", metavar="NAME", help="a Host that may ask it, besides loopback"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="keep everything in this directory")
    options = vars(parser.parse_args(arguments))
    try:
        if options["faults"] is not None:
            options["faults"] = read_faults(options["faults"])
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_run(streams=dict(options.pop("shards")), **options))
    except (OSError, ApiError, ConfigurationError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    return 0


def _port(text: str) -> int:
    # uvloop takes 99999 for 34463: it keeps the low 16 bits only.
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _stream(text: str) -> tuple[str, int]:
    name, _, count = text.rpartition(":")
    if not name or not count.isdecimal() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:N, such as orders:4")
    return name, int(count)


async def _run(host: str, port: int, streams: dict[str, int], **options: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(host, port, streams, _announce, stop, **options)


def _announce(url: str) -> None:
    sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
