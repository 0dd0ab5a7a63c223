"""How do the processes of one machine share which effects have been had? One SQLite file, opened at the first call.

A begin is one statement: SQLite runs writers one after the other, so of two that begin one key exactly one gets it. A marker is
on the disk when the call returns (synchronous=FULL): after a power cut no effect is had twice for want of its marker. That costs
two syncs per record. The file must be on a local disk.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from streamlet.errors import StoreError
from streamlet.ports import Marker
from streamlet.stores.idempotency import BUSY, DAY_S, DONE, SWEEP_EVERY, checked_seconds, new_token
from streamlet.stores.sqlite import connect, explained

__all__ = ["SqliteIdempotency"]

_WHAT: Final = "idempotency file"
_TABLE: Final = (
    """CREATE TABLE IF NOT EXISTS idempotency (id TEXT PRIMARY KEY NOT NULL, token TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID"""
)
_BEGIN: Final = """INSERT INTO idempotency (id, token, expires) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET token = excluded.token, expires = excluded.expires WHERE idempotency.expires <= ?"""


class SqliteIdempotency:
    """Markers in one file, which may be the one of `--state`; made at the first call, in a directory that is there. Any thread, any
    number of processes of one machine.

    `in_progress_s` (seconds, default 60): how long a marker blocks its record where the handler never came to an end; choose it above
    the longest time that a handler takes, since one that takes longer may be run beside itself. `done_s` (seconds, default a
    day): how long an effect is remembered. Both up to ten years; raises ConfigurationError."""

    def __init__(
        self, path: str | Path, *, in_progress_s: float = 60, done_s: float = DAY_S, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._in_progress_s = checked_seconds("in_progress_s", in_progress_s)
        self._done_s = checked_seconds("done_s", done_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._begun, self._sweep_at = 0, 1

    def __repr__(self) -> str:
        return f"SqliteIdempotency({str(self.path)!r})"

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """See ports.IdempotencyStore."""
        now_s, token = self._clock(), new_token()
        expires_s = now_s + (self._in_progress_s if for_s is None else for_s)

        def run(connection: sqlite3.Connection) -> Marker:
            self._begun += 1
            if self._begun >= self._sweep_at:
                connection.execute("DELETE FROM idempotency WHERE expires <= ?", (now_s,))
                [left] = connection.execute("SELECT count(*) FROM idempotency").fetchone()
                self._sweep_at = self._begun + max(SWEEP_EVERY, left)
            # Event 1: another process's marker refuses ours. Event 2: that process releases it. Then there is no row to read,
            # and the key is free: asked again.
            while not connection.execute(_BEGIN, (key, token, expires_s, now_s)).rowcount:
                row = connection.execute("SELECT token FROM idempotency WHERE id = ?", (key,)).fetchone()
                if row is not None:
                    return BUSY if row[0] else DONE
            return Marker("mine", token)

        marker: Marker = self._run(run)
        return marker

    def finish(self, key: str) -> None:
        """See ports.IdempotencyStore."""
        row = (key, "", self._clock() + self._done_s)
        self._run(lambda connection: connection.execute("REPLACE INTO idempotency (id, token, expires) VALUES (?, ?, ?)", row))

    def release(self, key: str, token: str) -> None:
        """See ports.IdempotencyStore."""
        self._run(lambda connection: connection.execute("DELETE FROM idempotency WHERE id = ? AND token = ?", (key, token)))

    def close(self) -> None:
        """See ports.IdempotencyStore."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _run(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = connect(self.path, _WHAT, _prepare)
                return function(self._connection)
            except sqlite3.Error as error:
                raise explained(error, self.path, _WHAT) from error


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(_TABLE)
    missing = {"id", "token", "expires"} - {row[1] for row in connection.execute("PRAGMA table_info(idempotency)")}
    if missing:
        raise StoreError("its table 'idempotency' is somebody else's; name another file")
