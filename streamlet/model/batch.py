"""Consecutive records of one shard, as a handler sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streamlet.model.record import Record
from streamlet.model.window import Window

__all__ = ["Batch"]


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Records of one shard in order: iterate it, index it, take its length.

    `attempt` is 1 for the first delivery. `millis_behind_latest` is how far the read that brought the last record was
    from the tip of the shard, in milliseconds, or None where the runtime is not told (Lambda). `window` is what `on_window` is
    called for, else None.
    """

    records: Sequence[Record]
    stream: str
    shard_id: str
    attempt: int = 1
    millis_behind_latest: int | None = None
    window: Window | None = None

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    @property
    def values(self) -> list[Any]:
        """Every record's decoded payload, in order. The first one that does not decode raises its DecodeError."""
        return [record.value for record in self.records]
