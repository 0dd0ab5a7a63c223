"""A parallelization factor above 1: batches of a shard at once, order per partition key, and a checkpoint that passes nothing open."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any
from zlib import crc32

import pytest

from streamlet import App, Batch
from streamlet.engine import pump
from streamlet.errors import ConfigurationError
from streamlet.hooks import BatchSettled, RecordsGivenUp
from streamlet.model.position import TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.sinks.memory import MemorySink
from tests.unit.engine.worlds import STREAM, Documents, checkpoints, world

SHARD = "shardId-000000000000"


def lanes(app: App, handle: Any, *, kind: str = "record", factor: int = 3, **options: Any) -> App:
    getattr(app, f"on_{kind}")(STREAM, parallelization_factor=factor, batch_size=5, **options)(handle)
    return app


async def test_batches_run_at_once_and_keys_stay_in_order() -> None:
    seen: dict[str, list[int]] = defaultdict(list)
    running = most = 0
    together = asyncio.Event()

    async def handle(batch: Batch) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            together.set()
        # The first batches wait until three run at once: were they taken one after the other, this would never end.
        await together.wait()
        for record in batch:
            seen[record.partition_key].append(record.value["n"])
            await asyncio.sleep(0)
        running -= 1

    async with world(lanes(App("numbers"), handle, kind="batch")) as w:
        await w.put(range(200))
        async with w.worker():
            await w.until(lambda: sum(map(len, seen.values())) == 200)
        assert checkpoints(w.store)[SHARD] > TRIM_HORIZON
        again = len(w.events)
        async with w.worker():
            await w.put([200])
            await w.until(lambda: 200 in [n for ns in seen.values() for n in ns])
        settled = [event for event in w.events[again:] if isinstance(event, BatchSettled)]
        assert [event.records for event in settled] == [1], "the first worker left a checkpoint behind everything"
    assert most == 3
    assert {key: numbers for key, numbers in seen.items() if numbers != sorted(set(numbers))} == {}


async def test_a_lane_that_blocks_stops_no_other_and_the_checkpoint_stays_before_it() -> None:
    bad_key = "key-0"
    bad_lane = crc32(bad_key.encode()) % 3
    done: list[int] = []
    healed = False

    async def handle(record: Record) -> None:
        if record.partition_key == bad_key and not healed:
            raise ValueError("down")
        done.append(record.value["n"])

    elsewhere = [n for n in range(100) if crc32(f"key-{n % 7}".encode()) % 3 != bad_lane]
    async with world(lanes(App("numbers"), handle)) as w:
        await w.put(range(100))
        async with w.worker():
            await w.until(lambda: set(elsewhere) <= set(done))
        # Record 0 has the bad key: nothing is settled without a gap.
        assert checkpoints(w.store)[SHARD] == TRIM_HORIZON
        healed = True
        async with w.worker():
            await w.until(lambda: set(done) == set(range(100)))
        assert checkpoints(w.store)[SHARD] > TRIM_HORIZON


async def test_what_is_given_up_in_one_lane_is_settled_and_the_mark_goes_on() -> None:
    documents = Documents()

    def handle(batch: Batch) -> None:
        for value in batch.values:
            if value["n"] == 30:
                raise ValueError("poison")

    options: dict[str, Any] = {"maximum_retry_attempts": 0, "bisect_batch_on_function_error": True, "on_failure": documents}
    async with world(lanes(App("numbers"), handle, kind="batch", **options)) as w:
        await w.put(range(100))
        async with w.worker():
            await w.until(lambda: sum(event.records for event in w.of(BatchSettled)) == 100)
        assert documents.values == [30]
        assert [event.records for event in w.of(RecordsGivenUp)] == [1]
        w.events.clear()
        async with w.worker():
            await w.put([100])
            await w.until(lambda: bool(w.of(BatchSettled)))
        assert [event.records for event in w.of(BatchSettled)] == [1]


async def test_reading_stops_when_a_blocked_lane_has_let_the_others_far_enough_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "READ_AHEAD_RECORDS", 50)
    bad_key = "key-0"
    done: list[int] = []
    healed = False

    def handle(record: Record) -> None:
        if record.partition_key == bad_key and not healed:
            raise ValueError("down")
        done.append(record.value["n"])

    async with world(lanes(App("numbers"), handle)) as w, w.worker() as supervisor:
        for begin in range(0, 1000, 20):  # little by little: a read is taken whole, whatever the bound
            await w.put(range(begin, begin + 20))
        await w.until(lambda: len(done) > 20)
        reading = next(iter(supervisor._pumps.values()))[0]
        mark = reading._mark
        async with asyncio.timeout(20):
            while mark.opened_count < 1000 and (mark.opened_count < 65 or reading._room.is_set()):
                await asyncio.sleep(0.01)
        assert mark.settled_count == 0, "the first record is the one that blocks"
        assert mark.opened_count < 1000
        healed = True
        await w.until(lambda: len(set(done)) == 1000)
    numbers = [n for n in done if n % 7 == 0]
    assert numbers == sorted(numbers)


async def test_crashes_lose_nothing_with_lanes() -> None:
    done: list[int] = []

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.001)
        done.append(record.value["n"])

    async with world(lanes(App("numbers"), handle, factor=10)) as w:
        await w.put(range(300))
        for goal in (40, 80, 120):
            async with w.worker(crash=True):
                await w.until(lambda goal=goal: len(done) > goal)  # type: ignore[misc]
        async with w.worker():
            await w.until(lambda: set(done) == set(range(300)))


@pytest.mark.parametrize("factor", [0, 11, 2.5, True])
def test_a_factor_out_of_range_is_refused(factor: Any) -> None:
    with pytest.raises(ConfigurationError, match="parallelization_factor"):
        lanes(App("numbers"), lambda record: None, factor=factor)


def test_a_sink_takes_one_lane() -> None:
    with pytest.raises(ConfigurationError, match="one range after the other"):
        lanes(App("numbers"), json.dumps, sink=MemorySink())
