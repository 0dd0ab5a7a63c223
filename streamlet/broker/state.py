"""What does the broker hold? Streams, shards and records, changed by synchronous calls that are given the time.

A record is kept as the JSON text in which GetRecords answers it, payload still in base64, made once when it is put.
Beside it stand two numbers in compact arrays: the arrival time, and the bytes of the shard up to and with the record.
Nothing else is needed: a record's sequence number counts its place in the shard (sequence.py).

Time only comes in as `now_ms`. What "happens later" (a reshard with a delay, a stream being deleted) is a pending
change with a due time, applied by the first call at or after it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from hashlib import md5
from itertools import accumulate, islice, pairwise, repeat
from typing import Final, NamedTuple

import msgspec

from streamlet.broker import limits, sequence
from streamlet.broker.sequence import CLOSING_COUNTER, COUNTER_SHIFT, SECOND_SHIFT
from streamlet.model.shard import HASH_KEY_MAX

__all__ = ["Read", "Shard", "State", "Stream", "shard_name"]

_COMPACT_MIN: Final = 4096
_COUNTER_STEP: Final = 1 << COUNTER_SHIFT
_HOUR_MS: Final = 3_600_000
# AWS gives a new stream's shards a creation second that lies 2-7 s before the answer to CreateStream.
_CREATION_LAG_S: Final = 2
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


class Stream:
    """One stream: its shards by index, its open shards by hash key, its settings."""

    def __init__(self, name: str, shards: int, *, creation_s: int, now_ms: int, incarnation: int, record_bytes_max: int) -> None:
        self.name = name
        self.status = "ACTIVE"
        self.mode = "PROVISIONED"
        self.created_ms = now_ms
        self.incarnation = incarnation
        self.retention_hours = limits.RETENTION_HOURS_MIN
        self.record_bytes_max = record_bytes_max
        self.tags: dict[str, str] = {}
        self.shards: dict[int, Shard] = {}
        self.open: list[Shard] = []
        self.newest_second = creation_s
        self._starts: list[bytes] = []
        self._next_index = 0
        self._pending: list[tuple[int, Callable[[int], None]]] = []
        bounds = [2**128 // shards * index for index in range(shards)] + [HASH_KEY_MAX + 1]
        for start, stop in pairwise(bounds):
            self._add(start, stop - 1, creation_s=creation_s, created_ms=now_ms)
        self._reindex()

    def route(self, key: str, explicit_hash: str | None) -> Shard:
        """The open shard that a partition key, or the hash key in its place, belongs to."""
        digest = md5(key.encode(), usedforsecurity=False).digest() if explicit_hash is None else int(explicit_hash).to_bytes(16, "big")
        return self.open[bisect_right(self._starts, digest) - 1]

    def horizon_ms(self, now_ms: int) -> int:
        """What arrived before this has expired."""
        return max(now_ms - self.retention_hours * _HOUR_MS, self.created_ms)

    def expire(self, now_ms: int) -> None:
        """Trim records, and forget closed shards that have nothing left within the retention."""
        horizon = self.horizon_ms(now_ms)
        gone = []
        for shard in self.shards.values():
            shard.trim(horizon)
            if shard.closed_ms is not None and shard.closed_ms < horizon:
                gone.append(shard.index)
        for index in gone:
            del self.shards[index]

    def later(self, delay_ms: int, now_ms: int, status: str, change: Callable[[int], None]) -> None:
        """Apply a change after a delay, with `status` shown until then. Without a delay it happens here."""
        if delay_ms <= 0:
            change(now_ms)
            return
        self.status = status
        self._pending.append((now_ms + delay_ms, change))

    def settle(self, now_ms: int) -> None:
        """Apply the changes that are due."""
        while self._pending and self._pending[0][0] <= now_ms:
            self._pending.pop(0)[1](now_ms)

    def split(self, parent: Shard, new_start: int, now_ms: int) -> None:
        """Close a shard; two children take its range."""
        second, at_ms = self._close([parent], now_ms)
        self._add(parent.start, new_start - 1, creation_s=second + 1, created_ms=at_ms, parents=(parent,))
        self._add(new_start, parent.end, creation_s=second + 1, created_ms=at_ms, parents=(parent,))
        self._reindex()

    def merge(self, lower: Shard, upper: Shard, now_ms: int) -> None:
        """Close two shards side by side; one child takes both ranges."""
        second, at_ms = self._close([lower, upper], now_ms)
        self._add(lower.start, upper.end, creation_s=second + 1, created_ms=at_ms, parents=(lower, upper))
        self._reindex()

    def rescale(self, count: int, now_ms: int) -> None:
        """Split at every boundary that is missing for `count` equal ranges, then merge across every other one."""
        wanted = {2**128 // count * index for index in range(count)}
        for start in sorted(wanted):
            shard = self.open[bisect_right(self._starts, start.to_bytes(16, "big")) - 1]
            if shard.start != start:
                self.split(shard, start, now_ms)
        while len(self.open) > count:
            upper = next(shard for shard in self.open if shard.start not in wanted)
            lower = next(shard for shard in self.open if shard.end + 1 == upper.start)
            self.merge(lower, upper, now_ms)

    def _close(self, parents: list[Shard], now_ms: int) -> tuple[int, int]:
        """The moment of a reshard, in seconds for numbers and in ms for listings; both parents of a merge share it.

        Both lie after the parents' own beginning, even if the clock did not move: a child is a second (a millisecond)
        younger than its parent, and so "open at T" is true of either the parent or the child, never of both.
        """
        second = max(now_ms // 1000, *(shard.second for shard in parents))
        at_ms = max(now_ms, *(shard.created_ms + 1 for shard in parents))
        for shard in parents:
            shard.close(second, at_ms)
        self.newest_second = max(self.newest_second, second + 1)
        return second, at_ms

    def _add(self, start: int, end: int, *, creation_s: int, created_ms: int, parents: tuple[Shard, ...] = ()) -> None:
        indexes = tuple(shard.index for shard in parents)
        shard = Shard(self._next_index, start, end, creation_s=creation_s, created_ms=created_ms, parents=indexes)
        self._next_index += 1
        self.shards[shard.index] = shard
        for parent in parents:
            parent.children = (*parent.children, shard)

    def _reindex(self) -> None:
        self.open = sorted((shard for shard in self.shards.values() if shard.is_open), key=lambda shard: shard.start)
        self._starts = [shard.start.to_bytes(16, "big") for shard in self.open]


class State:
    """All streams. `clock` returns epoch seconds; `control_delay_ms` is how long control calls take to show."""

    def __init__(self, clock: Callable[[], float], *, control_delay_ms: int = 0, shards_max: int = limits.SHARDS_MAX) -> None:
        self._clock = clock
        self.control_delay_ms = control_delay_ms
        self.shards_max = shards_max
        self.streams: dict[str, Stream] = {}
        self.iterators_void_before = 0  # serials below this have expired whatever their age (a fault)
        self._serial = 0
        self._last_creation_s: dict[str, int] = {}

    @property
    def now_ms(self) -> int:
        """The given clock in whole milliseconds."""
        return int(self._clock() * 1000)

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
