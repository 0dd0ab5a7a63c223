"""`streamlet esm`: any Python Lambda function behind an event source mapping, on this machine."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click
import msgspec

from streamlet.cli.commands import Output, exit_codes
from streamlet.cli.function import function_options, hosted
from streamlet.core.filters import patterns_of_criteria
from streamlet.destinations import from_arn
from streamlet.errors import ConfigurationError
from streamlet.hooks import BatchSettled, Drained, Draining, Event, HandlerFailed, LeaseReleased, LeaseTaken, RecordsGivenUp, Trouble
from streamlet.observe.logs import json_line, words
from streamlet.spec import EventSourceMapping, StartingPositionName, check_stream_name

if TYPE_CHECKING:
    from streamlet.runtimes.esm.mapping import MappingOptions

__all__ = ["command"]

_COLOURS: Final[dict[str, dict[str, Any]]] = {"ok": {}, "bad": {"fg": "red"}, "warn": {"fg": "yellow"}, "dim": {"dim": True}}


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A time as the AWS CLI takes it, in epoch seconds."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither seconds since 1970 nor ISO 8601, as 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mapping(
    batch_size: int,
    window_s: int,
    factor: int,
    position: str,
    timestamp_s: float | None,
    bisect: bool,
    retries: int,
    age_s: int,
    tumbling_s: int,
    on_failure: str | None,
    criteria: str | None,
    *,
    enabled: bool,
) -> EventSourceMapping:
    """The mapping. Raises ConfigurationError, with AWS's reason, for what CreateEventSourceMapping refuses."""
    if position == "AT_TIMESTAMP" and timestamp_s is None:
        raise ConfigurationError("--starting-position AT_TIMESTAMP needs --starting-position-timestamp")
    if position != "AT_TIMESTAMP" and timestamp_s is not None:
        raise ConfigurationError("--starting-position-timestamp goes with --starting-position AT_TIMESTAMP only")
    if timestamp_s is not None and not 0 <= timestamp_s <= time.time():
        raise ConfigurationError(f"--starting-position-timestamp {timestamp_s:.15g}: must be seconds since 1970, and not in the future")
    if age_s != -1 and age_s < 60:
        raise ConfigurationError(f"--maximum-record-age-in-seconds {age_s}: -1 (no limit), or 60 to 604800")
    if criteria is not None and criteria.startswith("@"):
        try:
            criteria = Path(criteria[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--filter-criteria {criteria}: {error}") from error
    return EventSourceMapping(
        batch_size=batch_size,
        batching_window_s=window_s,
        parallelization_factor=factor,
        tumbling_window_s=tumbling_s,
        starting_position=cast("StartingPositionName", position),  # click has checked it
        starting_position_timestamp=timestamp_s,
        maximum_retry_attempts=retries,
        maximum_record_age_s=age_s,
        bisect_batch_on_function_error=bisect,
        enabled=enabled,
        filters=patterns_of_criteria(criteria) if criteria is not None else (),
        on_failure=from_arn(on_failure) if on_failure is not None else None,
    )


class _Show:
    """Events as a tree on stderr, or as JSON on stdout."""

    def __init__(self, output: Output, log_format: str, *, lanes: bool, once: bool) -> None:
        from streamlet.runtimes.esm.tree import Tree

        self._output, self._once = output, once
        self.tree = Tree(lanes=lanes)
        self._json = log_format == "json"

    def say(self, text: str, **style: Any) -> None:
        """A line that is of no event."""
        self._output.text(text, **style)

    def listen(self, event: Event) -> None:
        """A listener."""
        lines = self.tree.feed(event, time.monotonic(), time.strftime("%H:%M:%S"))  # also counts, for the summary
        if self._json:
            self._output.json(json_line(event))
            return
        for line in lines:
            self._output.text(line.text, **_COLOURS[line.kind])
        if isinstance(event, BatchSettled | Drained | HandlerFailed | LeaseTaken | LeaseReleased | RecordsGivenUp):
            return  # the tree tells of it, or a person who runs one process does not ask
        if isinstance(event, Draining) and self._once:
            return  # nothing is in hand
        if (said := words(event)) is not None:
            self._output.text(said, fg="yellow" if isinstance(event, Trouble) else None)


async def _run(options: MappingOptions, show: _Show, *, stop: asyncio.Event, state: str, poll_interval_s: float, once: bool) -> int:
    from streamlet.runtimes.esm.mapping import Function
    from streamlet.runtimes.esm.once import Once
    from streamlet.runtimes.worker import WorkerOptions, run_worker

    watch = Once()
    listeners = (show.listen, watch.listen)
    function = Function(msgspec.structs.replace(options, listeners=listeners))
    worker = WorkerOptions(
        endpoint_url=options.endpoint_url, region=options.region, state=state, poll_interval_s=poll_interval_s, listeners=listeners
    )
    async with asyncio.TaskGroup() as tg:
        watching = tg.create_task(_drain(watch, stop)) if once else None
        try:
            failures = await run_worker(function, worker, stop=stop, through=watch.through)
        finally:
            drained = watching is None or watching.done()
            if watching is not None:
                watching.cancel()
    if not drained:
        show.say("stopped before the stream was drained")
    return 1 if failures or not drained or (once and watch.given_up) else 0


async def _drain(watch: Any, stop: asyncio.Event) -> None:
    try:
        await watch.drained()
    finally:
        stop.set()


def _title(options: MappingOptions) -> str:
    """What runs, and how, in one line; a mapping's options only where they are not the default."""
    function, mapping, plain = options.function, options.mapping, EventSourceMapping()
    told = [f"batches of {mapping.batch_size}"]
    told += [
        f"{name.removesuffix('_s').replace('_', ' ')} {value}{' s' if name.endswith('_s') else ''}"
        for name in ("batching_window_s", "parallelization_factor", "tumbling_window_s", "maximum_retry_attempts", "maximum_record_age_s")
        if (value := getattr(mapping, name)) != getattr(plain, name)
    ]
    told += ["bisect"] * mapping.bisect_batch_on_function_error + ["ReportBatchItemFailures"] * options.reports_failures
    told += [f"{len(mapping.filters)} filter{'s' * (len(mapping.filters) != 1)}"] if mapping.filters else []
    told += ["paused until SIGUSR2 (SIGUSR1 pauses)"] * (not mapping.enabled)
    told.append(f"on failure to {getattr(mapping.on_failure, 'target', mapping.on_failure)}" if mapping.on_failure else "no on-failure")
    return (
        f"{options.stream} → {function.handler} ({function.memory_mb} MB, {function.timeout_s:g} s, {mapping.starting_position}): "
        + ", ".join(told)
    )


@click.command("esm", short_help="run a Lambda function against a stream, as its event source mapping would")
@click.argument("handler", metavar="MODULE.FUNCTION")
@click.option("--stream", required=True, metavar="NAME", help="The stream to map to the function.")
@click.option("--batch-size", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Records in an invocation at most.")
@click.option(
    "--maximum-batching-window-in-seconds",
    "window_s",
    type=click.IntRange(0, 300),
    default=0,
    show_default=True,
    help="How long to gather.",
)
@click.option(
    "--parallelization-factor",
    "factor",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="Batches of a shard at once; order is kept per partition key.",
)
@click.option(
    "--starting-position",
    "position",
    type=click.Choice(["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]),
    default="TRIM_HORIZON",
    show_default=True,
    help="Where a shard without a saved position begins.",
)
@click.option(
    "--starting-position-timestamp",
    "timestamp_s",
    callback=_moment,
    metavar="TIME",
    help="With AT_TIMESTAMP: seconds since 1970, or ISO 8601 (UTC unless it says otherwise).",
)
@click.option(
    "--bisect-batch-on-function-error/--no-bisect-batch-on-function-error", "bisect", help="Split a failing batch in two.", default=False
)
@click.option(
    "--maximum-retry-attempts",
    "retries",
    type=click.IntRange(-1, 10_000),
    default=-1,
    show_default=True,
    help="How often a failed batch is tried again; -1: for ever.",
)
@click.option(
    "--maximum-record-age-in-seconds",
    "age_s",
    type=click.IntRange(-1, 604_800),
    default=-1,
    show_default=True,
    help="A record that is older is given up; -1: no limit, else 60 at least.",
)
@click.option("--on-failure", metavar="ARN", help="SQS queue, SNS topic or S3 bucket for what is given up.")
@click.option(
    "--function-response-types",
    "response_types",
    multiple=True,
    type=click.Choice(["ReportBatchItemFailures"]),
    help="The function reports which records failed.",
)
@click.option("--filter-criteria", "criteria", metavar="JSON|@FILE", help='{"Filters": [{"Pattern": "…"}]}')
@click.option(
    "--tumbling-window-in-seconds",
    "tumbling_s",
    type=click.IntRange(0, 900),
    default=0,
    help="Carry a state through windows of this length; 0 is no window.",
)
@click.option("--enabled/--no-enabled", default=True, help="Begin at once, or paused: SIGUSR2 resumes, SIGUSR1 pauses.")
@function_options
@click.option(
    "--endpoint-url", envvar="STREAMLET_ENDPOINT_URL", metavar="URL", help="Kinesis endpoint; default AWS, or AWS_ENDPOINT_URL_KINESIS."
)
@click.option("--region", envvar="STREAMLET_REGION", help="AWS region; default from the environment or profile.")
@click.option(
    "--state", default="memory://", show_default=True, metavar="URL", help="Where positions are kept: sqlite:///FILE or memory://."
)
@click.option("--poll-interval-s", default=1.0, show_default=True, help="Pause between reads at the tip.")
@click.option(
    "--once",
    is_flag=True,
    help="Drain the stream and exit, with windows left open. Exit code 1 if anything was given up, or it was stopped before.",
)
@click.option(
    "--log",
    "log_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A tree on stderr, or JSON on stdout.",
)
@exit_codes
def command(
    handler: str,
    stream: str,
    batch_size: int,
    window_s: int,
    factor: int,
    position: str,
    timestamp_s: float | None,
    bisect: bool,
    retries: int,
    age_s: int,
    on_failure: str | None,
    response_types: tuple[str, ...],
    criteria: str | None,
    tumbling_s: int,
    enabled: bool,
    function_name: str | None,
    timeout_s: int,
    memory_mb: int,
    env: tuple[str, ...],
    concurrency: int | None,
    endpoint_url: str | None,
    region: str | None,
    state: str,
    poll_interval_s: float,
    once: bool,
    log_format: str,
) -> int:
    """Run any Python Lambda function against a stream as AWS's event source mapping would: batches, retries, bisect, destinations.

    The function needs nothing of streamlet. It runs in Lambda's own client, a process per concurrent invocation; time-out and memory
    are enforced from outside. It gets this environment, credentials included: its own clients go where AWS_ENDPOINT_URL says, not
    to --endpoint-url.

    Example: streamlet esm app.lambda_handler --stream orders --bisect-batch-on-function-error --maximum-retry-attempts 2
    """
    check_stream_name(stream)
    if once and not enabled:
        raise ConfigurationError("--once with --no-enabled: nothing would ever be drained")
    mapping = _mapping(
        *(batch_size, window_s, factor, position, timestamp_s, bisect, retries, age_s, tumbling_s, on_failure, criteria), enabled=enabled
    )
    function = hosted(handler, function_name, timeout_s, memory_mb, env)
    from streamlet.runtimes.esm.mapping import MappingOptions

    options = MappingOptions(
        stream=stream,
        mapping=mapping,
        function=function,
        reports_failures=bool(response_types),
        concurrency=concurrency,
        endpoint_url=endpoint_url,
        region=region,
    )
    stop = asyncio.Event()
    show = _Show(Output(closed=stop.set), log_format, lanes=factor > 1, once=once)
    if log_format == "text":
        show.say(_title(options), bold=True)
    code = asyncio.run(_run(options, show, stop=stop, state=state, poll_interval_s=poll_interval_s, once=once))
    show.say(show.tree.summary())
    return code
