"""A shard's pump on virtual time, in a world that fails by a seed: what the engine's randomised tests stand on.

No thread and no socket: the loop's clock jumps to the next timer, so minutes pass in milliseconds and a seed gives the same run
every time. Where nothing will ever happen again the loop says so instead of waiting: a missed wake-up is a red test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from streamlet.core.rolling import MemoryBudget
from streamlet.engine.leases import Acquired, LeaseEvent, LeaseKeeper
from streamlet.engine.pump import Pump
from streamlet.errors import SinkError, StoreError
from streamlet.hooks import Event
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.model.shard import HASH_KEY_MAX, Shard
from streamlet.ports import FailureDocument, Fetch, Lease, StartingPosition
from streamlet.spec import ConsumerSpec
from streamlet.stores.memory import MemoryLeaseStore
from streamlet.testing import virtual
from streamlet.testing.virtual import STEP_S, VirtualClock, VirtualExecutor

STREAM, SHARD = "numbers", "shardId-000000000000"
EPOCH_S = 1_700_000_000.1
TURNS_MAX = 200_000

T = TypeVar("T")


Inline = VirtualExecutor


class Violated(BaseException):
    """What a handler saw must not be. No Exception, or the engine would take it for a failure of the handler, and try again."""


def run(main: Coroutine[Any, Any, T], *, step_s: float = STEP_S) -> T:
    """Run it on virtual time. `step_s` is what a turn takes; with 0 only waiting takes time."""
    return virtual.run(main, turns_max=TURNS_MAX, step_s=step_s)


class Clock(VirtualClock):
    """The loop's time, by a wall clock that may be set wrong."""

    def __init__(self, epoch_s: float = EPOCH_S) -> None:
        super().__init__(epoch_s)
        self.wrong_by_s = 0.0

    def time(self) -> float:
        return super().time() + self.wrong_by_s


class Store(MemoryLeaseStore):
    """Shows every row before it is written; by chance it does not answer, before or after the write."""

    def __init__(self, look: Callable[[Lease], None] = lambda lease: None) -> None:
        super().__init__()
        self._look = look
        self.failing: Callable[[], bool] = lambda: False

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        if self.failing():
            raise StoreError("no answer")
        written = super().write(lease, if_counter=if_counter)
        if written:
            self._look(lease)
        if self.failing():
            raise StoreError("no answer")
        return written


class ListSource:
    """One shard that holds these records and then, if `ended`, ends. Reads bring a random share after a random wait."""

    stream = STREAM

    def __init__(
        self, records: Sequence[Record], random: Random, *, ended: bool = True, read_max: int = 20, wait_max_s: float = 0.3
    ) -> None:
        self.records, self.ended = list(records), ended
        self._random, self._read_max, self._wait_max_s = random, read_max, wait_max_s

    async def list_shards(self) -> Sequence[Shard]:
        return [Shard(SHARD, 0, HASH_KEY_MAX)]

    def reader(self, shard_id: str, start: StartingPosition) -> ListReader:
        assert shard_id == SHARD
        return ListReader(self, start)

    async def after(self, position: Position) -> Fetch:
        await asyncio.sleep(self._random.random() * self._wait_max_s)
        rest = [record for record in self.records if record.position > position]
        taken = rest[: self._random.randint(0, self._read_max)]
        return Fetch(taken, 0 if len(taken) == len(rest) else 1000, ended=self.ended and len(taken) == len(rest))


class ListReader:
    def __init__(self, source: ListSource, start: StartingPosition) -> None:
        self._source, self._position = source, start.position

    async def read(self) -> Fetch:
        fetch = await self._source.after(self._position)
        if fetch.records:
            self._position = fetch.records[-1].position
        return fetch


class Documents:
    """A destination that refuses by chance."""

    def __init__(self, refuses: Callable[[], bool] = lambda: False) -> None:
        self._refuses = refuses
        self.sent: list[int] = []

    def send(self, document: FailureDocument) -> None:
        if self._refuses():
            raise SinkError("the queue is away")
        self.sent += [number_of(record) for record in document.records]


def numbered(count: int, keys: int, random: Random) -> list[Record]:
    """Records 0 … count - 1 with random keys. Every third payload is no JSON object that a filter on `pass` would let through."""
    return [
        Record(
            json.dumps({"n": n, "pass": random.random() < 0.6}).encode(),
            f"key-{random.randrange(keys)}",
            str(n + 1),
            0,
            EPOCH_S,
            SHARD,
            STREAM,
        )
        for n in range(count)
    ]


def number_of(record: Record) -> int:
    return int(record.sequence_number) - 1


async def acquired(store: Store, start: Position, random: Random, worker_id: str) -> tuple[LeaseKeeper, Acquired]:
    """A new worker that has taken the shard, once the lease of the one before it has expired."""
    events: list[LeaseEvent] = []
    keeper = LeaseKeeper(store, worker_id, clock=Clock(), random=random, failover_s=5.0, notify=events.append)
    keeper.sync([Shard(SHARD, 0, HASH_KEY_MAX)], start)
    keeper.start_taking()
    while not (mine := [event for event in events if isinstance(event, Acquired)]):
        await asyncio.sleep(1)
        keeper.take()
    return keeper, mine[0]


async def pumping(
    spec: ConsumerSpec,
    store: Store,
    source: ListSource,
    random: Random,
    *,
    worker_id: str,
    delay_max_s: float = 0.0,
    listen: Callable[[Event], None] = lambda event: None,
    clock: Clock | None = None,
) -> Pump:
    """A pump that has the lease and is ready to run."""
    inline = Inline(random, delay_max_s)
    keeper, lease = await acquired(store, spec.mapping.start.position, random, worker_id)
    return Pump(
        spec,
        lease,
        source=source,
        keeper=keeper,
        leases=inline,
        executor=inline,
        clock=clock or Clock(),
        emit=listen,
        budget=MemoryBudget(1_000_000),
    )
