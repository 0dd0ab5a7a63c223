"""The engine as a whole, in process: real broker, real client, real threads; sinks, stores and crashes under control."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from streamlet import App, Batch
from streamlet.broker import Broker
from streamlet.clock import SystemClock, SystemRandom, ThreadExecutor
from streamlet.core.prepared import PreparedRange
from streamlet.core.rolling import Roll
from streamlet.engine.supervisor import Supervisor
from streamlet.errors import HandlerError, ReplayDiffers, SinkError
from streamlet.hooks import (
    BatchSettled,
    Event,
    HandlerFailed,
    LeaseTaken,
    RangeCommitted,
    RangePrepared,
    RecordsGivenUp,
    ShardEnded,
    Trouble,
)
from streamlet.kinesis.client import KinesisClient
from streamlet.model.position import LATEST, SHARD_END, TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.ports import FailureDocument, LeaseStore, SinkObject
from streamlet.producer import Producer
from streamlet.sinks.memory import MemorySink
from streamlet.sources.polling import PollingSource
from streamlet.stores.memory import MemoryLeaseStore

STREAM = "numbers"


class Documents:
    """A destination that keeps what it is sent, and refuses the first few."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.sent: list[FailureDocument] = []

    def send(self, document: FailureDocument) -> None:
        if self.refuse:
            self.refuse -= 1
            raise SinkError("the queue is away")
        self.sent.append(document)

    @property
    def values(self) -> list[int]:
        return sorted(json.loads(record.data)["n"] for document in self.sent for record in document.records)


class Files(MemorySink):
    """The memory sink, rolling fast, with a store that can be told to fail or to wait."""

    def __init__(self, *, rows_max: int = 40, refuse: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.roll = Roll(rows_max=rows_max, age_max_s=0.2)
        self.refuse = refuse
        self.gate: threading.Event | None = None
        self.overwritten = 0

    def put_if_absent(self, item: SinkObject) -> bool:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.refuse:
            self.refuse -= 1
            raise SinkError("the bucket is away")
        return super().put_if_absent(item)


class World:
    """A stream with numbered records, and workers over it that can crash."""

    def __init__(self, broker: Broker, app: App, store: LeaseStore) -> None:
        self.broker, self.app, self.store = broker, app, store
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.failures: list[Exception] = []

    def listen(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.news.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self.news.wait()
                except TimeoutError:
                    pass

    async def put(self, numbers: Sequence[int]) -> None:
        async with Producer(STREAM, endpoint_url=self.broker.endpoint_url) as producer:
            await producer.put_many([(json.dumps({"n": n}).encode(), f"key-{n % 7}") for n in numbers])

    @asynccontextmanager
    async def worker(self, *, crash: bool = False) -> AsyncIterator[Supervisor]:
        """A worker that drains at the end of the block, or with `crash` just stops where it is."""
        clock, executor = SystemClock(), ThreadExecutor()
        async with KinesisClient("us-east-1", self.broker.endpoint_url, clock=clock) as client:
            spec = self.app.consumers[0]
            source = PollingSource(
                client, STREAM, clock=clock, random=SystemRandom(), decoder=spec.decoder, poll_interval_s=0.02, reads_per_second_max=None
            )
            supervisor = Supervisor(
                spec,
                source=source,
                store=self.store,
                worker_id=f"worker-{random.random()}",
                clock=clock,
                random=SystemRandom(),
                executor=executor,
                listeners=[self.listen],
                failover_s=0.3,
                shard_sync_s=0.3,
            )
            async with asyncio.TaskGroup() as tg:
                running = tg.create_task(supervisor.run())
                try:
                    yield supervisor
                finally:
                    if crash:
                        running.cancel()
                    else:
                        supervisor.stop()
        executor.close()
        self.failures += supervisor.failures


@asynccontextmanager
async def world(app: App, *, shards: int = 1, store: LeaseStore | None = None) -> AsyncIterator[World]:
    async with Broker(streams={STREAM: shards}) as broker:
        yield World(broker, app, store or MemoryLeaseStore())


def checkpoints(store: LeaseStore) -> dict[str, Any]:
    return {lease.key: lease.checkpoint for lease in store.scan()}


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
    """Thirty workers in a row, each cut off at another moment, mostly with a prepared range in hand."""
    sink, documents, poison = Files(rows_max=30, partition=lambda n: f"p{n % 3}"), Documents(), frozenset(range(17, 1000, 101))
    moments = random.Random(20130101)
    async with world(delivering(sink, documents, poison), shards=2) as w:

        def done() -> bool:
            return len(sink.rows) + len(set(documents.values)) >= 1000

        def reached(kind: type, before: int) -> bool:
            return done() or any(isinstance(event, kind) for event in w.events[before:])

        await w.put(range(1000))
        for _ in range(30):
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
            await w.until(lambda: any(event.what == "this shard has stopped" for event in w.of(Trouble)))
        assert [type(error) for error in w.failures] == [ReplayDiffers]
        assert sink.rows == []
        assert checkpoints(w.store)["shardId-000000000000"] == TRIM_HORIZON


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
            await w.until(lambda: bool(w.of(RangeCommitted)))
    assert {file.key: file.rows for file in prepared.files} == {key: len(rows) for key, rows in sink.files.items()}
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
