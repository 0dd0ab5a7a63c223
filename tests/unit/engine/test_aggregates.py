"""Handlers see the user records of KPL aggregates; batches, attempts, documents and checkpoints count records of the stream."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streamlet import App, Batch, MemoryIdempotency, ParquetSink, Record, RecordFailed
from streamlet.core.failure import FailedFrom, Succeeded, Throttled
from streamlet.core.rolling import Roll
from streamlet.engine.each import Done
from streamlet.engine.invoke import Invocation, Invoker
from streamlet.hooks import RangeCommitted
from streamlet.kpl import MAGIC
from streamlet.kpl.user_records import holds_aggregates, taken_apart
from streamlet.model.position import Position
from streamlet.model.window import Window
from streamlet.ports import Lease
from streamlet.sinks.memory import MemorySink
from streamlet.testing import FakeLambdaContext, VirtualBroker, aggregate, kinesis_event, run_worker, window_event
from streamlet.testing.virtual import VirtualExecutor
from tests.unit.engine import chaos

SHARD = "shardId-000000000000"
NO_USERS = MAGIC + b"\x0a\x01a" + md5(b"\x0a\x01a", usedforsecurity=False).digest()  # a table of one key, and no record


def records(*payloads: bytes) -> list[Record]:
    """Numbered from 1000."""
    return [Record(data, f"k{n}", str(1000 + n), 0, 1.5, SHARD, "s") for n, data in enumerate(payloads)]


def invoked(app: App, taken: Sequence[Record], **options: Any) -> Invocation:
    return asyncio.run(Invoker(app.consumers[0], VirtualExecutor(Random(1))).invoke(taken, **{"start": 0, **options}))


def index_of(invocation: Invocation) -> int:
    assert isinstance(invocation.outcome, FailedFrom)
    return invocation.outcome.index


# ── taking apart ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_aggregate_is_its_user_records_and_all_else_is_itself() -> None:
    broken = aggregate(1)[:-1] + b"!"
    held = records(b"0", aggregate(1, 2, key=lambda n: f"u{n}"), NO_USERS, broken, MAGIC, b"", aggregate(aggregate(3)))
    assert holds_aggregates(held)
    assert not holds_aggregates([held[0], held[5]])
    apart = taken_apart(held)
    assert apart.records[0] is held[0]
    assert [(r.data, r.partition_key, r.sequence_number, r.sub_sequence_number) for r in apart.records] == [
        (b"0", "k0", "1000", 0),
        (b"1", "u1", "1001", 0),
        (b"2", "u2", "1001", 1),
        (broken, "k3", "1003", 0),
        (MAGIC, "k4", "1004", 0),
        (b"", "k5", "1005", 0),
        (aggregate(3), "key", "1006", 0),  # what a user has packed again is the user's
    ]
    assert {(r.arrived_at_s, r.shard_id, r.stream, r.decoder) for r in apart.records} == {(1.5, SHARD, "s", held[0].decoder)}
    assert [apart.holder(index) for index in range(7)] == [0, 1, 1, 3, 4, 5, 6]
    assert [apart.whole(index) for index in range(7)] == [0, 1, 1, 3, 4, 5, 6]
    rest = Record(aggregate(7, 8), "u", "1007", 2, 1.5, SHARD, "s")  # a reader that began inside an aggregate has brought it
    assert taken_apart([rest]).records == [rest]


def test_a_consumer_that_wants_them_raw_gets_them_raw() -> None:
    """As a function behind `streamlet esm` does."""
    import msgspec

    from streamlet.runtimes.esm.mapping import Function, MappingOptions
    from streamlet.runtimes.esm.sandbox import SandboxSettings
    from streamlet.spec import EventSourceMapping

    seen: list[bytes] = []
    app = App("a")
    app.on_batch("s")(lambda batch: seen.extend(record.data for record in batch))
    raw = msgspec.structs.replace(app.consumers[0], deaggregate=False)
    held = records(aggregate(1, 2))
    assert asyncio.run(Invoker(raw, VirtualExecutor(Random(1))).invoke(held, start=0)).outcome == Succeeded()
    assert seen == [held[0].data]
    settings = SandboxSettings(handler="f.handler", function_name="f", folder=Path())
    function = Function(MappingOptions(stream="s", mapping=EventSourceMapping(), function=settings))
    assert [spec.deaggregate for spec in function.consumers] == [False]


# ── which record failed ──────────────────────────────────────────────────────────────────────────────────────────


def failing(kind: str, app: App, bad: Any, seen: list[Any]) -> None:
    def on_record(record: Record) -> None:
        seen.append(record.value)
        if record.value == bad:
            raise ValueError(f"bad {bad}")

    def on_batch(batch: Batch) -> None:
        for record in batch:
            seen.append(record.value)
            if record.value == bad:
                raise RecordFailed(record, f"bad {bad}")

    match kind:
        case "record":
            app.on_record("s")(on_record)
        case "side by side":
            app.on_record("s", concurrency=2)(on_record)
        case "batch":
            app.on_batch("s")(on_batch)


@pytest.mark.parametrize("kind", ["record", "side by side", "batch"])
@pytest.mark.parametrize(("bad", "holder"), [(1, 0), (2, 1), (3, 1), (4, 3), (5, 3), (6, 4)])
def test_a_failure_is_that_of_the_record_that_holds_it(kind: str, bad: int, holder: int) -> None:
    app = App("a")
    failing(kind, app, bad, [])
    held = records(b"1", aggregate(2, 3), NO_USERS, aggregate(4, 5), b"6")
    assert index_of(invoked(app, held, start=10)) == 10 + holder
    event = kinesis_event([record.data for record in held], stream="s")
    named = event["Records"][holder]["kinesis"]["sequenceNumber"]
    assert app.lambda_handler(event, FakeLambdaContext()) == {"batchItemFailures": [{"itemIdentifier": named}]}
    app.close()


def test_what_stands_before_in_the_stream_is_done_also_if_it_holds_nothing() -> None:
    """An exception of the whole batch is one of the whole batch: it counts an attempt."""
    app = App("a")
    failing("batch", app, 1, [])
    assert index_of(invoked(app, records(NO_USERS, b"1"))) == 1
    whole = App("b")

    @whole.on_batch("s")
    def raises(batch: Batch) -> None:
        raise ZeroDivisionError

    assert invoked(whole, records(NO_USERS, b"1"), start=4).outcome == FailedFrom(4, "Unhandled", "ZeroDivisionError: ")


def test_aggregates_that_hold_nothing_are_settled_without_a_call() -> None:
    app = App("a")
    seen: list[Any] = []
    app.on_batch("s")(seen.append)
    report = run_worker(app, [NO_USERS, NO_USERS])
    assert seen == []
    assert [(len(i.records), i.done, i.failed) for i in report.invocations] == [(2, 2, False)]
    assert report.checkpoint(0) == report.invocations[-1].records[-1].position


@pytest.mark.parametrize("kind", ["record", "batch"])
def test_the_document_and_the_counts_are_those_of_the_stream(kind: str) -> None:
    app = App("a")
    seen: list[Any] = []
    options: dict[str, Any] = {"maximum_retry_attempts": 1, "bisect_batch_on_function_error": True}

    def handle(given: Record | Batch) -> None:
        for record in [given] if isinstance(given, Record) else given:
            seen.append(record.value)
            if record.value == "poison":
                raise ValueError

    (app.on_record if kind == "record" else app.on_batch)("s", **options)(handle)
    report = run_worker(app, {"s": [aggregate(1, 2), aggregate(3, "poison", 4), aggregate(5, 6)]})
    [lost] = report.given_up
    assert (len(lost.records), lost.values, lost.attempts) == (1, [3, "poison", 4], 2)
    assert [record.value for record in report.done] == [1, 2, 5, 6]
    assert Counter(seen)[4] == 0, "what follows in a failed aggregate goes with it"
    assert report.checkpoint(0) is not None
    assert "[3, 'poison', 4]" in str(report)


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_ran_side_by_side_in_an_aggregate_is_not_run_again_by_this_worker() -> None:
    """Also what stands before the failed one in it: it is done, although its record is not."""
    app = App("a")
    seen: list[Any] = []

    @app.on_record("s", concurrency=3)
    async def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == 3 and seen.count(3) == 1:
            raise ValueError

    held = records(b"0", aggregate(1, 2, 3, 4, key=str), aggregate(5, 6, key=str))
    done: Done = {}
    assert index_of(invoked(app, held, done=done)) == 1
    assert sorted(done) == [("1001", 0), ("1001", 1), ("1001", 3), ("1002", 0), ("1002", 1)]
    assert invoked(app, held[1:], start=1, done=done).outcome == Succeeded()
    assert sorted(seen) == [0, 1, 2, 3, 3, 4, 5, 6]


def test_each_user_record_has_a_marker_of_its_own() -> None:
    app = App("a")
    store = MemoryIdempotency()
    seen: list[Any] = []

    @app.on_record("s", idempotency=store)
    def handle(record: Record) -> None:
        seen.append(record.value)
        if record.value == 2 and seen.count(2) == 1:
            raise ValueError

    held = records(aggregate(1, 2, 3))
    assert index_of(invoked(app, held)) == 0
    assert invoked(app, held).outcome == Succeeded()
    assert seen == [1, 2, 2, 3]
    assert [store.begin(f"a/s/{SHARD}/1000/{sub}").state for sub in range(4)] == ["done", "done", "done", "mine"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_user_record_in_progress_elsewhere_blocks_its_aggregate_without_an_attempt(asynchronous: bool) -> None:
    """Also if others of the aggregate are done before it: of the stream nothing is."""
    app, store, seen = App("a"), MemoryIdempotency(), []

    def handle(record: Record) -> None:
        seen.append(record.value)

    async def tasks(record: Record) -> None:
        handle(record)

    app.on_record("s", idempotency=store)(tasks if asynchronous else handle)
    held, done = records(aggregate(1, 2), b"3"), Done()
    elsewhere = store.begin(f"a/s/{SHARD}/1000/1")
    came = invoked(app, held, done=done)
    assert came.outcome == Throttled()
    assert "in progress elsewhere" in came.trouble
    store.release(f"a/s/{SHARD}/1000/1", elsewhere.token)
    assert invoked(app, held, done=done).outcome == Succeeded()
    assert seen == [1, 2, 3]


# ── with a sink ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["record", "batch", "misfit"])
def test_rows_of_an_aggregate_that_is_not_done_are_not_kept(kind: str) -> None:
    app = App("a")

    def refuse(row: Any) -> None:
        if kind == "misfit" and row == 4:
            raise ValueError("4")

    def on_record(record: Record) -> Any:
        if kind == "record" and record.value == 4:
            raise ValueError
        return record.value

    sink = MemorySink(check_row=refuse)
    if kind == "batch":
        app.on_batch("s", sink=sink)(lambda batch: batch.values)
    else:
        app.on_record("s", sink=sink)(on_record)
    came = invoked(app, records(b"1", aggregate(2, 3, 4, 5), aggregate(6)))
    assert came.chunk is not None
    if kind == "batch":
        assert (came.outcome, came.chunk.rows) == (Succeeded(), 6)
    else:
        assert (index_of(came), came.chunk.rows) == (1, 1)
    misfit = App("b")
    misfit.on_batch("s", sink=sink)(lambda batch: [1])
    with pytest.raises(Exception, match="returned 1 items for 4 records"):
        invoked(misfit, records(b"1", aggregate(2, 3, 4)))


def packed(values: Sequence[int], random: Random) -> list[Any]:
    """The values in their order, some of them in aggregates, and aggregates that hold nothing in between."""
    out: list[Any] = []
    left = list(values)
    while left:
        count = random.choice([1, 1, 2, 3, 7])
        taken, left = left[:count], left[count:]
        out += [aggregate(*taken, key=lambda n: f"u{n % 3}")] if random.random() < 0.7 else taken
        out += [NO_USERS] if random.random() < 0.1 else []
    return out


@pytest.mark.parametrize("seed", range(25))
def test_each_row_lands_once_whatever_fails_and_crashes(seed: int) -> None:
    """Exactly once by user record: what is given up goes with its whole aggregate, and all else is in one file."""
    random = Random(seed)
    values = list(range(random.choice([5, 40, 120])))
    given = packed(values, random)
    poison = {n for n in values if random.random() < 0.03}
    failures: Counter[int] = Counter()
    app = App("a")
    kind = random.choice(["record", "batch", "concurrent"])
    sink = MemorySink(partition=lambda row: f"p{row % 2}")
    sink.roll = Roll(rows_max=random.choice([5, 1000]), age_max_s=random.choice([1, 30]))  # type: ignore[attr-defined]
    options: dict[str, Any] = {
        "batch_size": random.choice([1, 3, 100]),
        "maximum_retry_attempts": 2,
        "bisect_batch_on_function_error": random.random() < 0.5,
    }

    async def handle(record: Record) -> int:
        await asyncio.sleep(random.choice([0, 0.01, 0.5]))
        n: int = record.value
        failures[n] += random.random() < 0.05
        if n in poison or 0 < failures[n] < 2:
            failures[n] += 1
            raise ValueError(n)
        return n

    async def handle_all(batch: Batch) -> list[int]:
        return [await handle(record) for record in batch]

    if kind == "batch":
        app.on_batch("s", sink=sink, **options)(handle_all)
    else:
        app.on_record("s", sink=sink, concurrency=4 if kind == "concurrent" else 1, **options)(handle)
    broker = VirtualBroker()
    broker.put("s", *given)
    crashes = sorted({round(random.uniform(0.5, 40), 2) for _ in range(random.randint(0, 3))})
    report = run_worker(app, broker, crashes_s=crashes, seed=seed)
    given_up = {record.position for lost in report.given_up for record in lost.records}
    read = {record.position: record for invocation in report.invocations for record in invocation.records}
    lost = {record.value for record in taken_apart([r for p, r in read.items() if p in given_up]).records}
    assert sorted(sink.rows) == sorted(set(values) - lost), (kind, options, crashes)


def test_a_sinks_checkpoint_follows_aggregates_that_hold_nothing() -> None:
    app, sink = App("a"), MemorySink()
    sink.roll = Roll(age_max_s=5.0)  # type: ignore[attr-defined]
    app.on_record(chaos.STREAM, sink=sink)(lambda record: record.value)

    async def main() -> None:
        store = chaos.Store()
        held = [Record(NO_USERS, "k", str(n), 0, chaos.EPOCH_S, SHARD, chaos.STREAM) for n in (1, 2)]
        source = chaos.ListSource(held, Random(1), ended=False)
        pump = await chaos.pumping(app.consumers[0], store, source, Random(1), worker_id="w")
        pumping = asyncio.create_task(pump.run())
        await asyncio.sleep(10)
        row = store.read(SHARD)
        assert row is not None
        assert row.checkpoint == Position(2)
        pump.stop()
        await pumping

    chaos.run(main())


def test_payloads_are_rows_one_by_one_and_a_prepared_range_is_completed_with_the_same_file(tmp_path: Path) -> None:
    """The store fails between prepare and put, and the worker with it: the next one writes the file, under the same name and digest."""
    import pyarrow.parquet as pq

    sink = ParquetSink(f"file://{tmp_path}", schema={"n": "int64"}, roll=Roll(age_max_s=5))
    refusals = [OSError("the disk is away")] * 40

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            return getattr(sink, name)

        def put_if_absent(self, item: Any) -> bool:
            if refusals:
                raise refusals.pop()
            return sink.put_if_absent(item)

    app = App("a")
    app.deliver("s", sink=Refusing())
    given = [{"n": 0}, aggregate({"n": 1}, {"n": 2}), NO_USERS, aggregate({"n": 3}, {"n": 4})]
    report = run_worker(app, given, crashes_s=[20])
    assert any(isinstance(event, RangeCommitted) and event.replayed for event in report.events)
    [path] = tmp_path.rglob("*.parquet")
    assert pq.read_table(path).column("n").to_pylist() == [0, 1, 2, 3, 4]


def test_in_lambda_rows_carry_the_place_in_their_aggregate(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    app = App("a")

    @app.on_record("s", sink=ParquetSink(f"file://{tmp_path}", schema={"n": "int64"}))
    def handle(record: Record) -> Any:
        if record.value["n"] == 5:
            raise ValueError
        return record.value

    event = kinesis_event([{"n": 0}, aggregate({"n": 1}, {"n": 2}), aggregate({"n": 4}, {"n": 5})], stream="s")
    numbers = [entry["kinesis"]["sequenceNumber"] for entry in event["Records"]]
    assert app.lambda_handler(event, FakeLambdaContext()) == {"batchItemFailures": [{"itemIdentifier": numbers[2]}]}
    app.close()
    [path] = tmp_path.rglob("*.parquet")
    table = pq.read_table(path)
    assert table.column("n").to_pylist() == [0, 1, 2], "4 comes again with 5"
    assert table.column("_sequence_number").to_pylist() == [numbers[0], numbers[1], numbers[1]]
    assert table.column("_sub_sequence_number").to_pylist() == [0, 0, 1]


# ── tumbling windows ─────────────────────────────────────────────────────────────────────────────────────────────


class Sums:
    """Sums values, and fails before some, once each. `says`: does it give the state up to there?"""

    def __init__(self, app: App, *bad: int, says: bool = True, **options: Any) -> None:
        self._bad, self._says = list(bad), says
        self.calls: list[tuple[list[int], Any]] = []
        self.final: list[int] = []
        app.on_window("s", tumbling_window_s=60, **options)(self.handle)

    def handle(self, batch: Batch, state: dict[str, int]) -> dict[str, int]:
        self.calls.append((batch.values, dict(state)))
        total = state.get("sum", 0)
        for record in batch:
            if record.value in self._bad:
                self._bad.remove(record.value)
                raise RecordFailed(record, state={"sum": total} if self._says else None)
            total += record.value
        assert batch.window is not None
        if batch.window.is_final:
            self.final.append(total)
        return {"sum": total}


def event_of(*values: Any, state: Any = None) -> dict[str, Any]:
    return window_event(values, stream="s", start_s=1_700_000_000.0, window_s=60, state=state)


def answer_of(event: dict[str, Any], state: Any, failed: int | None = None) -> dict[str, Any]:
    failures = [] if failed is None else [{"itemIdentifier": event["Records"][failed]["kinesis"]["sequenceNumber"]}]
    return {"state": state, "batchItemFailures": failures}


def test_records_before_the_failed_one_are_done_with_the_state_they_led_to() -> None:
    app = App("a")
    sums = Sums(app, 4, says=True)
    report = run_worker(app, [1, 2, 4, 8])
    assert sums.calls == [([1, 2, 4, 8], {}), ([4, 8], {"sum": 3}), ([], {"sum": 15})]
    assert [(i.done, i.failed, i.attempt) for i in report.invocations] == [(2, True, 1), (2, False, 1), (0, False, 1)]
    assert sums.final == [15]
    again = App("b")
    Sums(again, 4)
    event = event_of(1, 2, 4, 8)
    assert again.lambda_handler(event, FakeLambdaContext()) == answer_of(event, {"sum": 3}, 2)
    again.close()


def test_the_first_record_is_no_progress_and_its_state_is_not_taken() -> None:
    """AWS does not say what becomes of a state beside the first record: so it gets back the one that it gave."""
    app = App("a")
    seen: list[Any] = []

    @app.on_window("s", tumbling_window_s=60)
    def handle(batch: Batch, state: Any) -> Any:
        seen.append(dict(state))
        if len(seen) == 1:
            state["sum"] = 9  # in place, as handlers do
            raise RecordFailed(batch[0], state=state)
        return state

    event = event_of(1, 2, state={"sum": 5})
    assert app.lambda_handler(event, FakeLambdaContext()) == answer_of(event, {"sum": 5}, 0)
    app.close()
    seen.clear()
    report = run_worker(app, [1, 2])
    assert seen == [{}, {}, {}]
    assert [(i.done, i.failed, i.attempt) for i in report.invocations] == [(0, True, 1), (2, False, 2), (0, False, 1)]


def test_without_a_state_the_whole_call_failed() -> None:
    app = App("a")
    sums = Sums(app, 2, says=False, maximum_retry_attempts=3)
    report = run_worker(app, [1, 2])
    assert sums.calls == [([1, 2], {}), ([1, 2], {}), ([], {"sum": 3})]
    assert report.failed[0].done == 0
    assert "without state=" in report.failed[0].error
    again = App("b")
    Sums(again, 2, says=False)
    with pytest.raises(RecordFailed):
        again.lambda_handler(event_of(1, 2), FakeLambdaContext())
    again.close()


@pytest.mark.parametrize("state", [float("nan"), {1, 2}, {"at": object()}])
def test_a_state_that_is_no_json_fails_the_whole_call(state: Any) -> None:
    app = App("a")

    @app.on_window("s", tumbling_window_s=60)
    def handle(batch: Batch, handed: Any) -> Any:
        raise RecordFailed(batch[1], state=state)

    options = {"window": Window(datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(60, UTC))}
    came = invoked(app, records(b"1", b"2"), **options, state={})
    assert isinstance(came.outcome, FailedFrom)
    assert (came.outcome.index, came.outcome.function_error, came.state) == (0, "Unhandled", None)
    assert "not JSON" in came.outcome.error


@pytest.mark.parametrize(("bad", "calls", "failed"), [
    (4, [([1, 2, 3, 4, 5], {}), ([4, 5], {"sum": 6}), ([], {"sum": 15})], (2, {"sum": 6})),
    (3, [([1, 2, 3, 4, 5], {}), ([1, 2, 3, 4, 5], {}), ([], {"sum": 15})], (0, {})),
])  # fmt: skip
def test_a_state_counts_records_of_the_stream_only(bad: int, calls: Any, failed: tuple[int, Any]) -> None:
    """Inside an aggregate there is none: it comes again as a whole, and its first user records would count twice."""
    values = [1, aggregate(2, 3), aggregate(4, 5)]
    app = App("a")
    sums = Sums(app, bad)
    run_worker(app, values)
    assert sums.calls == calls
    again = App("b")
    Sums(again, bad)
    event = event_of(*values)
    index, state = failed
    assert again.lambda_handler(event, FakeLambdaContext()) == answer_of(event, state, index)
    again.close()


def test_a_window_of_nothing_but_empty_aggregates_keeps_its_state() -> None:
    app = App("a")
    sums = Sums(app)
    event = event_of(NO_USERS, NO_USERS, state={"sum": 7})
    assert app.lambda_handler(event, FakeLambdaContext()) == answer_of(event, {"sum": 7})
    app.close()
    assert sums.calls == []
    run_worker(app, [NO_USERS, NO_USERS])
    assert sums.calls == [([], {})], "the window was there, so it has its last call"


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_right_whatever_fails(seed: int) -> None:
    """A record counts once, in the worker as behind AWS's mapping, although handlers fail anywhere and go on from their state."""
    random = Random(seed)
    values = [2**n for n in range(40)]
    app = App("a")
    bad = [n for n in values if random.random() < 0.2]
    sums = Sums(app, *bad, says=True, batch_size=random.choice([2, 7, 100]))
    run_worker(app, packed(values, random))
    assert sums.final == [sum(values)]


def test_a_consumer_is_handed_user_records() -> None:
    """And may say which one failed."""

    async def main() -> list[Any]:
        from streamlet import Consumer
        from streamlet.broker import Broker
        from streamlet.producer import Producer

        seen: list[Any] = []
        async with Broker(streams={"s": 1}) as broker:
            async with Producer("s", endpoint_url=broker.endpoint_url) as producer:
                for data in (aggregate(1, 2), aggregate(3, 4), b"5"):
                    await (await producer.put(data, "k"))
            options: dict[str, Any] = {"state": "memory://", "poll_interval_s": 0.01, "batch_size": 3, "batching_window_s": 5}
            async with Consumer("s", endpoint_url=broker.endpoint_url, **options) as consumer:
                async for batch in consumer:
                    values = [record.value for record in batch]
                    seen.append(values)
                    if values == [1, 2, 3, 4, 5]:
                        await batch.nack(record=batch.batch[3])
                    else:
                        await batch.ack()
                        break
        return seen

    async def bounded() -> list[Any]:
        async with asyncio.timeout(20):
            return await main()

    assert asyncio.run(bounded()) == [[1, 2, 3, 4, 5], [3, 4, 5]]


@pytest.mark.parametrize(("sub", "left"), [(0, [5]), (1, [3, 4, 5]), (2, [4, 5]), (3, [5]), (9, [5])])
@pytest.mark.parametrize("crashes_s", [(), (3,)])
def test_a_checkpoint_of_the_kcl_inside_an_aggregate_leaves_the_rest_to_do(sub: int, left: list[int], crashes_s: tuple[float, ...]) -> None:
    """With sub-sequence number 0 it is one of ours: a record of the stream is done as a whole."""
    app = App("a")
    seen: list[Any] = []
    sink = MemorySink()

    @app.on_record("s", sink=sink)
    async def handle(record: Record) -> Any:
        await asyncio.sleep(1)
        seen.append((record.value, record.sub_sequence_number))
        return record.value

    broker = VirtualBroker()
    broker.put("s", b"0", aggregate(1, 2, 3, 4), b"5")
    before = App("before")
    before.on_record("s")(lambda record: None)
    number = run_worker(before, broker).done[1].sequence_number
    broker.leases("a", "s").create(Lease(SHARD, checkpoint=Position(int(number), sub)))
    report = run_worker(app, broker, crashes_s=crashes_s)
    assert sink.rows == left
    assert [value for value, _ in seen][-len(left) :] == left
    assert all(user == value - 1 for value, user in seen if value != 5)
    assert report.checkpoint(0) == report.done[-1].position


def test_json_is_what_a_value_becomes() -> None:
    [first, second] = taken_apart(records(aggregate({"n": 1}, b"raw"))).records
    assert (json.loads(first.data), second.data) == ({"n": 1}, b"raw")


def test_a_filter_looks_at_the_record_of_the_stream() -> None:
    """As AWS's does for a reader with shared throughput: an aggregate is no JSON, whatever its user records are."""
    app, seen = App("a"), list[Any]()
    app.on_record("s", filters=[{"data": {"kind": ["order"]}}])(lambda record: seen.append(record.value))
    report = run_worker(app, [aggregate({"kind": "order"}, {"kind": "order"}), {"kind": "order"}])
    assert seen == [{"kind": "order"}]
    assert len(report.filtered) == 1
