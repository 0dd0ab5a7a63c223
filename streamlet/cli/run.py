"""`streamlet run`: an app as a long-lived worker."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from pathlib import Path

import click

from streamlet.app import App
from streamlet.cli.commands import Output, exit_codes
from streamlet.errors import ConfigurationError, HandlerError, StreamletError
from streamlet.hooks import Event, Listener
from streamlet.observe.logs import json_line, words

__all__ = ["command", "load_app"]


def load_app(target: str) -> App:
    """`package.module:app` or `path/to/file.py:app`. Raises ConfigurationError that says what was not found."""
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise ConfigurationError(f"{target!r}: write MODULE:APP or FILE.py:APP, for instance orders:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        if where.endswith(".py"):
            path = Path(where)
            if not path.is_file():
                raise ConfigurationError(f"{where}: there is no such file")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except StreamletError:
        raise
    except ModuleNotFoundError as error:
        if error.name and where.startswith(error.name):
            raise ConfigurationError(f"there is no module {error.name!r} here; run from the folder that holds it") from error
        raise ConfigurationError(f"{where} needs the module {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    app = getattr(module, name, None)
    if app is None:
        raise ConfigurationError(f"{where} has no {name!r}")
    if not isinstance(app, App):
        raise HandlerError(f"{target} is a {type(app).__name__}, not a streamlet App")
    return app


def _listener(log_format: str, output: Output) -> Listener:
    def text(event: Event) -> None:
        line = words(event)
        if line is not None:
            output.text(line)

    def as_json(event: Event) -> None:
        output.json(json_line(event))

    return as_json if log_format == "json" else text


@click.command("run", short_help="run an app as a worker")
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--endpoint-url", envvar="STREAMLET_ENDPOINT_URL", metavar="URL", help="Kinesis endpoint; default AWS, or AWS_ENDPOINT_URL_KINESIS."
)
@click.option("--region", envvar="STREAMLET_REGION", help="AWS region; default from the environment or profile.")
@click.option("--state", envvar="STREAMLET_STATE", metavar="URL", help="Leases and checkpoints: sqlite:///FILE or memory://.")
@click.option(
    "--failover-s", envvar="STREAMLET_FAILOVER_S", default=10.0, show_default=True, help="Seconds until a dead worker's shards move."
)
@click.option(
    "--poll-interval-s", envvar="STREAMLET_POLL_INTERVAL_S", default=1.0, show_default=True, help="Pause between reads at the tip."
)
@click.option(
    "--log",
    "log_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Events on stderr, or as JSON on stdout.",
)
@exit_codes
def command(
    target: str, endpoint_url: str | None, region: str | None, state: str | None, failover_s: float, poll_interval_s: float, log_format: str
) -> int:
    """Run an app until SIGTERM or Ctrl-C, then drain.

    SIGUSR1 pauses it: calls in hand are finished, position and shards are kept. SIGUSR2 resumes it.

    Example: streamlet run orders:app --endpoint-url http://127.0.0.1:4567
    """
    app = load_app(target)
    try:
        from streamlet.runtimes.worker import WorkerOptions, run_worker
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the worker needs {error.name}: pip install 'streamlet[worker]'") from error
    stop = asyncio.Event()
    options = WorkerOptions(
        endpoint_url=endpoint_url,
        region=region,
        state=state,
        failover_s=failover_s,
        poll_interval_s=poll_interval_s,
        listeners=(_listener(log_format, Output(closed=stop.set)),),
    )
    return 1 if asyncio.run(run_worker(app, options, stop=stop)) else 0
