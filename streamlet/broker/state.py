"""What does the broker hold? All streams, changed by synchronous calls that are given the time.

Time only comes in as `now_ms`, which is the clock's unless a call says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamlet.broker import limits
from streamlet.broker.stream import Stream

__all__ = ["State"]

# AWS gives a new stream's shards a creation second that lies 2-7 s before the answer to CreateStream.
_CREATION_LAG_S: Final = 2


class State:
    """All streams. `clock` returns epoch seconds; `control_delay_ms` is how long control calls take to show."""

    def __init__(self, clock: Callable[[], float], *, control_delay_ms: int = 0, shards_max: int = limits.SHARDS_MAX) -> None:
        self._clock = clock
        self.control_delay_ms = control_delay_ms
        self.shards_max = shards_max
        self.streams: dict[str, Stream] = {}
        self.ahead_s = 0.0  # how far time was moved on purpose
        self.iterators_void_before = 0  # serials below this have expired whatever their age (a fault)
        self._serial = 0
        self._last_creation_s: dict[str, int] = {}

    @property
    def now_ms(self) -> int:
        """The given clock, and how far it was moved, in whole milliseconds."""
        return int((self._clock() + self.ahead_s) * 1000)

    @property
    def open_shards(self) -> int:
        """Open shards of all streams."""
        return sum(len(stream.open) for stream in self.streams.values())

    def next_serial(self) -> int:
        """A number that was never given out: iterators are texts that differ."""
        self._serial += 1
        return self._serial

    def find(self, name: str, now_ms: int) -> Stream | None:
        """A stream as it is now, or None."""
        stream = self.streams.get(name)
        if stream is not None and stream.status != "ACTIVE":
            stream.settle(now_ms)
            stream = self.streams.get(name)
        return stream

    def create(self, name: str, shards: int, now_ms: int, *, record_bytes_max: int = limits.RECORD_BYTES_DEFAULT) -> Stream:
        """A new stream. The caller has seen that the name is free."""
        # A stream that is made anew must be told apart by its sequence numbers, so its creation second is a new one.
        creation_s = max(now_ms // 1000 - _CREATION_LAG_S, self._last_creation_s.get(name, -1) + 1)
        self._last_creation_s[name] = creation_s
        stream = Stream(
            name, shards, creation_s=creation_s, now_ms=now_ms, incarnation=self.next_serial(), record_bytes_max=record_bytes_max
        )
        self.streams[name] = stream
        stream.later(self.control_delay_ms, now_ms, "CREATING", lambda _: self._activate(stream))
        return stream

    def delete(self, stream: Stream, now_ms: int) -> None:
        """Delete a stream: what is stored goes with it."""
        # A reshard that is still on its way may drive creation seconds ahead of the clock; a successor starts behind all.
        self._last_creation_s[stream.name] = stream.newest_second
        stream.later(self.control_delay_ms, now_ms, "DELETING", lambda _: self._remove(stream))

    def change(self, stream: Stream, now_ms: int, change: Callable[[int], None]) -> None:
        """A control call: UPDATING until the delay has passed, then both the change and ACTIVE at once."""

        def apply(at_ms: int) -> None:
            change(at_ms)
            self._activate(stream)

        stream.later(self.control_delay_ms, now_ms, "UPDATING", apply)

    def _activate(self, stream: Stream) -> None:
        if stream.status != "DELETING":
            stream.status = "ACTIVE"

    def _remove(self, stream: Stream) -> None:
        if self.streams.get(stream.name) is stream:
            del self.streams[stream.name]
