"""What does one shard hold, and how is it read?

A record is kept as the JSON text in which GetRecords answers it, payload still in base64, made once when it is put.
Beside it stand two numbers in compact arrays: the arrival time, and the bytes of the shard up to and with the record.
Nothing else is needed: a record's sequence number counts its place in the shard (sequence.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, islice, repeat
from typing import Final, NamedTuple

import msgspec

from streamlet.broker import sequence
from streamlet.broker.sequence import CLOSING_COUNTER, COUNTER_SHIFT, SECOND_SHIFT

__all__ = ["Read", "Shard", "shard_name"]

_COMPACT_MIN: Final = 4096
_COUNTER_STEP: Final = 1 << COUNTER_SHIFT
_json: Final = msgspec.json.Encoder()


def shard_name(index: int) -> str:
    """The full form of a shard's id."""
    return f"shardId-{index:012d}"


class Read(NamedTuple):
    """`fragments` are JSON records in order; `position` is the next counter to read."""

    fragments: list[bytes]
    position: int
    behind_ms: int
    at_end: bool


class Shard:
    """One shard and its records. Record number n of the shard has counter n, starting at 1.

    Lists hold the records from number `dropped + 1` on; those up to number `trimmed` have expired and are not read any
    more. The gap between both is cleaned up when it is worth the move.
    """

    __slots__ = (
        "_arrivals",
        "_base",
        "_bytes",
        "_bytes_dropped",
        "_fragments",
        "children",
        "closed_ms",
        "created_ms",
        "creation_s",
        "dropped",
        "end",
        "ending",
        "id",
        "index",
        "parents",
        "second",
        "start",
        "starting",
        "trimmed",
        "watchers",
    )

    def __init__(self, index: int, start: int, end: int, *, creation_s: int, created_ms: int, parents: tuple[int, ...] = ()) -> None:
        self.index = index
        self.id = shard_name(index)
        self.start = start
        self.end = end
        self.parents = parents
        self.children: tuple[Shard, ...] = ()
        self.creation_s = creation_s
        self.created_ms = created_ms
        self.closed_ms: int | None = None
        self.starting = str(sequence.make(creation_s, index, 0, creation_s))
        self.ending: str | None = None
        self.second = creation_s  # the newest put second that was encoded
        self.dropped = 0
        self.trimmed = 0
        self.watchers: list[Callable[[], None]] = []  # told of every arrival and of the close, after it
        self._base = sequence.base(creation_s, index)
        self._fragments: list[bytes] = []
        self._arrivals = array("q")
        self._bytes = array("Q")  # running totals, so that "how many fit" is a bisection
        self._bytes_dropped = 0

    @property
    def tip(self) -> int:
        """The counter of the next record to come."""
        return self.dropped + len(self._fragments) + 1

    @property
    def is_open(self) -> bool:
        """True while the shard takes records."""
        return self.closed_ms is None

    def append(self, data: str, key: str, size: int, now_ms: int) -> str:
        """Take in one record and answer its sequence number."""
        return self.extend([(data, key, size)], now_ms)[0]

    def extend(self, records: Sequence[tuple[str, str, int]], now_ms: int) -> list[str]:
        """Take in records (payload as base64, partition key, bytes of both) and answer their sequence numbers.

        The hot loop: what is the same for all records is worked out once, and numbers go on by adding a counter step.
        """
        count = len(self._arrivals)
        if count:
            # The clock may have gone back: arrival stays in order, so that a timestamp is found by bisection.
            now_ms = max(now_ms, self._arrivals[-1])
        second, ms = divmod(now_ms, 1000)
        # A child's creation second may lie ahead of the clock; the put second never lies before it.
        self.second = max(self.second, second)
        number = self._base + ((self.dropped + count) << COUNTER_SHIFT) + (self.second << SECOND_SHIFT)
        middle = f'","ApproximateArrivalTimestamp":{second}.{ms:03d},"Data":"'
        numbers = []
        add = self._fragments.append
        for data, key, _ in records:
            number += _COUNTER_STEP
            text = str(number)
            numbers.append(text)
            quoted = f'"{key}"' if key.isascii() and key.isalnum() else _json.encode(key).decode()
            add(f'{{"SequenceNumber":"{text}{middle}{data}","PartitionKey":{quoted}}}'.encode())
        self._arrivals.extend(repeat(now_ms, len(records)))
        total = self._bytes[-1] if count else self._bytes_dropped
        self._bytes.extend(islice(accumulate((size for _, _, size in records), initial=total), 1, None))
        self._tell()
        return numbers

    def read(self, position: int, limit: int, bytes_max: int, now_ms: int) -> Read:
        """Records from `position` on, at most `limit` and `bytes_max` bytes of data and keys, at least one if there is one."""
        first = max(position - 1, self.trimmed) - self.dropped
        count = len(self._fragments)
        before = self._bytes[first - 1] if first else self._bytes_dropped
        stop = bisect_right(self._bytes, before + bytes_max, first, count)
        stop = min(max(stop, first + 1), first + limit, count)
        stop = max(stop, first)
        behind_ms = 0
        if stop < count:
            # 0 would say "caught up", which it is not, even when everything happened within one millisecond.
            behind_ms = max(1, now_ms - self._arrivals[max(stop - 1, 0)])
        return Read(self._fragments[first:stop], self.dropped + stop + 1, behind_ms, stop == count and not self.is_open)

    def position_at(self, timestamp_ms: int) -> int:
        """The first record that arrived at or after a time, or the tip."""
        return self.dropped + bisect_left(self._arrivals, timestamp_ms) + 1

    def position_from(self, found: sequence.Sequence, *, after: bool) -> int:
        """The place of a sequence number of this shard, or the one behind it.

        A number needs not be one that was given out: with the counter of a record but an earlier put second it lies
        just before that record, with a later one just behind it.
        """
        place = found.counter - 1 - self.dropped
        if not 0 <= place < len(self._fragments):
            return max(min(found.counter, self.tip), 1)
        number = sequence.make(found.creation_s, found.shard_index, found.counter, found.second)
        there = int(self._fragments[place][19:75])  # 56 digits, as every number of version 2
        return found.counter + (number > there or (after and number == there))

    def trim(self, horizon_ms: int) -> None:
        """Let go of what arrived before the horizon."""
        head = self.trimmed - self.dropped
        arrivals = self._arrivals
        if head == len(arrivals) or arrivals[head] >= horizon_ms:
            return
        head = bisect_left(arrivals, horizon_ms, head)
        self.trimmed = self.dropped + head
        if head == len(arrivals) or head >= max(_COMPACT_MIN, len(arrivals) // 2):
            self._bytes_dropped = self._bytes[head - 1]
            del self._fragments[:head], arrivals[:head], self._bytes[:head]
            self.dropped += head

    def close(self, second: int, now_ms: int) -> None:
        """Take no more records; `second` is the moment of the reshard as sequence numbers tell it."""
        self.closed_ms = now_ms
        self.second = second
        self.ending = str(sequence.make(self.creation_s, self.index, CLOSING_COUNTER, second))
        self._tell()

    def _tell(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()
