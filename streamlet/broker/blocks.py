"""How does a run of a shard's records lie in memory?

As the JSON text in which GetRecords answers them, joined by commas, so that what is read is a slice of what is stored.
Beside it stand, per record, the end of its text and the running total of its bytes; the arrival time, unless it is the
same for the whole block. A block that still grows keeps its texts apart until `seal`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

__all__ = ["U32", "Block", "sealed"]

U32: Final = "I"
assert array(U32).itemsize == 4, "the log's integers are read straight into arrays"


class Block:
    """Records `first` (a counter) and those behind it; `before` are the shard's bytes of data and keys ahead of them."""

    __slots__ = ("_arrivals", "_ends", "_pieces", "_sizes", "_text", "before", "first", "held")

    def __init__(self, first: int, before: int, text: bytes, ends: array[int], sizes: array[int], arrivals: array[int]) -> None:
        """`ends` count the comma behind each record; `sizes` are running totals; `arrivals` are one, or one per record."""
        self.first = first
        self.before = before
        self.held = ends[-1] if ends else 0  # bytes of text, commas included: pieces of a block weigh together what it does
        self._text = text
        self._ends = ends
        self._sizes = sizes
        self._arrivals = arrivals
        self._pieces: list[bytes] | None = None

    @classmethod
    def growing(cls, first: int, before: int) -> Block:
        """An empty block that takes records one by one."""
        block = cls(first, before, b"", array(U32), array(U32), array("q"))
        block._pieces = []
        return block

    @property
    def count(self) -> int:
        """How many records."""
        return len(self._ends)

    @property
    def stop(self) -> int:
        """The counter behind the last record."""
        return self.first + len(self._ends)

    @property
    def total(self) -> int:
        """The shard's bytes of data and keys up to and with the last record."""
        return self.before + (self._sizes[-1] if self._sizes else 0)

    def add(self, text: bytes, size: int, now_ms: int) -> None:
        """Take in a record, while growing."""
        assert self._pieces is not None, "a sealed block takes no more records"
        self._pieces.append(text)
        self.held += len(text) + 1
        self._ends.append(self.held)
        sizes = self._sizes
        sizes.append(sizes[-1] + size if sizes else size)
        self._arrivals.append(now_ms)

    def seal(self) -> None:
        """Take no more: one text instead of many."""
        if self._pieces is not None:
            self._text, self._pieces = b",".join(self._pieces), None
            self._ends, self._sizes = array(U32, self._ends), array(U32, self._sizes)  # without the room to grow
            arrivals = self._arrivals
            self._arrivals = array("q", arrivals[:1] if arrivals[0] == arrivals[-1] else arrivals)

    def bytes_before(self, place: int) -> int:
        """The shard's bytes of data and keys ahead of the record at a place of this block."""
        return self.before + (self._sizes[place - 1] if place else 0)

    def places_within(self, total: int, place: int) -> int:
        """The place behind the last record, from `place` on, with which the shard's bytes stay within `total`."""
        # No number of one block is beyond 2**32 - 1, but the room may be.
        room = min(total - self.before, 2**32 - 1)
        return self.count if not self._sizes or self._sizes[-1] <= room else max(place, bisect_left(self._sizes, room + 1, place))

    def arrival_ms(self, place: int) -> int:
        """When the record at a place arrived."""
        return self._arrivals[place if len(self._arrivals) > 1 else 0]

    def place_at(self, timestamp_ms: int) -> int:
        """The first place that arrived at or after a time; `count` if none did."""
        if len(self._arrivals) > 1 or self._pieces is not None:
            return bisect_left(self._arrivals, timestamp_ms)
        return 0 if self._arrivals[0] >= timestamp_ms else self.count

    def text(self, start: int, stop: int) -> bytes:
        """Records as one text, joined by commas."""
        if self._pieces is not None:
            return b",".join(self._pieces[start:stop])
        if start == 0 and stop == self.count:
            return self._text
        return self._text[self._ends[start - 1] if start else 0 : self._ends[stop - 1] - 1]

    def texts(self, start: int, stop: int) -> list[bytes]:
        """Records one by one."""
        if self._pieces is not None:
            return self._pieces[start:stop]
        ends, text = self._ends, self._text
        begin, found = ends[start - 1] if start else 0, []
        for end in ends[start:stop]:
            found.append(text[begin : end - 1])
            begin = end
        return found

    def cut(self, start: int) -> Block:
        """The records from a place on, as a block of their own. The texts are shared where that is possible."""
        if start == 0 and self._pieces is None:
            return self
        end = self._ends[start - 1] if start else 0
        total = self._sizes[start - 1] if start else 0
        arrivals = self._arrivals
        if len(arrivals) > 1:
            arrivals = arrivals[start:]
            if arrivals[0] == arrivals[-1]:
                arrivals = arrivals[:1]
        return Block(
            self.first + start,
            self.before + total,
            self.text(start, self.count),
            array(U32, [place - end for place in self._ends[start:]]),
            array(U32, [size - total for size in self._sizes[start:]]),
            array("q", arrivals),
        )

    def parts(self) -> tuple[bytes, array[int], array[int], array[int]]:
        """Text, ends, sizes and arrivals of a sealed block: what a log keeps."""
        assert self._pieces is None, "only a sealed block has its parts"
        return self._text, self._ends, self._sizes, self._arrivals


def sealed(first: int, before: int, texts: Sequence[str], sizes: Iterable[int], now_ms: int) -> Block:
    """A block of records that all arrived at once."""
    # Encoded one by one: a joined str of the same size beside it leaves holes in the heap, 2 % of all that is stored.
    encoded = [one.encode() for one in texts]
    lengths = [len(one) + 1 for one in encoded]
    text = b",".join(encoded)
    return Block(first, before, text, array(U32, accumulate(lengths)), array(U32, accumulate(sizes)), array("q", (now_ms,)))
