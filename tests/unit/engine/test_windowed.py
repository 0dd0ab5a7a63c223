"""Tumbling windows in a worker, on virtual time: every window's last call has what all its records led to, through failures,
crashes and drains, and the checkpoint never passes a window that is not closed."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from random import Random
from typing import Any

import pytest

from streamlet.core.windows import STATE_BYTES_MAX
from streamlet.engine.invoke import BatchFailed, NotTaken
from streamlet.engine.pump import End
from streamlet.hooks import Event, HandlerFailed, RecordsGivenUp, Trouble
from streamlet.model.batch import Batch
from streamlet.model.position import SHARD_END, TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.ports import Fetch, Lease
from streamlet.spec import ConsumerSpec, EventSourceMapping
from tests.unit.engine.chaos import EPOCH_S, SHARD, STREAM, Clock, Documents, ListSource, Store, Violated, number_of, pumping, run

SIZE_S = 60


class Timed(ListSource):
    """Records are there from their arrival on; the shard ends once `end_s` seconds have passed, if it ends."""

    end_s = float("inf")

    async def after(self, position: Position) -> Fetch:
        await asyncio.sleep(0.2 + self._random.random() * self._wait_max_s)
        now_s = Clock().time()
        rest = [record for record in self.records if record.position > position and record.arrived_at_s <= now_s]
        taken = rest[: self._random.randint(0, self._read_max)]
        behind_ms = 0 if len(taken) == len(rest) else max(1, int((now_s - taken[-1].arrived_at_s) * 1000)) if taken else 100_000
        return Fetch(taken, behind_ms, ended=len(taken) == len(rest) and now_s >= EPOCH_S + self.end_s)


def arriving(seconds: list[float]) -> list[Record]:
    return [
        Record(json.dumps({"n": n}).encode(), f"k{n % 3}", str(n + 1), 0, EPOCH_S + at_s, SHARD, STREAM)
        for n, at_s in enumerate(sorted(seconds))
    ]


def window_of(record: Record) -> int:
    return int(record.arrived_at_s // SIZE_S) * SIZE_S


def spec(handler: Any, **options: Any) -> ConsumerSpec:
    mapping = EventSourceMapping(tumbling_window_s=SIZE_S, **options)
    return ConsumerSpec(name="sums", stream=STREAM, kind="window", handler=handler, decoder=json.loads, mapping=mapping)


class Sums:
    """A handler whose state is the list of the records that it saw; what it was last called with, by window."""

    def __init__(self, fails: Any = lambda: False) -> None:
        self.closed: dict[int, list[list[int]]] = defaultdict(list)
        self.calls = 0
        self._fails = fails

    async def __call__(self, batch: Batch, state: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self._fails():
            state["spoiled"] = True  # what a failed call did to its state must be forgotten
            raise ValueError("by chance")
        if "spoiled" in state:
            raise Violated("a failed call's state came back")
        window = batch.window
        assert window is not None
        seen = state.get("seen", []) + [number_of(record) for record in batch]
        if window.is_final:
            self.closed[int(window.start.timestamp())].append(seen)
            return {}
        if any(not window.start.timestamp() <= record.arrived_at_s < window.end.timestamp() for record in batch):
            raise Violated("a record outside of the window")
        return {"seen": seen}


@pytest.mark.parametrize("seed", range(60))
def test_every_window_closes_over_all_its_records(seed: int) -> None:
    random = Random(seed)
    records = arriving([random.uniform(0, 400) if random.random() < 0.9 else 200.0 for _ in range(random.randint(0, 80))])
    wanted: dict[int, list[int]] = defaultdict(list)
    for record in records:
        wanted[window_of(record)].append(number_of(record))
    sums = Sums(lambda: random.random() < 0.15)

    def look(lease: Lease) -> None:
        passed = records if lease.checkpoint == SHARD_END else [record for record in records if record.position <= lease.checkpoint]
        for record in passed:
            if not sums.closed.get(window_of(record)):
                raise Violated(f"the checkpoint passed record {number_of(record)}, whose window is open")

    async def main() -> None:
        store = Store(look)
        source = Timed(records, random)
        source.end_s = 500
        consumer = spec(sums, batch_size=random.choice([1, 5, 100]), batching_window_s=random.choice([0, 0, 7, 90]))
        for life in range(20):
            pump = await pumping(consumer, store, source, random, worker_id=f"w{life}", delay_max_s=0.05)
            running = asyncio.create_task(pump.run())
            last = life == 19 or random.random() < 0.4
            done, _ = await asyncio.wait([running], timeout=None if last else random.uniform(1, 200))
            if not done:
                if random.random() < 0.5:
                    running.cancel()
                    await asyncio.wait([running])
                else:
                    pump.stop()
                    assert await running is End.DRAINED
            elif running.result() is End.SHARD_ENDED:
                break
        assert (await asyncio.wait([running]))[0]
        assert running.result() is End.SHARD_ENDED

    run(main())
    assert set(sums.closed) == set(wanted)
    for start_s, closes in sums.closed.items():
        for seen in closes:
            assert seen == wanted[start_s], f"the window of {start_s} closed over {seen}"


def drive(handler: Any, seconds: list[float], *, for_s: float, source: type[Timed] = Timed, **options: Any) -> tuple[list[Event], Store]:
    events: list[Event] = []

    async def main() -> Store:
        store = Store()
        there = source(arriving(seconds), Random(1))
        pump = await pumping(spec(handler, **options), store, there, Random(1), worker_id="w", listen=events.append)
        running = asyncio.create_task(pump.run())
        await asyncio.sleep(for_s)
        pump.stop()
        assert await running is End.DRAINED
        return store

    return events, run(main())


def checkpoint(store: Store) -> Position:
    row = store.read(SHARD)
    assert row is not None
    return row.checkpoint


def test_an_idle_shard_closes_its_window_by_the_clock() -> None:
    sums = Sums()
    _, store = drive(sums, [1.0, 2.0], for_s=70)
    assert list(sums.closed.values()) == [[[0, 1]]]
    assert checkpoint(store) == Position(2)


def test_what_arrives_while_an_answer_is_on_its_way_belongs_to_the_window_that_is_open() -> None:
    """A read that began before a window's end, and ends after it, has not seen all of the window."""

    class Far(Timed):
        async def after(self, position: Position) -> Fetch:
            fetch = await super().after(position)
            await asyncio.sleep(7)
            return fetch

    for last_s in (33.0, 35.0, 37.0, 39.0):  # the window ends at 39.9
        sums = Sums()
        drive(sums, [1.0, last_s], for_s=120, source=Far)
        assert list(sums.closed.values()) == [[[0, 1]]], last_s


def test_a_batching_window_does_not_hold_up_the_end_of_a_window() -> None:
    sums = Sums()
    drive(sums, [1.0, 2.0], for_s=70, batching_window_s=300)
    assert list(sums.closed.values()) == [[[0, 1]]]


def test_the_checkpoint_follows_while_old_windows_are_caught_up_with() -> None:
    """One window opens as soon as the one before is closed: the checkpoint must move in between."""
    sums = Sums()
    _, store = drive(sums, [-SIZE_S * float(n) for n in range(1, 2000)], for_s=5)
    assert 0 < len(sums.closed) < 1900, "it is not done"
    assert checkpoint(store) > TRIM_HORIZON


def test_a_drain_makes_no_final_call_and_moves_no_checkpoint() -> None:
    sums = Sums()
    _, store = drive(sums, [1.0, 2.0], for_s=10)
    assert sums.calls > 0
    assert not sums.closed
    assert checkpoint(store) == TRIM_HORIZON


def test_a_final_call_that_fails_stops_the_shard_and_says_so() -> None:
    def handle(batch: Batch, state: Any) -> Any:
        assert batch.window is not None
        if batch.window.is_final:
            raise ValueError("no table")
        return {"count": state.get("count", 0) + len(batch)}

    events, store = drive(handle, [1.0, 2.0, 70.0], for_s=300, maximum_retry_attempts=0)
    troubles = [event for event in events if isinstance(event, Trouble)]
    assert len(troubles) > 5, "it is tried again for ever, whatever the retries"
    assert "no table" in troubles[0].error
    assert "final call of the window" in troubles[0].what
    assert checkpoint(store) == TRIM_HORIZON


@pytest.mark.parametrize("answer", [None, {"x": float("nan")}, {"x": object()}])
def test_an_answer_without_a_state_fails_its_batch(answer: Any) -> None:
    documents = Documents()
    events, _ = drive(lambda batch, state: answer, [1.0], for_s=70, maximum_retry_attempts=1, on_failure=documents)
    assert [event.attempt for event in events if isinstance(event, HandlerFailed)] == [1, 2]
    assert [event.condition for event in events if isinstance(event, RecordsGivenUp)] == ["RetryAttemptsExhausted"]
    assert documents.sent == [0]


def test_a_partial_answer_carries_the_state_up_to_where_it_failed() -> None:
    states: list[Any] = []

    def handle(batch: Batch, state: Any) -> Any:
        states.append(([number_of(record) for record in batch], state))
        if len(batch) > 1:
            raise BatchFailed(1, None, "the second", state={"up to": number_of(batch[0])})
        return state

    drive(handle, [1.0, 1.0, 1.0], for_s=30, batching_window_s=5, batch_size=3)
    assert states[:3] == [([0, 1, 2], {}), ([1, 2], {"up to": 0}), ([2], {"up to": 1})]


def test_a_state_that_grows_too_large_ends_its_window_early_in_the_middle_of_a_batch() -> None:
    calls: list[tuple[list[int], int, bool, bool]] = []

    def handle(batch: Batch, state: Any) -> Any:
        window = batch.window
        assert window is not None
        numbers = [number_of(record) for record in batch]
        calls.append((numbers, len(state.get("text", "")), window.is_final, window.is_terminated_early))
        if len(batch) > 1:
            raise BatchFailed(1, None, "one by one", state={"text": "x" * STATE_BYTES_MAX})
        return {"text": "y"}

    drive(handle, [1.0, 1.0], for_s=70, batching_window_s=5, batch_size=2)
    assert calls == [
        ([0, 1], 0, False, False),
        ([], STATE_BYTES_MAX, True, True),
        ([1], 0, False, False),
        ([], 1, True, False),
    ]


def test_a_throttled_final_call_is_no_attempt() -> None:
    attempts: list[int] = []

    def handle(batch: Batch, state: Any) -> Any:
        assert batch.window is not None
        if batch.window.is_final:
            attempts.append(batch.attempt)
            if len(attempts) < 4:
                raise NotTaken("no sandbox is free") if len(attempts) < 3 else ValueError("no table")
        return {}

    drive(handle, [1.0], for_s=120)
    assert attempts == [1, 1, 1, 2]
