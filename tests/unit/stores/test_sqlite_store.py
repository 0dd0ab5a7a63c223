"""What only the SQLite store has: a file, and all that can be wrong with one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from streamlet.errors import ConfigurationError, StoreError
from streamlet.ports import Lease
from streamlet.stores import open_store
from streamlet.stores.memory import MemoryLeaseStore
from streamlet.stores.sqlite import SqliteLeaseStore


def refused(path: Path | str, text: str) -> str:
    store = SqliteLeaseStore(path)
    with pytest.raises(StoreError, match=text) as caught:
        store.open()
    store.close()
    return str(caught.value)


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes for a relative path, four for an absolute one, as SQLAlchemy taught everybody."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///near.db", f"sqlite:///{tmp_path}/far.db"):
        store = open_store(url, "app.stream")
        store.open()
        assert store.create(Lease(key="a"))
        store.close()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["far.db", "near.db"]
    assert isinstance(open_store("memory://"), MemoryLeaseStore)


@pytest.mark.parametrize("url", ["dynamodb://table", "redis://x", "", "leases.db", "sqlite://leases.db", "sqlite:///", "memory://x"])
def test_urls_that_name_no_store(url: str) -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigurationError, match="sqlite|four before an absolute"):
        open_store(url)


def test_table_names_are_checked() -> None:
    """They go into SQL."""
    with pytest.raises(ConfigurationError, match="table name"):
        open_store("sqlite:///a.db", 'x"; DROP TABLE y')


def test_two_tables_share_a_file(tmp_path: Path) -> None:
    """Shard ids repeat between streams, so each stream of an app has its table."""
    stores = [SqliteLeaseStore(tmp_path / "a.db", table=table) for table in ("app.one", "app.two")]
    for store in stores:
        store.open()
        assert store.create(Lease(key="shardId-000000000000", owner=store.table))
    assert [store.scan()[0].owner for store in stores] == ["app.one", "app.two"]
    for store in stores:
        store.close()


def test_no_directory(tmp_path: Path) -> None:
    """It is named, not made: a typing error should not become a fresh state."""
    assert str(tmp_path / "absent") in refused(tmp_path / "absent" / "a.db", "no directory")
    assert not (tmp_path / "absent").exists()


def test_a_directory(tmp_path: Path) -> None:
    """Instead of a file."""
    refused(tmp_path, "it is a directory")


def test_no_database(tmp_path: Path) -> None:
    """And it is left as it was."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"this is no database, but long enough to be looked at" * 50)
    before = path.read_bytes()
    refused(path, "no SQLite database")
    assert path.read_bytes() == before


def test_somebody_elses_table(tmp_path: Path) -> None:
    """A table of the same name with other columns is not written to."""
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE leases (tenant TEXT, leaseKey TEXT)")
    connection.close()
    refused(tmp_path / "a.db", "no lease table")


def test_not_writable(tmp_path: Path) -> None:
    """/proc takes no files, not even root's."""
    refused("/proc/a.db", "cannot be written")


def test_full_disk(tmp_path: Path) -> None:
    """SQLite's own limit stands in for the disk's: the error is the same. What was committed stays."""
    store = SqliteLeaseStore(tmp_path / "a.db")
    store.open()
    assert store.create(Lease(key="a"))
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 4")
    with pytest.raises(StoreError, match="disk is full; free some space"):
        store.create(Lease(key="b", pending_state=b"x" * 100_000))
    with pytest.raises(StoreError, match="disk is full; free some space"):  # SQLite has ended the transaction by itself
        store.create_all([Lease(key=key, pending_state=b"x" * 3000) for key in "bcdefgh"])
    assert [lease.key for lease in store.scan()] == ["a"]
    store.close()


def test_a_held_lock_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell with an open transaction: wait for a while, then say so."""
    monkeypatch.setattr("streamlet.stores.sqlite.BUSY_TIMEOUT_S", 0.05)
    store = SqliteLeaseStore(tmp_path / "a.db")
    store.open()
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="kept it locked"):
        store.create(Lease(key="a"))
    assert store.scan() == []  # readers do not wait
    # Whether the file can be written is found when it is opened, although the table is there.
    with pytest.raises(StoreError, match="kept it locked"):
        SqliteLeaseStore(tmp_path / "a.db").open()
    holder.execute("ROLLBACK")
    holder.close()
    assert store.create(Lease(key="a"))
    store.close()


def test_not_open(tmp_path: Path) -> None:
    """A call after close is told so."""
    store = SqliteLeaseStore(tmp_path / "a.db")
    with pytest.raises(StoreError, match="not open"):
        store.scan()


def test_commits_are_synced(tmp_path: Path) -> None:
    """FULL (2): a commit is on the disk, not only in the WAL's cache."""
    store = SqliteLeaseStore(tmp_path / "a.db")
    store.open()
    assert store._connection is not None
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()
    assert not (tmp_path / "a.db-wal").exists(), "the last one to close a file tidies up behind it"


def test_a_killed_writer_leaves_what_it_was_told_is_written(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: each acknowledged counter is there, and the file opens without repair."""
    program = """
import sys
from msgspec.structs import replace
from streamlet.ports import Lease
from streamlet.stores.sqlite import SqliteLeaseStore
store = SqliteLeaseStore(sys.argv[1]); store.open(); lease = Lease(key="a"); store.create(lease)
while True:
    assert store.write(replace(lease, counter=lease.counter + 1), if_counter=lease.counter)
    lease = replace(lease, counter=lease.counter + 1)
    print(lease.counter, flush=True)
"""
    path = tmp_path / "a.db"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 50:
                os.kill(process.pid, signal.SIGKILL)
                break
        told = [50, *(int(line) for line in process.stdout if line.endswith("\n"))]
    store = SqliteLeaseStore(path)
    store.open()
    lease = store.read("a")
    store.close()
    assert lease is not None
    assert told[-1] <= lease.counter <= told[-1] + 1
