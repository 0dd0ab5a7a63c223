"""What becomes of leases whose database nobody can write: a shell with an open transaction, for longer than the failover time."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamlet.engine.leases import Acquired, LeaseEvent, LeaseKeeper, Lost, StoreTrouble
from streamlet.errors import LeaseLost, StoreError
from streamlet.model.position import Position
from streamlet.ports import Lease
from streamlet.stores.sqlite import SqliteLeaseStore
from tests.unit.engine.test_leases import Time

FAILOVER_S = 10.0
SHARDS = [f"shardId-{number:012}" for number in range(4)]


class Worker:
    """A keeper with a connection of its own, and what it was told."""

    def __init__(self, path: Path, name: str, clock: Time) -> None:
        self.events: list[LeaseEvent] = []
        self.store = _Waiting(path, clock)
        self.store.open()
        self.keeper = LeaseKeeper(self.store, name, clock=clock, random=random.Random(1), failover_s=FAILOVER_S, notify=self.events.append)

    def told(self, kind: type[LeaseEvent]) -> list[LeaseEvent]:
        told = [event for event in self.events if isinstance(event, kind)]
        self.events[:] = [event for event in self.events if not isinstance(event, kind)]
        return told


class _Waiting(SqliteLeaseStore):
    def __init__(self, path: Path, clock: Time) -> None:
        super().__init__(path)
        self._clock = clock
        self.then: Callable[[], Any] | None = None

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        try:
            return super().write(lease, if_counter=if_counter)
        except StoreError:
            self._clock.now_s += 5
            if self.then is not None:
                self.then()
            raise


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def pair(tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[Worker]]:
    """The first holds all shards, the second looks on."""
    monkeypatch.setattr("streamlet.stores.sqlite.BUSY_TIMEOUT_S", 0.001)
    workers = [Worker(tmp_path / "state.db", name, clock) for name in ("first", "second")]
    workers[0].store.create_all([Lease(key=key) for key in SHARDS])
    workers[0].keeper.start_taking()
    assert len(workers[0].told(Acquired)) == len(SHARDS)
    yield workers
    for worker in workers:
        worker.store.close()


@pytest.fixture
def holder(tmp_path: Path, pair: Sequence[Worker]) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_all_that_is_too_old_is_given_up_at_once(pair: Sequence[Worker], holder: sqlite3.Connection, clock: Time) -> None:
    """Not one lease per 20 s of waiting, while records of the others are still handled under leases that nobody renews."""
    first, _ = pair
    clock.now_s += 3
    first.keeper.renew_all()
    assert {event.grip.key for event in first.told(Lost) if isinstance(event, Lost)} == set(SHARDS)
    assert len(first.told(StoreTrouble)) == 1
    assert clock.now_s == 1000 + 3 + 20
    holder.execute("ROLLBACK")


def test_a_lock_within_the_stores_patience_costs_nothing(pair: Sequence[Worker], holder: sqlite3.Connection, clock: Time) -> None:
    """The first of the four tries was in vain: nothing is lost, nothing is told."""
    first, second = pair
    second.keeper.start_taking()
    second.told(StoreTrouble)
    clock.now_s += 3
    first.store.then = lambda: holder.execute("ROLLBACK")
    first.keeper.renew_all()
    assert clock.now_s == 1000 + 20 + 3 + 5
    second.keeper.take()
    assert not first.told(Lost)
    assert not first.told(StoreTrouble)
    assert len(second.told(Acquired)) == 1, "the one that it may steal"


def test_who_could_not_write_does_not_call_the_others_dead(pair: Sequence[Worker], holder: sqlite3.Connection, clock: Time) -> None:
    """The lock ends, and the second worker is the first to look. That the first one's counters have stood still says nothing: it
    could not write either. So each has the whole failover time again."""
    first, second = pair
    second.keeper.start_taking()  # sees the counters; there is one to steal, and it cannot be written
    assert not second.told(Acquired)
    assert second.told(StoreTrouble)
    clock.now_s += 60
    holder.execute("ROLLBACK")
    second.keeper.take()
    assert len(second.told(Acquired)) <= 1, "more than the one that it may steal"
    clock.now_s += 1
    first.keeper.renew_all()
    assert len(first.told(Lost)) <= 1


def test_who_could_not_read_does_not_call_the_others_dead(pair: Sequence[Worker], clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of a worker that holds nothing, so that it has nothing to write: its looks failed."""
    _, second = pair
    second.keeper.start_taking()
    second.told(Acquired)
    with monkeypatch.context() as patch:
        patch.setattr(second.store, "_connection", None)
        second.keeper.take()
    assert second.told(StoreTrouble)
    clock.now_s += 60
    second.keeper.take()
    assert len(second.told(Acquired)) <= 1, "more than the one that it may steal"


def test_of_two_that_write_after_the_lock_one_is_refused(pair: Sequence[Worker], holder: sqlite3.Connection, clock: Time) -> None:
    """A worker that stood still alone, with its leases taken meanwhile, writes nothing more."""
    first, second = pair
    holder.execute("ROLLBACK")
    second.keeper.start_taking()
    clock.now_s += FAILOVER_S + 1
    second.keeper.take()
    taken = {event.grip.key: event.grip for event in second.told(Acquired) if isinstance(event, Acquired)}
    assert set(taken) == set(SHARDS)
    first.keeper.renew_all()
    assert {event.grip.key for event in first.told(Lost) if isinstance(event, Lost)} == set(SHARDS)
    for key, grip in taken.items():
        second.keeper.checkpoint(grip, Position(1))
        row = second.store.read(key)
        assert row is not None
        assert (row.owner, row.checkpoint) == ("second", Position(1))
    with pytest.raises(LeaseLost):
        first.keeper.checkpoint(next(iter(taken.values())), Position(2))
