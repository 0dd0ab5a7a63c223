"""Has the stream been drained? For a run that ends by itself.

It has when every open shard was read to its tip, where a read brings nothing, and everything that was read is settled. That is
enough: an open shard is only read when its parents are done, and every closed shard has an open descendant. The list of shards is
asked for anew before the verdict, since a shard that ended may just have brought children.
"""

from __future__ import annotations

import asyncio

import msgspec

from streamlet.errors import ServiceError
from streamlet.hooks import BatchSettled, Event, RecordsFiltered, RecordsGivenUp, ShardStopped
from streamlet.model.shard import Shard
from streamlet.ports import Fetch, Source
from streamlet.sources.watched import WatchedSource

__all__ = ["Once"]


class _Seen(msgspec.Struct):
    """One reader: how many records it brought, how many of them are settled, and whether the last read was at the tip."""

    read: int = 0
    settled: int = 0
    at_tip: bool = False

    @property
    def done(self) -> bool:
        return self.at_tip and self.settled >= self.read


class Once:
    """Looks on: sources through `through`, events through `listen`. `drained` ends when there is nothing left to do, or when a
    shard has stopped. `given_up` counts records."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._shards: dict[str, _Seen] = {}
        self._news = asyncio.Event()
        self.given_up = 0
        self.stopped = False

    def through(self, source: Source) -> Source:
        """The source, seen."""
        self._source = source
        return WatchedSource(source, self)

    def listen(self, event: Event) -> None:
        """A listener."""
        seen = self._shards.get(event.shard_id)
        match event:
            case BatchSettled(records=records) | RecordsFiltered(records=records) if seen is not None:
                seen.settled += records
                self._news.set()
            case RecordsGivenUp(records=records):
                self.given_up += records
            case ShardStopped():
                self.stopped = True
                self._news.set()

    async def drained(self) -> None:
        """Wait for it."""
        while not self.stopped:
            await self._news.wait()
            self._news.clear()
            if self._shards and all(seen.done for seen in self._shards.values()) and self._source is not None:
                try:
                    shards = await self._source.list_shards()
                except ServiceError:
                    continue  # the next read at the tip asks again, and the supervisor tells of what does not pass
                if all(shard.closed or self._is_done(shard) for shard in shards) and all(seen.done for seen in self._shards.values()):
                    return

    def _is_done(self, shard: Shard) -> bool:
        seen = self._shards.get(shard.shard_id)
        return seen is not None and seen.done

    def opens(self, stream: str, shard_id: str) -> None:
        """A reader begins, perhaps anew."""
        self._shards[shard_id] = _Seen()

    def asks(self, stream: str, shard_id: str) -> None:
        """A read begins."""

    def reads(self, stream: str, shard_id: str, fetch: Fetch) -> None:
        """What a read brought."""
        seen = self._shards[shard_id]
        seen.read += len(fetch.records)
        # Some brokers say that they are never behind: the tip is where nothing comes any more.
        seen.at_tip = fetch.ended or (fetch.millis_behind_latest == 0 and not fetch.records)
        self._news.set()
