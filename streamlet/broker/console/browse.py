"""Which records does a person see who looks across shards, newest first or from a time?

Shards are merged by arrival. One request looks at a bounded number of records and bytes, whatever it searches for: it
answers what it found and where to go on, and the page asks again. Ties (many records of one millisecond) are ordered by
shard, so that pages do not overlap.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace
from typing import Any, Final, NamedTuple

import msgspec

from streamlet.broker.console.payloads import guess, preview
from streamlet.broker.shard import Shard
from streamlet.broker.stream import Stream

__all__ = ["SHARDS_MAX", "Query", "browse", "record_at"]

SHARDS_MAX: Final = 64  # merged at a time; a stream with more is looked at shard by shard
_SCANNED_MAX: Final = 4_000  # records that one request looks at
_SCANNED_BYTES_MAX: Final = 8 * 1024 * 1024
_BLOCK: Final = 64
_BLOCK_BYTES_MAX: Final = 1024 * 1024


class _Stored(msgspec.Struct, gc=False):
    """What is shown of a record, from the JSON in which it is stored."""

    number: str = msgspec.field(name="SequenceNumber")
    arrival_s: float = msgspec.field(name="ApproximateArrivalTimestamp")
    data: str = msgspec.field(name="Data")
    key: str = msgspec.field(name="PartitionKey", default="")  # streams that distribute by themselves have none


_decode: Final = msgspec.json.Decoder(_Stored).decode


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """`shards`: their numbers, empty for all. `from_ms`: None is newest first. `cursor`: pairs of shard and place."""

    stream: str
    account: str = ""
    region: str = ""
    shards: tuple[int, ...] = ()
    from_ms: int | None = None
    search: str = ""
    limit: int = 50
    cursor: tuple[tuple[int, int], ...] | None = None


class _Place(NamedTuple):
    """A record in the merge. The order of fields is the order of the merge; for newest first both keys are negative."""

    arrival_ms: int
    shard: int
    position: int
    stored: _Stored


class _Budget:
    """What this request has looked at."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    @property
    def spent(self) -> bool:
        return self.records >= _SCANNED_MAX or self.bytes >= _SCANNED_BYTES_MAX


def browse(stream: Stream, query: Query, now_ms: int) -> dict[str, Any]:
    """{"records", "cursor" (None at the end), "scanned", "shards_left_out"}. The stream's expired records are trimmed first."""
    stream.expire(now_ms)
    newest = query.from_ms is None
    chosen = [stream.shards[index] for index in sorted(set(query.shards)) if index in stream.shards] if query.shards else None
    candidates = list(stream.shards.values()) if chosen is None else chosen
    holding = [shard for shard in candidates if shard.tip - 1 > shard.trimmed]
    taken = holding[-SHARDS_MAX:]
    if query.cursor is None:
        starts = {shard.index: shard.tip - 1 if newest else shard.position_at(query.from_ms or 0) for shard in taken}
    else:
        starts = dict(query.cursor)
    budget = _Budget()
    block = max(1, _BLOCK // max(1, len(taken)))
    sources = {s.index: _walk(s, starts[s.index], budget, block, newest=newest) for s in taken if s.index in starts}
    heap = [place for source in sources.values() if (place := next(source, None)) is not None]
    heapify(heap)
    needle = query.search.encode().lower()
    found: list[dict[str, Any]] = []
    scanned = 0
    while heap and len(found) < query.limit and not (budget.spent and scanned):
        place = heap[0]
        scanned += 1
        row = _row(place, needle)
        if row is not None:
            found.append(row)
        following = next(sources[abs(place.shard)], None)
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, following)
    cursor = [(abs(place.shard), place.position) for place in heap]
    return {"records": found, "cursor": cursor or None, "scanned": scanned, "shards_left_out": len(holding) - len(taken)}


def record_at(shard: Shard, position: int, now_ms: int) -> tuple[dict[str, Any], bytes] | None:
    """One record by its place in the shard, and its payload. None where it has expired or is not there yet."""
    if not shard.trimmed < position < shard.tip:
        return None
    stored = _decode(shard.read(position, 1, 1, now_ms).fragments[0])
    place = _Place(round(stored.arrival_s * 1000), shard.index, position, stored)
    row = _row(place, b"")
    assert row is not None, "an empty search finds everything"
    return row, _payload(stored)


def _walk(shard: Shard, start: int, budget: _Budget, block: int, *, newest: bool) -> Iterator[_Place]:
    """A shard's records from `start` on, up or down, read in blocks that grow."""
    at = min(start, shard.tip - 1) if newest else max(start, shard.trimmed + 1)
    size = block
    while shard.trimmed < at < shard.tip:
        count = min(size, at - shard.trimmed if newest else shard.tip - at)
        first = at - count + 1 if newest else at
        read = shard.read(first, count, _BLOCK_BYTES_MAX, 0)
        budget.bytes += sum(map(len, read.fragments))
        budget.records += len(read.fragments)
        if newest and len(read.fragments) < count:
            size = max(1, count // 4)  # the bytes of a block end before the record that is wanted first
            continue
        places = [(first + offset, _decode(fragment)) for offset, fragment in enumerate(read.fragments)]
        for position, stored in reversed(places) if newest else places:
            arrival_ms = round(stored.arrival_s * 1000)
            yield _Place(-arrival_ms, -shard.index, position, stored) if newest else _Place(arrival_ms, shard.index, position, stored)
        at += -len(places) if newest else len(places)
        size = min(_BLOCK, size * 2)


def _row(place: _Place, needle: bytes) -> dict[str, Any] | None:
    """The record as a list shows it, or None where the search does not find it. Letters of ASCII match in either case."""
    stored = place.stored
    data = _payload(stored)
    if needle and needle not in stored.key.encode("utf-8", "replace").lower() and needle not in data.lower():
        return None
    kind = guess(data)
    return {
        "shard": abs(place.shard),
        "position": place.position,
        "number": stored.number,
        "key": stored.key,
        "at_ms": abs(place.arrival_ms),
        "size": len(data),
        "kind": kind,
        "preview": preview(data, kind),
    }


def _payload(stored: _Stored) -> bytes:
    try:
        return base64.b64decode(stored.data)
    except (binascii.Error, ValueError):
        return stored.data.encode()
