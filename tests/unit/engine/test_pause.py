"""A consumer that is paused, on virtual time: what is in hand is finished, nothing else begins, and nothing is lost or comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from streamlet.core.rolling import Roll
from streamlet.core.windows import STATE_BYTES_MAX
from streamlet.engine.gate import Gate
from streamlet.engine.invoke import BatchFailed
from streamlet.engine.supervisor import Supervisor
from streamlet.hooks import (
    Drained,
    Event,
    Invoked,
    LeaseReleased,
    LeaseTaken,
    LeaseWentAway,
    Paused,
    Pausing,
    RangeCommitted,
    RecordsGivenUp,
    RecordsRead,
    Resumed,
)
from streamlet.model.batch import Batch
from streamlet.model.position import TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.ports import Lease, SinkObject
from streamlet.sinks.memory import MemorySink
from streamlet.spec import ConsumerSpec, EventSourceMapping
from streamlet.testing.virtual import VirtualLeases
from tests.unit.engine.chaos import SHARD, STREAM, Clock, Documents, Inline, ListSource, Store, Violated, number_of, numbered, pumping, run

LONG_S = 3600.0


class World:
    """One shard, and workers over it. `began` are the calls: at which second, and which records."""

    def __init__(self, *, records: int = 10, kind: Any = "batch", handle: Callable[..., Any] | None = None, **options: Any) -> None:
        self.source = ListSource(numbered(records, 3, Random(1)), Random(1), ended=False, read_max=1000)
        self.store = Store()
        self.events: list[Event] = []
        self.began: list[tuple[float, list[int]]] = []
        self.takes_s = 0.0
        self.down = False
        sink = options.pop("sink", None)
        mapping = EventSourceMapping(**options)
        self.spec = ConsumerSpec(
            name="app", stream=STREAM, kind=kind, handler=handle or self.handle, decoder=bytes, mapping=mapping, sink=sink
        )

    async def handle(self, batch: Batch) -> None:
        self.began.append((Clock().monotonic(), [number_of(record) for record in batch]))
        down = self.down
        await asyncio.sleep(self.takes_s)
        if down:
            raise ValueError("down")

    def supervisor(self, name: str = "w") -> Supervisor:
        return Supervisor(
            self.spec,
            source=self.source,
            store=self.store,
            worker_id=name,
            clock=Clock(),
            random=Random(1),
            executor=Inline(Random(1)),
            listeners=[self.events.append],
            failover_s=5.0,
            lease_runner=VirtualLeases,
        )

    @asynccontextmanager
    async def worker(self, name: str = "w", *, shut: bool = False) -> AsyncIterator[Gate]:
        """A worker that drains at the end of the block."""
        supervisor = self.supervisor(name)
        if shut:
            supervisor.gate.close()
        async with asyncio.TaskGroup() as tg:
            tg.create_task(supervisor.run())
            yield supervisor.gate
            supervisor.stop()
        assert supervisor.failures == []

    def put(self, count: int) -> None:
        known = len(self.source.records)
        self.source.records += numbered(known + count, 3, Random(1))[known:]

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def told(self) -> list[str]:
        return [type(event).__name__ for event in self.of(Pausing, Paused, Resumed, Drained)]

    @property
    def numbers(self) -> list[list[int]]:
        return [numbers for _, numbers in self.began]

    @property
    def checkpoint(self) -> Position:
        row = self.store.read(SHARD)
        assert row is not None
        return row.checkpoint


def test_the_call_in_hand_is_finished_its_checkpoint_written_and_nothing_else_begins() -> None:
    w = World(batch_size=2)
    w.takes_s = 10.0

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(15)  # in the second call
            gate.close()
            await asyncio.sleep(LONG_S)
            assert w.numbers == [[0, 1], [2, 3]]
            assert w.checkpoint == Position(4)
            reads = len(w.of(RecordsRead))
            w.put(1)
            await asyncio.sleep(LONG_S)
            assert len(w.of(RecordsRead)) == reads, "nothing is read"
            gate.open()
            await asyncio.sleep(60)
        assert w.numbers == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]

    run(main())
    assert w.told() == ["Pausing", "Paused", "Resumed", "Drained"]
    assert w.checkpoint == Position(11)
    assert w.of(LeaseTaken, LeaseWentAway, LeaseReleased) == [w.of(LeaseTaken)[0], w.of(LeaseReleased)[0]], "the lease is kept"


def test_paused_is_told_when_the_last_call_has_ended() -> None:
    w = World(batch_size=5, parallelization_factor=3)
    w.takes_s = 10.0
    told_at: list[float] = []

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(5)
            assert len(w.began) == 2, "two slots side by side"
            gate.close()
            await asyncio.sleep(4)
            assert w.told() == ["Pausing"]
            while w.told()[-1] != "Paused":
                await asyncio.sleep(0.01)
            told_at.append(Clock().monotonic())

    run(main())
    assert told_at[0] - max(at_s for at_s, _ in w.began) == pytest.approx(10, abs=0.1)


def test_a_retry_waits_and_goes_on_with_its_count() -> None:
    w = World(batch_size=10, maximum_retry_attempts=2)
    w.down = True

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(0.9)  # after the first attempt, in the back-off of a second
            gate.close()
            await asyncio.sleep(LONG_S)
            assert len(w.began) == 1
            gate.open()
            await asyncio.sleep(60)

    run(main())
    assert [event.attempt for event in w.of(Invoked)] == [1, 2, 3]
    assert len(w.of(RecordsGivenUp)) == 1


@pytest.mark.parametrize(("paused_at_s", "attempts"), [(0.9, 1), (3.0, 2)])
def test_nothing_is_given_up_in_a_pause_and_what_grew_too_old_is_when_it_ends(paused_at_s: float, attempts: int) -> None:
    """In a back-off that ends within the pause, and before it: either way no document is sent meanwhile."""
    documents = Documents()
    w = World(maximum_record_age_s=60, on_failure=documents)
    w.down = True

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(paused_at_s)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert not documents.sent
            gate.open()
            await asyncio.sleep(1)

    run(main())
    assert documents.sent == list(range(10))
    assert len(w.began) == attempts
    assert {event.condition for event in w.of(RecordsGivenUp)} == {"RecordAgeExceeded"}


def test_the_last_attempt_ends_in_a_pause_and_the_record_is_given_up_after_it() -> None:
    documents = Documents()
    w = World(maximum_retry_attempts=0, on_failure=documents)
    w.takes_s, w.down = 10.0, True

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(5)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert not documents.sent
            gate.open()
            await asyncio.sleep(1)

    run(main())
    assert documents.sent == list(range(10))
    assert len(w.began) == 1


def test_a_batching_window_that_ends_in_a_pause_waits() -> None:
    w = World(batching_window_s=30)

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(20)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert not w.began
            w.put(5)
            gate.open()
            await asyncio.sleep(0)
            await asyncio.sleep(60)

    run(main())
    assert w.numbers == [list(range(10)), list(range(10, 15))]
    assert w.began[0][0] == pytest.approx(20 + LONG_S, abs=0.1), "it was over long ago, so it goes at once"


def test_a_pause_during_a_read_keeps_what_the_read_brings() -> None:
    w = World()

    async def main() -> None:
        original = w.source.after

        async def slow(position: Position) -> Any:
            await asyncio.sleep(5)
            return await original(position)

        w.source.after = slow  # type: ignore[method-assign]
        async with w.worker() as gate:
            await asyncio.sleep(2)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert len(w.of(RecordsRead)) == 1
            assert not w.began
            gate.open()
            await asyncio.sleep(60)

    run(main())
    assert w.numbers == [list(range(10))]


def test_a_worker_may_begin_paused_and_then_takes_no_shard() -> None:
    """As with enabled=False. Another worker may take it meanwhile."""
    w = World(enabled=False)

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(LONG_S)
            assert not w.began
            assert not w.of(LeaseTaken, RecordsRead)
            assert w.told() == ["Paused"]
            gate.open()
            await asyncio.sleep(60)
            assert w.numbers == [list(range(10))]

    run(main())
    assert w.told() == ["Paused", "Resumed", "Drained"]


def test_a_paused_worker_keeps_its_shard_and_takes_no_other() -> None:
    """Event 1: one worker is paused, another one reads. Event 2: the other one dies. The paused one must not take its shard, where it
    would stand still; a third one does."""
    w = World()

    async def main() -> None:
        async with w.worker("paused", shut=True), asyncio.TaskGroup() as tg:
            dying = tg.create_task(w.supervisor("dying").run())
            await asyncio.sleep(30)
            assert w.numbers == [list(range(10))]
            dying.cancel()
            await asyncio.sleep(LONG_S)
            row = w.store.read(SHARD)
            assert row is not None
            assert row.owner == "dying", "nobody else has taken it"
            w.put(1)
            async with w.worker("third") as third:
                await asyncio.sleep(30)
                assert w.numbers[1:] == [[10]]
                third.close()
                w.put(1)
                async with w.worker("fourth"):
                    await asyncio.sleep(LONG_S)
                    row = w.store.read(SHARD)
                    assert row is not None
                    assert row.owner == "third", "a pause is no reason to lose a lease"
                    assert len(w.began) == 2

    run(main())


def test_a_lease_that_is_lost_in_a_pause_is_left_at_once() -> None:
    w = World(batch_size=5)
    w.takes_s = 10.0

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(5)
            gate.close()
            await asyncio.sleep(30)
            row = w.store.read(SHARD)
            assert row is not None
            assert w.store.write(_taken(row), if_counter=row.counter)
            await asyncio.sleep(LONG_S)
            assert len(w.of(LeaseWentAway)) == 1
            row = w.store.read(SHARD)
            assert row is not None
            assert row.owner == "thief", "the thief does nothing, but in a pause nothing is taken"
            gate.open()
            await asyncio.sleep(60)
        assert w.numbers == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]

    run(main())


def _taken(row: Lease) -> Lease:
    return replace(row, owner="thief", counter=row.counter + 1)


def test_pausing_twice_and_resuming_twice_change_nothing() -> None:
    w = World()

    async def main() -> None:
        async with w.worker() as gate:
            gate.open()
            await asyncio.sleep(10)
            for _ in range(2):
                gate.close()
            await asyncio.sleep(10)
            gate.close()
            await asyncio.sleep(10)
            w.put(1)
            for _ in range(3):
                gate.open()
            await asyncio.sleep(10)

    run(main())
    assert w.told() == ["Paused", "Resumed", "Drained"]
    assert w.numbers == [list(range(10)), [10]]


def test_a_pause_after_a_pause_holds_who_was_just_woken() -> None:
    """Opened and shut again before anybody who waits had a turn."""
    w = World(batch_size=1)
    w.takes_s = 10.0

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(5)
            gate.close()
            await asyncio.sleep(60)
            gate.open()
            gate.close()
            await asyncio.sleep(60)
            assert len(w.began) == 1
            gate.open()
            await asyncio.sleep(200)

    run(main())
    assert w.numbers == [[n] for n in range(10)]


@pytest.mark.parametrize("paused_at_s", [0.0, 0.9, 5.0])
@pytest.mark.parametrize("takes_s", [0.0, 2.0])
def test_a_drain_of_a_paused_worker_ends_at_once_and_begins_no_call(paused_at_s: float, takes_s: float) -> None:
    """Before the first batch, in a back-off, in a call, and with a pause that comes when the drain has begun."""
    w = World(batch_size=1)
    w.takes_s, w.down = takes_s, True

    async def main() -> float:
        async with w.worker() as gate:
            await asyncio.sleep(paused_at_s)
            gate.close()
            await asyncio.sleep(60)
            calls, stopped_at_s = len(w.began), Clock().monotonic()
        gate.close()
        assert len(w.began) == calls
        return Clock().monotonic() - stopped_at_s

    assert run(main()) < 0.5
    assert w.told()[-1] == "Drained"
    row = w.store.read(SHARD)
    assert row is not None
    assert row.owner is None, "the shard is given back"


def test_a_pause_during_a_drain_has_no_effect() -> None:
    w = World(batch_size=1)
    w.takes_s = 10.0

    async def main() -> float:
        async with asyncio.TaskGroup() as tg:
            supervisor = w.supervisor()
            tg.create_task(supervisor.run())
            await asyncio.sleep(5)
            supervisor.stop()
            await asyncio.sleep(0.1)
            supervisor.gate.close()
            assert not supervisor.gate.shut
        return Clock().monotonic()

    assert run(main()) < 11, "the call in hand was finished, and that was all"
    assert w.told() == ["Drained"]
    assert w.checkpoint == Position(1)


def test_an_open_range_closes_by_its_age() -> None:
    class Files(MemorySink):
        roll = Roll(age_max_s=60.0)

        def __init__(self) -> None:
            super().__init__()
            self.put_at_s: list[float] = []

        def put_if_absent(self, item: SinkObject) -> bool:
            self.put_at_s.append(Clock().monotonic())
            return super().put_if_absent(item)

    sink = Files()
    w = World(kind="record", sink=sink, handle=lambda record: {"n": number_of(record)})

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(10)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert len(sink.put_at_s) == 1
            assert sink.put_at_s[0] == pytest.approx(60, abs=1)
            assert w.checkpoint == Position(10)

    run(main())
    assert len(w.of(RangeCommitted)) == 1


def test_a_prepared_range_is_completed_after_the_pause_or_left_at_a_drain() -> None:
    """A worker dies between prepare and put. Its successor is paused before it can run the handler again."""
    calls: list[int] = []

    class Files(MemorySink):
        roll = Roll(rows_max=10)
        away = True

        def put_if_absent(self, item: SinkObject) -> bool:
            if self.away:
                raise OSError("away")
            return super().put_if_absent(item)

    sink = Files()

    async def handle(record: Record) -> dict[str, int]:
        calls.append(number_of(record))
        if w.of(LeaseTaken)[2:]:
            await asyncio.sleep(1)
        return {"n": number_of(record)}

    w = World(kind="record", sink=sink, handle=handle)

    async def main() -> None:
        async with asyncio.TaskGroup() as tg:
            dying = tg.create_task(w.supervisor("dying").run())
            await asyncio.sleep(10)
            dying.cancel()
        sink.away = False
        for last in (False, True):
            async with w.worker(f"next {last}") as gate:
                while not w.of(LeaseTaken)[1 + last :]:
                    await asyncio.sleep(0.001)
                gate.close()
                await asyncio.sleep(LONG_S)
                assert calls == list(range(10)), "the handler does not run"
                if last:
                    gate.open()
                    await asyncio.sleep(5)
                    gate.close()
                    await asyncio.sleep(1)
                    assert w.told()[-1] == "Pausing"
                    await asyncio.sleep(LONG_S)
                    assert w.told()[-1] == "Paused"
                    gate.open()
                    await asyncio.sleep(60)

    run(main())
    assert calls == [*range(10), *range(10)]
    [committed] = w.of(RangeCommitted)
    assert committed.replayed


def test_a_prepared_range_without_a_call_waits_too() -> None:
    """All of it was given up: to complete it, nothing is read and no document sent before the pause ends."""
    documents = Documents(lambda: away)
    away = True

    def handle(record: Record) -> None:
        raise ValueError("poison")

    w = World(kind="record", sink=MemorySink(), handle=handle, maximum_retry_attempts=0, on_failure=documents)

    async def main() -> None:
        nonlocal away
        dying = asyncio.create_task((await pumping(w.spec, w.store, w.source, Random(1), worker_id="dying")).run())
        await asyncio.sleep(10)
        dying.cancel()
        away = False
        pump = await pumping(w.spec, w.store, w.source, Random(1), worker_id="next")
        pump.gate.close()
        completing = asyncio.create_task(pump.run())
        await asyncio.sleep(LONG_S)
        assert documents.sent == []
        pump.gate.open()
        await asyncio.sleep(10)
        assert documents.sent == list(range(10))
        pump.stop()
        await completing

    run(main())


def test_a_tumbling_window_keeps_its_state_and_makes_no_final_call() -> None:
    closed: list[tuple[float, Any]] = []
    calls = 0

    def total(batch: Batch, state: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        seen = state.get("seen", []) + [number_of(record) for record in batch]
        assert batch.window is not None
        if batch.window.is_final:
            closed.append((Clock().monotonic(), seen))
        return {"seen": seen}

    w = World(kind="window", handle=total, tumbling_window_s=60, batch_size=3)

    async def main() -> None:
        async with w.worker() as gate:
            await asyncio.sleep(1)
            before = calls
            assert before > 0
            gate.close()
            await asyncio.sleep(LONG_S)
            assert calls == before
            assert w.checkpoint == TRIM_HORIZON
            gate.open()
            await asyncio.sleep(60)

    run(main())
    [(at_s, seen)] = closed
    assert seen == list(range(10))
    assert at_s > LONG_S
    assert w.checkpoint == Position(10)


def test_a_final_call_that_failed_is_not_tried_again_in_a_pause() -> None:
    finals: list[float] = []

    def total(batch: Batch, state: dict[str, Any]) -> dict[str, Any]:
        assert batch.window is not None
        if batch.window.is_final:
            finals.append(Clock().monotonic())
            if len(finals) == 1:
                raise ValueError("no table")
        return {}

    w = World(kind="window", handle=total, tumbling_window_s=60)

    async def main() -> None:
        async with w.worker() as gate:
            while not finals:
                await asyncio.sleep(0.1)
            gate.close()
            await asyncio.sleep(LONG_S)
            assert len(finals) == 1
            gate.open()
            await asyncio.sleep(10)
            assert len(finals) == 2
        assert w.checkpoint == Position(10)

    run(main())


def test_a_pause_in_a_final_call_in_the_middle_of_a_batch_holds_the_rest_of_the_batch() -> None:
    """A state that grew too large ends its window after the first record; the pause comes while that final call runs."""
    calls: list[tuple[bool, int]] = []

    async def total(batch: Batch, state: dict[str, Any]) -> dict[str, Any]:
        assert batch.window is not None
        calls.append((batch.window.is_final, len(batch)))
        if batch.window.is_final:
            await asyncio.sleep(10)
            return {}
        if len(calls) == 1:
            raise BatchFailed(1, None, "the second", state={"large": "x" * STATE_BYTES_MAX})
        return {}

    w = World(kind="window", handle=total, tumbling_window_s=900)

    async def main() -> None:
        async with w.worker() as gate:
            while len(calls) < 2:
                await asyncio.sleep(0.1)
            gate.close()
            await asyncio.sleep(5)
            assert w.told() == ["Pausing"]
            await asyncio.sleep(LONG_S)
            assert calls == [(False, 10), (True, 0)]
            assert w.told() == ["Pausing", "Paused"]
            gate.open()
            await asyncio.sleep(1)
            assert calls[2] == (False, 9)

    run(main())


@pytest.mark.parametrize("seed", range(40))
def test_whenever_it_is_paused_nothing_is_lost_or_out_of_order_and_no_call_begins_meanwhile(seed: int) -> None:
    random = Random(seed)
    gates: list[Gate] = []
    seen: list[int] = []
    count = random.randint(0, 120)

    async def handle(batch: Batch) -> None:
        if gates[-1].shut:
            raise Violated("called in a pause")
        await asyncio.sleep(random.random() * 3)
        if random.random() < 0.2:
            raise ValueError("by chance")
        seen.extend(number_of(record) for record in batch)

    w = World(
        records=count,
        handle=handle,
        batch_size=random.choice([1, 7, 50]),
        batching_window_s=random.choice([0, 0, 5]),
        parallelization_factor=random.choice([1, 1, 4]),
        bisect_batch_on_function_error=random.random() < 0.5,
    )
    w.source = ListSource(w.source.records, random, ended=False)

    async def main() -> None:
        for life in range(6):
            last = life == 5
            supervisor = w.supervisor(f"w{life}")
            gates.append(supervisor.gate)
            async with asyncio.TaskGroup() as tg:
                running = tg.create_task(supervisor.run())
                for _ in range(random.randint(0, 8)):
                    await asyncio.sleep(random.choice([0, 0.001, random.random() * 10]))
                    random.choice([supervisor.gate.close, supervisor.gate.open])()
                if last:
                    supervisor.gate.open()
                    while set(seen) != set(range(count)):
                        await asyncio.sleep(1)
                if last or random.random() < 0.5:
                    supervisor.stop()
                else:
                    running.cancel()

    run(main())
    by_key: dict[str, list[int]] = {}
    for n in seen:
        by_key.setdefault(w.source.records[n].partition_key, []).append(n)
    for numbers in by_key.values():
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), "in order at the first delivery"
