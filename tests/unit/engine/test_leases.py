"""Lease writes: conditional, serial, and unmistakable when their answer was lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from streamlet.engine.leases import Acquired, Grip, LeaseEvent, LeaseKeeper, Lost, StoreTrouble
from streamlet.errors import LeaseLost, StoreError
from streamlet.model.position import SHARD_END, TRIM_HORIZON, Position
from streamlet.model.shard import Shard
from streamlet.ports import Lease
from streamlet.stores.memory import MemoryLeaseStore

SHARDS = [Shard("shardId-000000000000", 0, 2**127 - 1), Shard("shardId-000000000001", 2**127, 2**128 - 1)]
KEY = SHARDS[0].shard_id


class Time:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


class Flaky(MemoryLeaseStore):
    """A store whose next writes land or not, as scripted, and answer with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str] = []

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        act = self.script.pop(0) if self.script else "answer"
        if act == "lands, answer lost":
            super().write(lease, if_counter=if_counter)
            raise StoreError("no answer")
        if act == "never lands":
            raise StoreError("no answer")
        return super().write(lease, if_counter=if_counter)


class Worker:
    """A keeper with what it was told."""

    def __init__(self, store: MemoryLeaseStore, name: str, clock: Time) -> None:
        self.events: list[LeaseEvent] = []
        self.keeper = LeaseKeeper(store, name, clock=clock, random=random.Random(1), failover_s=10, notify=self.events.append)
        self.keeper.start_taking()

    def grip(self, key: str) -> Grip:
        return next(e.grip for e in reversed(self.events) if isinstance(e, Acquired) and e.lease.key == key)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def store() -> Iterator[Flaky]:
    made = Flaky()
    made.open()
    yield made
    made.close()


@pytest.fixture
def first(store: Flaky, clock: Time) -> Worker:
    worker = Worker(store, "first", clock)
    worker.keeper.sync(SHARDS, TRIM_HORIZON)
    worker.keeper.take()
    return worker


def expire_and_take(worker: Worker, clock: Time) -> None:
    worker.keeper.take()
    clock.now_s += 11
    worker.keeper.take()


def test_a_lone_worker_takes_everything(first: Worker) -> None:
    assert sorted(e.lease.key for e in first.events if isinstance(e, Acquired)) == [s.shard_id for s in SHARDS]


def test_a_dead_workers_leases_are_taken_and_its_prepared_range_comes_with_them(first: Worker, store: Flaky, clock: Time) -> None:
    first.keeper.prepare(first.grip(KEY), Position(7), b"state")
    second = Worker(store, "second", clock)
    second.keeper.take()
    assert second.events == [] or all(isinstance(e, Acquired) for e in second.events)
    expire_and_take(second, clock)
    acquired = {e.lease.key: e.lease for e in second.events if isinstance(e, Acquired)}
    assert (acquired[KEY].pending, acquired[KEY].pending_state) == (Position(7), b"state")


def test_a_zombies_writes_are_refused(first: Worker, store: Flaky, clock: Time) -> None:
    second = Worker(store, "second", clock)
    expire_and_take(second, clock)
    grip = first.grip(KEY)
    writes: list[Callable[[], None]] = [
        lambda: first.keeper.checkpoint(grip, Position(5)),
        lambda: first.keeper.prepare(grip, Position(5), b""),
        lambda: first.keeper.finish(grip, ()),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    row = store.read(KEY)
    assert row is not None
    assert (row.owner, row.checkpoint, row.pending) == ("second", TRIM_HORIZON, None)


def test_a_renewal_that_is_refused_tells_the_pump(first: Worker, store: Flaky, clock: Time) -> None:
    second = Worker(store, "second", clock)
    expire_and_take(second, clock)
    first.keeper.renew_all()
    assert {e.grip.key for e in first.events if isinstance(e, Lost)} == {s.shard_id for s in SHARDS}


@pytest.mark.parametrize("script", [["lands, answer lost"], ["never lands"], ["never lands", "lands, answer lost"]])
def test_a_write_whose_answer_was_lost_is_found_out(first: Worker, store: Flaky, script: list[str]) -> None:
    store.script = list(script)
    first.keeper.prepare(first.grip(KEY), Position(9), b"range")
    first.keeper.checkpoint(first.grip(KEY), Position(9))
    row = store.read(KEY)
    assert row is not None
    assert (row.checkpoint, row.pending, row.owner) == (Position(9), None, "first")


def test_a_lost_answer_does_not_mistake_another_workers_write_for_ours(first: Worker, store: Flaky) -> None:
    """Event 1: our prepare never lands. Event 2: another worker writes, and its counter is the one that ours would have had.
    By owner and counter alone, the row could pass for ours; by content it does not."""
    row = store.read(KEY)
    assert row is not None
    store.script = ["never lands"]

    theirs = Lease(**{name: getattr(row, name) for name in row.__struct_fields__} | {"counter": row.counter + 1, "owner": "second"})
    original = store.write

    def write(lease: Lease, *, if_counter: int) -> bool:
        try:
            return original(lease, if_counter=if_counter)
        except StoreError:
            assert MemoryLeaseStore.write(store, theirs, if_counter=row.counter)
            raise

    store.write = write  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        first.keeper.prepare(first.grip(KEY), Position(9), b"range")


def test_an_old_grip_cannot_write_under_a_new_acquisition(first: Worker, store: Flaky, clock: Time) -> None:
    old = first.grip(KEY)
    second = Worker(store, "second", clock)
    expire_and_take(second, clock)
    first.keeper.renew_all()
    expire_and_take(first, clock)
    assert first.grip(KEY) != old
    with pytest.raises(LeaseLost):
        first.keeper.checkpoint(old, Position(5))


def test_a_store_that_is_down_costs_the_lease_only_after_the_failover_time(first: Worker, store: Flaky, clock: Time) -> None:
    store.script = ["never lands"] * 100
    clock.now_s += 5
    first.keeper.renew_all()
    assert [type(e) for e in first.events[-2:]] == [StoreTrouble, StoreTrouble]
    assert not any(isinstance(e, Lost) for e in first.events)
    clock.now_s += 6
    first.keeper.renew_all()
    assert {e.grip.key for e in first.events if isinstance(e, Lost)} == {s.shard_id for s in SHARDS}


def test_checkpoints_only_go_forward(first: Worker) -> None:
    grip = first.grip(KEY)
    first.keeper.checkpoint(grip, Position(5))
    with pytest.raises(AssertionError, match="go back"):
        first.keeper.checkpoint(grip, Position(4))


def test_nothing_but_the_prepared_range_can_be_committed(first: Worker) -> None:
    grip = first.grip(KEY)
    first.keeper.prepare(grip, Position(5), b"")
    with pytest.raises(AssertionError, match="prepared up to"):
        first.keeper.checkpoint(grip, Position(6))
    with pytest.raises(AssertionError, match="prepared range already"):
        first.keeper.prepare(grip, Position(6), b"")


def test_a_child_is_taken_only_when_its_parents_are_finished(first: Worker) -> None:
    child = Shard("shardId-000000000002", 0, 2**128 - 1, parents=(SHARDS[0].shard_id, SHARDS[1].shard_id))
    first.keeper.sync([*SHARDS, child], TRIM_HORIZON)
    for shard in SHARDS:
        first.keeper.take()
        assert not any(isinstance(e, Acquired) and e.lease.key == child.shard_id for e in first.events)
        first.keeper.finish(first.grip(shard.shard_id), (child.shard_id,))
    first.keeper.take()
    taken = next(e.lease for e in first.events if isinstance(e, Acquired) and e.lease.key == child.shard_id)
    assert taken.checkpoint == TRIM_HORIZON


def test_a_released_lease_is_free_at_once(first: Worker, store: Flaky, clock: Time) -> None:
    first.keeper.release(first.grip(KEY))
    second = Worker(store, "second", clock)
    second.keeper.take()
    assert [e.lease.key for e in second.events if isinstance(e, Acquired)] == [KEY]


def test_two_workers_share_the_shards(first: Worker, store: Flaky, clock: Time) -> None:
    """None is free, so the second steals one, and no more than its share."""
    second = Worker(store, "second", clock)
    for _ in range(4):
        second.keeper.take()
    assert len([e for e in second.events if isinstance(e, Acquired)]) == 1


def test_finished_shards_belong_to_nobody(first: Worker, store: Flaky) -> None:
    first.keeper.finish(first.grip(KEY), ())
    row = store.read(KEY)
    assert row is not None
    assert (row.owner, row.checkpoint) == (None, SHARD_END)
