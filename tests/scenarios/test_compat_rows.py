"""Rows of docs/compat.md that nothing else shows: bounds of each parameter in both places, records that are trimmed or too large,
handlers that take long, several mappings of one stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from streamlet import App, Batch, ConfigurationError, EventSourceMapping, FileDestination, Record
from streamlet.broker import Broker
from streamlet.cli.esm import command
from streamlet.engine.invoke import BatchFailed
from streamlet.errors import ServiceError
from streamlet.hooks import BatchSettled, HandlerFailed, Invoked, LeaseTaken
from streamlet.runtimes.esm.host import EVENT_BYTES_MAX
from streamlet.runtimes.esm.mapping import HostedFunction, MappingOptions
from streamlet.runtimes.esm.sandbox import SandboxSettings
from streamlet.runtimes.worker import WorkerOptions
from streamlet.runtimes.worker import run_worker as run_for_real
from streamlet.testing import VirtualBroker, run_worker

DAY_S: Final = 86_400
STREAM_ARN: Final = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"

BOUNDS: Final = [  # ours, AWS's in kebab case, the lowest, the highest
    ("batch_size", "--batch-size", 1, 10_000),
    ("batching_window_s", "--maximum-batching-window-in-seconds", 0, 300),
    ("parallelization_factor", "--parallelization-factor", 1, 10),
    ("maximum_retry_attempts", "--maximum-retry-attempts", -1, 10_000),
    ("maximum_record_age_s", "--maximum-record-age-in-seconds", 60, 604_800),
    ("tumbling_window_s", "--tumbling-window-in-seconds", 0, 900),
]


def refused_by_esm(*arguments: str) -> str:
    """What the command says, which stops where it looks for the module: after the mapping has been built."""
    ran = CliRunner().invoke(command, ["nowhere.handler", "--stream", "orders", *arguments])
    assert ran.exit_code != 0
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.output


@pytest.mark.parametrize(("ours", "theirs", "lowest", "highest"), BOUNDS, ids=[one[0] for one in BOUNDS])
def test_a_number_is_taken_within_awss_bounds_and_refused_beyond(ours: str, theirs: str, lowest: int, highest: int) -> None:
    for value in (lowest, highest):
        EventSourceMapping.of(None, {ours: value})
        assert "no module 'nowhere'" in refused_by_esm(theirs, str(value))
    for value in (lowest - 1, highest + 1):
        with pytest.raises(ConfigurationError, match=f"{ours}={value}"):
            EventSourceMapping.of(None, {ours: value})
        assert "no module" not in (said := refused_by_esm(theirs, str(value))), said
        assert theirs in said


@pytest.mark.parametrize("option", ["--provisioned-poller-config", "--scaling-config", "--logging-config", "--kms-key-arn"])
def test_what_is_not_for_kinesis_is_no_option(option: str) -> None:
    assert "No such option" in refused_by_esm(option, "x")


def test_a_stream_is_named_by_its_name_in_esm_too() -> None:
    ran = CliRunner().invoke(command, ["nowhere.handler", "--stream", STREAM_ARN])
    assert "not its ARN" in ran.output


def test_time_outs_and_memory_are_within_lambdas_bounds() -> None:
    for option, values in (("--timeout", ("0", "901")), ("--memory-size", ("127", "10241"))):
        for value in values:
            assert option in refused_by_esm(option, value)
    assert "4,096 are allowed" in refused_by_esm("--env", "LONG=" + "x" * 4_093)
    assert "reserves this name" in refused_by_esm("--env", "AWS_LAMBDA_RUNTIME_API=x")


def failing_until(ready_s: float, broker: VirtualBroker) -> tuple[App, list[Any]]:
    """Fails for 0 until then."""
    app, seen = App("shop"), []

    @app.on_batch("orders", batch_size=1)
    def handle(batch: Batch) -> None:
        if batch.values[0] == 0 and broker.now_s < ready_s:
            raise ValueError("not yet")
        seen.extend(batch.values)

    return app, seen


def almost_trimmed() -> VirtualBroker:
    """Two records that have ten minutes left of the retention of a day."""
    broker = VirtualBroker()
    broker.put("orders", 0, 1)
    broker.advance(DAY_S - 600)
    return broker


def test_a_handler_of_a_worker_may_take_hours() -> None:
    app = App("shop")

    @app.on_record("orders", maximum_retry_attempts=0)
    async def handle(record: Record) -> None:
        await asyncio.sleep(3 * 3_600)

    report = run_worker(app, [1], time_max_s=DAY_S, poll_interval_s=60)
    assert [(call.attempt, call.failed, call.at_s > 3 * 3_600) for call in report.invocations] == [(1, False, True)]
    assert sum(isinstance(event, LeaseTaken) for event in report.events) == 1  # and its shard stays its own meanwhile


def test_one_stream_may_have_several_mappings_each_with_its_own_position() -> None:
    broker, seen = VirtualBroker(), list[tuple[str, Any]]()
    for name in ("shop", "audit"):
        app = App(name)
        app.on_record("orders")(lambda record, name=name: seen.append((name, record.value)))
        broker.put("orders", name)
        run_worker(app, broker)
    assert seen == [("shop", "shop"), ("audit", "shop"), ("audit", "audit")]


def test_a_record_that_fits_into_no_event_is_a_batch_of_its_own_and_handled_by_a_worker() -> None:
    app, sizes = App("shop"), []

    @app.on_batch("orders", maximum_retry_attempts=0)
    def handle(batch: Batch) -> None:
        sizes.append([len(record.data) for record in batch])

    broker = VirtualBroker()
    broker.call("CreateStream", StreamName="orders", ShardCount=1)
    broker.call("UpdateMaxRecordSize", StreamARN=STREAM_ARN.replace("000000000000", account(broker)), MaxRecordSizeInKiB=10_240)
    broker.put("orders", b"a", b"x" * 5_000_000, b"b")
    report = run_worker(app, broker)
    assert sizes == [[1], [5_000_000], [1]]
    assert report.failed == []


def account(broker: VirtualBroker) -> str:
    arn: str = broker.call("DescribeStreamSummary", StreamName="orders")["StreamDescriptionSummary"]["StreamARN"]
    return arn.split(":")[4]


async def test_a_record_that_fits_into_no_event_fails_in_esm_without_being_run_and_without_a_function_error(tmp_path: Path) -> None:
    settings = SandboxSettings(handler="nowhere.handler", function_name="orders", folder=tmp_path)
    options = MappingOptions(stream="orders", mapping=EventSourceMapping(), function=settings)
    record = Record(b"x" * EVENT_BYTES_MAX, "key", "8", 0, 0.0, "shardId-000000000000", "orders", bytes)
    function = HostedFunction(options)
    async with function.open(STREAM_ARN, "us-east-1"):
        with pytest.raises(BatchFailed, match="RequestEntityTooLarge") as failed:
            await function(Batch([record], "orders", "shardId-000000000000"))
    assert failed.value.function_error is None


def test_listeners_are_told_of_invocations_and_errors_but_throttles_are_neither() -> None:
    """What AWS counts as Invocations and Errors."""
    app = App("shop")

    @app.on_batch("orders", batch_size=2, maximum_retry_attempts=1, on_failure=FileDestination("/nowhere/failed.jsonl"))
    def handle(batch: Batch) -> None:
        if batch.values[0] == 2:
            raise ValueError

    report = run_worker(app, [0, 1, 2, 3, 4])
    assert [len(event.records) for event in report.events if isinstance(event, Invoked)] == [2, 2, 2, 1]
    assert [event.attempt for event in report.events if isinstance(event, HandlerFailed)] == [1, 2]


def test_a_batch_knows_how_far_behind_it_was_read() -> None:
    """What there is of IteratorAge where no listener counts: of the read that brought a batch, and 0 at the tip."""
    app, behind = App("shop"), []

    @app.on_batch("orders", batch_size=10_000)
    def handle(batch: Batch) -> None:
        behind.append(batch.millis_behind_latest)

    broker = VirtualBroker()
    broker.put("orders", *range(3_000))
    broker.advance(60)
    broker.put("orders", "late")
    report = run_worker(app, broker)
    assert behind[0] == 60_000
    assert behind[-1] == 0
    assert [event.millis_behind_latest for event in report.events if isinstance(event, BatchSettled)] == behind


async def test_a_worker_of_a_stream_that_is_not_there_ends_and_says_so() -> None:
    app = App("shop")
    app.on_record("missing")(lambda record: None)
    async with Broker() as broker:
        options = WorkerOptions(endpoint_url=broker.endpoint_url, state="memory://")
        with pytest.raises(ServiceError, match="create the stream 'missing' first"):
            await run_for_real(app, options, stop=asyncio.Event())
