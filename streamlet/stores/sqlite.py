"""How do several processes of one machine share leases, and find them again after a power cut? One SQLite file.

One row per shard; the columns carry the names of the KCL's attributes (amazon-kinesis-client, DynamoDBLeaseSerializer), so
that a table can be moved to DynamoDB, and `sqlite3 state.db 'select leaseKey, leaseOwner, checkpoint from "app.stream"'`
tells what there is to know.

    every write       is one statement, conditional on leaseCounter: SQLite runs writers one after the other, so of two
                      writers with the same condition exactly one changes the row
    WAL               readers never wait for a writer
    synchronous=FULL  a commit is on the disk before `write` returns (WAL's usual NORMAL may lose the last commits when the
                      power fails, and a lost prepare would mean a row written twice)

The file must be on a local disk: WAL needs shared memory, which network file systems do not give.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from streamlet.errors import StoreError
from streamlet.model.position import Position
from streamlet.ports import Lease

__all__ = ["SqliteLeaseStore", "connect", "explained"]

# How long a write waits for another process's write. One takes milliseconds, so this long means that somebody holds the file on
# purpose (a shell with an open transaction).
#
# What that does to leases: the keeper (engine/leases) asks four times, so its thread may stand for 20 s, longer than the default
# failover time of 10 s. Nobody else can write meanwhile, so no lease moves. A lock of up to these 5 s costs nothing: with the
# 3.3 s between renewals that is below the failover time. A longer one makes every worker give up what it has not renewed, and
# begin anew to watch the others (who could not renew either); once the file is free they take their shards again, each
# after the failover time. Of two that write then, one is refused: there are never two holders.
BUSY_TIMEOUT_S: Final = 5.0

_WHAT: Final = "state file"

# Column and type, in the order of `_values_of` and `_lease_of`.
_COLUMNS: Final = {
    "leaseKey": "TEXT PRIMARY KEY NOT NULL",
    "leaseOwner": "TEXT",
    "leaseCounter": "INTEGER NOT NULL",
    "checkpoint": "TEXT NOT NULL",
    "checkpointSubSequenceNumber": "INTEGER NOT NULL",
    "parentShardId": "TEXT",  # a JSON array; DynamoDB has a string set here
    "childShardIds": "TEXT",
    "pendingCheckpoint": "TEXT",
    "pendingCheckpointSubSequenceNumber": "INTEGER",
    "pendingCheckpointState": "BLOB",
    "ownerSwitchesSinceCheckpoint": "INTEGER NOT NULL",
    "startingHashKey": "TEXT",  # decimal text: 128 bits do not fit SQLite's integers
    "endingHashKey": "TEXT",
    "checkpointOwner": "TEXT",
}


class SqliteLeaseStore:
    """Leases in one SQLite file, for any number of processes of one machine. One table per application and stream.

    Opened in one thread and used from another, as long as it is one at a time.
    """

    def __init__(self, path: str | Path, *, table: str = "leases") -> None:
        self.path = Path(path)
        self.table = table
        self._connection: sqlite3.Connection | None = None
        # One connection for all threads that share this store: an in-process pair of workers is one writer at a time.
        self._lock = threading.Lock()
        name = '"' + table.replace('"', '""') + '"'
        names = ", ".join(_COLUMNS)
        typed = ", ".join(f"{column} {kind}" for column, kind in _COLUMNS.items())
        # The table's name is quoted above and all else is constant; values go in as parameters.
        lease_row = "coalesce(entityType, 'LEASE') = 'LEASE'"
        self._sql = {
            "table": f"CREATE TABLE IF NOT EXISTS {name} ({typed}, entityType TEXT) WITHOUT ROWID",
            "columns": f"PRAGMA table_info({name})",
            "scan": f"SELECT {names} FROM {name} WHERE {lease_row} ORDER BY leaseKey",  # noqa: S608
            "read": f"SELECT {names} FROM {name} WHERE leaseKey = ? AND {lease_row}",  # noqa: S608
            "create": f"INSERT INTO {name} ({names}, entityType) VALUES ({', '.join('?' * len(_COLUMNS))}, 'LEASE') ON CONFLICT DO NOTHING",  # noqa: S608
            "write": f"UPDATE {name} SET {', '.join(f'{k} = ?' for k in _COLUMNS)} WHERE leaseKey = ? AND leaseCounter = ? AND {lease_row}",  # noqa: S608
            "delete": f"DELETE FROM {name} WHERE leaseKey = ? AND leaseCounter = ? AND {lease_row}",  # noqa: S608
        }

    def __repr__(self) -> str:
        return f"SqliteLeaseStore({str(self.path)!r}, table={self.table!r})"

    def open(self) -> None:
        """Create the file and the table if they are not there. Raises StoreError, which says what to do."""
        with self._lock:
            if self._connection is not None:
                return
            self._connection = connect(self.path, _WHAT, self._prepare)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(self._sql["table"])
        missing = (_COLUMNS.keys() | {"entityType"}) - {row[1] for row in connection.execute(self._sql["columns"])}
        if missing:
            raise StoreError(f"its table {self.table!r} is no lease table (it has no {', '.join(sorted(missing))}); name another file")

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def scan(self) -> list[Lease]:
        """Every lease, in key order."""
        return [_lease_of(row) for row in self._rows("scan", ())]

    def read(self, key: str) -> Lease | None:
        """One lease as it is committed now."""
        rows = self._rows("read", (key,))
        return _lease_of(rows[0]) if rows else None

    def create(self, lease: Lease) -> bool:
        """Insert; False if the key is taken."""
        return self._changed("create", _values_of(lease))

    def create_all(self, leases: Sequence[Lease]) -> int:
        """Insert those that are not there, in one transaction; how many. On the disk, all or none."""
        with self._lock:
            connection = self._open_connection()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    made = sum(connection.execute(self._sql["create"], _values_of(lease)).rowcount for lease in leases)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise explained(error, self.path, _WHAT) from error
        return made

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        """Replace the row if its counter is `if_counter` still. On the disk when this returns True."""
        return self._changed("write", (*_values_of(lease), lease.key, if_counter))

    def delete(self, key: str, *, if_counter: int) -> bool:
        """Remove the row if its counter is `if_counter` still."""
        return self._changed("delete", (key, if_counter))

    def _rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._open_connection().execute(self._sql[statement], values).fetchall()
            except sqlite3.Error as error:
                raise explained(error, self.path, _WHAT) from error

    def _changed(self, statement: str, values: Sequence[Any]) -> bool:
        with self._lock:
            try:
                return self._open_connection().execute(self._sql[statement], values).rowcount == 1
            except sqlite3.Error as error:
                raise explained(error, self.path, _WHAT) from error

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"state file {self.path} is not open")
        return self._connection


def connect(path: Path, what: str, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """A connection for any thread, one at a time; each statement is a transaction of its own, and on the disk when it returns.

    `prepare` makes the table and looks at it, in one transaction. Raises StoreError, which calls the file `what`."""
    if not path.parent.is_dir():
        raise StoreError(f"{what} {path}: there is no directory {path.parent}; create it, or name another file")
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        # IMMEDIATE takes the write lock: two processes that create the table wait for each other instead of failing, and a
        # file that cannot be written is found now.
        connection.execute("BEGIN IMMEDIATE")
        prepare(connection)
        connection.execute("COMMIT")
    except (sqlite3.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        raise (StoreError(f"{what} {path}: {error}") if isinstance(error, StoreError) else explained(error, path, what)) from error
    return connection


def explained(error: sqlite3.Error, path: Path, what: str) -> StoreError:
    """SQLite's error with what to do about it."""
    text = str(error)
    name = getattr(error, "sqlite_errorname", "")
    if path.is_dir():
        said = "it is a directory; name a file in it"
    elif name.startswith("SQLITE_NOTADB"):
        said = "it is no SQLite database; name another file (this one was left as it is)"
    elif name.startswith("SQLITE_CORRUPT"):
        said = f"it is damaged ({text}); restore it, or move it away: how far processing was, or which effects were had, is then forgotten"
    elif name.startswith("SQLITE_FULL"):
        said = "the disk is full; free some space, and the worker goes on"
    elif name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        said = f"it cannot be written ({text}); give this user the right to write it and its directory"
    elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        said = f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s; end that process's transaction"
    elif name.startswith("SQLITE_IOERR"):
        said = f"the disk refuses ({text}); look at its space, quota and health"
    else:
        said = text
    return StoreError(f"{what} {path}: {said}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Turn on WAL; a no-op on a file that has it.

    The switch needs the file for itself, and SQLite answers BUSY at once instead of waiting when two processes that open a
    new file both hold a read lock and want to upgrade it: waiting would be a deadlock. So let go and try again.
    """
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY") or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _values_of(lease: Lease) -> tuple[Any, ...]:
    pending = lease.pending
    return (
        lease.key,
        lease.owner,
        lease.counter,
        lease.checkpoint.text,
        lease.checkpoint.sub,
        _json_of(lease.parents),
        _json_of(lease.children),
        None if pending is None else pending.text,
        None if pending is None else pending.sub,
        lease.pending_state,
        lease.owner_switches,
        _text_of(lease.starting_hash_key),
        _text_of(lease.ending_hash_key),
        lease.checkpoint_owner,
    )


def _lease_of(row: Sequence[Any]) -> Lease:
    key, owner, counter, checkpoint, sub, parents, children, pending, pending_sub, state, switches, start, end, checkpoint_owner = row
    return Lease(
        key=key,
        owner=owner,
        counter=counter,
        checkpoint=Position.parse(checkpoint, sub),
        parents=tuple(json.loads(parents)) if parents else (),
        children=tuple(json.loads(children)) if children else (),
        pending=None if pending is None else Position.parse(pending, pending_sub or 0),
        pending_state=state,
        owner_switches=switches,
        starting_hash_key=None if start is None else int(start),
        ending_hash_key=None if end is None else int(end),
        checkpoint_owner=checkpoint_owner,
    )


def _json_of(names: tuple[str, ...]) -> str | None:
    return json.dumps(names) if names else None


def _text_of(number: int | None) -> str | None:
    return None if number is None else str(number)
