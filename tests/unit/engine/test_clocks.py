"""A wall clock that somebody sets while the worker runs. Ages and tumbling windows follow it; nothing else may."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from streamlet.core.rolling import Roll
from streamlet.hooks import Event, RangeCommitted
from streamlet.model.batch import Batch
from streamlet.model.record import Record
from streamlet.ports import Fetch, Lease
from streamlet.sinks.memory import MemorySink
from streamlet.spec import ConsumerSpec, EventSourceMapping
from tests.unit.engine.chaos import EPOCH_S, SHARD, STREAM, Clock, ListSource, Store, number_of, pumping, run

HOUR_S = 3600.0


class Drip:
    """Record n comes at second n, one by one; the shard ends after the last."""

    def __init__(self, count: int) -> None:
        self.next, self.count = 0, count

    async def read(self) -> Fetch:
        await asyncio.sleep(max(0.0, self.next - Clock().monotonic()))
        n, self.next = self.next, self.next + 1
        record = Record(b"{}", f"key-{n % 3}", str(n + 1), 0, EPOCH_S + n, SHARD, STREAM)
        return Fetch([record], 0, ended=self.next == self.count)


class Files(MemorySink):
    roll = Roll(age_max_s=2.0)


class World:
    """One pump over one record a second, and a clock that is set back, or ahead, at second 3.5."""

    def __init__(self, step_s: float, **options: Any) -> None:
        self.step_s, self.clock = step_s, Clock()
        self.calls: list[tuple[float, list[int]]] = []  # when, and which records
        self.checkpoints: list[float] = []
        self.events: list[Event] = []
        self.failing: set[int] = set()
        self.sink = Files() if options.pop("sink", False) else None
        self.spec = ConsumerSpec(
            name="clocks",
            stream=STREAM,
            kind="batch",
            handler=self.handle,
            decoder=bytes,
            mapping=EventSourceMapping(**options),
            sink=self.sink,
        )

    async def handle(self, batch: Batch) -> list[int]:
        numbers = [number_of(record) for record in batch]
        self.calls.append((Clock().monotonic(), numbers))
        if self.failing & set(numbers):
            self.failing -= set(numbers)
            raise ValueError("not now")
        return numbers

    def look(self, lease: Lease) -> None:
        if not lease.checkpoint.is_sentinel:
            self.checkpoints.append(Clock().monotonic())

    def seconds(self) -> float:
        """Run it; how long it took."""
        return run(self.run())

    async def run(self) -> float:
        source = ListSource([], Random(0))
        source.reader = lambda shard_id, start: Drip(10)  # type: ignore[assignment, method-assign, return-value]
        pump = await pumping(
            self.spec, Store(self.look), source, Random(0), worker_id="worker", listen=self.events.append, clock=self.clock
        )

        async def step() -> None:
            await asyncio.sleep(3.5)
            self.clock.wrong_by_s = self.step_s

        stepping = asyncio.create_task(step())
        async with asyncio.timeout(HOUR_S / 2):
            await pump.run()
        await stepping
        return Clock().monotonic()


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_a_batching_window_is_as_long_as_it_is(step_s: float) -> None:
    world = World(step_s, batching_window_s=2)
    assert world.seconds() < 15
    at_s = [at_s for at_s, _ in world.calls]
    # The last batch goes with the shard's end.
    assert all(1.9 < later - before < 3.1 for before, later in pairwise(at_s[:-1]))
    assert 4 <= len(world.calls) <= 5


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_a_pause_before_a_retry_is_no_longer_than_the_longest(step_s: float) -> None:
    """The attempt of second 3 fails; in its pause the clock is set back. The next one follows within the longest pause of all."""
    world = World(step_s)
    world.failing = {3}
    assert world.seconds() < 30
    at_s = [at_s for at_s, numbers in world.calls if 3 in numbers]
    assert len(at_s) == 2
    assert at_s[1] - at_s[0] < 14


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_checkpoints_follow_every_second(step_s: float) -> None:
    world = World(step_s)
    world.seconds()
    gaps = [later - before for before, later in pairwise(world.checkpoints)]
    assert len(world.checkpoints) >= 8
    assert max(gaps) < 2.5


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_an_open_range_closes_by_its_age(step_s: float) -> None:
    world = World(step_s, sink=True)
    world.seconds()
    assert len([event for event in world.events if isinstance(event, RangeCommitted)]) >= 3
    assert world.sink is not None
    assert sorted(world.sink.rows) == list(range(10))
