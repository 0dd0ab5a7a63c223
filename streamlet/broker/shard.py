"""What does one shard hold, and how is it read?

Records lie in blocks (blocks.py), each made once when it is put. A record's sequence number counts its place in the
shard (sequence.py), so that nothing has to be searched for.

A shard with a `Keeper` is durable. What its keeper has not made safe is not seen by readers: no record, and no end of
the shard. Once it is safe it may leave the memory; then a row per entry of the log says where it lies.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from streamlet.broker import sequence
from streamlet.broker.blocks import U32, Block, sealed
from streamlet.broker.sequence import CLOSING_COUNTER, COUNTER_SHIFT, SECOND_SHIFT

__all__ = ["Keeper", "Read", "Shard", "child_shape", "shard_name"]

_COUNTER_STEP: Final = 1 << COUNTER_SHIFT
_TOGETHER_MIN: Final = 16  # so many records of one call are a block of their own
_GROWN_RECORDS: Final = 128  # a block that grows is sealed at this many records,
_GROWN_BYTES: Final = 131_072  # or this many bytes
_ROWS_DROPPED_MIN: Final = 1024  # expired rows are cleared away when it is worth the move
_COLD_BLOCKS_MAX: Final = 256  # one read takes at most so many from the log, which it may have to wait for
_json: Final = msgspec.json.Encoder()


def shard_name(index: int) -> str:
    """The full form of a shard's id."""
    return f"shardId-{index:012d}"


def child_shape(shard: Shard) -> dict[str, Any]:
    """A ChildShard, as the end of its parent tells it."""
    return {
        "ShardId": shard.id,
        "ParentShards": [shard_name(parent) for parent in shard.parents],
        "HashKeyRange": {"StartingHashKey": str(shard.start), "EndingHashKey": str(shard.end)},
    }


class Keeper(Protocol):
    """Who makes a stream's shards durable."""

    def touched(self, shard: Shard) -> None:
        """Records came, or the shard was closed. `Shard.secured` is called when that is safe."""

    def settles(self, count: int) -> None:
        """The stream's `count`-th delayed change takes effect now: what comes behind it depends on that."""

    def holds(self, shard: Shard, block: Block) -> None:
        """A block was begun, and will lie in memory until `Shard.let_go`."""

    def load(self, segment: int, offset: int) -> Block:
        """What was written at a place of the log. `before` is the shard's business, and 0."""


class Read:
    """Records in order; `position` is the next counter to read."""

    __slots__ = ("_parts", "at_end", "behind_ms", "position")

    def __init__(self, parts: list[tuple[Block, int, int]], position: int, behind_ms: int, *, at_end: bool) -> None:
        self._parts = parts
        self.position = position
        self.behind_ms = behind_ms
        self.at_end = at_end

    @property
    def fragments(self) -> list[bytes]:
        """The records as JSON, one by one."""
        return [text for block, start, stop in self._parts for text in block.texts(start, stop)]

    @property
    def joined(self) -> bytes:
        """The records as JSON, with commas between them."""
        texts = [block.text(start, stop) for block, start, stop in self._parts]
        return texts[0] if len(texts) == 1 else b",".join(texts)

    @property
    def count(self) -> int:
        """How many records."""
        return sum(stop - start for _, start, stop in self._parts)


class _Row(NamedTuple):
    """Where the records from `first` on lie in the log."""

    first: int
    before: int  # bytes of data and keys ahead of them
    newest_ms: int
    segment: int
    offset: int


class _Rows:
    """The rows of a shard, 32 bytes each."""

    __slots__ = ("before", "first", "newest_ms", "offset", "segment")

    def __init__(self) -> None:
        self.first = array("Q")
        self.before = array("Q")
        self.newest_ms = array("q")
        self.segment = array(U32)
        self.offset = array(U32)

    def add(self, row: _Row) -> None:
        self.first.append(row.first)
        self.before.append(row.before)
        self.newest_ms.append(row.newest_ms)
        self.segment.append(row.segment)
        self.offset.append(row.offset)

    def drop(self, count: int) -> None:
        for column in (self.first, self.before, self.newest_ms, self.segment, self.offset):
            del column[:count]


def _key(key: str) -> str:
    """The member PartitionKey where it needs escapes, or is missing."""
    return f',"PartitionKey":{_json.encode(key).decode()}' if key else ""


class Shard:
    """One shard and its records. Record number n of the shard has counter n, starting at 1.

    Records up to number `dropped` have left; those up to number `trimmed` have expired and are not read any more. The
    gap between both is cleaned up by whole blocks.
    """

    __slots__ = (
        "_blocks",
        "_end_seen",
        "_firsts",
        "_growing",
        "_keeper",
        "_newest_ms",
        "_number_base",
        "_oldest_ms",
        "_rows",
        "_safe",
        "_total",
        "children",
        "closed_ms",
        "created_ms",
        "creation_s",
        "end",
        "ending",
        "id",
        "index",
        "logged",
        "next_counter",
        "parents",
        "second",
        "start",
        "starting",
        "touched",
        "trimmed",
        "watchers",
    )

    def __init__(
        self,
        index: int,
        start: int,
        end: int,
        *,
        creation_s: int,
        created_ms: int,
        parents: tuple[int, ...] = (),
        keeper: Keeper | None = None,
    ) -> None:
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
        self.next_counter = 1  # of the record to come, whether those before it are safe or not
        self.trimmed = 0
        self.watchers: list[Callable[[], None]] = []  # told of every arrival and of the close, after readers may see it
        self.logged = 1  # the counter of the next record to write into the log
        self.touched = False  # the keeper knows that there is something to do
        self._keeper = keeper
        self._safe = 1  # the counter behind the last safe record
        self._end_seen = False  # closed, and that is safe
        self._number_base = sequence.base(creation_s, index)
        self._blocks: list[Block] = []  # in memory, without gaps, up to next_counter
        self._firsts = array("Q")  # the blocks' first counters
        self._growing: Block | None = None  # the last block, if it still takes records
        self._rows = _Rows()
        self._newest_ms = -(2**62)  # arrival of the newest record
        self._oldest_ms: int | None = None  # arrival of the first record behind `trimmed`
        self._total = 0  # bytes of data and keys, ever

    # --- what readers see -----------------------------------------------------------------------------------------------

    @property
    def tip(self) -> int:
        """The counter of the next record that readers will see."""
        return self.next_counter if self._keeper is None else self._safe

    @property
    def is_open(self) -> bool:
        """True while the shard takes records."""
        return self.closed_ms is None

    @property
    def dropped(self) -> int:
        """How many records have left for good."""
        return self._begin - 1

    def read(self, position: int, limit: int, bytes_max: int, now_ms: int) -> Read:
        """Records from `position` on, at most `limit` and `bytes_max` bytes of data and keys, at least one if there is one.

        From the log, fewer may come in one read: the caller finds `behind_ms` above 0 and goes on.
        """
        tip = self.tip
        first = at = max(position, self.trimmed + 1)
        stop = min(first + limit, tip)
        parts: list[tuple[Block, int, int]] = []
        total_max = -1
        cold_left = _COLD_BLOCKS_MAX
        while at < stop and cold_left:
            cold_left -= not self._is_hot(at)
            block = self._block_of(at)
            place = at - block.first
            if not parts:
                total_max = block.bytes_before(place) + bytes_max
            end = min(block.places_within(total_max, place), stop - block.first)
            if end == place:
                if parts:
                    break
                end += 1
            parts.append((block, place, end))
            at = block.first + end
            if end < block.count:
                break
        behind_ms = 0
        if at < tip:
            # 0 would say "caught up", which it is not, even when everything happened within one millisecond.
            last = (parts[-1][0].arrival_ms(parts[-1][2] - 1)) if parts else self._arrival(max(at - 1, self._begin))
            behind_ms = max(1, now_ms - last)
        return Read(parts, max(at, first), behind_ms, at_end=at >= tip and self._ended)

    def position_at(self, timestamp_ms: int) -> int:
        """The first record that arrived at or after a time, or the tip."""
        return min(self._position_at(timestamp_ms), self.tip)

    def position_from(self, found: sequence.Sequence, *, after: bool) -> int:
        """The place of a sequence number of this shard, or the one behind it.

        A number needs not be one that was given out: with the counter of a record but an earlier put second it lies
        just before that record, with a later one just behind it.
        """
        if not self._begin <= found.counter < self.tip:
            return max(min(found.counter, self.tip), 1)
        number = sequence.make(found.creation_s, found.shard_index, found.counter, found.second)
        block = self._block_of(found.counter)
        place = found.counter - block.first
        there = int(block.text(place, place + 1)[19:75])  # 56 digits, as every number of version 2
        return found.counter + (number > there or (after and number == there))

    def arrival_ms(self, position: int) -> int | None:
        """When the record with this counter arrived; None where there is none, or none any more."""
        return self._arrival(position) if self.trimmed < position < self.tip else None

    def bytes_before(self, position: int) -> int:
        """Bytes of data and keys of all records below a counter, whether they have expired or not."""
        if position >= self.next_counter:
            return self._total
        if position <= self._begin:
            if self._rows.first:
                return self._rows.before[0]
            return self._blocks[0].before if self._blocks else self._total
        block = self._block_of(position)
        return block.bytes_before(position - block.first)

    # --- what changes it ------------------------------------------------------------------------------------------------

    def append(self, data: str, key: str, size: int, now_ms: int, tail: str = "") -> str:
        """Take in one record and answer its sequence number: `extend` for one, at half the cost."""
        now_ms, number, middle = self._stamp(now_ms)
        text = str(number + _COUNTER_STEP)
        quoted = f',"PartitionKey":"{key}"' if key.isascii() and key.isalnum() else _key(key)
        self._grow(f'{{"SequenceNumber":"{text}{middle}{data}"{quoted}{tail}}}', size, now_ms)
        self._stored(now_ms)
        return text

    def extend(self, records: Sequence[tuple[str, str, int]], now_ms: int, tail: str = "") -> list[str]:
        """Take in records (payload as base64, partition key or "", bytes of both) and answer their sequence numbers.

        `tail` is JSON for the end of each record, such as `,"EncryptionType":"KMS"`.
        The hot loop: what is the same for all records is worked out once, and numbers go on by adding a counter step.
        """
        now_ms, number, middle = self._stamp(now_ms)
        numbers = []
        texts: list[str] = []
        add = texts.append
        for data, key, _ in records:
            number += _COUNTER_STEP
            text = str(number)
            numbers.append(text)
            quoted = f',"PartitionKey":"{key}"' if key.isascii() and key.isalnum() else _key(key)
            add(f'{{"SequenceNumber":"{text}{middle}{data}"{quoted}{tail}}}')
        sizes = [size for _, _, size in records]
        if len(texts) >= _TOGETHER_MIN:
            self._seal()
            block = sealed(self.next_counter, self._total, texts, sizes, now_ms)
            self._begun(block)
            self.next_counter += len(texts)
            self._total = block.total
        else:
            for text, size in zip(texts, sizes, strict=True):
                self._grow(text, size, now_ms)
        self._stored(now_ms)
        return numbers

    def trim(self, horizon_ms: int) -> None:
        """Let go of what arrived before the horizon."""
        if self._oldest_ms is None or self._oldest_ms >= horizon_ms:
            return
        # Nothing that is not safe yet: the log's own order would come apart.
        self.trimmed = max(self.trimmed, min(self._position_at(horizon_ms), self.tip) - 1)
        self._drop()
        self._oldest_ms = self._arrival(self.trimmed + 1) if self.trimmed + 1 < self.next_counter else None

    def close(self, second: int, now_ms: int) -> None:
        """Take no more records; `second` is the moment of the reshard as sequence numbers tell it."""
        self.closed_ms = now_ms
        self.second = second
        self.ending = str(sequence.make(self.creation_s, self.index, CLOSING_COUNTER, second))
        if self._keeper is None:
            self._tell()
        elif not self.touched:
            self._keeper.touched(self)

    # --- what its keeper does -------------------------------------------------------------------------------------------

    def unlogged(self) -> list[Block]:
        """What is not in the log, sealed. From now on it counts as logged."""
        start, self.logged = self.logged, self.next_counter
        if start == self.next_counter:
            return []
        return [block.cut(max(start - block.first, 0)) for block in self._blocks[bisect_right(self._firsts, start) - 1 :]]

    def wrote(self, block: Block, segment: int, offset: int) -> None:
        """A block has its place in the log. Its bytes are counted from here on, whoever asks."""
        self._rows.add(_Row(block.first, block.before, block.arrival_ms(block.count - 1), segment, offset))

    def secured(self, counter: int, *, closed: bool) -> None:
        """Records below `counter` are safe, and the close, if there was one."""
        if counter > self._safe or closed > self._end_seen:
            self._safe, self._end_seen = max(counter, self._safe), closed or self._end_seen
            self._tell()

    def let_go(self, block: Block) -> bool:
        """Drop the oldest block from memory, if it is this one and safe. False: it must stay for now."""
        if not self._blocks or self._blocks[0] is not block:
            return True  # it has gone
        if block.stop > self._safe:
            return False
        if self._growing is block:
            self._growing = None
        del self._blocks[0], self._firsts[0]
        return True

    def recall(self, block: Block, second: int, segment: int, offset: int) -> None:
        """On recovery: the log has this block. It stays there until it is read."""
        assert block.first == self.next_counter, "a shard's blocks follow each other in the log"
        block.before = self._total
        self.wrote(block, segment, offset)
        self.next_counter = self.logged = self._safe = block.stop
        self._total = block.total
        self._newest_ms = block.arrival_ms(block.count - 1)
        self.second = max(self.second, second)
        if self._oldest_ms is None:
            self._oldest_ms = block.arrival_ms(0)

    def skip(self, next_counter: int, total: int, newest_ms: int, second: int) -> None:
        """On recovery: everything below this counter has expired and left the log."""
        self._rows = _Rows()
        self._total = total
        self.next_counter = self.logged = self._safe = next_counter
        self.trimmed = next_counter - 1
        self._newest_ms, self._oldest_ms = newest_ms, None
        self.second = max(self.second, second)

    def segments(self) -> set[int]:
        """The parts of the log that still hold records of this shard."""
        self._drop(at_once=True)
        return set(self._rows.segment)

    # --- within ---------------------------------------------------------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return self.closed_ms is not None and (self._keeper is None or self._end_seen)

    @property
    def _begin(self) -> int:
        """The first counter that is still here, or next_counter."""
        if self._rows.first:
            return self._rows.first[0]
        return self._firsts[0] if self._firsts else self.next_counter

    def _is_hot(self, counter: int) -> bool:
        return bool(self._firsts) and counter >= self._firsts[0]

    def _block_of(self, counter: int) -> Block:
        if self._is_hot(counter):
            return self._blocks[-1 if counter >= self._firsts[-1] else bisect_right(self._firsts, counter) - 1]
        rows, keeper = self._rows, self._keeper
        assert keeper is not None, "without a keeper everything is in memory"
        place = bisect_right(rows.first, counter) - 1
        block = keeper.load(rows.segment[place], rows.offset[place])
        assert block.first <= counter < block.stop, "the row says where the record lies"
        block.before = rows.before[place]
        return block

    def _arrival(self, counter: int) -> int:
        block = self._block_of(counter)
        return block.arrival_ms(counter - block.first)

    def _position_at(self, timestamp_ms: int) -> int:
        if timestamp_ms > self._newest_ms:
            return self.next_counter
        if not self._firsts or timestamp_ms <= self._blocks[0].arrival_ms(0):
            # In the log, or before all that there is.
            place = bisect_left(self._rows.newest_ms, timestamp_ms)
            if place < len(self._rows.first) and not self._is_hot(self._rows.first[place]):
                block = self._block_of(self._rows.first[place])
                return block.first + block.place_at(timestamp_ms)
            return self._firsts[0] if self._firsts else self.next_counter
        low, high = 0, len(self._blocks)
        while low < high:
            middle = (low + high) // 2
            block = self._blocks[middle]
            if block.arrival_ms(block.count - 1) < timestamp_ms:
                low = middle + 1
            else:
                high = middle
        block = self._blocks[low]
        return block.first + block.place_at(timestamp_ms)

    def _stamp(self, now_ms: int) -> tuple[int, int, str]:
        """For records that come now: the arrival time, the number before the first one's, and what stands between number and data."""
        # The clock may have gone back: arrival stays in order, so that a timestamp is found by bisection.
        now_ms = max(now_ms, self._newest_ms)
        second, ms = divmod(now_ms, 1000)
        # A child's creation second may lie ahead of the clock; the put second never lies before it.
        if second > self.second:
            self.second = second
        number = self._number_base + ((self.next_counter - 1) << COUNTER_SHIFT) + (self.second << SECOND_SHIFT)
        return now_ms, number, f'","ApproximateArrivalTimestamp":{second}.{ms:03d},"Data":"'

    def _grow(self, text: str, size: int, now_ms: int) -> None:
        """One record more in the block that grows."""
        block = self._growing
        if block is None:
            block = self._growing = Block.growing(self.next_counter, self._total)
            self._begun(block)
        block.add(text.encode(), size, now_ms)
        self.next_counter += 1
        self._total += size
        if block.held >= _GROWN_BYTES or self.next_counter - block.first >= _GROWN_RECORDS:
            self._seal()

    def _seal(self) -> None:
        if self._growing is not None:
            self._growing.seal()
            self._growing = None

    def _stored(self, now_ms: int) -> None:
        """Records came."""
        if self._oldest_ms is None:
            self._oldest_ms = now_ms
        self._newest_ms = now_ms
        if self._keeper is None:
            if self.watchers:
                self._tell()
        elif not self.touched:
            self._keeper.touched(self)

    def _begun(self, block: Block) -> None:
        self._blocks.append(block)
        self._firsts.append(block.first)
        if self._keeper is not None:
            self._keeper.holds(self, block)

    def _drop(self, *, at_once: bool = False) -> None:
        """Clear away the blocks in which everything has expired."""
        rows, blocks, keep = self._rows, self._blocks, self.trimmed + 1
        if rows.first:
            gone = len(rows.first) if keep >= self.logged else max(bisect_right(rows.first, keep) - 1, 0)
            if gone and (at_once or gone >= _ROWS_DROPPED_MIN or 2 * gone >= len(rows.first)):
                rows.drop(gone)
        if blocks and blocks[0].stop <= keep:
            gone = len(blocks) if blocks[-1].stop <= keep else max(bisect_right(self._firsts, keep) - 1, 0)
            if gone == len(blocks):
                self._growing = None
            del blocks[:gone], self._firsts[:gone]

    def _tell(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()
