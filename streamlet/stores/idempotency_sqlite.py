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

__all__ = ["SqliteIdempotency"]

BUSY_TIMEOUT_S: Final = 5.0  # how long a write waits for another process's
_TABLE: Final = (
    """CREATE TABLE IF NOT EXISTS idempotency (id TEXT PRIMARY KEY NOT NULL, token TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID"""
)
_BEGIN: Final = """INSERT INTO idempotency (id, token, expires) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET token = excluded.token, expires = excluded.expires WHERE idempotency.expires <= ?"""


class SqliteIdempotency:
    """Markers in one file, which may be the one of `--state`. Any thread, any number of processes."""

    def __init__(
        self, path: str | Path, *, in_progress_s: float = 60, done_s: float = DAY_S, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self._in_progress_s = checked_seconds("in_progress_s", in_progress_s)
        self._done_s = checked_seconds("done_s", done_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._begun = 0

    def __repr__(self) -> str:
        return f"SqliteIdempotency({str(self.path)!r})"

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """See ports.IdempotencyStore."""
        now_s, token = self._clock(), new_token()
        expires_s = now_s + (self._in_progress_s if for_s is None else for_s)

        def run(connection: sqlite3.Connection) -> Marker:
            self._begun += 1
            if self._begun % SWEEP_EVERY == 0:
                connection.execute("DELETE FROM idempotency WHERE expires <= ?", (now_s,))
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
                    self._connection = self._opened()
                return function(self._connection)
            except sqlite3.Error as error:
                raise StoreError(f"idempotency file {self.path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if not self.path.parent.is_dir():
            raise StoreError(f"idempotency file {self.path}: there is no directory {self.path.parent}; create it, or name another file")
        # autocommit: each statement is a transaction of its own. The lock keeps threads apart.
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @staticmethod
    def _prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=FULL")
        # To switch to WAL needs the file for itself: the busy handler does not wait there, so another opener is waited for here.
        give_up_at = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_TABLE)
        connection.execute("COMMIT")
