"""Who reads what, and how far has he come?

The service has no name for a client that polls. Here it is called by its access key and the first word of its
User-Agent. Only successful GetRecords are looked at, after the answer was made: where its iterator stood and where the
next one stands say everything, so no record is touched, whatever the answer's size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from streamlet.broker.errors import ApiError
from streamlet.broker.http import Request
from streamlet.broker.state import State
from streamlet.broker.tokens import open_iterator

__all__ = ["Meter", "Reader", "StreamKey"]

StreamKey = tuple[str, str, str]
"""Account, region and name; the first two empty for shared streams."""

_READERS_MAX: Final = 2_000  # per shard and caller; the one that was silent for longest makes room
_HEAD_BYTES: Final = 1024  # the next iterator stands before the records
# In JSON a text in quotes; in CBOR a text whose length is in the one or two bytes before it.
_FOLLOWING: Final = re.compile(rb'NextShardIterator(?:":"([A-Za-z0-9+/=]{1,512})"|\x78(.)|\x79(..))', re.DOTALL)
_KEY: Final = re.compile(r"Credential=([^/\s,]{1,128})")


class Reader(NamedTuple):
    """One caller in one shard: the counter of the next record for him, when he last read, and how much since he began."""

    position: int
    at_ms: int
    records: int
    ended: bool  # he has read a closed shard to its end


class Meter:
    """Counts since the start."""

    def __init__(self, state: State) -> None:
        self.out: dict[StreamKey, tuple[int, int]] = {}
        """Records that went out, and the bytes of their data and keys, by stream."""
        self.readers: dict[tuple[StreamKey, int, str], Reader] = {}
        self._state = state

    def saw(self, request: Request, iterator: str, body: tuple[bytes, ...], now_ms: int) -> None:
        """A GetRecords that was answered."""
        following = _following(body[0][:_HEAD_BYTES] if body else b"")
        try:
            token = open_iterator(iterator)
            after = open_iterator(following).position if following else None
        except ApiError:
            return
        key = (token.account, token.region, token.stream)
        stream = self._state.find(*key, now_ms)
        shard = None if stream is None else stream.shards.get(token.shard_index)
        if shard is None:
            return
        position = shard.tip if after is None else after
        before = max(token.position, shard.trimmed + 1)
        records = max(0, position - before)
        if records:
            self.add(key, records, shard.bytes_before(position) - shard.bytes_before(before))
        place = (key, token.shard_index, _caller(request.headers))
        known = self.readers.pop(place, None)  # put back at the end: the order is that of the last read
        self.readers[place] = Reader(position, now_ms, records + (known.records if known is not None else 0), after is None)
        if len(self.readers) > _READERS_MAX:
            del self.readers[next(iter(self.readers))]

    def add(self, key: StreamKey, records: int, size: int) -> None:
        """So much went out of a stream."""
        total = self.out.get(key, (0, 0))
        self.out[key] = total[0] + records, total[1] + size

    def forget(self, streams: set[StreamKey]) -> None:
        """Keep only what concerns these streams."""
        for gone in self.out.keys() - streams:
            del self.out[gone]
        for place in [place for place in self.readers if place[0] not in streams]:
            del self.readers[place]


def _following(head: bytes) -> str:
    """The next iterator that an answer gives; empty where it gives none, which is at a shard's end."""
    match = _FOLLOWING.search(head)
    if match is None:
        return ""
    text, short, long = match.groups()
    if text is None:
        text = head[match.end() : match.end() + int.from_bytes(short or long, "big")]
    return str(text, "latin-1")


def _caller(headers: Mapping[str, str]) -> str:
    key = _KEY.search(headers.get("authorization", ""))
    agent = headers.get("user-agent", "").partition(" ")[0][:60]
    return " · ".join(filter(None, [key[1] if key else "", agent])) or "unnamed"
