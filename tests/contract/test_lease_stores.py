"""Our lease stores keep the contract that is given to others (streamlet.testing.contracts), and what only some of them promise."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable
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
from streamlet.testing.contracts import LeaseStoreContract


class TestMemory(LeaseStoreContract):
    @pytest.fixture(autouse=True)
    def table(self) -> None:
        self.shared = MemoryLeaseStore()

    def connect(self) -> LeaseStore:
        self.shared.open()
        return self.shared


class TestSqlite(LeaseStoreContract):
    @pytest.fixture(autouse=True)
    def table(self, tmp_path: Path) -> None:
        self.path = tmp_path / "leases.db"

    def connect(self) -> LeaseStore:
        store = SqliteLeaseStore(self.path, table="app.stream")
        store.open()
        return store

    def unreachable(self) -> LeaseStore:
        return SqliteLeaseStore(self.path / "nowhere" / "leases.db")


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
def test_a_write_replaces_the_whole_row_whatever_is_in_it(tmp_path: Path, first: Lease, second: Lease) -> None:
    """Rows that nobody thought of."""
    store = SqliteLeaseStore(tmp_path / "leases.db")
    store.open()
    assert store._connection is not None
    store._connection.execute("PRAGMA synchronous=OFF")  # the time would go into waiting for the disk
    if (old := store.read("shard")) is not None:
        assert store.delete("shard", if_counter=old.counter)
    assert store.create(first)
    assert store.write(second, if_counter=first.counter)
    assert store.read("shard") == second
    store.close()


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """A fleet starts together: each either makes the table or finds it, and nobody fails because somebody else was quicker."""
    for attempt in range(5):
        stores = [SqliteLeaseStore(tmp_path / f"{attempt}.db", table="app.stream") for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda opener: opener(), [_opener(store) for store in stores]))
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
