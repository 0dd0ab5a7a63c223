"""A sink that keeps its files in memory: the reference that the engine's tests read, and yours may.

Rows are whatever the handler returned. One file per partition, named like those of the Parquet sink.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from streamlet.errors import RowError
from streamlet.model.record import Record
from streamlet.ports import Chunk, SinkObject, Span

__all__ = ["MemoryChunk", "MemorySink"]


class MemoryChunk(msgspec.Struct, frozen=True):
    """Rows with the position and the number within its record of each."""

    items: tuple[tuple[str, int, int, Any], ...]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.items)

    @property
    def size_bytes(self) -> int:
        """A guess: the engine only compares it with bounds."""
        return 100 * len(self.items)


class MemorySink:
    """`partition` maps a row to the name of its file's folder; `check_row` may raise ValueError for a row that does not fit.

    `files` maps keys to lists of rows; `put_if_absent` never overwrites.
    """

    def __init__(self, *, partition: Callable[[Any], str] = lambda _: "all", check_row: Callable[[Any], None] | None = None) -> None:
        self._partition, self._check_row = partition, check_row
        self._lock = threading.Lock()
        self.files: dict[str, list[Any]] = {}

    @property
    def rows(self) -> list[Any]:
        """Every row of every file."""
        with self._lock:
            return [row for rows in self.files.values() for row in rows]

    def check(self) -> None:
        """Memory is always there."""

    def collect(self, records: Sequence[Record], rows: Sequence[Any] | None) -> MemoryChunk:
        """Raises RowError for the first row that `check_row` refuses."""
        items: list[tuple[str, int, int, Any]] = []
        for index, record in enumerate(records):
            made = record.value if rows is None else rows[index]
            for number, row in enumerate(made if isinstance(made, list) else [] if made is None else [made]):
                if self._check_row is not None:
                    try:
                        self._check_row(row)
                    except ValueError as error:
                        raise RowError(f"{record.where}: {error}", index=index) from error
                items.append((record.sequence_number, record.sub_sequence_number, number, row))
        return MemoryChunk(tuple(items))

    def build(self, chunks: Sequence[Chunk], span: Span, *, positions: bool = False) -> list[SinkObject]:
        """One file per partition; `positions` changes nothing here, since rows are kept as they are."""
        parts: dict[str, list[tuple[str, int, int, Any]]] = {}
        for chunk in chunks:
            assert isinstance(chunk, MemoryChunk)
            for item in chunk.items:
                parts.setdefault(self._partition(item[3]), []).append(item)
        return [
            SinkObject(
                f"{name}/{span.stream}-{span.shard_id}-{span.first}-{span.last}",
                len(items),
                blake2b(msgspec.json.encode([item[:3] for item in items]), digest_size=16).hexdigest(),
                msgspec.json.encode([item[3] for item in items]),
            )
            for name, items in sorted(parts.items())
        ]

    def put_if_absent(self, item: SinkObject) -> bool:
        """False if the key is taken."""
        with self._lock:
            if item.key in self.files:
                return False
            self.files[item.key] = msgspec.json.decode(item.data)
            return True

    def holds(self, item: SinkObject) -> bool:
        """Is the file under this key the very same?"""
        with self._lock:
            return msgspec.json.encode(self.files.get(item.key)) == item.data

    def put(self, item: SinkObject) -> None:
        """Over an older one."""
        with self._lock:
            self.files[item.key] = msgspec.json.decode(item.data)
