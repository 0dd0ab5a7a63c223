"""What may go wrong around a Lambda invocation: where it is called from, what the handler does there, and events of other sources."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow.parquet as pq
import pytest

from streamlet import App, Batch, HandlerError, MemoryIdempotency, ParquetSink, Record, S3Object, UsageError, lambda_context
from streamlet.errors import SinkError
from tests.unit.runtimes.lambda_worlds import SHARD, Context, event, failures, window_event
from tests.unit.runtimes.test_aws_lambda_s3 import s3_event


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    made.close()


# ── where it is called from ──────────────────────────────────────────────────────────────────────────────────────


async def test_from_inside_a_loop_it_says_how(app: App) -> None:
    """A notebook, an async test: a loop cannot run inside another."""
    app.on_record("orders")(lambda record: None)
    with pytest.raises(UsageError, match=r"await asyncio\.to_thread\(app\.lambda_handler, event, context\)"):
        app.lambda_handler(event(b"1"), None)
    assert await asyncio.to_thread(app.lambda_handler, event(b"1"), None) == failures()
    with pytest.raises(UsageError, match=r"await asyncio\.to_thread\(app\.close\)"):
        app.close()
    await asyncio.to_thread(app.close)


def test_two_threads_at_once_are_told(app: App) -> None:
    """Lambda runs one invocation at a time in an environment; the one that runs goes on."""
    inside, go_on = threading.Event(), threading.Event()

    @app.on_record("orders")
    def handle(record: Record) -> None:
        inside.set()
        assert go_on.wait(30)

    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(app.lambda_handler(event(b"1"), None)))
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(UsageError, match="an invocation of app 'shop' is under way"):
            app.lambda_handler(event(b"1"), None)
        with pytest.raises(UsageError, match="an invocation of app 'shop' is under way"):
            app.close()
    finally:
        go_on.set()
        thread.join(30)
    assert answers == [failures()]
    assert app.lambda_handler(event(b"2"), None) == failures(), "and it is as good as new"


def test_an_app_that_is_closed_begins_anew(app: App) -> None:
    entered: list[str] = []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    app.on_record("orders", concurrency=2, idempotency=MemoryIdempotency())(lambda record: None)
    for _ in range(2):
        assert app.lambda_handler(event(b"1"), None) == failures()
        app.close()
        app.close()
    assert entered == ["in", "out", "in", "out"]


def test_a_lifespan_that_fails_is_begun_again(app: App) -> None:
    tried: list[int] = []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        tried.append(1)
        if len(tried) == 1:
            raise OSError("the database is away")
        yield

    app.on_record("orders")(lambda record: None)
    with pytest.raises(HandlerError, match=r"the lifespan of app 'shop' failed before its yield: OSError: the database is away"):
        app.lambda_handler(event(b"1"), None)
    for _ in range(2):
        assert app.lambda_handler(event(b"1"), None) == failures()
    assert len(tried) == 2


def test_a_context_variable_of_an_earlier_call_is_not_seen(app: App) -> None:
    """The lifespan's variables are; those that the first caller happened to have are its own."""
    trace: ContextVar[str] = ContextVar("trace", default="none")
    pool: ContextVar[str] = ContextVar("pool", default="none")
    seen: list[tuple[str, str]] = []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        pool.set("pool")
        yield

    app.on_record("orders")(lambda record: seen.append((trace.get(), pool.get())))

    def traced() -> None:
        trace.set("first")
        app.lambda_handler(event(b"1"), None)

    contextvars.Context().run(traced)
    app.lambda_handler(event(b"1"), None)
    assert seen == [("first", "pool"), ("none", "pool")]


# ── what a handler may do ────────────────────────────────────────────────────────────────────────────────────────


def _record(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    app.on_record("orders")(lambda record: work())
    return event(b"1", b"2")


def _spared(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    app.on_record("orders", idempotency=MemoryIdempotency())(lambda record: work())
    return event(b"1", b"2")


def _side_by_side(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    app.on_record("orders", concurrency=2)(lambda record: work())
    return event(b"1", b"2")


def _batch(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    @app.on_batch("orders")
    def handle(batch: Batch) -> None:
        work()

    return event(b"1", b"2")


def _window(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    @app.on_window("orders", tumbling_window_s=60)
    def handle(batch: Batch, state: Any) -> Any:
        work()
        return state

    return window_event(b"1", state={})


def _object(app: App, work: Callable[[], Any]) -> dict[str, Any]:
    @app.on_s3("landing")
    def handle(thing: S3Object) -> None:
        work()

    return s3_event("a")


KINDS = pytest.mark.parametrize("kind", [_record, _spared, _side_by_side, _batch, _window, _object])


@KINDS
def test_a_plain_handler_may_have_a_loop_of_its_own(app: App, kind: Callable[..., Any]) -> None:
    """As in a worker, where it runs on a thread. Libraries that refuse to block inside a loop (Django's ORM) look for one, too."""
    seen: list[Any] = []

    async def inner() -> Any:
        await asyncio.sleep(0)
        context = lambda_context()
        assert context is not None
        return context.request_id

    def work() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        seen.append(asyncio.run(inner()))

    given = kind(app, work)
    for _ in range(2):
        assert app.lambda_handler(given, Context()) in (None, failures(), {"state": {}, **failures()})
    assert set(seen) == {Context.aws_request_id}


@KINDS
def test_a_plain_wrapper_of_an_async_function_runs_on_the_loop(app: App, kind: Callable[..., Any]) -> None:
    """What it returns is awaited there, and asyncio.timeout, which needs its task, works."""
    seen: list[bool] = []

    async def inner() -> None:
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        seen.append(asyncio.current_task() is not None)

    if kind in (_record, _spared, _side_by_side):
        given = kind(app, inner)
    else:
        given = kind(app, lambda: None)
        spec: Any = next(iter((*app.consumers, *app.buckets)))
        other, app._consumers, app._buckets = spec.handler, {}, {}
        if kind is _object:
            app.on_s3("landing")(lambda thing: inner())
        elif kind is _batch:
            app.on_batch("orders")(lambda batch: inner())
        else:

            async def with_state(batch: Batch, state: Any) -> Any:
                await inner()
                return other(batch, state)

            app.on_window("orders", tumbling_window_s=60)(lambda batch, state: with_state(batch, state))
    app.lambda_handler(given, Context())
    assert seen
    assert all(seen)


@KINDS
def test_a_handler_that_exits_fails_and_the_environment_stays(app: App, kind: Callable[..., Any]) -> None:
    """One call's exit is not the process's, whatever kind of handler it is."""
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise SystemExit("enough")

    given = kind(app, work)
    try:
        answer = app.lambda_handler(given, Context())
    except RuntimeError as error:
        assert "SystemExit: enough" in str(error)  # noqa: PT017  a handler of records answers, the others raise
    else:
        assert answer == failures(90)
    assert app.lambda_handler(given, Context()) in (None, failures(), {"state": {}, **failures()})


@KINDS
def test_a_cancellation_that_a_plain_handler_lets_out_is_its_failure(app: App, kind: Callable[..., Any]) -> None:
    """It had a loop of its own, where something was cancelled. Out of lambda_handler it would end the process."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    given = kind(app, lambda: asyncio.run(cancelled()))
    try:
        answer = app.lambda_handler(given, Context())
    except Exception as error:
        assert "CancelledError" in f"{type(error).__name__}: {error}"  # noqa: PT017  as above
    else:
        assert answer == failures(90)


def test_a_partial_response_of_a_batch_handler_is_not_taken_for_success(app: App) -> None:
    """What a plain Lambda function returns: here it would lose the records."""
    app.on_batch("orders")(lambda batch: {"batchItemFailures": [{"itemIdentifier": batch[0].sequence_number}]})
    with pytest.raises(HandlerError, match=r"returned batchItemFailures: raise RecordFailed\(record\)"):
        app.lambda_handler(event(b"1"), None)


@pytest.mark.parametrize("context", [MagicMock(), {"aws_request_id": "x"}, 7])
def test_a_context_that_only_looks_like_one_has_no_deadline(app: App, context: Any) -> None:
    seen: list[float] = []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        known = lambda_context()
        assert known is not None
        seen.append(known.remaining_s())

    assert app.lambda_handler(event(b"1", b"2"), context) == failures()
    assert seen == [float("inf")] * 2


@pytest.mark.parametrize("remaining_ms", [0, -5])
@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"idempotency": MemoryIdempotency()}])
def test_without_any_time_left_a_first_record_is_still_begun(app: App, remaining_ms: int, options: Any) -> None:
    """Or there would never be progress."""

    @app.on_record("orders", **options)
    async def handle(record: Record) -> None:
        await asyncio.sleep(0)

    assert app.lambda_handler(event(b"1", b"2", first=90 if remaining_ms else 190), Context(remaining_ms)) == failures(
        91 if remaining_ms else 191
    )


def test_tasks_that_a_handler_leaves_go_on_in_the_next_invocation(app: App) -> None:
    """The loop stands still in between, as the frozen environment does."""
    seen: list[Any] = []
    kept: list[asyncio.Task[None]] = []

    async def behind(value: Any, gate: asyncio.Event) -> None:
        await gate.wait()
        seen.append(value)

    gates: list[asyncio.Event] = []

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        for gate in gates:
            gate.set()
        gates.append(asyncio.Event())
        kept.append(asyncio.create_task(behind(record.value, gates[-1])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    app.lambda_handler(event(b"1"), None)
    assert seen == []
    app.lambda_handler(event(b"2"), None)
    assert seen == [1]
    app.close()
    assert kept[1].cancelled()


def test_apps_call_each_other(app: App) -> None:
    """Two apps in one process, one inside the other's plain handler."""
    other, seen = App("other"), []
    other.on_record("refunds")(lambda record: seen.append(record.value))
    app.on_record("orders")(lambda record: other.lambda_handler(event(record.data, stream="refunds"), None))
    assert app.lambda_handler(event(b"1", b"2"), Context()) == failures()
    assert seen == [1, 2]
    other.close()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_cannot_be_written_fails_the_whole_batch(app: App, tmp_path: Path) -> None:
    """An exception, not a partial response: nothing of the batch has landed, so all of it comes again."""
    (tmp_path / "taken").write_text("a file where the folder should be")
    app.on_record("orders", sink=ParquetSink(f"file://{tmp_path}/taken", schema={"n": "int64"}))(lambda record: {"n": record.value})
    with pytest.raises(SinkError):
        app.lambda_handler(event(b"1", b"2"), Context())
    (tmp_path / "taken").unlink()
    assert app.lambda_handler(event(b"1", b"2"), Context()) == failures()
    assert _numbers(tmp_path) == ["90", "91"]


def test_two_environments_and_batches_that_are_cut_differently_land_each_record_at_least_once(tmp_path: Path) -> None:
    """AWS may hand the same records out twice, in two environments, and in other batches. Sequence numbers tell the doubles."""
    first, second = App("shop"), App("shop")
    for app in (first, second):
        app.on_record("orders", sink=ParquetSink(f"file://{tmp_path}", schema={"n": "int64"}))(lambda record: {"n": record.value})
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda app=app: answers.append(app.lambda_handler(event(b"1", b"2", b"3"), None)))
        for app in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [failures()] * 2
    assert _numbers(tmp_path) == ["90", "91", "92"], "the same range is the same file"
    assert second.lambda_handler(event(b"2", b"3", b"4", first=91), None) == failures()
    assert _numbers(tmp_path) == ["90", "91", "91", "92", "92", "93"]
    for app in (first, second):
        app.close()


def _numbers(folder: Path) -> list[str]:
    return sorted(row["_sequence_number"] for path in folder.rglob("*.parquet") for row in pq.ParquetFile(path).read().to_pylist())


# ── other events ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov", "aws-iso"])
@pytest.mark.parametrize("consumer", ["", "/consumer/fan-out:1545084650"])
def test_arns_of_every_partition(app: App, partition: str, consumer: str) -> None:
    seen: list[Any] = []
    app.on_record("orders")(lambda record: seen.append((record.stream, record.shard_id)))
    given = event(b"1")
    given["Records"][0]["eventSourceARN"] = f"arn:{partition}:kinesis:cn-north-1:123456789012:stream/orders{consumer}"
    assert app.lambda_handler(given, None) == failures()
    assert seen == [("orders", SHARD)]


def _of(source: str) -> dict[str, Any]:
    key = "EventSource" if source == "aws:sns" else "eventSource"
    return {"Records": [{key: source, "eventSourceARN": "arn:aws:x:eu-west-1:123456789012:q", "body": "{}"}]}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (_of("aws:sqs"), "an event of aws:sqs"),
        (_of("aws:sns"), "an event of aws:sns"),
        (_of("aws:dynamodb"), "an event of aws:dynamodb"),
        ({"source": "aws.s3", "detail-type": "Object Created", "detail": {}}, "an event of aws.s3"),
        ({"Records": [{"eventSource": "aws:kinesis"}]}, "got an event of aws:kinesis"),
        ({"Records": [{"eventSource": ["x"]}]}, "got \\['Records'\\]"),
        ({"Records": {"0": 1}}, "got \\['Records'\\]"),
        ({"Records": 5, "source": "mine"}, "an event of mine"),
        ({"key1": "value1"}, "got \\['key1'\\]"),
    ],
)
def test_an_event_of_another_source_is_named(app: App, given: Any, text: str) -> None:
    app.on_record("orders")(lambda record: None)
    with pytest.raises(HandlerError, match=f"no Kinesis event and no S3 event.*{text}"):
        app.lambda_handler(given, Context())


def test_an_s3_event_that_came_another_way_is_told_how_to_go_on(app: App) -> None:
    app.on_s3("landing")(lambda thing: None)
    with pytest.raises(HandlerError, match=r"app\.lambda_handler\(json\.loads\(body\), context\)"):
        app.lambda_handler(_of("aws:sqs"), Context())


def test_the_test_event_of_s3_is_no_failure(app: App) -> None:
    """S3 sends one where a notification is set up; an error would be tried again, and end in a dead-letter queue."""
    seen: list[S3Object] = []
    app.on_s3("landing")(seen.append)
    test = {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2014-10-13T15:57:02.089Z",
        "Bucket": "landing",
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
    }
    assert app.lambda_handler(test, Context()) is None
    assert seen == []


@pytest.mark.parametrize(
    ("quoted", "key"),
    [("a%2Bb", "a+b"), ("a+b", "a b"), ("100%25", "100%"), ("%E2%82%AC/%F0%9F%98%80", "€/😀"), ("a%2520b", "a%20b"), ("plain", "plain")],
)
def test_keys_are_unquoted_once(app: App, quoted: str, key: str) -> None:
    seen: list[str] = []
    app.on_s3("landing")(lambda thing: seen.append(thing.key))
    app.lambda_handler(s3_event(quoted), Context())
    assert seen == [key]


def test_a_version_that_is_deleted(app: App) -> None:
    """With versions a deletion may put a marker, which has a version, an ETag and no size."""
    seen: list[S3Object] = []
    app.on_s3("landing")(seen.append)
    gone = s3_event("x", name="ObjectRemoved:DeleteMarkerCreated", versionId="v2")
    del gone["Records"][0]["s3"]["object"]["size"]
    app.lambda_handler(gone, Context())
    assert (seen[0].event_name, seen[0].version_id, seen[0].size) == ("ObjectRemoved:DeleteMarkerCreated", "v2", None)


def test_a_record_that_stands_twice_in_an_event_is_run_twice_and_named_once(app: App) -> None:
    """AWS delivers at least once."""
    seen: list[int] = []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == 2:
            raise ValueError

    given = event(b"1", b"2")
    given["Records"] = [given["Records"][0], *given["Records"]]
    assert app.lambda_handler(given, Context()) == failures(91)
    assert seen == [1, 1, 2]


def test_the_largest_event(app: App) -> None:
    """10,000 records, 6 MB of JSON."""
    seen: list[int] = []
    app.on_batch("orders", decode=bytes)(lambda batch: seen.append(sum(len(record.value) for record in batch)))
    assert app.lambda_handler(event(*[b"x" * 220] * 10_000), Context()) == failures()
    assert seen == [2_200_000]
