"""What exactly does a lease store promise? This is the reference: a dictionary under a lock.

Workers of one process share leases by sharing the instance. Nothing outlives the process, so this is for tests, simulations
and streams that may be read again from the start.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from streamlet.ports import Lease

__all__ = ["MemoryLeaseStore"]


class MemoryLeaseStore:
    """Leases in memory. Safe for many threads at once, which is more than the port asks for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, Lease] = {}

    def open(self) -> None:
        """Nothing to do; a second worker may open what the first one uses."""

    def close(self) -> None:
        """Nothing to release: the rows stay, since another worker may go on with them."""

    def scan(self) -> list[Lease]:
        """Every row, in key order."""
        with self._lock:
            return [self._rows[key] for key in sorted(self._rows)]

    def read(self, key: str) -> Lease | None:
        """One row."""
        with self._lock:
            return self._rows.get(key)

    def create(self, lease: Lease) -> bool:
        """Insert; False if the key is taken."""
        with self._lock:
            if lease.key in self._rows:
                return False
            self._rows[lease.key] = lease
            return True

    def create_all(self, leases: Sequence[Lease]) -> int:
        """Insert those that are not there; how many."""
        with self._lock:
            new = {lease.key: lease for lease in leases if lease.key not in self._rows}
            self._rows |= new
            return len(new)

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        """Replace the row if its counter is `if_counter` still."""
        with self._lock:
            row = self._rows.get(lease.key)
            if row is None or row.counter != if_counter:
                return False
            self._rows[lease.key] = lease
            return True

    def delete(self, key: str, *, if_counter: int) -> bool:
        """Remove the row if its counter is `if_counter` still."""
        with self._lock:
            row = self._rows.get(key)
            if row is None or row.counter != if_counter:
                return False
            del self._rows[key]
            return True
