"""`streamlet invoke`: any Python Lambda function with events as S3 or SNS would send them, asynchronously."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click
import orjson

from streamlet.cli.commands import Output, exit_codes
from streamlet.cli.function import function_options, hosted
from streamlet.errors import ConfigurationError

if TYPE_CHECKING:
    from streamlet.runtimes.esm.asynchronous import Attempt, Ended, InvokeOptions
    from streamlet.runtimes.esm.sandbox import SandboxSettings

__all__ = ["command"]


def _events(files: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(where it stands, the event). A file holds one event; standard input one per line."""
    from streamlet.runtimes.esm.asynchronous import EVENT_BYTES_MAX

    events = []
    for name in files:
        with click.open_file(name, "rb") as source:
            texts = (
                [("standard input, line " + str(n), line) for n, line in enumerate(source, 1)] if name == "-" else [(name, source.read())]
            )
        for where, text in texts:
            event = text.strip()  # as it is written: numbers of any length stay what they are
            if not event:
                continue
            try:
                orjson.loads(event)
            except orjson.JSONDecodeError as error:
                raise ConfigurationError(f"{where}: not JSON ({error})") from error
            if len(event) > EVENT_BYTES_MAX:
                raise ConfigurationError(f"{where}: {len(event):,} bytes, an asynchronous invocation takes {EVENT_BYTES_MAX:,}")
            events.append((where, event))
    if not events:
        raise ConfigurationError("there is no event: name files that hold one each, or give JSON lines on standard input (-)")
    return events


def _said(where: str, attempt: Attempt) -> tuple[str, str | None]:
    from streamlet.core.failure import Throttled
    from streamlet.runtimes.esm.sandbox import Answer
    from streamlet.runtimes.esm.tree import shortened

    at = time.strftime("%H:%M:%S")
    again = f"; again in {attempt.wait_s:g} s" if attempt.wait_s is not None else ""
    if isinstance(attempt.invoked, Throttled):
        return f"{at}  {where}  throttled{again}", "yellow"
    ran = attempt.invoked
    start = "" if ran.init_s is None else f"  cold start {ran.init_s * 1000:.0f} ms"
    told = f"{at}  {where}  attempt {attempt.number}  {{}}  {ran.duration_s * 1000:.0f} ms  {ran.memory_bytes / 1_048_576:.0f} MB{start}"
    if isinstance(ran.outcome, Answer):
        return told.format("ok"), None
    return f"{told.format('FAILED')}  {ran.outcome.kind}: {shortened(ran.outcome.message)}{again}", "red"


async def _run(settings: SandboxSettings, events: list[tuple[str, bytes]], options: InvokeOptions, concurrency: int | None) -> int:
    from streamlet.clock import SystemClock, ThreadExecutor
    from streamlet.runtimes.esm.asynchronous import Asynchronous
    from streamlet.runtimes.esm.host import Host
    from streamlet.runtimes.esm.tree import NOISE

    clock, executor = SystemClock(), ThreadExecutor()
    ended: list[Ended] = []
    output = Output(closed=lambda: None)  # the events are seen to their ends, whoever looks on

    def printed(sandbox: int, _: str, line: str) -> None:
        if NOISE not in line:
            output.text(f"{time.strftime('%H:%M:%S')}  sandbox {sandbox} │ {line}", dim=True)

    async def one(host: Host, where: str, event: bytes) -> None:
        def tell(attempt: Attempt) -> None:
            text, colour = _said(where, attempt)
            output.text(text, fg=colour)

        end = await Asynchronous(host, options, clock=clock, executor=executor, on_attempt=tell).invoke(event)
        ended.append(end)
        if end.condition:
            tries = f"{end.invoke_count} attempt{'s' * (end.invoke_count != 1)}"
            output.text(f"{time.strftime('%H:%M:%S')}  {where}  GIVEN UP  {end.condition} after {tries}", fg="red")
        for why in end.undelivered:
            output.text(f"{time.strftime('%H:%M:%S')}  {where}  LOST: {why}", fg="red")

    try:
        async with Host(settings, clock=clock, concurrency=concurrency, on_line=printed) as host, asyncio.TaskGroup() as tg:
            for where, event in events:
                tg.create_task(one(host, where, event))
    finally:
        for target in (options.on_failure, options.dead_letters):
            if target is not None:
                await executor.run(target.close)
        executor.close()
    given_up = sum(bool(end.condition) for end in ended)
    output.text(f"{len(ended)} event{'s' * (len(ended) != 1)}, {len(ended) - given_up} done, {given_up} given up")
    return 1 if given_up else 0


@click.command("invoke", short_help="run a Lambda function with events, asynchronously as S3 and SNS do")
@click.argument("handler", metavar="MODULE.FUNCTION")
@click.argument("files", nargs=-1, required=True, metavar="EVENT.json…", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--maximum-retry-attempts",
    "retries",
    type=click.IntRange(0, 2),
    default=2,
    show_default=True,
    help="How often a failed event is tried again, after 1 and 2 minutes.",
)
@click.option(
    "--maximum-event-age-in-seconds",
    "age_s",
    type=click.IntRange(60, 21_600),
    default=21_600,
    show_default=True,
    help="An event that is older is given up.",
)
@click.option("--on-failure", metavar="ARN", help="SQS queue, SNS topic or S3 bucket for a document of what is given up.")
@click.option("--dead-letter-target-arn", "dead_letters", metavar="ARN", help="SQS queue or SNS topic for the events themselves.")
@function_options
@click.option(
    "--region",
    envvar=["STREAMLET_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"],
    default="us-east-1",
    help="The function's region; default from AWS_REGION or AWS_DEFAULT_REGION, else us-east-1.",
)
@exit_codes
def command(
    handler: str,
    files: tuple[str, ...],
    retries: int,
    age_s: int,
    on_failure: str | None,
    dead_letters: str | None,
    function_name: str | None,
    timeout_s: int,
    memory_mb: int,
    env: tuple[str, ...],
    concurrency: int | None,
    region: str,
) -> int:
    """Run any Python Lambda function with events as S3 or SNS send them: retries after 1 and 2 minutes, a dead-letter queue, a
    destination. Exit code 1 if an event was given up.

    Example: streamlet invoke app.lambda_handler put-event.json --maximum-retry-attempts 0
    """
    settings = hosted(handler, function_name, timeout_s, memory_mb, env, region=region)
    from streamlet.runtimes.esm.asynchronous import DeadLetters, FailureRecords, InvokeOptions

    options = InvokeOptions(
        maximum_retry_attempts=retries,
        maximum_event_age_s=age_s,
        on_failure=FailureRecords(on_failure) if on_failure is not None else None,
        dead_letters=DeadLetters(dead_letters) if dead_letters is not None else None,
    )
    return asyncio.run(_run(settings, _events(files), options, concurrency))
