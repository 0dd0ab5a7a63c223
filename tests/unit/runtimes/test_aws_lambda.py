"""What Lambda gets for an answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from hashlib import md5
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from streamlet import App, Batch, ConfigurationError, HandlerError, MemoryIdempotency, ParquetSink, Record, RecordFailed, lambda_context
from streamlet.errors import StoreError
from streamlet.kpl.deaggregate import MAGIC
from streamlet.ports import Marker
from tests.unit.runtimes.lambda_worlds import SHARD, STREAM_ARN, Context, aggregate, event, failures


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    made.close()


def test_success_is_an_empty_list(app: App) -> None:
    seen: list[Any] = []
    app.on_record("orders")(lambda record: seen.append((record.value, record.partition_key, record.shard_id, record.arrived_at_s)))
    assert app.lambda_handler(event(b"1", b"2"), None) == failures()
    assert seen == [(1, "1", "shardId-000000000006", 1545084650.987), (2, "1", "shardId-000000000006", 1545084650.987)]


def test_a_failing_record_is_named_and_those_after_it_are_not_touched(app: App) -> None:
    seen = []

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        seen.append(record.value)

    assert app.lambda_handler(event(b"1", b"2", b"no json", b"4"), None) == failures(92)
    assert seen == [1, 2]


def test_a_batch_that_raises_raises(app: App) -> None:
    """So that Lambda counts a function error, and bisects if it is told to."""

    @app.on_batch("orders")
    def handle(batch: Batch) -> None:
        raise ZeroDivisionError("of the handler")

    with pytest.raises(ZeroDivisionError, match="of the handler"):
        app.lambda_handler(event(b"1"), None)


def test_a_batch_handler_may_name_the_record(app: App) -> None:
    @app.on_batch("orders")
    async def handle(batch: Batch) -> None:
        raise RecordFailed(batch[1])

    assert app.lambda_handler(event(b"1", b"2", b"3"), None) == failures(91)


def test_one_loop_lives_through_all_invocations_and_the_lifespan_runs_once(app: App) -> None:
    loops, entered = [], []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(3):
        app.lambda_handler(event(b"1"), None)
    assert len(set(loops)) == 1
    assert entered == ["in"]
    app.close()
    assert entered == ["in", "out"]
    app.close()
    assert entered == ["in", "out"], "a second call does nothing"
    app.lambda_handler(event(b"1"), None)
    assert entered == ["in", "out", "in"], "as in a new execution environment"
    assert len(set(loops)) == 2


def test_what_cannot_be_closed_holds_up_nothing_else(app: App) -> None:
    closed: list[str] = []

    class Broken(MemoryIdempotency):
        def close(self) -> None:
            closed.append("store")
            raise StoreError("cannot be closed")

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        yield
        raise ValueError("lifespan")

    @app.on_record("orders", idempotency=Broken())
    async def handle(record: Record) -> None:
        loops.append(asyncio.get_running_loop())

    loops: list[asyncio.AbstractEventLoop] = []
    app.on_record("others", idempotency=Broken())(handle)
    app.lambda_handler(event(b"1"), None)
    with pytest.raises(StoreError):
        app.close()
    assert closed == ["store", "store"]
    assert loops[0].is_closed()


def test_an_app_that_was_never_called_has_nothing_to_close() -> None:
    app = App("shop")
    app.close()
    app.close()


@pytest.mark.parametrize(
    "bad", [{}, {"Records": []}, {"Records": [{"s3": {}}]}, [], None, "text", {"Records": [{"eventSourceARN": 5, "eventID": "x"}]}]
)
def test_an_event_of_another_kind_is_told_from_a_stream(app: App, bad: Any) -> None:
    app.on_record("orders")(lambda record: None)
    with pytest.raises(HandlerError, match="no Kinesis event and no S3 event"):
        app.lambda_handler(bad, None)


def test_an_unknown_stream_says_which_there_are(app: App) -> None:
    app.on_record("orders")(lambda record: None)
    with pytest.raises(ConfigurationError, match="no handler for stream 'refunds'.*it has orders"):
        app.lambda_handler(event(b"1", stream="refunds"), None)


def test_data_that_is_not_base64_is_named(app: App) -> None:
    app.on_record("orders")(lambda record: None)
    bad = event(b"1")
    bad["Records"][0]["kinesis"]["data"] = "MQ%%"
    with pytest.raises(HandlerError, match="record 90 of the event"):
        app.lambda_handler(bad, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("data", bad) for bad in ("MQ", "MQ=", "M Q==", "MQ==\n", "MQ==MQ==", "\u00e4", None, 5, ["MQ=="])],
        *[("sequenceNumber", bad) for bad in ("", "12a", "-1", "\u0661", None, 91)],
        *[("partitionKey", bad) for bad in (None, 7)],
        *[("approximateArrivalTimestamp", bad) for bad in ("now", None)],
    ],
)
def test_a_record_that_lambda_would_not_send_is_told(app: App, field: str, value: Any) -> None:
    """Whatever stands there ends in one sentence about the event, and no handler runs."""
    seen: list[Record] = []
    app.on_record("orders")(seen.append)
    for drop in (False, True):
        odd = event(b"1", b"2")
        odd["Records"][1]["kinesis"][field] = value
        if drop:
            del odd["Records"][1]["kinesis"][field]
        with pytest.raises(HandlerError, match=r"of the event is not as Lambda sends it"):
            app.lambda_handler(odd, Context())
    assert seen == []


def test_files_are_written_before_the_answer_and_an_equal_replay_overwrites_them(app: App, tmp_path: Path) -> None:
    """Rows of the records before a failing one land; each carries its sequence number."""

    @app.on_record("orders", sink=ParquetSink(f"file://{tmp_path}", schema={"n": "int64"}))
    def handle(record: Record) -> dict[str, Any]:
        return {"n": record.value}

    for _ in range(2):
        assert app.lambda_handler(event(b"1", b"2", b'"three"', b"4"), None) == failures(92)
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.ParquetFile(path).read().to_pylist() == [
        {"n": 1, "_sequence_number": "90", "_sub_sequence_number": 0},
        {"n": 2, "_sequence_number": "91", "_sub_sequence_number": 0},
    ]


def test_a_handler_knows_its_invocation(app: App) -> None:
    """On the loop, and on threads; the one before is forgotten. Outside Lambda there is none."""
    seen: list[Any] = []

    @app.on_record("orders")
    async def one(record: Record) -> None:
        seen.append(lambda_context())

    @app.on_record("refunds", concurrency=2)
    def two(record: Record) -> None:
        seen.append(lambda_context())

    context = Context(remaining_ms=12_345)
    app.lambda_handler(event(b"1", consumer="fan-out:1545084650"), context)
    app.lambda_handler(event(b"1", b"2", keys="ab", stream="refunds"), None)
    assert (seen[0].request_id, seen[0].function_name, seen[0].memory_limit_mb) == (context.aws_request_id, "orders", 512)
    assert (seen[0].remaining_s(), seen[0].raw) == (12.345, context)
    assert (seen[0].shard_id, seen[0].event_source_arn) == (SHARD, f"{STREAM_ARN}/orders/consumer/fan-out:1545084650")
    assert [(c.request_id, c.remaining_s(), c.event_source_arn) for c in seen[1:]] == [("", float("inf"), f"{STREAM_ARN}/refunds")] * 2
    assert lambda_context() is None


def test_time_that_runs_short_is_told_as_progress(app: App) -> None:
    """The margin is the app's; what was done before counts, and the rest comes again."""
    context, seen = Context(5_000), []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append(record.value)
        context.remaining_ms -= 1_500

    assert app.lambda_handler(event(b"1", b"2", b"3", b"4"), context) == failures(93)
    assert seen == [1, 2, 3], "begun with 5.0, 3.5 and 2.0 seconds left, not with 0.5"


@pytest.mark.parametrize(("margin", "environment", "number"), [(3.0, None, 92), (3.0, "0", None)])
def test_the_margin_can_be_set(monkeypatch: pytest.MonkeyPatch, margin: float, environment: str | None, number: int | None) -> None:
    if environment is not None:
        monkeypatch.setenv("STREAMLET_DEADLINE_MARGIN_S", environment)
    app, context = App("shop", deadline_margin_s=margin), Context(5_000)

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        context.remaining_ms -= 1_500

    assert app.lambda_handler(event(b"1", b"2", b"3"), context) == (failures() if number is None else failures(number))
    app.close()


@pytest.mark.parametrize("bad", [-1, 901, "soon", None, True, float("nan")])
def test_a_margin_that_makes_no_sense_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="deadline_margin_s=.*from 0 to 900"):
        App("shop", deadline_margin_s=bad)


def test_a_handler_that_hangs_is_cancelled_in_time(app: App) -> None:
    """Its record is reported, and the environment stays warm: Lambda's own time-out would lose both."""

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        if record.value == 2:
            await asyncio.Event().wait()

    assert app.lambda_handler(event(b"1", b"2", b"3"), Context(1_050)) == failures(91)
    assert app.lambda_handler(event(b"1"), Context()) == failures()


def test_keys_run_side_by_side_and_the_lowest_failure_is_named(app: App) -> None:
    seen: list[int] = []

    @app.on_record("orders", concurrency=3)
    async def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value in {2, 3}:
            raise ValueError

    assert app.lambda_handler(event(b"1", b"2", b"3", b"4", b"5", b"6", keys="abcbda"), Context()) == failures(91)
    assert sorted(seen) == [1, 2, 3, 5, 6], "4 is behind 2 in its key"


def test_idempotency_spares_what_succeeded_behind_a_failure(app: App) -> None:
    """AWS comes again with everything from the lowest failure on, here as a batch of its own."""
    seen: list[int] = []
    store = MemoryIdempotency()

    @app.on_record("orders", concurrency=3, idempotency=store)
    async def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == 2 and seen.count(2) == 1:
            raise ValueError

    again = event(b"1", b"2", b"3", b"4", keys="abcb")
    assert app.lambda_handler(again, Context()) == failures(91)
    again["Records"] = again["Records"][1:]
    assert app.lambda_handler(again, Context()) == failures()
    assert sorted(seen) == [1, 2, 2, 3, 4]


@pytest.mark.parametrize(("context", "for_s"), [(Context(20_000), 20.0), (None, None), (object(), None)])
def test_a_marker_lasts_as_long_as_the_invocation_where_that_is_known(app: App, context: Any, for_s: float | None) -> None:
    asked = []

    class Asked(MemoryIdempotency):
        def begin(self, key: str, *, for_s: float | None = None) -> Marker:
            asked.append(for_s)
            return super().begin(key, for_s=for_s)

    app.on_record("orders", idempotency=Asked())(lambda record: None)
    assert app.lambda_handler(event(b"1"), context) == failures()
    assert asked == [for_s]


class Away(MemoryIdempotency):
    """A table that cannot be reached."""

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        raise StoreError("the table is away")


def test_an_idempotency_store_that_fails_is_a_function_error(app: App) -> None:
    """Not a partial response, whose reason nobody would see."""
    app.on_record("orders", idempotency=Away())(lambda record: None)
    with pytest.raises(StoreError, match="the table is away"):
        app.lambda_handler(event(b"1"), Context())


def test_a_record_in_progress_elsewhere_comes_again(app: App) -> None:
    store, seen = MemoryIdempotency(), []
    app.on_record("orders", idempotency=store)(lambda record: seen.append(record.value))
    store.begin(f"shop/orders/{SHARD}/90/0")
    assert app.lambda_handler(event(b"1", b"2"), Context()) == failures(90)
    assert seen == []


def test_aggregates_are_taken_apart_and_a_failure_names_the_record_that_holds_it(app: App) -> None:
    seen: list[Any] = []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append((record.partition_key, record.value, record.sequence_number, record.sub_sequence_number))
        if record.value == 13:
            raise ValueError

    plain, users = b"1", [("a", b"11"), ("b", b"12"), ("a", b"13"), ("c", b"14")]
    assert app.lambda_handler(event(plain, aggregate(*users), b"2"), Context()) == failures(91)
    assert seen == [("1", 1, "90", 0), ("a", 11, "91", 0), ("b", 12, "91", 1), ("a", 13, "91", 2)]
    seen.clear()
    nothing = MAGIC + b"\x0a\x01a" + md5(b"\x0a\x01a", usedforsecurity=False).digest()  # a table of one key, and no record
    assert app.lambda_handler(event(nothing, nothing), Context()) == failures()
    assert seen == []


def test_an_aggregate_that_comes_again_runs_only_what_is_not_done(app: App) -> None:
    """AWS knows no smaller unit than the record that holds it; the store does."""
    seen: list[int] = []

    @app.on_record("orders", idempotency=MemoryIdempotency())
    async def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == 2 and seen.count(2) == 1:
            raise ValueError

    held = event(aggregate(("a", b"1"), ("b", b"2"), ("a", b"3")))
    assert app.lambda_handler(held, Context()) == failures(90)
    assert app.lambda_handler(held, Context()) == failures()
    assert seen == [1, 2, 2, 3]


def test_the_environment_sets_the_concurrency_of_records_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLET_CONCURRENCY", "7")
    app = App("shop")
    app.on_record("a", concurrency=2)(lambda record: None)
    app.on_batch("b")(lambda batch: None)
    assert [spec.concurrency for spec in app.consumers] == [7, 1]
    monkeypatch.setenv("STREAMLET_CONCURRENCY", "many")
    with pytest.raises(ConfigurationError, match="STREAMLET_CONCURRENCY='many'"):
        app.on_record("c")(lambda record: None)


def test_what_only_looks_like_an_aggregate_is_plain(app: App) -> None:
    seen: list[bytes] = []
    app.on_record("orders", decode=bytes)(lambda record: seen.append(record.value))
    broken = aggregate(("a", b"1"))[:-1] + b"!"
    assert app.lambda_handler(event(broken, MAGIC), Context()) == failures()
    assert seen == [broken, MAGIC]


def test_context_variables_of_the_caller_and_of_the_lifespan_are_seen(app: App) -> None:
    """A tracer around lambda_handler sets one; a lifespan keeps a pool in another."""
    outer: ContextVar[str] = ContextVar("outer", default="none")
    inner: ContextVar[str] = ContextVar("inner", default="none")
    seen = []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        inner.set("pool")
        yield

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        seen.append((outer.get(), inner.get()))

    for name in ("first", "second"):
        token = outer.set(name)
        app.lambda_handler(event(b"1"), None)
        outer.reset(token)
    assert seen == [("first", "pool"), ("second", "pool")]
    assert inner.get() == "none"


def test_beside_powertools(app: App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The real package: its logger knows the request, its metrics come out, its tracer lets results and exceptions through."""
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "shop")
    from aws_lambda_powertools import Logger, Metrics, Tracer
    from aws_lambda_powertools.metrics import MetricUnit

    logger, metrics, tracer = Logger(service="orders"), Metrics(service="orders"), Tracer(service="orders")

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        logger.info("took", extra={"n": record.value})
        metrics.add_metric(name="Taken", unit=MetricUnit.Count, value=1)

    @app.on_batch("refunds")
    def fail(batch: Batch) -> None:
        metrics.add_metric(name="Failed", unit=MetricUnit.Count, value=1)
        raise ZeroDivisionError("of the handler")

    @logger.inject_lambda_context
    @tracer.capture_lambda_handler
    @metrics.log_metrics
    def handler(event: Any, context: Any) -> Any:
        return app.lambda_handler(event, context)

    direct = logger.inject_lambda_context(app.lambda_handler)
    try:
        for function in (handler, direct):
            assert function(event(b"1", b"2", b"no"), Context()) == failures(92)
            with pytest.raises(ZeroDivisionError, match="of the handler"):
                function(event(b"1", stream="refunds"), Context())
            metrics.clear_metrics()
    finally:
        logging.getLogger("orders").handlers.clear()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["n"], line["function_request_id"]) for line in told if line.get("message") == "took"] == [
        (n, Context.aws_request_id) for n in (1, 2, 1, 2)
    ]
    assert [line["Taken"] for line in told if "Taken" in line] == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 0}, "from 1 to 1,000"),
        ({"concurrency": True}, "from 1 to 1,000"),
        ({"concurrency": 1.5}, "from 1 to 1,000"),
        ({"idempotency": MemoryIdempotency}, "is no store"),
        ({"idempotency": "table"}, "is no store"),
        ({"idempotency_key": str}, "without idempotency= has no effect"),
        ({"idempotency": MemoryIdempotency(), "idempotency_key": "id"}, "must be a plain function"),
        ({"idempotency": MemoryIdempotency(), "sink": ParquetSink("memory://", schema={"n": "int64"})}, "its row would be lost"),
        ({"tumbling_window_s": 60}, "needs @app.on_window"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_the_app_is_built(app: App, options: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        app.on_record("orders", **options)(lambda record: None)
