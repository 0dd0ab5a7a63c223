"""How is it remembered that a record's effect has been had? The rules of all three stores, and the one in memory.

A marker is (state, token, expires). What a call finds and leaves:

    call               no marker, or an expired one     in progress                     done
    begin              in progress, a new token: mine   busy                            done
    finish             done                             done, whoever's it is           done
    release(token)     -                                gone, if it is this token's     -

`in_progress_s`: how long a marker without an end blocks its record, where the process has died between begin and finish. Choose
it above the longest time that a handler takes: one that takes longer may be run beside itself. (In Lambda it is not used: a
marker lasts as long as the invocation may.) `done_s`: how long an effect is remembered; choose it above the stream's retention
if a replay from the beginning shall be spared, too.

Times are wall-clock seconds of whoever calls; between machines they differ by as much as their clocks do, so leave room: a clock
that is fast by more than `in_progress_s` takes every marker in progress for an old one.

A key is any text; what a database cannot hold is stored under a digest. (streamlet.testing.contracts has all this as tests.)

    MemoryIdempotency      one process: retries and bisected batches. The reference of the contract suite
    SqliteIdempotency      the workers of one machine, over crashes
    DynamoDBIdempotency    any number of machines, and Lambda
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from streamlet.errors import ConfigurationError
from streamlet.ports import Marker

__all__ = ["BUSY", "DAY_S", "DONE", "MemoryIdempotency", "checked_seconds", "new_token"]

DAY_S: Final = 86_400.0
DONE: Final = Marker("done")
BUSY: Final = Marker("busy")
# A sweep of what has expired looks at every marker. So there is one at the first begin (a short run leaves none to others), and then
# one in as many begins as there were markers left, but not below this: its cost per begin does not grow with their number.
SWEEP_EVERY: Final = 1_000


def new_token() -> str:
    """Another one for every begin."""
    return secrets.token_hex(8)


def checked_seconds(name: str, value: Any) -> float:
    """Raises ConfigurationError for what is no length of time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3_650 * DAY_S:
        raise ConfigurationError(f"{name}={value!r}: must be a number of seconds above 0, up to ten years")
    return float(value)


class MemoryIdempotency:
    """Markers of this process, gone at its end. Holds every key for `done_s`: some 400 bytes each.

    `in_progress_s` (seconds, default 60): how long a marker blocks its record where the handler never came to an end; choose it above
    the longest time that a handler takes, since one that takes longer may be run beside itself. `done_s` (seconds, default a
    day): how long an effect is remembered. Both up to ten years; raises ConfigurationError."""

    def __init__(self, *, in_progress_s: float = 60, done_s: float = DAY_S, clock: Callable[[], float] = time.time) -> None:
        self._in_progress_s = checked_seconds("in_progress_s", in_progress_s)
        self._done_s = checked_seconds("done_s", done_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._markers: dict[str, tuple[str, float]] = {}  # token ("" is done), expires
        self._begun, self._sweep_at = 0, 1

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """See ports.IdempotencyStore."""
        now_s, token = self._clock(), new_token()
        with self._lock:
            self._begun += 1
            if self._begun >= self._sweep_at:
                self._markers = {known: marker for known, marker in self._markers.items() if marker[1] > now_s}
                self._sweep_at = self._begun + max(SWEEP_EVERY, len(self._markers))
            held, expires_s = self._markers.get(key, ("", 0.0))
            if expires_s > now_s:
                return BUSY if held else DONE
            self._markers[key] = (token, now_s + (self._in_progress_s if for_s is None else for_s))
        return Marker("mine", token)

    def finish(self, key: str) -> None:
        """See ports.IdempotencyStore."""
        with self._lock:
            self._markers[key] = ("", self._clock() + self._done_s)

    def release(self, key: str, token: str) -> None:
        """See ports.IdempotencyStore."""
        with self._lock:
            if key in self._markers and self._markers[key][0] == token:
                del self._markers[key]

    def close(self) -> None:
        """Nothing is open; what is remembered stays."""
