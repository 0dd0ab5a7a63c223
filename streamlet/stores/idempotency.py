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

Times are wall-clock seconds of whoever calls; between machines they differ by as much as their clocks do, so leave room.

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
# Expired markers are swept away once in so many calls of begin.
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
    """Markers of this process, gone at its end. Holds every key for `done_s`: about 200 bytes each."""

    def __init__(self, *, in_progress_s: float = 60, done_s: float = DAY_S, clock: Callable[[], float] = time.time) -> None:
        self._in_progress_s = checked_seconds("in_progress_s", in_progress_s)
        self._done_s = checked_seconds("done_s", done_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._markers: dict[str, tuple[str, float]] = {}  # token ("" is done), expires
        self._begun = 0

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """See ports.IdempotencyStore."""
        now_s, token = self._clock(), new_token()
        with self._lock:
            self._begun += 1
            if self._begun % SWEEP_EVERY == 0:
                self._markers = {known: marker for known, marker in self._markers.items() if marker[1] > now_s}
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
            if self._markers.get(key, ("", 0.0))[0] == token:
                del self._markers[key]

    def close(self) -> None:
        """Nothing is open; what is remembered stays."""
