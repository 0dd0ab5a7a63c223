"""One record, as a handler sees it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from streamlet.errors import DecodeError
from streamlet.model.position import Position

__all__ = ["Record"]

_UNTOUCHED: Any = msgspec.UNSET


class Record(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One record of a stream.

    `data` is the payload (bytes, after base64 and, for a KPL aggregate, after de-aggregation); `arrived_at_s` the
    service's approximate arrival time in epoch seconds; `sequence_number` the service's decimal text; a plain record
    has `sub_sequence_number` 0. `value` is the payload decoded as the handler's `decode=` says, at the first touch.

    Built once per record on the hot path: hence positional, without cycle collection (a record never refers to
    itself) and with the decoder as a field instead of a closure per record.
    """

    data: bytes
    partition_key: str
    sequence_number: str
    sub_sequence_number: int = 0
    arrived_at_s: float = 0.0
    shard_id: str = ""
    stream: str = ""
    decoder: Callable[[bytes], Any] = msgspec.json.decode
    _value: Any = _UNTOUCHED

    @property
    def value(self) -> Any:
        """The decoded payload. Raises DecodeError, which names the record, when the bytes are not what was declared."""
        value = self._value
        if value is _UNTOUCHED:
            try:
                value = self.decoder(self.data)
            except Exception as error:
                raise DecodeError(f"{self.where}: {type(error).__name__}: {error}") from error
            force_setattr(self, "_value", value)
        return value

    def forget_value(self) -> None:
        """Decode anew at the next touch: for whoever hands the record out again."""
        force_setattr(self, "_value", _UNTOUCHED)

    @property
    def arrived_at(self) -> datetime:
        """When the service took the record in: UTC, millisecond precision, no promise of order."""
        return datetime.fromtimestamp(self.arrived_at_s, UTC)

    @property
    def position(self) -> Position:
        """(sequence number, sub-sequence number), comparable."""
        return Position(int(self.sequence_number), self.sub_sequence_number)

    @property
    def where(self) -> str:
        """Stream, shard and position in words, for messages."""
        sub = f"/{self.sub_sequence_number}" if self.sub_sequence_number else ""
        return f"record {self.sequence_number}{sub} of {self.stream or '?'} {self.shard_id or '?'}"
