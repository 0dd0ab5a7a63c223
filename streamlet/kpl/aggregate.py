"""How are user records packed into one record of a stream? The reverse of `deaggregate`, where the layout stands."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from typing import Final

from streamlet.kpl import MAGIC

__all__ = ["aggregate"]

_VARINT: Final = 0
_BYTES: Final = 2


def aggregate(records: Sequence[tuple[str, bytes]]) -> bytes:
    """One payload of these (partition key, payload), in their order. Each key is written once."""
    keys = {key: index for index, key in enumerate(dict.fromkeys(key for key, _ in records))}
    parts = [_field(1, key.encode()) for key in keys]
    for key, data in records:
        parts.append(_field(3, _number(1 << 3 | _VARINT) + _number(keys[key]) + _field(3, data)))
    message = b"".join(parts)
    return MAGIC + message + md5(message, usedforsecurity=False).digest()


def _field(number: int, data: bytes) -> bytes:
    return _number(number << 3 | _BYTES) + _number(len(data)) + data


def _number(value: int) -> bytes:
    """A varint: low groups of seven bits first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
