"""Which records go into the next PutRecords?

Think of three places where a record can be. *Ready*: it may be sent. *Waiting*: an earlier record of its partition key is
ready or in a call, so it may not. *Held*: its part of the hash space was throttled and backs off; it stays first of its key.

    add ──> ready ──next_call──> in a call ──feed──> done, or failed for good
     │        ▲                      │
     └─> waiting (behind its key)    └──> held ──(back-off over)──> in a call

PutRecords promises no order between the records of one call, and each of them fails by itself. If two records of a key were
in one call, or in two calls at once, then the first could fail and the second succeed, and the order would be lost for
good. So with `keep_order` at most one record of a key is under way: throughput per key is one record per round trip, and
records of other keys fill the calls. Without it any records share a call, and order is not promised.

Every record is touched a fixed number of times per send, however many are buffered. No clock, no randomness: the caller gives the
time and the back-off formula.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import md5
from typing import Final

import msgspec

from streamlet.errors import RecordTooLarge, StreamletError

__all__ = ["CALL_BYTES_MAX", "CALL_RECORDS_MAX", "RECORD_BYTES_MAX", "Entry", "Failed", "Pack", "Packer", "hash_key_of"]

# Kinesis API model: PutRecords takes 500 records and 10 MiB of data and keys (5 MiB in older services and emulators).
CALL_RECORDS_MAX: Final = 500
CALL_BYTES_MAX: Final = 10 * 1024 * 1024
# A stream's default; MaxRecordSizeInKiB raises it up to 10 MiB.
RECORD_BYTES_MAX: Final = 1024 * 1024
# Where the shards are not known, parts of the hash space back off on their own.
_PARTS: Final = 256
_HASH_KEYS: Final = 2**128


class Entry(msgspec.Struct, eq=False, gc=False):
    """One record to be put; the caller's token for it. `size_bytes` is data and partition key (in UTF-8) together.

    `part` is the part of the hash space that it falls into, -1 until somebody had to know.
    """

    data: bytes
    partition_key: str
    explicit_hash_key: str | None
    size_bytes: int
    added_at_s: float = 0.0
    part: int = -1


class Pack(msgspec.Struct, frozen=True):
    """The records of one call. Give it back to `feed` or `feed_lost`, once."""

    entries: list[Entry]
    size_bytes: int


class Failed(msgspec.Struct, frozen=True):
    """One record of a call was not taken. `again`: it may be taken later."""

    error: StreamletError
    again: bool


class _Part(msgspec.Struct):
    """A part of the hash space that was throttled: its records, and until when they are held."""

    held: deque[Entry]
    failures: int = 0
    until_s: float = 0.0


class Packer:
    """Packs records into calls, in order per partition key, under any pattern of failures.

    shard_ends      the last hash key of each open shard, ascending: throttled shards back off one by one. Out of date after a
                    reshard, it only groups back-offs less well
    backoff_s       from the number of failures in a row to the seconds to wait
    record_ttl_s    a record that still fails this long after `add` fails for good; None: never
    """

    def __init__(
        self,
        *,
        backoff_s: Callable[[int], float],
        linger_s: float = 0.05,
        keep_order: bool = True,
        shard_ends: Sequence[int] = (),
        record_bytes_max: int = RECORD_BYTES_MAX,
        call_bytes_max: int = CALL_BYTES_MAX,
        call_records_max: int = CALL_RECORDS_MAX,
        record_ttl_s: float | None = None,
    ) -> None:
        assert 1 <= call_records_max <= CALL_RECORDS_MAX
        assert record_bytes_max <= call_bytes_max <= CALL_BYTES_MAX
        self.hurry = False  # while set, nothing lingers
        self._backoff_s = backoff_s
        self._linger_s = linger_s
        self._keep_order = keep_order
        self._shard_ends = list(shard_ends) or [_HASH_KEYS // _PARTS * (part + 1) - 1 for part in range(_PARTS)]
        self._record_bytes_max = record_bytes_max
        self._call_bytes_max = call_bytes_max
        self._call_records_max = call_records_max
        self._record_ttl_s = record_ttl_s
        # Ready records: new ones in the order of `add`, and those that became ready through `feed` (older, so taken first).
        self._fresh: deque[Entry] = deque()
        self._freed: deque[Entry] = deque()
        self._ready_bytes = 0
        # A key is in here while one of its records is ready, held or in a call. Its value: those waiting behind, if any.
        self._lanes: dict[str, deque[Entry] | None] = {}
        self._parts: dict[int, _Part] = {}
        self._expired: list[Entry] = []
        self._lost_in_a_row = 0
        self._stopped_until_s = 0.0

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, entry: Entry) -> None:
        """Raises RecordTooLarge for a record that `add` must not be given."""
        if entry.size_bytes > self._record_bytes_max:
            raise RecordTooLarge(
                f"a record of {entry.size_bytes:,} bytes (data and key) is larger than this stream takes ({self._record_bytes_max:,})"
            )

    def add(self, entry: Entry, now_s: float) -> Entry:
        """Take a record over. Raises RecordTooLarge, and then nothing has changed."""
        if entry.size_bytes > self._record_bytes_max:
            self.check(entry)
        entry.added_at_s = now_s
        if self._keep_order:
            key, lanes = entry.partition_key, self._lanes
            if key in lanes:
                lane = lanes[key]
                if lane is None:
                    lanes[key] = deque((entry,))
                else:
                    lane.append(entry)
                return entry
            lanes[key] = None
        self._fresh.append(entry)
        self._ready_bytes += entry.size_bytes
        return entry

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_full(self) -> bool:
        """There is enough for a whole call."""
        return len(self._fresh) + len(self._freed) >= self._call_records_max or self._ready_bytes >= self._call_bytes_max

    def due_at_s(self) -> float | None:
        """When `next_call` is worth asking: a time in the past means now. None: not before the next `add` or `feed`."""
        due_s = min((part.until_s for part in self._parts.values() if part.held), default=None)
        if self._fresh or self._freed:
            # Freed records are nearly in order of their age; one deeper in is at most one linger late.
            heads = [ready[0].added_at_s for ready in (self._fresh, self._freed) if ready]
            ready_s = 0.0 if self.hurry or self.is_full else min(heads) + self._linger_s
            due_s = ready_s if due_s is None else min(due_s, ready_s)
        return None if due_s is None else max(due_s, self._stopped_until_s)

    def next_call(self, now_s: float) -> Pack | None:
        """The records of the next call; None if nothing is due. Ask again until None: calls may overlap."""
        due_s = self.due_at_s()
        if due_s is None or due_s > now_s:
            return None
        entries: list[Entry] = []
        # Held records first: they are the oldest of their keys. Then those that were freed, then new ones.
        size_bytes = 0
        for part in list(self._parts.values()):
            if part.until_s <= now_s:
                size_bytes = self._take(part.held, entries, size_bytes, now_s, ready=False)
        size_bytes = self._take(self._freed, entries, size_bytes, now_s, ready=True)
        size_bytes = self._take(self._fresh, entries, size_bytes, now_s, ready=True)
        return Pack(entries, size_bytes) if entries else None

    def _take(self, source: deque[Entry], entries: list[Entry], size_bytes: int, now_s: float, *, ready: bool) -> int:
        """Move records from `source` to `entries` as far as the call has room. Returns the call's size."""
        room_bytes, ttl_s = self._call_bytes_max, self._record_ttl_s
        holding = ready and any(part.until_s > now_s for part in self._parts.values())
        records_max, begun_bytes, aside_bytes = self._call_records_max, size_bytes, 0
        while source and len(entries) < records_max:
            entry = source[0]
            if size_bytes + entry.size_bytes > room_bytes:
                break
            source.popleft()
            if ttl_s is not None and now_s - entry.added_at_s >= ttl_s:
                aside_bytes += entry.size_bytes
                self._expired.append(entry)
                self._release(entry)
            elif holding and self._hold(entry, now_s):
                aside_bytes += entry.size_bytes
            else:
                size_bytes += entry.size_bytes
                entries.append(entry)
        if ready:
            self._ready_bytes -= size_bytes - begun_bytes + aside_bytes
        return size_bytes

    def _hold(self, entry: Entry, now_s: float) -> bool:
        """True if the record's part of the hash space backs off: it is held there now."""
        part = self._parts.get(self._part_of(entry))
        if part is None or part.until_s <= now_s:
            return False
        part.held.append(entry)
        return True

    def take_expired(self) -> list[Entry]:
        """Records that outlived `record_ttl_s` before they could be sent (again). They are no longer the packer's."""
        expired, self._expired = self._expired, []
        return expired

    def take_all(self) -> list[Entry]:
        """Everything that is buffered and not in a call, when nobody will send it any more. The packer is of no use afterwards."""
        held = [entry for part in self._parts.values() for entry in part.held]
        waiting = [entry for lane in self._lanes.values() if lane for entry in lane]
        left = [*self._expired, *held, *self._freed, *self._fresh, *waiting]
        self._parts, self._lanes, self._expired, self._ready_bytes = {}, {}, [], 0
        self._freed.clear()
        self._fresh.clear()
        return left

    # ── what came of it ──────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, pack: Pack, failures: Mapping[int, Failed], now_s: float) -> list[tuple[Entry, Failed]]:
        """The call was answered; `failures` has the records that were not taken, by index. Returns those that failed for good."""
        self._lost_in_a_row = 0
        given_up: list[tuple[Entry, Failed]] = []
        refused: set[int] = set()
        for index, entry in enumerate(pack.entries):
            failed = failures.get(index)
            if failed is None:
                if entry.part >= 0:
                    self._recovered(entry.part)
                self._release(entry)
            elif failed.again and not self._outlived(entry, now_s):
                number = self._part_of(entry)
                self._parts.setdefault(number, _Part(deque())).held.append(entry)
                refused.add(number)
            else:
                given_up.append((entry, failed))
                self._release(entry)
        for number in refused:
            part = self._parts[number]
            # Calls overlap: only the first refusal after a wait lengthens it, or four calls at once would quadruple it.
            if part.until_s <= now_s:
                part.failures += 1
                part.until_s = now_s + self._backoff_s(part.failures)
        return given_up

    def feed_lost(self, pack: Pack, failed: Failed, now_s: float) -> list[tuple[Entry, Failed]]:
        """The call as a whole was refused or not answered. Returns the records that failed for good."""
        if not failed.again:
            for entry in pack.entries:
                self._release(entry)
            return [(entry, failed) for entry in pack.entries]
        given_up: list[tuple[Entry, Failed]] = []
        for entry in reversed(pack.entries):
            if self._outlived(entry, now_s):
                given_up.append((entry, failed))
                self._release(entry)
            else:
                # Back to the front. Nothing of its key can have overtaken it.
                self._freed.appendleft(entry)
                self._ready_bytes += entry.size_bytes
        if self._stopped_until_s <= now_s:
            self._lost_in_a_row += 1
            self._stopped_until_s = now_s + self._backoff_s(self._lost_in_a_row)
        given_up.reverse()
        return given_up

    def _outlived(self, entry: Entry, now_s: float) -> bool:
        return self._record_ttl_s is not None and now_s - entry.added_at_s >= self._record_ttl_s

    def _release(self, entry: Entry) -> None:
        """The record is settled: the next one of its key may go."""
        if not self._keep_order:
            return
        key = entry.partition_key
        lane = self._lanes[key]
        if lane is None:
            del self._lanes[key]
            return
        follower = lane.popleft()
        if not lane:
            self._lanes[key] = None
        self._freed.append(follower)
        self._ready_bytes += follower.size_bytes

    def _recovered(self, number: int) -> None:
        part = self._parts.get(number)
        if part is not None:
            part.failures = 0
            if not part.held:
                del self._parts[number]

    def _part_of(self, entry: Entry) -> int:
        # Asked only while something is throttled: MD5 of each key would cost a tenth of the whole producer.
        if entry.part < 0:
            entry.part = min(bisect_left(self._shard_ends, hash_key_of(entry)), len(self._shard_ends) - 1)
        return entry.part


def hash_key_of(entry: Entry) -> int:
    """Where in the hash space a record falls: MD5 of the key, or the explicit hash key."""
    if entry.explicit_hash_key is not None:
        return int(entry.explicit_hash_key)
    return int.from_bytes(md5(entry.partition_key.encode(), usedforsecurity=False).digest(), "big")
