"""What does a source bring, as somebody sees it who looks on? For a run that ends when everything is read, and for a test's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamlet.model.shard import Shard
from streamlet.ports import Fetch, ShardReader, Source, StartingPosition

__all__ = ["Onlooker", "WatchedSource"]


class Onlooker(Protocol):
    """Who looks on. All calls come from the event loop of the source."""

    def opens(self, stream: str, shard_id: str) -> None:
        """A reader begins, perhaps anew."""
        ...

    def asks(self, stream: str, shard_id: str) -> None:
        """A read begins. What its answer says was true at some time after this: the reader waits before it asks."""
        ...

    def reads(self, stream: str, shard_id: str, fetch: Fetch) -> None:
        """What the read brought."""
        ...


class WatchedSource:
    """A source, seen. Fits ports.Source."""

    def __init__(self, source: Source, onlooker: Onlooker) -> None:
        self.stream = source.stream
        self._source, self._onlooker = source, onlooker

    async def list_shards(self) -> Sequence[Shard]:
        """As the source does."""
        return await self._source.list_shards()

    def reader(self, shard_id: str, start: StartingPosition) -> ShardReader:
        """The source's reader, seen."""
        self._onlooker.opens(self.stream, shard_id)
        return _WatchedReader(self._source.reader(shard_id, start), self.stream, shard_id, self._onlooker)


class _WatchedReader:
    def __init__(self, reader: ShardReader, stream: str, shard_id: str, onlooker: Onlooker) -> None:
        self._reader, self._stream, self._shard_id, self._onlooker = reader, stream, shard_id, onlooker

    async def read(self) -> Fetch:
        self._onlooker.asks(self._stream, self._shard_id)
        fetch = await self._reader.read()
        self._onlooker.reads(self._stream, self._shard_id, fetch)
        return fetch
