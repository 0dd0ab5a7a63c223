"""How long has a lease stood still? What a keeper remembers of leases that have gone."""

from __future__ import annotations

from random import Random

from streamlet.clock import SystemClock
from streamlet.engine.leases import Acquired, LeaseEvent, LeaseKeeper
from streamlet.errors import StoreError
from streamlet.model.position import TRIM_HORIZON
from streamlet.ports import Lease
from streamlet.stores.memory import MemoryLeaseStore


class HandClock(SystemClock):
    """Time as the test says."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_a_lease_that_was_removed_and_made_anew_is_seen_for_the_first_time() -> None:
    """Somebody starts an app over: its leases are deleted, and made again with the same counters, by a worker that is alive."""
    store, clock, events = MemoryLeaseStore(), HandClock(), list[LeaseEvent]()
    keeper = LeaseKeeper(store, "me", clock=clock, random=Random(1), failover_s=10.0, notify=events.append)
    theirs = Lease("shardId-000000000000", owner="other", counter=3, checkpoint=TRIM_HORIZON)
    store.create(theirs)
    keeper.start_taking()
    store.delete(theirs.key, if_counter=3)
    clock.now_s = 5.0
    keeper.take()
    store.create(theirs)
    clock.now_s = 11.0
    keeper.take()
    assert not [event for event in events if isinstance(event, Acquired)], "it gets a whole fail-over time"
    clock.now_s = 21.1
    keeper.take()
    assert [event for event in events if isinstance(event, Acquired)]


class Flaky(MemoryLeaseStore):
    """Every seventh write has no answer: a table that throttles now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        self.writes += 1
        if self.writes % 7 == 0:
            raise StoreError("throttled")
        return super().write(lease, if_counter=if_counter)


def test_a_store_that_fails_now_and_then_keeps_no_dead_worker_alive() -> None:
    """The failed writes are tried again at once, and succeed. What a worker left behind that has died is taken over in time."""
    store, clock, events = Flaky(), HandClock(), list[LeaseEvent]()
    keeper = LeaseKeeper(store, "me", clock=clock, random=Random(1), failover_s=10.0, notify=events.append)
    for number in range(20):
        store.create(Lease(f"shard-{number:02}"))
    store.create(Lease("shard-of-the-dead", owner="dead", counter=3))
    keeper.start_taking()
    for second in range(1, 26):
        clock.now_s = float(second)
        keeper.renew_all()
        keeper.take()
    assert "shard-of-the-dead" in {event.grip.key for event in events if isinstance(event, Acquired)}


def test_what_was_seen_before_a_pause_says_nothing_after_it() -> None:
    """Event 1: a worker is paused. Event 2: nobody can write for a while, so that no counter moves. Event 3: it is resumed, and is the
    first to look: those who hold leases are as alive as it is."""
    store, clock, events = MemoryLeaseStore(), HandClock(), list[LeaseEvent]()
    keeper = LeaseKeeper(store, "me", clock=clock, random=Random(1), failover_s=10.0, notify=events.append)
    store.create(Lease("shardId-000000000000", owner="other", counter=3))
    keeper.start_taking()
    keeper.stop_taking()
    clock.now_s = 3600.0
    keeper.start_taking()
    clock.now_s = 3610.0
    keeper.take()
    assert not events
    clock.now_s = 3610.1
    keeper.take()
    assert [type(event) for event in events] == [Acquired]
