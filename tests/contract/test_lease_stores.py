"""What every lease store promises, checked against each of them."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from streamlet.model.position import AT_TIMESTAMP, LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.ports import Lease, LeaseStore
from streamlet.stores.memory import MemoryLeaseStore
from streamlet.stores.sqlite import SqliteLeaseStore

Connect = Callable[[], LeaseStore]


@pytest.fixture(params=["memory", "sqlite"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """A function that gives one more worker's view of the same table, opened."""
    shared = MemoryLeaseStore()
    opened: list[LeaseStore] = []

    def one_more() -> LeaseStore:
        store: LeaseStore = shared if request.param == "memory" else SqliteLeaseStore(tmp_path / "leases.db", table="app.stream")
        store.open()
        opened.append(store)
        return store

    yield one_more
    for store in opened:
        store.close()


FULL = Lease(
    key="shardId-000000000007",
    owner="worker-1",
    counter=41,
    checkpoint=Position(49590338271490256608559692538361571095921575989136588898, 17),
    parents=("shardId-000000000001", "shardId-000000000002"),
    children=("shardId-000000000008",),
    pending=Position(49590338271490256608559692538361571095921575989136588999, 3),
    pending_state=bytes(range(256)),
    owner_switches=2,
    starting_hash_key=0,
    ending_hash_key=2**128 - 1,
    checkpoint_owner="worker-0",
)


def test_a_row_comes_back_exactly(connect: Connect) -> None:
    """Every field: 128-bit hash keys, sub-sequence numbers, any bytes in the pending state."""
    assert connect().create(FULL)
    assert connect().read(FULL.key) == FULL
    assert connect().scan() == [FULL]


positions = st.sampled_from([TRIM_HORIZON, LATEST, AT_TIMESTAMP, SHARD_END]) | st.builds(
    Position, st.integers(0, 10**129), st.integers(0, 2**31 - 1)
)
names = st.text("abcdefghijklmnopqrstuvwxyzäöü-:'\"0123456789", min_size=1, max_size=20)
leases = st.builds(
    Lease,
    key=st.just("shard"),
    owner=st.none() | names,
    counter=st.integers(0, 2**62),
    checkpoint=positions,
    parents=st.lists(names, max_size=2, unique=True).map(tuple),
    children=st.lists(names, max_size=2, unique=True).map(tuple),
    pending=st.none() | positions,
    pending_state=st.none() | st.binary(max_size=50),
    owner_switches=st.integers(0, 100),
    starting_hash_key=st.none() | st.integers(0, 2**128 - 1),
    ending_hash_key=st.none() | st.integers(0, 2**128 - 1),
    checkpoint_owner=st.none() | names,
)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=leases, second=leases)
def test_a_write_replaces_the_whole_row(connect: Connect, first: Lease, second: Lease) -> None:
    """Nothing of the old row stays: no pending checkpoint, no owner."""
    store = connect()
    if (old := store.read("shard")) is not None:
        assert store.delete("shard", if_counter=old.counter)
    assert store.create(first)
    assert store.write(second, if_counter=first.counter)
    assert store.read("shard") == second


def test_a_write_needs_the_counter_that_is_there(connect: Connect) -> None:
    """A refused write changes nothing."""
    store, other = connect(), connect()
    store.create(FULL)
    assert not store.write(replace(FULL, counter=42, owner="thief"), if_counter=40)
    assert store.read(FULL.key) == FULL
    assert other.write(replace(FULL, counter=42), if_counter=41)
    assert not store.write(replace(FULL, counter=42, owner="late"), if_counter=41)
    found = store.read(FULL.key)
    assert found is not None
    assert (found.counter, found.owner) == (42, "worker-1")


def test_what_is_not_there(connect: Connect) -> None:
    """Reads None, is not written into being, is not deleted."""
    store = connect()
    assert store.read("nothing") is None
    assert store.scan() == []
    assert not store.write(FULL, if_counter=FULL.counter)
    assert not store.delete(FULL.key, if_counter=FULL.counter)
    assert store.read(FULL.key) is None


def test_create_does_not_touch_a_row_that_is_there(connect: Connect) -> None:
    """Also when it is the same row."""
    store = connect()
    assert store.create(FULL)
    assert not store.create(replace(FULL, owner="second", counter=0))
    assert not store.create(FULL)
    assert store.read(FULL.key) == FULL


def test_delete_is_conditional(connect: Connect) -> None:
    """And final."""
    store = connect()
    store.create(FULL)
    assert not store.delete(FULL.key, if_counter=40)
    assert store.read(FULL.key) == FULL
    assert store.delete(FULL.key, if_counter=41)
    assert store.read(FULL.key) is None
    assert store.create(FULL)


def test_scan_is_in_key_order(connect: Connect) -> None:
    """Whatever the order of creation."""
    store = connect()
    for key in ("c", "a", "b", "B"):
        store.create(Lease(key=key))
    assert [lease.key for lease in store.scan()] == ["B", "a", "b", "c"]


def test_what_is_closed_can_be_opened_again_with_its_rows(connect: Connect) -> None:
    """Both are idempotent."""
    store = connect()
    store.create(FULL)
    store.open()
    store.close()
    store.close()
    store.open()
    assert store.read(FULL.key) == FULL


def test_a_store_opened_here_is_used_there(connect: Connect) -> None:
    """The lease thread uses what the main thread opened."""
    store = connect()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.create, FULL).result()
        assert pool.submit(store.read, FULL.key).result() == FULL
    assert store.read(FULL.key) == FULL


def test_of_many_creators_one_wins(connect: Connect) -> None:
    """Twelve threads, each with a view of its own."""
    won = _race([_creator(connect(), f"worker-{number}") for number in range(12)])
    assert sum(won) == 1
    found = connect().read("shard")
    assert found is not None
    assert found.owner == f"worker-{won.index(True)}"


def _creator(store: LeaseStore, owner: str) -> Callable[[], bool]:
    return lambda: store.create(Lease(key="shard", owner=owner))


def test_of_many_takers_one_wins_each_round(connect: Connect) -> None:
    """All of them saw the same counter; the row is the winner's."""
    stores = [connect() for _ in range(8)]
    stores[0].create(Lease(key="shard"))
    for counter in range(20):
        won = _race([_taker(store, f"worker-{number}", counter) for number, store in enumerate(stores)])
        assert sum(won) == 1
        found = stores[0].read("shard")
        assert found is not None
        assert (found.counter, found.owner) == (counter + 1, f"worker-{won.index(True)}")


def _taker(store: LeaseStore, owner: str, counter: int) -> Callable[[], bool]:
    return lambda: store.write(Lease(key="shard", owner=owner, counter=counter + 1), if_counter=counter)


def _race(runners: list[Callable[[], bool]]) -> list[bool]:
    barrier = threading.Barrier(len(runners))

    def run(runner: Callable[[], bool]) -> bool:
        barrier.wait()
        return runner()

    with ThreadPoolExecutor(len(runners)) as pool:
        return list(pool.map(run, runners))


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """A fleet starts together: each either makes the table or finds it, and nobody fails because somebody else was quicker."""
    for attempt in range(5):
        stores = [SqliteLeaseStore(tmp_path / f"{attempt}.db", table="app.stream") for _ in range(8)]
        won = _race([_opener(store) for store in stores])
        assert sum(won) == 1
        for store in stores:
            store.close()


def _opener(store: LeaseStore) -> Callable[[], bool]:
    def run() -> bool:
        store.open()
        return store.create(Lease(key="shard"))

    return run


def _increment(path: str, times: int) -> None:
    store = SqliteLeaseStore(path)
    store.open()
    store.create(Lease(key="shard"))
    done = 0
    while done < times:
        lease = store.read("shard")
        assert lease is not None
        done += store.write(replace(lease, counter=lease.counter + 1), if_counter=lease.counter)
    store.close()


def test_processes_open_create_and_count_at_once(tmp_path: Path) -> None:
    """Four processes race to make the file, the table and the row, and then add up to exactly what they wrote: no write is lost
    and none is refused although it was applied."""
    path = str(tmp_path / "leases.db")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_increment, args=(path, 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    store = SqliteLeaseStore(path)
    store.open()
    found = store.read("shard")
    store.close()
    assert found is not None
    assert found.counter == 200


def test_rows_of_other_entity_types_are_not_leases(tmp_path: Path) -> None:
    """KCL 3.5 keeps its coordinator's rows in the lease table; a row without a type is a lease."""
    store = SqliteLeaseStore(tmp_path / "leases.db")
    store.open()
    for key in ("lease", "old", "other"):
        store.create(Lease(key=key))
    with sqlite3.connect(tmp_path / "leases.db") as connection:
        connection.execute("UPDATE leases SET entityType = NULL WHERE leaseKey = 'old'")
        connection.execute("UPDATE leases SET entityType = 'COORDINATOR_STATE' WHERE leaseKey = 'other'")
    connection.close()
    assert [lease.key for lease in store.scan()] == ["lease", "old"]
    assert store.read("other") is None
    assert store.write(Lease(key="old", counter=1), if_counter=0)
    assert not store.write(Lease(key="other", counter=1), if_counter=0)
    assert not store.delete("other", if_counter=0)
    store.close()
