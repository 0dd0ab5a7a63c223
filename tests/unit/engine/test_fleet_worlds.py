"""Several workers over one stream that is resharded, on virtual time: what must hold in every world, by seed.

Everything is the worker's own, from supervisor to polling reader. Workers come and go: they crash, drain, are paused, stop renewing
for longer than the fail-over time and go on as zombies; their wall clocks are wrong and jump; the service throttles, fails and lets
iterators expire; the lease store does not answer; records may be KPL aggregates, run side by side, or have markers, under which no
effect may be had twice. In the end the trouble is over, and one worker must come to the end of it all.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

import pytest

from streamlet.broker.faults import EmptyRead, ExpiredIterator, InternalFailure, Latency, ResetAfter, Throttle
from streamlet.broker.inline import EPOCH_S
from streamlet.core.rolling import MemoryBudget, Roll
from streamlet.engine import pump as pump_module
from streamlet.engine.invoke import NotTaken, RecordFailed
from streamlet.engine.supervisor import Supervisor
from streamlet.errors import SinkError, StoreError, Unavailable
from streamlet.hooks import Event, RecordsGivenUp
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.session import LOCAL_CREDENTIALS, Identity
from streamlet.kinesis.sigv4 import Credentials
from streamlet.kpl.aggregate import aggregate
from streamlet.model.batch import Batch
from streamlet.model.position import SHARD_END
from streamlet.model.record import Record
from streamlet.ports import FailureDocument, Lease, SinkObject
from streamlet.sinks.memory import MemorySink
from streamlet.sources.polling import PollingSource
from streamlet.spec import ConsumerSpec, EventSourceMapping
from streamlet.stores.idempotency import MemoryIdempotency
from streamlet.testing import virtual
from streamlet.testing.virtual import VirtualClock, VirtualExecutor, VirtualLeases
from streamlet.testing.virtual_broker import VirtualBroker, VirtualTransport
from tests.unit.engine import chaos
from tests.unit.engine.chaos import Clock, Violated

T = TypeVar("T")

STREAM = "numbers"
FAILOVER_S = 4.0
TROUBLE_S = 60.0
END_S = 3_000.0


async def _credentials() -> Credentials:
    return LOCAL_CREDENTIALS


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Violated(what)


class Truth:
    """One record as the service took it."""

    def __init__(self, n: int, key: str, passes: bool, shard_id: str, sequence: int, arrived_at_s: float) -> None:
        self.n, self.key, self.passes = n, key, passes
        self.shard_id, self.sequence, self.arrived_at_s = shard_id, sequence, arrived_at_s


class Timers(VirtualLeases):
    """`frozen`: the lease thread stands still, as one whose disk hangs does."""

    frozen = False

    def _do(self, work: Callable[[], None]) -> None:
        if not self.frozen:
            work()


class Store(chaos.Store):
    """Looks at the whole table may fail, too."""

    def scan(self) -> list[Lease]:
        if self.failing():
            raise StoreError("no answer")
        return super().scan()


class Files(MemorySink):
    """Files whose store is away by chance. `numbers` are the records that stand in them."""

    def __init__(self, world: FleetWorld) -> None:
        super().__init__()
        self.roll = Roll(rows_max=world.random.randint(1, 40), age_max_s=world.random.choice([0.5, 5.0, 30.0]))
        self._world = world
        self.numbers: set[int] = set()

    def put_if_absent(self, item: SinkObject) -> bool:
        world = self._world
        if world.troubled and world.random.random() < world.trouble:
            raise SinkError("the bucket is away")
        written = super().put_if_absent(item)
        self.numbers = set(self.rows)
        must(len(self.numbers) == len(self.rows), "a row stands in two files")
        return written


class Worker:
    """One process. Its handler knows whose it is."""

    def __init__(self, world: FleetWorld, number: int) -> None:
        self.world, self.number = world, number
        self.running: set[str] = set()
        self.clock = Clock(EPOCH_S)
        self.timers: list[Timers] = []

        def timers(*args: Any, **options: Any) -> Timers:
            made = Timers(*args, **options)
            self.timers.append(made)
            return made

        random = world.random
        spec = world.spec_of(self)
        right = VirtualClock(EPOCH_S)
        self.client = KinesisClient(
            clock=right,
            random=random,
            transport=VirtualTransport(world.broker, right),
            identity=Identity("http://virtual.invalid", "us-east-1", _credentials),
        )
        self.supervisor = Supervisor(
            spec,
            source=PollingSource(self.client, STREAM, clock=self.clock, random=random, poll_interval_s=random.choice([0.2, 1.0])),
            store=world.store,
            worker_id=f"worker-{number}",
            clock=self.clock,
            random=random,
            executor=VirtualExecutor(random, random.choice([0.0, 0.05])),
            listeners=[world.listen],
            failover_s=FAILOVER_S,
            shard_sync_s=3.0,
            drain_timeout_s=random.choice([0.5, 30.0]),
            budget=MemoryBudget(1_000_000),
            lease_runner=timers,
        )

    async def run(self) -> None:
        async with self.client:
            await self.supervisor.run()


class FleetWorld:
    """One consumer of one stream."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.troubled = True
        self.trouble = random.choice([0.0, 0.02, 0.15])
        self.kind = random.choice(["record", "batch", "batch", "window"])
        self.sink = Files(self) if self.kind != "window" and random.random() < 0.4 else None
        self.slow_s = random.choice([0.0, 0.05, 2.0])
        self.filtered = random.random() < 0.4
        self.gives_up = random.random() < 0.6
        self.aggregates = random.random() < 0.4 and not self.filtered
        self.concurrency = random.choice([1, 1, 3]) if self.kind == "record" else 1
        spares = self.kind == "record" and self.sink is None and random.random() < 0.5
        self.idempotency = MemoryIdempotency(clock=VirtualClock(EPOCH_S).time) if spares else None
        self.ages = random.random() < 0.3
        self.count, self.keys = random.choice([20, 120, 300]), random.choice([1, 4, 30])
        # Only what arrived from then on is asked for.
        self.since_s = EPOCH_S + random.choice([0, 0, 0, 15])
        self.options: dict[str, Any] = {
            "batch_size": random.choice([1, 3, 10, 100]),
            "batching_window_s": random.choice([0, 0, 1, 20]),
            "parallelization_factor": 1 if self.kind == "window" or self.sink else random.randint(1, 10),
            "bisect_batch_on_function_error": random.random() < 0.5,
            "maximum_retry_attempts": random.randint(0, 3) if self.gives_up else -1,
            "maximum_record_age_s": 60 if self.ages else -1,
            "on_failure": self if self.gives_up or self.ages else None,
            "tumbling_window_s": random.choice([1, 7, 30]) if self.kind == "window" else 0,
            "filters": [{"data": {"pass": [True]}}] if self.filtered else [],
            "starting_position": "TRIM_HORIZON" if self.since_s == EPOCH_S else "AT_TIMESTAMP",
            "starting_position_timestamp": None if self.since_s == EPOCH_S else self.since_s,
        }
        self.broker = VirtualBroker(streams={STREAM: random.choice([1, 1, 2])}, seed=seed)
        self.store = Store(self.look)
        self.store.failing = lambda: self.troubled and random.random() < self.trouble / 20
        self.truth: list[Truth] = []
        self.poison: set[int] = set()
        self.done: set[int] = set()
        self.documented: set[int] = set()
        self.calls: dict[int, int] = defaultdict(int)
        self.failed: dict[int, int] = defaultdict(int)
        self.seen: dict[str, int] = defaultdict(lambda: -1)  # per key: the last first delivery
        self.ever: set[int] = set()
        self.events = 0

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    def put(self) -> None:
        random = self.random
        key = f"key-{random.randrange(self.keys)}"
        n, passes = len(self.truth), random.random() < 0.6
        users = random.choice([1, 1, 2, 5]) if self.aggregates else 1
        keys = [key if users == 1 else f"{key}/{random.randrange(3)}" for _ in range(users)]
        payloads = [json.dumps({"n": n + at, "pass": passes}).encode() for at in range(users)]
        data = b64encode(payloads[0] if users == 1 else aggregate(list(zip(keys, payloads, strict=True)))).decode()
        answer = json.loads(b"".join(self.broker.call("PutRecord", StreamName=STREAM, PartitionKey=key, Data=data)))
        shard_id, sequence = answer["ShardId"], int(answer["SequenceNumber"])
        for at, own in enumerate(keys):
            self.truth.append(Truth(n + at, own, passes or not self.filtered, shard_id, sequence, self.broker.now_s))
            if self.gives_up and random.random() < 0.04:
                self.poison.add(n + at)

    def reshard(self) -> None:
        shards = [
            s for s in self.broker.call("ListShards", StreamName=STREAM)["Shards"] if "EndingSequenceNumber" not in s["SequenceNumberRange"]
        ]
        ranges = sorted((int(s["HashKeyRange"]["StartingHashKey"]), int(s["HashKeyRange"]["EndingHashKey"]), s["ShardId"]) for s in shards)
        if self.broker.call("DescribeStreamSummary", StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
            return
        if len(ranges) > 1 and self.random.random() < 0.5:
            at = self.random.randrange(len(ranges) - 1)
            self.broker.call("MergeShards", StreamName=STREAM, ShardToMerge=ranges[at][2], AdjacentShardToMerge=ranges[at + 1][2])
        else:
            low, high, shard_id = self.random.choice(ranges)
            self.broker.call("SplitShard", StreamName=STREAM, ShardToSplit=shard_id, NewStartingHashKey=str((low + high + 1) // 2))

    def plan(self) -> None:
        random, broker = self.random, self.broker
        for at_s in sorted(random.random() * TROUBLE_S for _ in range(self.count)):
            broker.at(0.001 + at_s, self.put)
        for _ in range(random.choice([0, 1, 3])):
            broker.at(1 + random.random() * TROUBLE_S, self.reshard)
        if self.trouble:
            for fault in (
                Throttle("GetRecords", probability=self.trouble, times="always"),
                InternalFailure("GetRecords", probability=self.trouble, times="always"),
                InternalFailure("ListShards", probability=self.trouble, times="always"),
                ResetAfter("GetRecords", probability=self.trouble, times="always"),
                ExpiredIterator(probability=self.trouble, times="always"),
                EmptyRead(probability=self.trouble, times="always"),
                Latency("GetRecords", delay_s=0.1, delay_max_s=3.0, probability=self.trouble, times="always"),
            ):
                broker.faults.add(fault)

    # ── the handler ──────────────────────────────────────────────────────────────────────────────────────────────

    def spec_of(self, worker: Worker) -> ConsumerSpec:
        async def on_record(record: Record) -> int:
            n = self.number(record)
            self.calls[n] += 1
            await self.take(worker, record)
            must(self.idempotency is None or n not in self.done, f"{n} had its effect twice")
            self.done.add(n)
            return n

        async def on_batch(batch: Batch) -> list[int]:
            await self.each(worker, batch, self.done)
            return [self.number(record) for record in batch]

        async def on_window(batch: Batch, state: Any) -> Any:
            window = batch.window
            assert window is not None
            carried = set(state.get("seen", ()))
            must(not carried & {self.number(record) for record in batch}, "a state that holds what is in hand")
            await self.each(worker, batch, carried)
            if window.is_final:
                if self.troubled and self.random.random() < self.trouble:
                    raise ValueError("not now")
                self.done |= carried
            pad = "x" * 1_100_000 if self.troubled and self.random.random() < self.trouble / 10 else ""
            return {"seen": sorted(carried), "pad": pad}

        handlers: dict[str, Any] = {"record": on_record, "batch": on_batch, "window": on_window}
        mapping = EventSourceMapping(**self.options)
        return ConsumerSpec(
            name="fleet",
            stream=STREAM,
            kind=self.kind,  # type: ignore[arg-type]
            handler=handlers[self.kind],
            decoder=json.loads,
            mapping=mapping,
            sink=self.sink,
            concurrency=self.concurrency,
            idempotency=self.idempotency,
        )

    async def each(self, worker: Worker, batch: Batch, done: set[int]) -> None:
        # A call that has begun takes aggregates apart before the handler runs; a pause may come meanwhile.
        must(self.aggregates or not worker.supervisor.gate.shut, "called in a pause")
        if self.troubled and self.kind == "batch" and self.random.random() < self.trouble:
            raise NotTaken
        must(len({record.sequence_number for record in batch}) <= self.options["batch_size"], "a batch is too large")
        for record in batch:
            self.calls[self.number(record)] += 1
        taken: list[int] = []
        for record in batch:
            try:
                await self.take(worker, record)
            except ValueError as error:
                if self.kind == "batch" and self.sink is None and self.random.random() < 0.5:
                    done.update(taken)
                    raise RecordFailed(record) from error
                if self.kind == "window" and self.random.random() < 0.5:
                    raise RecordFailed(record, state={"seen": sorted(done | set(taken))}) from error
                raise
            taken.append(self.number(record))
        done.update(taken)

    def number(self, record: Record) -> int:
        n: int = record.value["n"]
        must(self.truth[n].passes, f"{n} passes no filter")
        must(self.truth[n].arrived_at_s >= self.since_s - 0.002, f"{n} was not asked for")
        return n

    async def take(self, worker: Worker, record: Record) -> None:
        n, key = self.number(record), record.partition_key
        if n not in self.ever:
            self.ever.add(n)
            must(n > self.seen[key], f"{n} came after {self.seen[key]} of its key")
            self.seen[key] = n
        # A worker that has lost a lease and taken it again may still be in the old pump's handler, which is being cancelled.
        must(key not in worker.running, f"{n} came while another record of its key was in hand")
        worker.running.add(key)
        try:
            if self.slow_s and self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * self.slow_s)
            self.failed[n] += self.troubled and self.random.random() < self.trouble
            if n in self.poison or self.failed[n] in range(1, 3):
                self.failed[n] += 1
                raise ValueError("not now")
        finally:
            worker.running.remove(key)

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    def send(self, document: FailureDocument) -> None:
        """The destination."""
        if self.troubled and self.random.random() < self.trouble:
            raise SinkError("the queue is away")
        places = {(record.shard_id, int(record.sequence_number)) for record in document.records}
        numbers = [t.n for t in self.truth if (t.shard_id, t.sequence) in places]
        first, last = self.truth[numbers[0]], self.truth[numbers[-1]]
        between = [t.n for t in self.truth if t.shard_id == first.shard_id and first.sequence <= t.sequence <= last.sequence and t.passes]
        must(set(numbers) <= set(between) and numbers == sorted(numbers), f"a document of {numbers}")
        for n in numbers:
            if document.condition == "RetryAttemptsExhausted":
                tries = self.options["maximum_retry_attempts"] + 1
                must(document.invoke_count == tries, f"given up after {document.invoke_count} attempts of {tries}")
                # A handler of records stops at the first that fails, and those behind it are given up with it, untried, as in Lambda.
                # Of an aggregate whose user records run side by side, another one may fail at each attempt.
                head = [t.n for t in self.truth if t.shard_id == first.shard_id and t.sequence == first.sequence]
                must(sum(self.calls[other] for other in head) >= tries, f"{numbers} are given up without {tries} attempts")
                must(self.kind == "record" or self.calls[n] >= tries, f"{n} was called for {self.calls[n]} times, and {tries} are told")
            else:
                must(self.ages, "nobody asked for an age")
        self.documented.update(numbers)

    def listen(self, event: Event) -> None:
        self.events += 1
        if isinstance(event, RecordsGivenUp):
            low, high = int(event.first), int(event.last)
            self.ever |= {t.n for t in self.truth if t.shard_id == event.shard_id and low <= t.sequence <= high}

    def settled(self, t: Truth) -> bool:
        done = self.done if self.sink is None else self.sink.numbers
        return not t.passes or t.arrived_at_s < self.since_s or t.n in done or t.n in self.documented

    def look(self, lease: Lease) -> None:
        """Called with every write of a lease."""
        open_ = [t.n for t in self.truth if t.shard_id == lease.key and t.sequence <= lease.checkpoint.sequence and not self.settled(t)]
        must(not open_, f"the checkpoint {lease.checkpoint} of {lease.key} passes {open_}")

    # ── lives ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def live(self, number: int) -> None:
        """One worker after the other in one place of the fleet, until the trouble is over."""
        random, loop, life = self.random, asyncio.get_running_loop(), 0
        await asyncio.sleep(self.since_s - EPOCH_S + 4)  # by any of the wrong clocks it has passed
        while loop.time() < TROUBLE_S:
            await asyncio.sleep(random.random() * 5)
            life += 1
            worker = Worker(self, number * 1000 + life)
            worker.clock.wrong_by_s = random.choice([0, 0, -3, 2]) if not self.ages else 0
            task = asyncio.create_task(worker.run())
            ends_s = loop.time() + random.choice([0.01, 3, 20, 60]) * random.random()
            while loop.time() < min(ends_s, TROUBLE_S) and not task.done():
                await asyncio.wait([task], timeout=random.random() * 4)
                match random.choice(["", "", "freeze", "pause", "clock"]):
                    case "freeze":
                        for timers in worker.timers:
                            timers.frozen = True
                        await asyncio.wait([task], timeout=random.random() * 3 * FAILOVER_S)
                        for timers in worker.timers:
                            timers.frozen = False
                    case "pause":
                        worker.supervisor.gate.close()
                        await asyncio.wait([task], timeout=random.random() * 6)
                        worker.supervisor.gate.open()
                    case "clock" if not self.ages:
                        worker.clock.wrong_by_s += random.choice([-3600, -0.5, 0.5, 3600])
            if random.random() < 0.5:
                worker.supervisor.stop()
            else:
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, StoreError | Unavailable):
                raise error  # those two are what a start may end with, when store or service are away
            must(not worker.running, "a handler is still running")
            must(not worker.supervisor.failures, f"a shard has stopped: {worker.supervisor.failures}")

    async def to_the_end(self) -> None:
        await asyncio.sleep(0.01)
        self.plan()
        loop = asyncio.get_running_loop()
        clock = VirtualClock(EPOCH_S)

        async def clockwork() -> None:
            while True:
                self.broker.move_to(clock.time())
                await asyncio.sleep(0.25)

        ticking = asyncio.create_task(clockwork())
        async with asyncio.TaskGroup() as tg:
            for place in range(self.random.choice([1, 2, 3])):
                tg.create_task(self.live(place))
        await asyncio.sleep(max(0.0, TROUBLE_S + 2 - loop.time()))
        self.troubled = False
        self.broker.faults.clear()
        worker = Worker(self, 999_999)
        task = asyncio.create_task(worker.run())
        while not self.at_the_end():
            await asyncio.wait([task], timeout=1)
            if task.done():
                await task
                raise Violated("the last worker has ended")
            must(loop.time() < END_S, f"open after {END_S:g} s: {[t.n for t in self.truth if not self.settled(t)]}, {self.store.scan()}")
        # Nobody spins where nothing happens.
        turns, events = loop._jumping._turns, self.events  # type: ignore[attr-defined]
        await asyncio.sleep(60)
        shards = len(self.store.scan())
        must(loop._jumping._turns - turns < 60 * (40 + shards * 60), f"{loop._jumping._turns - turns} turns of the loop in a quiet minute")  # type: ignore[attr-defined]
        must(self.events - events < 10, f"{self.events - events} events in a quiet minute")
        worker.supervisor.stop()
        await task
        ticking.cancel()
        await asyncio.wait([ticking])
        must(asyncio.all_tasks() == {asyncio.current_task()}, f"left over: {asyncio.all_tasks()}")
        assert len(self.truth) >= self.count
        assert self.sink is None or not self.sink.numbers & self.documented, "a row and a document"
        assert self.poison <= self.documented | {t.n for t in self.truth if not t.passes or t.arrived_at_s < self.since_s}

    def at_the_end(self) -> bool:
        if not all(map(self.settled, self.truth)):
            return False
        rows = {lease.key: lease.checkpoint for lease in self.store.scan()}
        last: dict[str, int] = {}
        for t in self.truth:
            if t.arrived_at_s >= self.since_s:
                last[t.shard_id] = t.sequence
        for shard in self.broker.call("ListShards", StreamName=STREAM)["Shards"]:
            checkpoint = rows.get(shard["ShardId"])
            if checkpoint is None:
                return False
            if "EndingSequenceNumber" in shard["SequenceNumberRange"]:
                if checkpoint != SHARD_END:
                    return False
            elif checkpoint.sequence < last.get(shard["ShardId"], -3):
                return False
        return True


def run_world(seed: int) -> None:
    try:
        virtual.run(FleetWorld(seed).to_the_end())
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("block", range(4))
def test_a_fleet_loses_nothing_and_keeps_the_order_of_keys(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "READ_AHEAD_RECORDS", 15)
    for seed in range(block * 6, block * 6 + 6):
        run_world(seed)
