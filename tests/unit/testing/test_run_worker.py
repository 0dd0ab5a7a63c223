"""An App is run to "drained" on virtual time, and the report says what came of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import msgspec
import pytest

from streamlet import App, Batch, ConfigurationError, HandlerError, Record
from streamlet.broker.faults import EmptyRead, ExpiredIterator, InternalFailure, Latency, ResetAfter, Reshard, Throttle
from streamlet.errors import SinkError
from streamlet.model.position import SHARD_END
from streamlet.sinks.memory import MemorySink
from streamlet.stores.idempotency import MemoryIdempotency
from streamlet.testing import Invocation, NotDrained, OutsideVirtualTime, Report, Stuck, VirtualBroker, aggregate, run_worker


class Never:
    """An on-failure destination that must not be called: a test sends nothing anywhere."""

    def send(self, document: object) -> None:
        raise AssertionError("a real destination was called")


def poisoned(**options: Any) -> App:
    """Fails for every batch in which there is "poison"."""
    app = App("shop")

    @app.on_batch("orders", on_failure=Never(), **options)
    def handle(batch: Batch) -> None:
        if "poison" in batch.values:
            raise ValueError("it is poison")

    return app


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_window_of_five_minutes_gathers_and_passes_in_no_time() -> None:
    """The batch goes five virtual minutes after its first record, with what came meanwhile."""
    app = App("shop")

    @app.on_batch("orders", batching_window_s=300)
    async def handle(batch: Batch) -> None:
        await asyncio.sleep(60)

    broker = VirtualBroker()
    broker.put("orders", 1)
    broker.put("orders", 2, after_s=200)
    broker.put("orders", 3, after_s=400)
    report = run_worker(app, broker)
    assert [invocation.values for invocation in report.invocations] == [[1, 2], [3]]
    assert 360 <= report.invocations[0].at_s <= 362
    assert report.elapsed_s > 700


def test_a_record_that_grows_too_old_is_given_up() -> None:
    report = run_worker(poisoned(maximum_record_age_s=3000), ["poison"])
    [lost] = report.given_up
    assert lost.condition == "RecordAgeExceeded"
    assert 3000 <= lost.at_s <= 3016
    assert lost.attempts == len(report.invocations) > 100
    assert "responseContext" not in (lost.document or {})


def test_tumbling_windows_close_when_their_time_has_passed() -> None:
    """Drained means that no window is open: the final call is made, and the checkpoint has moved."""
    app = App("shop")
    sums: list[int] = []

    @app.on_window("orders", tumbling_window_s=600)
    def total(batch: Batch, state: dict[str, int]) -> dict[str, int]:
        assert batch.window is not None
        if batch.window.is_final:
            sums.append(state["sum"])
        return {"sum": state.get("sum", 0) + sum(batch.values)}

    broker = VirtualBroker()
    broker.put("orders", 1, 2)
    broker.put("orders", 3, after_s=300)
    broker.put("orders", 40, after_s=700)
    report = run_worker(app, broker)
    assert sums == [6, 40]
    assert [len(call.records) for call in report.invocations if call.window is not None and call.window.is_final] == [0, 0]
    assert report.checkpoint(0) == report.done[-1].position
    assert report.elapsed_s >= 1200


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bisect_is_told_step_by_step() -> None:
    app = poisoned(bisect_batch_on_function_error=True, maximum_retry_attempts=1)
    report = run_worker(app, [1, 2, "poison", 4])
    told = [(call.values, call.attempt, call.failed) for call in report.invocations]
    assert told == [
        ([1, 2, "poison", 4], 1, True),
        ([1, 2], 1, False),
        (["poison", 4], 1, True),
        (["poison"], 1, True),
        (["poison"], 2, True),
        ([4], 1, False),
    ]
    assert [call.values for call in report.bisected] == [[1, 2, "poison", 4], ["poison", 4]]
    assert [call.values for call in report.retried] == [["poison"]]
    assert [record.value for record in report.done] == [1, 2, 4]
    [lost] = report.given_up
    assert (lost.values, lost.attempts, lost.condition, lost.error) == (["poison"], 2, "RetryAttemptsExhausted", "ValueError: it is poison")
    assert lost.document is not None
    assert lost.document["payload"]["Records"][0]["kinesis"]["sequenceNumber"] == lost.records[0].sequence_number
    assert report.checkpoint(0) == report.done[-1].position
    assert "given up after 2, RetryAttemptsExhausted: ['poison']" in str(report)


def test_partial_progress_is_no_bisect() -> None:
    app = App("shop")

    @app.on_record("orders", maximum_retry_attempts=1)
    def handle(record: Record) -> None:
        if record.value == "poison":
            raise ValueError

    report = run_worker(app, [1, "poison", 3])
    assert [(call.values, call.attempt, call.done) for call in report.invocations] == [
        ([1, "poison", 3], 1, 1),
        (["poison", 3], 1, 0),
        (["poison", 3], 2, 0),
    ]
    assert report.bisected == []
    assert [lost.values for lost in report.given_up] == [["poison", 3]]
    assert report.given_up[0].document is None  # there is no on_failure: it was dropped
    assert "DROPPED" in str(report)


def test_a_printed_report_counts_what_it_shows() -> None:
    """The values of a KPL aggregate stand there one by one, so those that are done are counted alike."""
    app = App("orders")

    @app.on_record("orders", maximum_retry_attempts=0)
    def handle(record: Record) -> None:
        if record.value == 4:
            raise ValueError

    report = run_worker(app, [aggregate(1, 2, 3), 4])
    assert "[1, 2, 3, 4]: 3 done, then failed" in str(report)
    assert report.invocations[0].done == 1


def test_a_record_that_blocks_is_told_with_the_report() -> None:
    says = "not drained after 60 s.*orders 0: 2 of 2 records are not settled; the last error was ValueError: it is poison\n"
    with pytest.raises(NotDrained, match=says) as raised:
        run_worker(poisoned_for_ever(), ["poison", 2], time_max_s=60)
    assert len(raised.value.report.failed) > 5
    assert raised.value.report.done == []


def test_what_is_to_happen_after_the_end_is_told() -> None:
    broker = VirtualBroker(streams={"orders": 1})
    broker.put("orders", 1, after_s=500)
    with pytest.raises(NotDrained, match=r"\(time_max_s\): something is to happen in 4\d\d s\n"):
        run_worker(poisoned_for_ever(), broker, time_max_s=60)


def poisoned_for_ever() -> App:
    app = App("shop")

    @app.on_batch("orders")
    def handle(batch: Batch) -> None:
        raise ValueError("it is poison")

    return app


def test_a_handler_that_is_none_ends_the_run() -> None:
    app = App("shop")

    @app.on_record("orders")
    def handle(record: Record) -> Any:
        return (n for n in [record.value])

    with pytest.raises(HandlerError, match="generator"):
        run_worker(app, [1])


def test_what_stops_a_shard_is_raised_with_the_run() -> None:
    class Broken(MemorySink):
        def holds(self, item: Any) -> bool:
            return False

        def put_if_absent(self, item: Any) -> bool:
            return False

    app = App("shop")
    app.deliver("orders", sink=Broken())
    with pytest.raises(SinkError) as raised:
        run_worker(app, [1], time_max_s=900)
    assert any("shop" in note and "[1]: ok" in note for note in raised.value.__notes__)


# ── what else a report tells ─────────────────────────────────────────────────────────────────────────────────────────


def test_filtered_records_are_told() -> None:
    app = App("shop")

    @app.on_batch("orders", filters=[{"data": {"kind": ["order"]}}])
    def handle(batch: Batch) -> None: ...

    report = run_worker(app, [{"kind": "order"}, {"kind": "ping"}, b"no JSON"])
    assert [record.data for record in report.filtered] == [b'{"kind":"ping"}', b"no JSON"]
    assert [record.value for record in report.done] == [{"kind": "order"}]


def test_files_of_a_sink_are_told_and_a_sink_can_be_replaced() -> None:
    app, real, other = App("shop"), MemorySink(), MemorySink()

    @app.on_record("orders", sink=real)
    def handle(record: Record) -> Any:
        return {"n": record.value}

    report = run_worker(app, [1, 2], sinks={"orders": other})
    assert (real.rows, other.rows) == ([], [{"n": 1}, {"n": 2}])
    assert [(file.key in other.files, file.rows) for file in report.files] == [(True, 2)]
    assert report.checkpoint(0) == report.done[-1].position
    with pytest.raises(ConfigurationError, match="no handler with a sink"):
        run_worker(app, [1], sinks={"order": other})


def test_a_second_run_goes_on_from_the_checkpoint() -> None:
    app, seen = App("shop"), []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append(record.value)

    broker = VirtualBroker()
    broker.put("orders", 1, 2)
    run_worker(app, broker)
    broker.advance(3600)
    broker.put("orders", 3)
    before_s = broker.now_s
    report = run_worker(app, broker)
    assert seen == [1, 2, 3]
    assert [record.value for record in report.done] == [3]
    assert broker.now_s - before_s == pytest.approx(report.elapsed_s, abs=1e-3)


def test_latest_begins_with_what_arrives_in_the_run() -> None:
    app = App("shop")

    @app.on_record("orders", starting_position="LATEST")
    def handle(record: Record) -> None: ...

    broker = VirtualBroker()
    broker.put("orders", "before")
    broker.put("orders", "after", after_s=10)
    report = run_worker(app, broker)
    assert [record.value for record in report.done] == ["after"]
    assert [move.position for move in report.checkpoints] == [report.done[0].position]  # not where LATEST was pinned


def test_retention_is_real() -> None:
    app, seen = App("shop"), []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append(record.value)

    broker = VirtualBroker()
    broker.put("orders", "old")
    broker.advance(25 * 3600)
    broker.put("orders", "new")
    run_worker(app, broker)
    assert seen == ["new"]


def test_two_streams_and_their_shards_are_told_apart() -> None:
    app = App("shop")

    @app.on_record("orders")
    @app.on_record("users")
    def handle(record: Record) -> None: ...

    report = run_worker(app, {"orders": [1], "users": [2]})
    assert sorted((record.stream, record.value) for record in report.done) == [("orders", 1), ("users", 2)]
    assert report.checkpoint(0, "users") is not None
    with pytest.raises(ConfigurationError, match="several streams"):
        report.checkpoint(0)


def test_idempotency_and_concurrency_work_as_in_a_worker() -> None:
    app, ran = App("shop"), []

    @app.on_record("orders", concurrency=4, idempotency=MemoryIdempotency(), idempotency_key=lambda record: str(record.value))
    async def handle(record: Record) -> None:
        await asyncio.sleep(10)
        ran.append(record.value)

    broker = VirtualBroker()
    broker.put("orders", 1, 2, 3, 4, key=str)
    broker.put("orders", 1, 2, key=str, after_s=60)
    report = run_worker(app, broker)
    assert sorted(ran) == [1, 2, 3, 4]
    assert report.invocations[0].at_s < 15  # side by side
    assert len(report.done) == 6


class Unreachable:
    """An idempotency store that a test must not call."""

    def begin(self, key: str, *, for_s: float | None = None) -> Any:
        raise AssertionError("the app's own store was called")

    def finish(self, key: str) -> None:
        self.begin(key)

    def release(self, key: str, token: str) -> None:
        self.begin(key)

    def close(self) -> None:
        self.begin("")


def test_idempotency_markers_live_as_long_as_the_broker_and_in_its_time() -> None:
    """An app of a module keeps its store from test to test, and every broker numbers its records alike: the first record of the next
    test would be spared. So the broker keeps the markers, as it keeps the leases."""
    app, ran = App("shop"), []

    @app.on_record("orders", idempotency=Unreachable(), idempotency_key=lambda record: str(record.value))
    def handle(record: Record) -> None:
        ran.append(record.value)

    broker = VirtualBroker()
    broker.put("orders", 1, 2, 1)
    run_worker(app, broker)
    broker.put("orders", 2)
    run_worker(app, broker)
    assert ran == [1, 2]
    broker.advance(86_400)
    broker.put("orders", 2)
    run_worker(app, broker)
    assert ran == [1, 2, 2]
    run_worker(app, [1])
    assert ran == [1, 2, 2, 1]


class Order(msgspec.Struct):
    id: int
    total: float


def test_values_are_whatever_becomes_json() -> None:
    app = App("shop")

    @app.on_record("orders", decode=Order)
    def handle(record: Record) -> None: ...

    report = run_worker(app, [Order(1, 2.5), {"id": 2, "total": 3}, b'{"id":3,"total":0}'])
    assert [record.value for record in report.done] == [Order(1, 2.5), Order(2, 3), Order(3, 0)]


def test_a_long_run_can_be_read() -> None:
    """The text is as long as a person reads; an error is one line of it; faults and filtered records are told."""
    app = App("shop")

    @app.on_batch("orders", filters=[{"data": {"n": [{"exists": True}]}}], maximum_retry_attempts=200)
    def handle(batch: Batch) -> None:
        raise ValueError("it is poison\nand more of it")

    broker = VirtualBroker(streams={"orders": 1})
    broker.faults.add(Throttle(operation="GetRecords", times=3))
    broker.put("orders", {"n": 1}, {"m": 2})
    report = run_worker(app, broker)
    assert len(report.invocations) == 201
    text = str(report)
    assert "and more of it" not in text
    lines = text.splitlines()
    assert len(lines) < 70
    assert [line for line in lines if "lines are left out" in line] == [lines[31]]
    assert "ValueError: it is poison" in lines[30]
    assert "DROPPED" in text
    assert "passed no filter: [{'m': 2}]" in text
    assert "trouble, 3 times: reading: GetRecords: ProvisionedThroughputExceeded" in text


def plain_bisected(report: Report) -> list[Invocation]:
    def first(invocation: Invocation) -> object:
        return invocation.stream, invocation.shard_id, invocation.records[0].position

    found = []
    for n, call in enumerate(report.invocations):
        later = [then for then in report.invocations[n + 1 :] if call.records and then.records and first(then) == first(call)]
        if call.failed and later and len(later[0].records) < len(call.records):
            found.append(call)
    return found


def test_what_is_bisected_is_told_from_what_is_tried_again() -> None:
    """As the plain reading of the definition has it, over lanes and shards; and in one pass, or 10,000 failures took half a minute."""
    broker = VirtualBroker(streams={"orders": 2})
    broker.put("orders", *[n if n % 5 else "poison" for n in range(40)], key=repr)
    broker.put("orders", *range(5), key=repr, after_s=30)
    report = run_worker(
        poisoned(bisect_batch_on_function_error=True, maximum_retry_attempts=2, parallelization_factor=2, batch_size=9), broker
    )
    assert len(report.bisected) > 5
    assert report.bisected == plain_bisected(report)
    shown = [msgspec.structs.replace(report.invocations[0], failed=True, records=report.done[n : n + 1]) for n in range(len(report.done))]
    assert msgspec.structs.replace(report, invocations=shown * 1000).bisected == []


# ── resharding, faults, crashes ──────────────────────────────────────────────────────────────────────────────────────


def counting(seen: list[Any]) -> App:
    app = App("shop")

    @app.on_record("orders", batch_size=10)
    def handle(record: Record) -> None:
        seen.append(record.value)

    return app


def test_a_reshard_is_followed_parents_first() -> None:
    seen: list[int] = []
    broker = VirtualBroker(streams={"orders": 2})
    broker.put("orders", *range(10), key=str)
    broker.split_shard("orders", 0, after_s=60)
    broker.put("orders", *range(10, 20), key=str, after_s=70)
    broker.merge_shards("orders", 3, 1, after_s=120)
    broker.put("orders", *range(20, 30), key=str, after_s=130)
    report = run_worker(counting(seen), broker)
    assert sorted(seen) == list(range(30))
    assert [report.checkpoint(shard) for shard in (0, 1, 3)] == [SHARD_END] * 3
    assert report.checkpoint(4) != SHARD_END
    ends = {move.shard_id: move.at_s for move in report.checkpoints if move.position == SHARD_END}
    first = {call.shard_id: call.at_s for call in reversed(report.invocations)}
    assert ends["shardId-000000000000"] < first["shardId-000000000002"]


@pytest.mark.parametrize(
    "fault",
    [
        Throttle(operation="GetRecords", times=7),
        InternalFailure(operation="GetRecords", times=7),
        ExpiredIterator(times=5),
        EmptyRead(times=5),
        ResetAfter(operation="GetRecords", times=5),
        Latency(operation="GetRecords", delay_s=40, times=3),
        Reshard(stream="orders", at_record=15),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_costs_time_and_no_record(fault: Any) -> None:
    seen: list[int] = []
    broker = VirtualBroker(streams={"orders": 1})
    broker.faults.add(fault)
    broker.put("orders", *range(20), key=str)
    broker.put("orders", *range(20, 40), key=str, after_s=30)
    report = run_worker(counting(seen), broker)
    assert sorted(seen) == list(range(40))
    assert report.elapsed_s > (80 if isinstance(fault, Latency) else 30)
    assert broker.faults.list()[0].struck > 0


def test_a_crash_loses_nothing_and_another_worker_takes_over() -> None:
    """The batch that was in hand comes again, once the lease of the worker that is gone has expired."""
    app, begun = App("shop"), []

    @app.on_batch("orders")
    async def handle(batch: Batch) -> None:
        begun.extend(batch.values)
        await asyncio.sleep(30)

    report = run_worker(app, [1, 2], crashes_s=[12], failover_s=4)
    assert begun == [1, 2, 1, 2]
    [call] = report.invocations  # the other one has never answered
    assert 12 + 4 + 30 < call.at_s < 12 + 4 + 30 + 5
    assert [record.value for record in report.done] == [1, 2]


def test_a_crash_is_waited_for_though_nothing_is_left_to_do() -> None:
    seen: list[int] = []
    report = run_worker(counting(seen), [1], crashes_s=[100])
    assert seen == [1]
    assert report.elapsed_s > 100


def test_what_falls_due_while_time_advances_happens_at_its_time() -> None:
    broker = VirtualBroker()
    begun_s = broker.now_s
    broker.put("orders", "second", after_s=20)
    broker.put("orders", "first", after_s=10)
    broker.advance(100)
    report = run_worker(counting([]), broker)
    assert [(record.value, record.arrived_at_s - begun_s) for record in report.done] == [("first", 10), ("second", 20)]


def test_a_crash_with_a_sink_writes_each_row_once() -> None:
    app, sink = App("shop"), MemorySink()

    @app.on_record("orders", sink=sink)
    async def handle(record: Record) -> Any:
        await asyncio.sleep(1)
        return record.value

    broker = VirtualBroker()
    broker.put("orders", *range(50))
    run_worker(app, broker, crashes_s=[7, 29, 31])
    assert sorted(sink.rows) == list(range(50))


def world(seed: int) -> str:
    broker = VirtualBroker(streams={"orders": 3}, seed=seed)
    broker.faults.add(Throttle(operation="GetRecords", probability=0.3))
    broker.faults.add(ExpiredIterator(probability=0.1))
    broker.put("orders", *range(30), "poison", *range(30), key=str)
    broker.put("orders", *range(30), key=str, after_s=25)
    app = poisoned(
        batch_size=7, batching_window_s=3, bisect_batch_on_function_error=True, maximum_retry_attempts=2, parallelization_factor=2
    )
    report = run_worker(app, broker, crashes_s=[9], seed=seed)
    return f"{report}\n{report.troubles}"


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    assert world(7) == world(7)
    assert world(7) != world(8)


# ── what virtual time cannot do ──────────────────────────────────────────────────────────────────────────────────────


def test_a_coroutine_that_opens_a_socket_ends_the_run_and_says_why() -> None:
    app, mine = App("shop"), socket.create_server(("127.0.0.1", 0))

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        _, writer = await asyncio.open_connection(*mine.getsockname())
        writer.close()

    with mine, pytest.raises(OutsideVirtualTime, match="asyncio.to_thread"):
        run_worker(app, [1])


def test_a_call_that_blocks_is_made_at_once_while_virtual_time_stands_still() -> None:
    app, mine, answers = App("shop"), socket.create_server(("127.0.0.1", 0)), []

    def ask() -> bytes:
        with socket.create_connection(mine.getsockname()) as asking:
            return asking.recv(10)

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        answers.append(await asyncio.to_thread(ask))

    def serve() -> None:
        with mine, mine.accept()[0] as asked:
            asked.sendall(b"hello")

    serving = threading.Thread(target=serve)
    serving.start()
    report = run_worker(app, [1])
    serving.join()
    assert (answers, len(report.done)) == ([b"hello"], 1)


def test_a_handler_that_waits_for_nobody_is_not_drained() -> None:
    app = App("shop")

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        await asyncio.Event().wait()

    with pytest.raises(NotDrained, match="orders 0: 1 of 1 records are not settled; no call has failed: one has not returned") as raised:
        run_worker(app, [1], time_max_s=100)
    assert "leases expire" not in str(raised.value).partition("\n")[0]


def test_a_handler_that_spins_is_told() -> None:
    app = App("shop")

    @app.on_record("orders", maximum_retry_attempts=0)
    async def handle(record: Record) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="spins"):
        run_worker(app, [1])


async def test_inside_a_running_loop_it_says_where_to_call_it() -> None:
    with pytest.raises(ConfigurationError, match="def, not async def"):
        run_worker(poisoned_for_ever(), [1])


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ("text", {}, "a list of values"),
        (3, {}, "a list of values"),
        ({"other": [1]}, {}, "does not read stream 'other'"),
        ([1], {"crashes_s": [5, 3]}, "ascending"),
        ([1], {"time_max_s": 0}, "time_max_s=0"),
    ],
)
def test_a_wrong_call_says_what_to_do(given: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        run_worker(poisoned_for_ever(), given, **options)


def test_an_app_without_streams_is_told_where_its_handlers_are_tested() -> None:
    with pytest.raises(ConfigurationError, match="lambda_handler"):
        run_worker(App("empty"), [1])


def test_two_streams_need_a_dict() -> None:
    app = App("shop")

    @app.on_record("orders")
    @app.on_record("users")
    def handle(record: Record) -> None: ...

    with pytest.raises(ConfigurationError, match="give a dict"):
        run_worker(app, [1])


def test_what_a_fault_does_to_a_put_is_told() -> None:
    broker = VirtualBroker()
    broker.faults.add(Throttle())
    with pytest.raises(ConfigurationError, match="ProvisionedThroughputExceeded.*put first"):
        broker.put("orders", 1)


def test_a_shard_can_be_put_to_by_number() -> None:
    broker = VirtualBroker(streams={"orders": 4})
    broker.put("orders", 1, 2, shard=2)
    report = run_worker(counting([]), broker)
    assert {record.shard_id for record in report.done} == {"shardId-000000000002"}
    with pytest.raises(ConfigurationError, match="no shard 9"):
        broker.put("orders", 1, shard=9)


def test_what_is_to_happen_later_and_cannot_says_so() -> None:
    app = App("shop")
    app.on_record("orders")(lambda record: None)
    broker = VirtualBroker(streams={"orders": 1})
    broker.split_shard("orders", 7, after_s=5)
    with pytest.raises(ConfigurationError):
        run_worker(app, broker)
