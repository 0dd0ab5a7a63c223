"""A shard under random failures, crashes, drains and thefts, on virtual time: what must hold in every world, by seed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from streamlet.core.rolling import Roll
from streamlet.engine import pump as pump_module
from streamlet.engine.invoke import RecordFailed
from streamlet.engine.lane import lane_of
from streamlet.engine.pump import End, Pump
from streamlet.errors import LeaseLost, SinkError, StoreError
from streamlet.hooks import Event, RecordsGivenUp
from streamlet.model.batch import Batch
from streamlet.model.position import SHARD_END
from streamlet.model.record import Record
from streamlet.ports import Lease, SinkObject
from streamlet.sinks.memory import MemorySink
from streamlet.spec import ConsumerSpec, EventSourceMapping
from tests.unit.engine.chaos import (
    SHARD,
    STREAM,
    Clock,
    Documents,
    ListSource,
    Store,
    Violated,
    number_of,
    numbered,
    pumping,
    run,
)

PASSING = [{"data": {"pass": [True]}}]


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Violated(what)


class Files(MemorySink):
    """Files whose store is away by chance."""

    def __init__(self, random: Random, trouble: float) -> None:
        super().__init__()
        self.roll = Roll(rows_max=random.randint(1, 30), age_max_s=random.choice([0.3, 2.0, 30.0]))
        self._random, self._trouble = random, trouble

    def put_if_absent(self, item: SinkObject) -> bool:
        if self._random.random() < self._trouble:
            raise SinkError("the bucket is away")
        return super().put_if_absent(item)


class ChaosWorld:
    """One shard, one consumer, and life after life of workers, each of which may be cut short."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.records = numbered(random.choice([5, 60, 150]), random.choice([1, 3, 20]), random)
        self.trouble = random.choice([0.0, 0.02, 0.2])
        self.slow_s = random.choice([0.0, 0.01, 1.0])
        with_sink = random.random() < 0.4
        self.filtered = random.random() < 0.5
        self.documents = Documents(lambda: random.random() < self.trouble)
        self.gives_up = random.random() < 0.6
        options: dict[str, Any] = {
            "batch_size": random.choice([1, 2, 7, 50]),
            "batching_window_s": random.choice([0, 0, 0.5, 20]),
            "parallelization_factor": 1 if with_sink else random.choice([1, 2, 3, 10]),
            "bisect_batch_on_function_error": random.random() < 0.5,
            "maximum_retry_attempts": random.randint(0, 2) if self.gives_up else -1,
            "on_failure": self.documents if self.gives_up else None,
            "starting_position": random.choice(["TRIM_HORIZON", "LATEST"]),
            "filters": PASSING if self.filtered else [],
        }
        kind = random.choice(["record", "batch"])
        self.sink = Files(random, self.trouble) if with_sink else None
        self.spec = ConsumerSpec(
            name="numbers",
            stream=STREAM,
            kind=kind,  # type: ignore[arg-type]
            handler=self.on_record if kind == "record" else self.on_batch,
            decoder=lambda data: None,
            mapping=EventSourceMapping(**options),
            sink=self.sink,
        )
        self.poison = {n for n in range(len(self.records)) if self.gives_up and random.random() < 0.05}
        self.passing = {number_of(record) for record in self.records if not self.filtered or b'"pass": true' in record.data}
        self.done: set[int] = set()
        self.life = 0
        self.seen: dict[str, int] = defaultdict(lambda: -1)  # per key: the last first delivery
        self.failures: dict[int, int] = defaultdict(int)
        self.store = Store(self.look)

    # ── the handler ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _take(self, record: Record, life: int) -> None:
        n = number_of(record)
        must(n in self.passing, f"{n} passes no filter")
        if n not in self.ever:
            self.ever.add(n)
            must(n > self.seen[record.partition_key], f"{n} came after {self.seen[record.partition_key]} of its key")
            self.seen[record.partition_key] = n
        must(record.partition_key not in self.running, f"{n} came while another record of its key was in hand")
        self.running.add(record.partition_key)
        try:
            if self.slow_s and self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * self.slow_s)
            self.failures[n] += self.random.random() < self.trouble
            if n in self.poison or self.failures[n] in range(1, 4):
                raise ValueError("not now")
        finally:
            self.running.remove(record.partition_key)

    def _took(self, record: Record, life: int) -> int:
        n = number_of(record)
        must(life == self.life, f"{n} was taken by a worker that is gone")
        must(n not in self.taken, f"{n} was taken twice by one worker")
        self.taken.add(n)
        if self.sink is None:
            self.done.add(n)
        return n

    async def on_record(self, record: Record) -> int:
        life = self.life
        await self._take(record, life)
        return self._took(record, life)

    async def on_batch(self, batch: Batch) -> list[int]:
        life = self.life
        for index, record in enumerate(batch):
            try:
                await self._take(record, life)
            except ValueError as error:
                if self.sink is None and self.random.random() < 0.5:
                    for before in batch.records[:index]:
                        self._took(before, life)
                    raise RecordFailed(record) from error
                raise
        return [self._took(record, life) for record in batch]

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    def settled(self) -> set[int]:
        rows = set(self.sink.rows) if self.sink is not None else self.done
        return rows | set(self.documents.sent) | (set(range(len(self.records))) - self.passing)

    def look(self, lease: Lease) -> None:
        """Called with every write of the lease."""
        behind = {number_of(record) for record in self.records if record.position <= lease.checkpoint}
        assert behind <= self.settled(), f"the checkpoint {lease.checkpoint} passes {sorted(behind - self.settled())}"

    def listen(self, event: Event) -> None:
        if isinstance(event, RecordsGivenUp):
            # They may have been given up for one before them, and a next life delivers them late.
            run = range(int(event.first) - 1, int(event.last))
            self.ever |= {n for n in run if self._lane(n) == self._lane(run[0])}
        in_hand = self.pump._mark.opened_count - self.pump._mark.settled_count
        mapping = self.spec.mapping
        assert in_hand <= pump_module.READ_AHEAD_RECORDS + mapping.parallelization_factor * mapping.batch_size + 20

    def _lane(self, n: int) -> int:
        return lane_of(self.records[n].partition_key, self.spec.mapping.parallelization_factor)

    # ── a life ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def live(self, last: bool) -> None:
        self.life += 1
        self.taken: set[int] = set()
        self.running: set[str] = set()
        random = self.random
        self.store.failing = lambda: False
        source = ListSource(self.records, random, wait_max_s=random.choice([0.01, 0.3]))
        self.pump = pump = await pumping(
            self.spec,
            self.store,
            source,
            random,
            worker_id=f"worker-{self.life}",
            delay_max_s=random.choice([0.0, 0.05]),
            listen=self.listen,
        )
        if not last:
            self.store.failing = lambda: random.random() < self.trouble / 10
        task = asyncio.create_task(pump.run())
        try:
            if not last:
                await asyncio.wait([task], timeout=random.choice([0.0, 0.1, 0.3, 1.0, 5.0]) * random.random())
                match random.choice(["crash", "drain", "steal"]) if not task.done() else "":
                    case "crash":
                        task.cancel()
                    case "drain":
                        await self.drain(pump, task)
                    case "steal":
                        row = self.store.read(SHARD)
                        assert row is not None
                        await self.steal(row)
            await task
        except* (LeaseLost, StoreError):
            pass
        except* asyncio.CancelledError:
            assert task.cancelled()
        assert not self.running

    async def drain(self, pump: Pump, task: asyncio.Task[End]) -> None:
        self.trouble, before = 0.0, self.trouble
        begun_s = Clock().monotonic()
        pump.stop()
        await asyncio.wait([task])
        # The batch in hand, at most 50 records of at most 1 s, bisected or not; a file that is put again after a pause.
        assert Clock().monotonic() - begun_s < 120 + 20 * 50 * self.slow_s
        self.trouble = before

    async def steal(self, row: Lease) -> None:
        self.store.failing = lambda: False
        assert self.store.write(replace(row, owner="thief", counter=row.counter + 1), if_counter=row.counter)

    async def to_the_end(self) -> None:
        self.ever: set[int] = set()
        for life in range(30):
            await self.live(last=life == 29 or self.random.random() < 0.1)
            row = self.store.read(SHARD)
            if row is not None and row.checkpoint == SHARD_END:
                break
        else:
            raise AssertionError("the last life, which nothing cuts short, does not come to the shard's end")
        assert self.settled() == set(range(len(self.records)))
        if self.sink is not None:
            rows = sorted(self.sink.rows)
            assert rows == sorted(set(rows)), "a row stands in two files"
            assert not set(rows) & set(self.documents.sent), "a row and a document"


@pytest.mark.parametrize("block", range(8))
def test_whatever_fails_nothing_is_lost_doubled_or_out_of_order(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "READ_AHEAD_RECORDS", 15)
    for seed in range(block * 50, block * 50 + 50):
        try:
            run(ChaosWorld(seed).to_the_end())
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
