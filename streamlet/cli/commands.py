"""Which sub-commands are there, and how does an error become an exit code?"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import IO, Any, ParamSpec

import click

from streamlet import __version__
from streamlet.errors import StreamletError, UsageError

__all__ = ["Output", "cli", "exit_codes", "innermost"]

P = ParamSpec("P")

_COMMANDS = {
    "broker": "start a local Kinesis",
    "run": "run an app as a worker",
    "esm": "run a Lambda function against a stream, as its event source mapping would",
    "invoke": "run a Lambda function with events, asynchronously as S3 and SNS do",
    "put": "put JSON lines into a stream",
    "doctor": "look at leases; abandon a prepared range",
    "demo": "the whole path on real data, with a kill, a split and a merge",
}


class _Lazy(click.Group):
    """Imports a sub-command's module only when it is called, so that `streamlet broker` is up at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"streamlet.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamlet")
def cli() -> None:
    """Kinesis stream processing: one handler for Lambda and for a worker.

    Example: streamlet broker --shards orders:4
    """


class Output:
    """Where a long-lived command tells what happens. When nobody reads it any more (`| head`), `closed` is called: it is as if the
    command had been told to stop, and what it still says goes nowhere. A line that cannot be written for another reason, as on a
    full disk, is lost, and the work goes on."""

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed

    def text(self, line: str, **style: Any) -> None:
        """A line on stderr, styled as `click.secho` does; on terminals alone, and not where NO_COLOR is set (no-color.org)."""
        with self._to(sys.stderr):
            click.secho(line, err=True, color=False if os.environ.get("NO_COLOR") else None, **style)

    def json(self, line: bytes) -> None:
        """A line on stdout, flushed: another process reads along, and may act on what it reads."""
        with self._to(sys.stdout):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    @contextlib.contextmanager
    def _to(self, stream: IO[str]) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            self._closed()
        except OSError:
            pass


def innermost(error: BaseException) -> BaseException:
    """What a TaskGroup's error is about: the first of what it holds."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_codes(function: Callable[P, Any]) -> Callable[P, None]:
    """Errors of streamlet become one sentence and an exit code: 2 for the user's call, 1 for the rest."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            try:
                code = function(*args, **kwargs)
            except BaseExceptionGroup as group:
                raise innermost(group) from None
        except UsageError as error:
            click.echo(f"streamlet: {error}", err=True)
            sys.exit(2)
        except StreamletError as error:
            click.echo(f"streamlet: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(1)
        sys.exit(code or 0)

    return wrapped
