"""The engine as a whole, in process: real broker, real client, real threads; sinks, stores and crashes under control."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from functools import partial
from typing import Any

import msgspec
import pytest

from streamlet import App, Batch
from streamlet.cli.doctor import abandon
from streamlet.clock import SystemClock, SystemRandom
from streamlet.core.prepared import PreparedRange
from streamlet.errors import ConfigurationError, HandlerError, InternalError, ReplayDiffers
from streamlet.hooks import (
    BatchSettled,
    HandlerFailed,
    LeaseTaken,
    RangeCommitted,
    RangePrepared,
    RecordsGivenUp,
    RecordsTrimmed,
    ShardEnded,
    ShardStopped,
    Trouble,
)
from streamlet.kinesis.client import KinesisClient
from streamlet.model.position import LATEST, SHARD_END, TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.ports import FailureDocument
from streamlet.sources.polling import PollingSource
from streamlet.stores.memory import MemoryLeaseStore
from tests.unit.engine.worlds import STREAM, Documents, Files, World, checkpoints, world


def delivering(sink: Files, documents: Documents | None = None, poison: frozenset[int] = frozenset(), **options: Any) -> App:
    app = App("numbers")
    if documents is not None:
        options |= {"on_failure": documents, "maximum_retry_attempts": 0, "bisect_batch_on_function_error": True}

    @app.on_batch(STREAM, sink=sink, batch_size=25, **options)
    def rows(batch: Batch) -> list[int]:
        for value in batch.values:
            if value["n"] in poison:
                raise ValueError(value["n"])
        return [value["n"] for value in batch.values]

    return app


async def test_poison_goes_to_the_destination_and_everything_else_lands_once() -> None:
    sink, documents, poison = Files(partition=lambda n: f"p{n % 3}"), Documents(), frozenset({0, 13, 14, 99, 199})
    async with world(delivering(sink, documents, poison), shards=2) as w:
        await w.put(range(200))
        async with w.worker():
            await w.until(lambda: len(sink.rows) + len(documents.values) == 200)
    assert sorted(sink.rows) == [n for n in range(200) if n not in poison]
    assert documents.values == sorted(poison)
    assert all(len(document.records) == 1 for document in documents.sent)


async def test_a_row_that_does_not_fit_is_its_records_failure() -> None:
    def check(row: Any) -> None:
        if row == 31:
            raise ValueError("31 does not fit")

    sink, documents = Files(check_row=check), Documents()
    async with world(delivering(sink, documents)) as w:
        await w.put(range(100))
        async with w.worker():
            await w.until(lambda: len(sink.rows) + len(documents.values) == 100)
    assert documents.values == [31]
    assert "31 does not fit" in documents.sent[0].error
    assert sorted(sink.rows) == [n for n in range(100) if n != 31]


async def test_files_and_documents_that_cannot_be_written_are_tried_until_they_are() -> None:
    sink, documents = Files(refuse=2), Documents(refuse=2)
    async with world(delivering(sink, documents, frozenset({5}))) as w:
        await w.put(range(50))
        async with w.worker():
            await w.until(lambda: len(sink.rows) + len(documents.values) == 50)
    assert sorted([*sink.rows, *documents.values]) == list(range(50))
    assert len(w.of(Trouble)) == 4


async def test_crashes_at_any_moment_lose_nothing_and_double_nothing() -> None:
    """Fifteen workers in a row, each cut off at another moment, mostly with a prepared range in hand."""
    sink, documents, poison = Files(rows_max=30, partition=lambda n: f"p{n % 3}"), Documents(), frozenset(range(17, 1000, 101))
    moments = random.Random(20130101)
    async with world(delivering(sink, documents, poison), shards=2) as w:

        def done() -> bool:
            return len(sink.rows) + len(set(documents.values)) >= 1000

        def reached(kind: type, before: int) -> bool:
            return done() or any(isinstance(event, kind) for event in w.events[before:])

        await w.put(range(1000))
        for _ in range(15):
            before = len(w.events)
            kind = moments.choice([RangePrepared, RangePrepared, RangePrepared, LeaseTaken, RangeCommitted, BatchSettled, HandlerFailed])
            async with w.worker(crash=True):
                await w.until(partial(reached, kind, before))
        async with w.worker():
            await w.until(done)
    assert {n: c for n, c in Counter(sink.rows).items() if c != 1} == {}
    assert sorted({*sink.rows, *documents.values}) == list(range(1000))
    assert set(documents.values) == poison
    # At least once is allowed for documents, if the same document says so by its id.
    assert len({document.document_id for document in documents.sent}) == len(poison)
    assert any(event.replayed for event in w.of(RangeCommitted))


async def test_a_handler_that_is_not_deterministic_stops_its_shard_and_doubles_nothing() -> None:
    sink = Files(rows_max=10)
    sink.gate = threading.Event()
    app = App("numbers")
    calls: Counter[int] = Counter()

    @app.on_record(STREAM, sink=sink, batch_size=25)
    def rows(record: Record) -> int | None:
        n: int = record.value["n"]
        calls[n] += 1
        return n if n % 5 or calls[n] == 1 else None

    async with world(app) as w:
        await w.put(range(25))
        async with w.worker(crash=True):
            await w.until(lambda: bool(w.of(RangePrepared)))
            sink.refuse = 1000
            sink.gate.set()
        sink.refuse = 0
        async with w.worker():
            await w.until(lambda: bool(w.of(ShardStopped)))
        assert [type(error) for error in w.failures] == [ReplayDiffers]
        assert sink.rows == []
        assert checkpoints(w.store)["shardId-000000000000"] == TRIM_HORIZON

        # The way out, for a person to take: the range is abandoned, and read again from the checkpoint.
        abandoned = abandon(w.store, "shardId-000000000000")
        assert abandoned.files
        with pytest.raises(ConfigurationError, match="nothing to abandon"):
            abandon(w.store, "shardId-000000000000")
        async with w.worker():
            await w.until(lambda: bool(sink.rows))
        assert sorted(sink.rows) == [n for n in range(25) if n % 5]


async def test_the_same_files_are_made_when_a_prepared_range_is_completed() -> None:
    """The keys, counts and digests in the lease row are those of the files that the successor writes."""
    sink, documents = Files(rows_max=20, partition=lambda n: f"p{n % 2}"), Documents()
    sink.gate = threading.Event()
    async with world(delivering(sink, documents, frozenset({3}))) as w:
        await w.put(range(25))
        async with w.worker(crash=True):
            await w.until(lambda: bool(w.of(RangePrepared)))
            sink.refuse = 1000
            sink.gate.set()
        sink.refuse = 0
        lease = w.store.scan()[0]
        assert lease.pending_state is not None
        prepared = PreparedRange.decode(lease.pending_state)
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 24)
    assert prepared.files
    # The rest of the batch may have landed in a range of its own meanwhile.
    assert {file.key: file.rows for file in prepared.files} == {file.key: len(sink.files[file.key]) for file in prepared.files}
    assert sorted(sink.rows) == [n for n in range(25) if n != 3]
    assert documents.values == [3]
    assert w.of(RangeCommitted)[0].replayed


async def test_a_failing_batch_blocks_its_shard_until_a_drain_and_the_checkpoint_stays_before_it() -> None:
    """Without a limit nothing is given up: what was settled before the failing record is kept, nothing after it is touched."""
    app, seen = App("numbers"), []

    @app.on_record(STREAM, batch_size=10)
    async def handle(record: Record) -> None:
        if record.value["n"] == 25:
            raise ValueError("25")
        seen.append(record.value["n"])

    async with world(app) as w:
        await w.put(range(40))
        async with w.worker():
            await w.until(lambda: len(w.of(HandlerFailed)) >= 2)
        assert seen == list(range(25))
        assert w.of(RecordsGivenUp) == []
        at = checkpoints(w.store)["shardId-000000000000"]
        async with KinesisClient("us-east-1", w.broker.endpoint_url, clock=SystemClock()) as client:
            source = PollingSource(client, STREAM, clock=SystemClock(), random=SystemRandom(), decoder=json.loads)
            from streamlet.ports import StartingPosition

            rest = await source.reader("shardId-000000000000", StartingPosition(at)).read()
        assert [json.loads(record.data)["n"] for record in rest.records] == list(range(25, 40))
        assert w.store.scan()[0].owner is None


async def test_resharding_is_followed_in_order() -> None:
    """A split and a merge while records flow: every key's records come in order, parents before children, to the end."""
    app, seen = App("numbers"), []

    @app.on_record(STREAM, batch_size=10)
    async def handle(record: Record) -> None:
        seen.append((record.partition_key, record.value["n"]))

    async with world(app, shards=2) as w:
        async with w.worker():
            await w.put(range(100))
            w.broker.split_shard(STREAM, "shardId-000000000000", 2**126)
            await w.put(range(100, 200))
            w.broker.merge_shards(STREAM, "shardId-000000000003", "shardId-000000000001")
            await w.put(range(200, 300))
            await w.until(lambda: len(seen) >= 300)
            await w.until(lambda: len(w.of(ShardEnded)) >= 3)
    assert sorted(n for _, n in seen) == list(range(300))
    for key in {key for key, _ in seen}:
        numbers = [n for k, n in seen if k == key]
        assert numbers == sorted(numbers), key
    ended = {key for key, at in checkpoints(w.store).items() if at == SHARD_END}
    assert ended == {"shardId-000000000000", "shardId-000000000001", "shardId-000000000003"}


async def test_a_handler_that_returns_the_wrong_number_of_rows_ends_the_worker_with_a_clear_error() -> None:
    sink, app = Files(), App("numbers")

    @app.on_batch(STREAM, sink=sink, batch_size=10)
    def rows(batch: Batch) -> list[int]:
        return [1]

    async with world(app) as w:
        await w.put(range(10))
        with pytest.raises(ExceptionGroup) as caught:
            async with w.worker():
                await asyncio.sleep(5)
        (error,) = caught.value.exceptions
        assert isinstance(error, HandlerError)
        assert "1 items for 10 records" in str(error)
        assert checkpoints(w.store)["shardId-000000000000"] == TRIM_HORIZON


async def test_an_idle_file_is_closed_by_its_age() -> None:
    sink = Files(rows_max=1_000_000)
    async with world(delivering(sink)) as w:
        await w.put(range(10))
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 10)
            assert len(w.of(RangeCommitted)) == 1


async def test_records_without_rows_move_the_checkpoint_and_write_no_file() -> None:
    sink, app = Files(), App("numbers")

    @app.on_record(STREAM, sink=sink, batch_size=10)
    def rows(record: Record) -> None:
        return None

    async with world(app) as w:
        await w.put(range(30))
        async with w.worker():
            await w.until(lambda: sum(event.records for event in w.of(BatchSettled)) == 30)
        assert checkpoints(w.store)["shardId-000000000000"] > TRIM_HORIZON
    assert sink.files == {}
    assert w.of(RangePrepared) == []


async def test_latest_is_pinned_by_its_first_record() -> None:
    """A worker that began at LATEST dies before its first checkpoint: its successor begins where it did, not at a later tip."""
    app, seen = App("numbers"), []
    block = asyncio.Event()

    @app.on_record(STREAM, batch_size=10, starting_position="LATEST")
    async def handle(record: Record) -> None:
        await block.wait()
        seen.append((record.position.sequence, record.value["n"]))

    async with world(app) as w:
        await w.put([0])
        count = 1
        async with w.worker(crash=True):
            while checkpoints(w.store).get("shardId-000000000000", LATEST) == LATEST:
                await w.put([count])
                count += 1
        pinned = checkpoints(w.store)["shardId-000000000000"]
        await w.put([count])
        block.set()
        async with w.worker():
            await w.until(lambda: bool(seen) and seen[-1][1] == count)
    assert seen[0][0] == pinned.sequence
    assert [n for _, n in seen] == list(range(seen[0][1], count + 1))


async def test_a_file_of_somebody_elses_under_our_key_stops_the_shard() -> None:
    """Two apps with one place for their files, or state that was lost: to call the range written would lose its rows."""
    sink = Files()
    async with world(delivering(sink)) as w:
        await w.put(range(10))
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 10)
        other = World(w.broker, App("other"), MemoryLeaseStore())

        @other.app.on_record(STREAM, sink=sink, batch_size=25)
        def rows(record: Record) -> int:
            return -int(record.value["n"])

        async with other.worker():
            await other.until(lambda: bool(other.of(ShardStopped)))
        assert "another" in other.of(ShardStopped)[0].error
        assert checkpoints(other.store)["shardId-000000000000"] == TRIM_HORIZON
    assert sorted(sink.rows) == list(range(10))


async def test_equal_files_of_an_earlier_life_are_taken_for_written() -> None:
    sink = Files()
    async with world(delivering(sink)) as w:
        await w.put(range(10))
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 10)
        w.store, w.events = MemoryLeaseStore(), []
        async with w.worker():
            await w.until(lambda: bool(w.of(RangeCommitted)))
        assert checkpoints(w.store)["shardId-000000000000"] > TRIM_HORIZON
    assert sorted(sink.rows) == list(range(10))


@pytest.mark.parametrize("fault", [asyncio.CancelledError("inner"), StopIteration("inner"), KeyError("inner")])
@pytest.mark.parametrize("kind", ["record", "async record", "batch", "async batch"])
async def test_whatever_a_handler_lets_out_is_a_failure_and_not_the_end_of_its_shard(fault: BaseException, kind: str) -> None:
    app, documents, failing = App("numbers"), Documents(), True
    options: dict[str, Any] = {"batch_size": 5, "maximum_retry_attempts": 0, "on_failure": documents}

    def work() -> None:
        if failing:
            raise fault

    def plain(_: Any) -> None:
        if isinstance(fault, asyncio.CancelledError):
            raise KeyError("a plain function has nothing to cancel")
        work()

    async def awaited(_: Any) -> None:
        work()

    register = app.on_record if "record" in kind else app.on_batch
    register(STREAM, **options)(awaited if "async" in kind else plain)
    async with world(app) as w:
        await w.put(range(5))
        async with w.worker():
            await w.until(lambda: len(documents.values) == 5)
            failing = False
            await w.put(range(5, 10))
            await w.until(lambda: sum(event.records for event in w.of(BatchSettled)) == 10)


async def test_a_drain_ends_after_the_batch_in_hand_and_what_was_done_is_kept() -> None:
    """Much was read ahead; a drain does not work through it, and the checkpoint has followed meanwhile."""
    app = App("numbers")
    seen: list[int] = []

    @app.on_batch(STREAM, batch_size=10)
    async def handle(batch: Batch) -> None:
        seen.extend(value["n"] for value in batch.values)
        await asyncio.sleep(0.02)

    async with world(app) as w:
        await w.put(range(1000))
        async with w.worker():
            await w.until(lambda: len(seen) >= 50)
        assert len(seen) < 1000
        async with w.worker():
            await w.until(lambda: len(seen) >= 1000)
    assert seen == list(range(1000))


async def test_files_close_while_a_record_blocks_its_shard() -> None:
    """What is settled before the failing record is committed by age, while that is retried for ever."""
    sink, app = Files(rows_max=1_000_000), App("numbers")

    @app.on_record(STREAM, sink=sink, batch_size=100)
    def rows(record: Record) -> int:
        n: int = record.value["n"]
        if n == 55:
            raise ValueError("55")
        return n

    async with world(app) as w:
        await w.put(range(60))
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 55)
        assert checkpoints(w.store)["shardId-000000000000"] > TRIM_HORIZON


async def test_every_attempt_begins_with_what_is_in_the_stream() -> None:
    """A handler that changes the value that it was given, and then fails, must not see its own change again."""
    app = App("numbers")
    seen: list[int | str] = []

    @app.on_record(STREAM, batch_size=10)
    async def handle(record: Record) -> None:
        record.value["n"] += 1000
        if record.value["n"] == 1003 and not seen[3:]:
            seen.append("failed")
            raise ValueError("once")
        seen.append(record.value["n"])

    async with world(app) as w:
        await w.put(range(5))
        async with w.worker():
            await w.until(lambda: len(seen) == 6)
    assert seen == [1000, 1001, 1002, "failed", 1003, 1004]


async def test_a_destination_that_breaks_in_its_own_way_is_tried_again() -> None:
    class Odd(Documents):
        broken = 2

        def send(self, document: FailureDocument) -> None:
            if self.broken:
                self.broken -= 1
                raise OSError("of the user's own")
            super().send(document)

    documents, sink = Odd(), Files()
    async with world(delivering(sink, documents, frozenset({2}))) as w:
        await w.put(range(5))
        async with w.worker():
            await w.until(lambda: len(sink.rows) + len(documents.values) == 5)
    assert documents.values == [2]


async def test_a_prepared_range_that_was_trimmed_is_told_and_does_not_hold_the_shard() -> None:
    """Retention was faster than the successor: what cannot be read any more is reported, loudly, and reading goes on."""
    sink = Files(rows_max=10)
    async with world(delivering(sink)) as w:
        await w.put(range(25))
        sink.refuse = 1_000_000
        async with w.worker(crash=True):
            await w.until(lambda: bool(w.of(RangePrepared)))
        sink.refuse = 0
        lease = w.store.scan()[0]
        assert lease.pending_state is not None
        state = PreparedRange.decode(lease.pending_state)
        # The stream as after retention: the range lies before all that can be read.
        begin = w.broker.call("ListShards", StreamName=STREAM)["Shards"][0]["SequenceNumberRange"]["StartingSequenceNumber"]
        older = msgspec.structs.replace(state, first=begin, last=begin, given_up=())
        assert w.store.write(
            msgspec.structs.replace(lease, pending=older.last_position, pending_state=older.encode(), counter=lease.counter + 1),
            if_counter=lease.counter,
        )
        async with w.worker():
            await w.until(lambda: len(sink.rows) == 25)
    assert [event.first for event in w.of(RecordsTrimmed)] == [begin]


async def test_a_lease_thread_that_breaks_ends_the_worker_with_an_error_instead_of_silence() -> None:
    class Odd(MemoryLeaseStore):
        broken = False

        def scan(self) -> list[Any]:
            if self.broken:
                raise ValueError("a row that nobody can read")
            return super().scan()

    store, app = Odd(), App("numbers")
    app.on_record(STREAM)(lambda record: None)
    async with world(app, store=store) as w:
        await w.put(range(3))

        async def work() -> None:
            async with w.worker():
                await w.until(lambda: bool(w.of(BatchSettled)))
                store.broken = True
                await asyncio.sleep(5)

        with pytest.raises(ExceptionGroup) as caught:
            await work()
    assert caught.group_contains(InternalError, match="nobody can read")


async def test_a_start_that_is_cut_off_leaves_no_half_table() -> None:
    """Half a table of leases would read as "the other shards were not asked for"."""

    class Dies(MemoryLeaseStore):
        def create(self, lease: Any) -> bool:
            raise AssertionError("one by one")

    seen, app = set[int](), App("numbers")

    @app.on_record(STREAM)
    async def handle(record: Record) -> None:
        seen.add(record.value["n"])

    async with world(app, shards=2, store=Dies()) as w:
        await w.put(range(100))
        for shard in ("shardId-000000000000", "shardId-000000000001"):
            w.broker.split_shard(STREAM, shard)
        async with w.worker():
            await w.until(lambda: len(seen) == 100)


@pytest.mark.parametrize("kind", ["record", "batch"])
async def test_a_plain_function_around_an_async_one_runs_it(kind: str) -> None:
    """As decorators make them. To settle a record for a coroutine that never ran would skip it."""
    app = App("numbers")
    seen: list[int] = []

    async def real(handed: Any) -> None:
        await asyncio.sleep(0)
        seen.extend(record.value["n"] for record in (handed if kind == "batch" else [handed]))

    def traced(handed: Any) -> Any:
        return real(handed)

    (app.on_record if kind == "record" else app.on_batch)(STREAM, batch_size=10)(traced)
    async with world(app) as w:
        await w.put(range(25))
        async with w.worker():
            await w.until(lambda: len(seen) == 25)
    assert seen == list(range(25))


async def test_a_generator_that_a_handler_returns_ends_the_worker_and_settles_nothing() -> None:
    app = App("numbers")
    app.on_record(STREAM)(lambda record: (n for n in [record.value["n"]]))
    async with world(app) as w:
        await w.put(range(3))

        async def work() -> None:
            async with w.worker():
                await asyncio.sleep(5)

        with pytest.raises(ExceptionGroup) as caught:
            await work()
        assert caught.group_contains(HandlerError, match="generator")
        assert checkpoints(w.store)["shardId-000000000000"] == TRIM_HORIZON


async def test_an_error_of_the_users_call_inside_a_handler_is_that_records_failure() -> None:
    """A handler that uses the library wrongly for one record must not stop the worker for all."""
    app, documents = App("numbers"), Documents()

    @app.on_record(STREAM, maximum_retry_attempts=0, bisect_batch_on_function_error=True, on_failure=documents)
    async def handle(record: Record) -> None:
        if record.value["n"] == 2:
            raise HandlerError("inside")

    async with world(app) as w:
        await w.put(range(5))
        async with w.worker():
            await w.until(lambda: sum(event.records for event in w.of(BatchSettled)) == 5)
    assert documents.values == [2]
