"""One shard's pump at its edges, on virtual time: who keeps up while others are busy, who makes room, who ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from random import Random
from typing import Any
from zlib import crc32

import pytest

from streamlet.core.rolling import Roll
from streamlet.engine import pump as pump_module
from streamlet.engine.pump import End
from streamlet.errors import HandlerError, InternalError
from streamlet.model.position import SHARD_END, Position
from streamlet.model.record import Record
from streamlet.sinks.memory import MemorySink
from streamlet.spec import ConsumerSpec, EventSourceMapping
from tests.unit.engine.chaos import EPOCH_S, SHARD, STREAM, Clock, ListSource, Store, number_of, pumping, run

FIRST, SECOND = "key-0", "key-4"
assert crc32(FIRST.encode()) % 2 != crc32(SECOND.encode()) % 2, "the two keys go to two lanes"


def record(n: int, key: str, **value: Any) -> Record:
    return Record(json.dumps({"n": n, **value}).encode(), key, str(n + 1), 0, EPOCH_S, SHARD, STREAM)


def spec(handler: Callable[[Record], Any], *, sink: MemorySink | None = None, **options: Any) -> ConsumerSpec:
    return ConsumerSpec(
        name="numbers",
        stream=STREAM,
        kind="record",
        handler=handler,
        decoder=json.loads,
        mapping=EventSourceMapping(**options),
        sink=sink,
    )


def checkpoint(store: Store) -> Position:
    row = store.read(SHARD)
    assert row is not None
    return row.checkpoint


@pytest.mark.parametrize("ended", [False, True])
def test_the_checkpoint_follows_while_one_lane_is_in_its_handler(ended: bool) -> None:
    """Also once the shard has ended, and the other lane with it."""
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        if record.partition_key == SECOND:
            await gate.wait()
        elif number_of(record) == 1:
            await asyncio.sleep(0.2)  # the second of its batches, too soon after the first checkpoint for another one

    async def main() -> None:
        store = Store()
        source = ListSource([record(0, FIRST), record(1, FIRST), record(2, SECOND)], Random(1), ended=ended, wait_max_s=0.1)
        pump = await pumping(spec(handle, parallelization_factor=2, batch_size=1), store, source, Random(1), worker_id="w")
        running = asyncio.create_task(pump.run())
        await asyncio.sleep(60)
        assert checkpoint(store) == Position(2)
        gate.set()
        if not ended:
            pump.stop()
        assert await running is (End.SHARD_ENDED if ended else End.DRAINED)
        assert checkpoint(store) == (SHARD_END if ended else Position(3))

    run(main())


def test_a_range_closes_by_its_age_while_the_handler_is_busy() -> None:
    gate = asyncio.Event()
    sink = MemorySink()
    sink.roll = Roll(age_max_s=5)  # type: ignore[attr-defined]

    async def handle(record: Record) -> int:
        if number_of(record) == 1:
            await gate.wait()
        return number_of(record)

    async def main() -> None:
        store = Store()
        source = ListSource([record(0, FIRST), record(1, FIRST)], Random(1), ended=True, wait_max_s=0.1)
        pump = await pumping(spec(handle, sink=sink, batch_size=1), store, source, Random(1), worker_id="w")
        running = asyncio.create_task(pump.run())
        await asyncio.sleep(60)
        assert sink.rows == [0]
        assert checkpoint(store) == Position(1)
        gate.set()
        assert await running is End.SHARD_ENDED
        assert sink.rows == [0, 1]

    run(main())


def test_a_window_that_holds_up_the_reading_closes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """One record that passes the filter waits for its window of minutes; what passes none must not fill the memory behind it,
    or a shard with few records that pass would be read at READ_AHEAD_RECORDS per window, slower than it is written."""
    monkeypatch.setattr(pump_module, "READ_AHEAD_RECORDS", 50)
    seen: list[tuple[int, float]] = []

    async def handle(record: Record) -> None:
        seen.append((number_of(record), Clock().monotonic()))

    async def main() -> None:
        records = [record(n, FIRST, good=n % 500 == 0) for n in range(2000)]
        source = ListSource(records, Random(1), wait_max_s=0.1)
        mapping: dict[str, Any] = {"batching_window_s": 300, "filters": [{"data": {"good": [True]}}]}
        pump = await pumping(spec(handle, **mapping), Store(), source, Random(1), worker_id="w")
        begun_s = Clock().monotonic()
        assert await pump.run() is End.SHARD_ENDED
        assert [n for n, _ in seen] == [0, 500, 1000, 1500]
        assert Clock().monotonic() - begun_s < 300

    run(main())


def test_a_lane_whose_handler_swallows_its_cancellation_ends_with_the_others() -> None:
    """Event 1: a handler returns what no handler may, and its lane raises. Event 2: the other lane is cancelled, and its handler
    catches that. If this lane went on, the pump would neither end nor read: the shard would stand still, in silence."""

    async def handle(record: Record) -> Any:
        if record.partition_key == FIRST:
            await asyncio.sleep(1)
            return (number for number in range(3))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return None

    async def main() -> None:
        source = ListSource([record(0, FIRST), record(1, SECOND)], Random(1), ended=False)
        pump = await pumping(spec(handle, parallelization_factor=2), Store(), source, Random(1), worker_id="w")
        async with asyncio.timeout(60):
            with pytest.raises(ExceptionGroup) as caught:
                await pump.run()
        assert caught.group_contains(HandlerError)

    run(main())


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_handler_that_cancels_its_own_task_stops_the_shard_visibly(factor: int, ended: bool) -> None:
    """A TaskGroup passes over a child that was cancelled. Were its lane taken for one that is done, the end of the shard would be
    written over what it held."""
    done: list[int] = []

    async def handle(record: Record) -> None:
        if number_of(record) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        done.append(number_of(record))

    async def main() -> None:
        store = Store()
        source = ListSource([record(0, FIRST), record(1, FIRST), record(2, SECOND)], Random(1), ended=ended)
        pump = await pumping(spec(handle, parallelization_factor=factor), store, source, Random(1), worker_id="w")
        with pytest.raises(ExceptionGroup) as caught:
            await pump.run()
        assert caught.group_contains(InternalError, match="cancelled from inside")
        assert 1 not in done
        assert checkpoint(store) < Position(2)

    run(main())
