"""Where in a shard are we?

A position is (sequence number, sub-sequence number). The sub-sequence number tells apart the user records of one KPL
aggregate and is 0 for a plain record. Sequence numbers are compared as integers, never as text.

The sentinels sort where the KCL sorts them: AT_TIMESTAMP < TRIM_HORIZON < LATEST < every number < SHARD_END
(reference: amazon-kinesis-client, ExtendedSequenceNumber), so "only forward" is one comparison.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["AT_TIMESTAMP", "LATEST", "SHARD_END", "TRIM_HORIZON", "Position"]

# A sequence number has at most 129 digits (Kinesis API model), so this is above all of them.
_END: Final = 10**130
_NAMES: Final = {-3: "AT_TIMESTAMP", -2: "TRIM_HORIZON", -1: "LATEST", _END: "SHARD_END"}
_VALUES: Final = {name: value for value, name in _NAMES.items()}


class Position(msgspec.Struct, frozen=True, order=True, gc=False):
    """A place in a shard: `sequence` as an integer, `sub` inside an aggregate."""

    sequence: int
    sub: int = 0

    @property
    def is_sentinel(self) -> bool:
        """True for TRIM_HORIZON, LATEST, AT_TIMESTAMP and SHARD_END, which name no record."""
        return self.sequence in _NAMES

    @property
    def text(self) -> str:
        """The sequence number as decimal text, or the sentinel's name: what a lease row stores."""
        return _NAMES.get(self.sequence) or str(self.sequence)

    @classmethod
    def parse(cls, text: str, sub: int = 0) -> Position:
        """The reverse of `text`. Raises ValueError for anything but a sentinel or an unsigned decimal number."""
        if text in _VALUES:
            return cls(_VALUES[text], 0)
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"{text!r} is neither a sequence number nor one of {', '.join(_VALUES)}")
        return cls(int(text), sub)

    def __str__(self) -> str:
        return f"{self.text}/{self.sub}" if self.sub else self.text


AT_TIMESTAMP: Final = Position(-3)
TRIM_HORIZON: Final = Position(-2)
LATEST: Final = Position(-1)
SHARD_END: Final = Position(_END)
