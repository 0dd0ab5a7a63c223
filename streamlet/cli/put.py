"""`streamlet put`: JSON lines from files or standard input into a stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streamlet.cli.commands import exit_codes
from streamlet.errors import ConfigurationError, RecordError, UsageError

if TYPE_CHECKING:
    from streamlet.producer import Producer

__all__ = ["command", "key_of"]

BULK_BYTES: Final = 1_000_000


def key_of(value: Any, path: tuple[str, ...]) -> str | None:
    """The value at a dotted path, as a partition key; None if there is none."""
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else orjson.dumps(value).decode()


class _Lines:
    """Says what of a source's lines can be sent, and keeps count of what was sent, and of what could not be."""

    def __init__(self, path: tuple[str, ...], default: str | None) -> None:
        self._path, self._default = path, default
        self.sent = self.refused = 0

    def take(self, name: str, first: int, lines: list[bytes]) -> list[tuple[str, bytes, str]]:
        """(where it stands, payload, partition key) of each line that can be sent; the first one is number `first`."""
        bulk: list[tuple[str, bytes, str]] = []
        for number, line in enumerate(lines, first):
            payload = line.strip()
            if not payload:
                continue
            where = f"{name}, line {number}"
            try:
                key = key_of(orjson.loads(payload), self._path)
            except orjson.JSONDecodeError as error:
                self.refuse(f"{where}: not JSON ({error})")
                continue
            key = key or self._default
            if key is None:
                self.refuse(f"{where}: no value at --key {'.'.join(self._path)}; give a --key-default to send it all the same")
                continue
            bulk.append((where, payload, key))
        return bulk

    def refuse(self, reason: str) -> None:
        """Name a line that is left out (the first twenty of them), and count it."""
        self.refused += 1
        if self.refused <= 20:
            click.echo(f"streamlet: {reason}", err=True)


async def _chunks(file: int) -> AsyncIterator[bytes]:
    """What can be read without waiting, about BULK_BYTES at most: lines of a pipe are sent as they come, and Ctrl-C is heard meanwhile."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    ended = False
    while not ended:
        with contextlib.suppress(PermissionError):  # a plain file never waits, and cannot be waited for
            loop.add_reader(file, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(file)
                ready.clear()
        parts = bytearray()
        while len(parts) < BULK_BYTES and not ended and select.select([file], [], [], 0)[0]:
            data = os.read(file, BULK_BYTES)
            parts += data
            ended = not data
        yield bytes(parts)


async def _send(producer: Producer, bulk: list[tuple[str, bytes, str]], lines: _Lines) -> None:
    """Put a bulk; a record that can never be put is named like a line that is not JSON, and the others go on."""
    pending = []
    for where, payload, key in bulk:
        try:
            pending.append((where, await producer.put(payload, key)))
        except (RecordError, UsageError) as error:
            lines.refuse(f"{where}: {error}")
    for where, result in pending:
        try:
            await result
        except RecordError as error:
            lines.refuse(f"{where}: {error}")
        else:
            lines.sent += 1


async def _put(stream: str, files: tuple[str, ...], lines: _Lines, endpoint_url: str | None, region: str | None) -> None:
    from streamlet.producer import Producer

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[sent]:,} records"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        async with Producer(stream, endpoint_url=endpoint_url, region=region) as producer:
            for name in files or ("-",):
                size = Path(name).stat().st_size if name != "-" else None
                title = "standard input" if name == "-" else name
                task = progress.add_task(title, total=size, sent=0)
                number, rest = 1, b""
                with click.open_file(name, "rb") as source:
                    async for chunk in _chunks(source.fileno()):
                        *whole, rest = (rest + chunk).split(b"\n")
                        await _send(producer, lines.take(title, number, whole), lines)
                        number += len(whole)
                        progress.update(task, advance=len(chunk), sent=lines.sent)
                await _send(producer, lines.take(title, number, [rest]), lines)
                progress.update(task, sent=lines.sent)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@click.command("put", short_help="put JSON lines into a stream")
@click.argument("stream")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--key", required=True, metavar="PATH", help="Where the partition key is in each line, for instance user.id")
@click.option("--key-default", metavar="KEY", help="Partition key of lines that have no value there.")
@click.option(
    "--endpoint-url", envvar="STREAMLET_ENDPOINT_URL", metavar="URL", help="Kinesis endpoint; default AWS, or AWS_ENDPOINT_URL_KINESIS."
)
@click.option("--region", envvar="STREAMLET_REGION", help="AWS region; default from the environment or profile.")
@exit_codes
def command(stream: str, files: tuple[str, ...], key: str, key_default: str | None, endpoint_url: str | None, region: str | None) -> int:
    """Put each line of FILES (or standard input) as one record. Lines that are not JSON are named and left out (exit code 1).

    Example: streamlet put orders orders.jsonl --key customer.id --endpoint-url http://127.0.0.1:4567
    """
    path = tuple(part for part in key.split(".") if part)
    if not path:
        raise ConfigurationError("--key is empty: name the field whose value is the partition key, for instance --key customer.id")
    lines = _Lines(path, key_default)
    try:
        asyncio.run(_put(stream, files, lines, endpoint_url, region))
    except BaseException:
        if lines.sent:
            click.echo(f"{_counted(lines.sent, 'record')} put into {stream}, before it was stopped", err=True)
        raise
    click.echo(
        f"{_counted(lines.sent, 'record')} put into {stream}" + (f", {_counted(lines.refused, 'line')} left out" if lines.refused else ""),
        err=True,
    )
    return 1 if lines.refused else 0
