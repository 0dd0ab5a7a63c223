"""How far is everything settled?

Records of a shard are handed out in order and numbered 0, 1, 2, …; parallel slots settle them in any order. A checkpoint may
name a record only when that record and every one before it is settled: the low-water mark.

    number     0  1  2  3  4  5  6
    settled    x  x  .  x  x  .  .       the mark is record 1, though 3 and 4 are done

One byte per record between the mark and the last one handed out: a whole batch is marked, and the mark is moved, by one scan
in C. What the mark has passed is forgotten, so the memory is bounded by what is in flight, which the caller bounds.

"Settled" is the caller's word: taken by the handler, or filtered out, or delivered to the destination.
(DESIGN, section 4; an inference about Lambda, whose checkpoint under a parallelization factor is not documented.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

from streamlet.model.position import TRIM_HORIZON, Position

__all__ = ["LowWaterMark", "Positioned"]

_OPEN, _SETTLED = b"\0", b"\1"


class Positioned(Protocol):
    """Anything that knows where it stands in its shard: a Record, for one."""

    @property
    def position(self) -> Position:
        """Greater than that of what came before."""
        ...


class LowWaterMark:
    """Follows one shard. `start` is the position before the first record: the checkpoint that reading began from."""

    def __init__(self, start: Position = TRIM_HORIZON) -> None:
        self._start = start
        self._last = start  # position of the last record handed out
        self._opened = 0  # how many were handed out
        self._passed = 0  # how many, from the first on, are settled
        # One flag per record from number `_base` on; `_base <= _passed`, and the flags below `_passed` are all set.
        self._flags = bytearray()
        self._base = 0
        # What was handed out, each with the number after its last record; the first holds the marked record, if any does.
        self._chunks: deque[tuple[int, Sequence[Positioned]]] = deque()

    @property
    def opened_count(self) -> int:
        """How many records were handed out: the number of the next one."""
        return self._opened

    @property
    def settled_count(self) -> int:
        """How many records, from the first on, are settled without a gap. Never goes back."""
        return self._passed

    @property
    def open_count(self) -> int:
        """How many records were handed out and are not settled, gaps and all."""
        return self._flags.count(_OPEN)

    @property
    def mark(self) -> Position:
        """The last record that is settled together with all before it; `start` if there is none. Never goes back."""
        if not self._passed:
            return self._start
        stop, records = self._chunks[0]
        return records[self._passed - 1 - (stop - len(records))].position

    def opened(self, records: Sequence[Positioned]) -> int:
        """Hand out the next records, in shard order; returns the number of the first. `records` must not change afterwards."""
        first = self._opened
        if not records:
            return first
        assert records[0].position > self._last, f"{records[0].position} is handed out after {self._last}"
        self._last = records[-1].position
        self._opened += len(records)
        self._flags += _OPEN * len(records)
        self._chunks.append((self._opened, records))
        return first

    def settled(self, start: int, stop: int) -> None:
        """The records numbered [start, stop) are settled: a whole batch, or what a batch has got done."""
        assert self._passed <= start <= stop <= self._opened, (
            f"[{start}, {stop}) is not inside what is open, [{self._passed}, {self._opened})"
        )
        low, high = start - self._base, stop - self._base
        assert self._flags.find(_SETTLED, low, high) < 0, f"a record of [{start}, {stop}) is settled twice"
        self._flags[low:high] = _SETTLED * (stop - start)
        self._advance()

    def settled_each(self, numbers: Collection[int]) -> None:
        """The same for records that do not stand side by side: the batch of one slot of several."""
        if not numbers:
            return
        low, high = min(numbers), max(numbers)
        assert self._passed <= low <= high < self._opened, f"[{low}, {high}] is not inside what is open, [{self._passed}, {self._opened})"
        flags, base = self._flags, self._base
        before = flags.count(_SETTLED, low - base, high - base + 1)
        for number in numbers:
            flags[number - base] = 1
        assert flags.count(_SETTLED, low - base, high - base + 1) == before + len(numbers), f"a record of {low} … {high} is settled twice"
        self._advance()

    def _advance(self) -> None:
        low = self._passed - self._base
        gap = self._flags.find(_OPEN, low)
        high = len(self._flags) if gap < 0 else gap
        # From both sides: the mark does not go back and passes nothing open, and it does not stop before it must.
        assert high >= low
        assert self._flags.count(_SETTLED, low, high) == high - low
        assert self._base + high == self._opened or self._flags[high] == 0
        self._passed = self._base + high
        while self._chunks and self._chunks[0][0] < self._passed:
            self._chunks.popleft()
        if high > len(self._flags) // 2:
            # At most as many bytes are moved as were passed since the last time: O(1) per record over all.
            del self._flags[:high]
            self._base = self._passed
