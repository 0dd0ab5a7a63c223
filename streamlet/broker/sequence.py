"""How is a sequence number built, and what does one say when it is read back?

A number of version 2 is 186 bits, here as hex digits from the left (reference/kinesis-api.md section 5):

    2 | creation second of the shard (9) | shard index, low nibble (1) | counter (16) | 00 (2) | put second (9) | shard index (8) | 2

So within a shard numbers order by the counter. This broker counts 1, 2, 3 … per shard, which makes the counter the
record's place in the shard: a sequence number is found without a search. Versions 0 and 1 are only recognised.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CLOSING_COUNTER", "Sequence", "base", "make", "parse"]

CLOSING_COUNTER: Final = 0x7FFF_FFFF_FFFF_FFFF
COUNTER_SHIFT: Final = 80
SECOND_SHIFT: Final = 36
_CREATION_SHIFT: Final = 148
_CREATION_S_MAX: Final = 16_025_175_000
_VERSION_0_END: Final = 2**129
_VERSION_0_LEAD: Final = 2**124


class Sequence(NamedTuple):
    """What a number encodes. `second` is the put time; of version 0 it is not known and 0."""

    version: int
    shard_index: int
    creation_s: int
    counter: int
    second: int


def base(creation_s: int, shard_index: int) -> int:
    """All of a shard's numbers without counter and put second: add those, each shifted to its place."""
    return (2 << 184) | (creation_s << _CREATION_SHIFT) | ((shard_index & 0xF) << 144) | (shard_index << 4) | 2


def make(creation_s: int, shard_index: int, counter: int, second: int) -> int:
    """The number of version 2 with these fields."""
    return base(creation_s, shard_index) + (counter << COUNTER_SHIFT) + (second << SECOND_SHIFT)


def parse(number: int) -> Sequence | None:
    """The fields of a number, or None where the service calls it invalid (reference/errors.md section 7.4)."""
    if number < _VERSION_0_END:
        return _parse_0(number)
    if not 2**185 < number < 3 * 2**184:
        return None
    version = number & 0xF
    creation_s = (number >> _CREATION_SHIFT) & 0xF_FFFF_FFFF
    if version == 1:
        # Layout 1: 2, creation (9), nibble, 2, put second (9), random (14), counter (2), shard (8), 1.
        return Sequence(1, _signed(number >> 4), creation_s, (number >> 36) & 0xFF, (number >> 100) & 0xF_FFFF_FFFF)
    if version != 2 or creation_s >= _CREATION_S_MAX:
        return None
    counter = (number >> COUNTER_SHIFT) & 0xFFFF_FFFF_FFFF_FFFF
    if counter > CLOSING_COUNTER:
        return None
    return Sequence(2, _signed(number >> 4), creation_s, counter, (number >> SECOND_SHIFT) & 0xF_FFFF_FFFF)


def _parse_0(number: int) -> Sequence | None:
    if number < _VERSION_0_LEAD:
        number += _VERSION_0_LEAD
    # Layout 0: 1, creation (9), 2, random (16), shard (4): 32 hex digits, of which the first is 1.
    creation_s = (number >> 88) & 0xF_FFFF_FFFF
    return None if creation_s >= _CREATION_S_MAX else Sequence(0, number & 0xFFFF, creation_s, 0, 0)


def _signed(field: int) -> int:
    """A shard field whose first digit is above 7 is a negative index."""
    field &= 0xFFFF_FFFF
    return field - 2**32 if field >= 2**31 else field
