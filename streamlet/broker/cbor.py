"""How are CBOR bodies (RFC 8949) read and written, in the dialect of the AWS SDKs?

What is read becomes what the JSON reader would have made of it: byte strings are base64 text, timestamps are seconds.
What is written is that way round again. Which members are timestamps or payloads is known by name: the names of the
model leave no doubt, and a test holds them against it.

- A timestamp is tag 1 around *milliseconds* as an integer, where the RFC has seconds. A float under tag 1 is seconds.
- The service answers with maps and lists of indefinite length.
- Input is bounded in depth and in items before anything is made of it, so that a small body cannot become a large object.
"""

from __future__ import annotations

import math
import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

__all__ = ["BLOBS", "TIMESTAMPS", "dumps", "from_json", "loads"]

BLOBS: Final = frozenset({"Data"})
TIMESTAMPS: Final = frozenset(
    {
        "ApproximateArrivalTimestamp",
        "ConsumerCreationTimestamp",
        "EarliestAllowedEndAt",
        "EndedAt",
        "StartedAt",
        "StreamCreationTimestamp",
    }
)

_DEPTH_MAX: Final = 32
_ITEMS_MAX: Final = 100_000  # a full PutRecords has 4,003
_BIG_BYTES_MAX: Final = 64  # of an integer in a byte string
_BREAK: Final = object()
_LENGTHS: Final = {24: ">B", 25: ">H", 26: ">I", 27: ">Q"}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}  # 23 is "undefined"
_json: Final = msgspec.json.Decoder()


def loads(body: bytes) -> Any:
    """The one value that a body holds. Raises ValueError for anything else."""
    reader = _Reader(body)
    value = reader.value(0)
    if reader.at != len(body) or value is _BREAK:
        raise ValueError("not one CBOR value")
    return value


class _Reader:
    """`at` is the next byte to read."""

    def __init__(self, body: bytes) -> None:
        self.at = 0
        self._body = body
        self._items = 0

    def value(self, depth: int) -> Any:
        """The next value, or the sign that ends a list without a length."""
        self._items += 1
        if depth > _DEPTH_MAX or self._items > _ITEMS_MAX:
            raise ValueError("too deep or too many items")
        body, at = self._body, self.at
        if at >= len(body):
            raise ValueError("cut off")
        self.at = at + 1
        major, info = body[at] >> 5, body[at] & 31
        if major == 7:
            return self._simple(info)
        if info < 24:
            length: int | None = info
        elif info == 24 and at + 1 < len(body):  # short lengths without a call: most there are
            length, self.at = body[at + 1], at + 2
        else:
            length = self._length(info)
        if length is not None and 2 <= major <= 3:
            start = self.at
            stop = self.at = start + length
            if stop > len(body):
                raise ValueError("cut off")
            return body[start:stop].decode() if major == 3 else b2a_base64(body[start:stop], newline=False).decode()
        if major == 3:
            return self._text(length)
        if major == 2:
            return b2a_base64(self._bytes(length, 2), newline=False).decode()
        if major == 5:
            return self._map(length, depth)
        if major == 4:
            return list(self._several(length, depth))
        if length is None:
            raise ValueError("an integer or a tag without a value")
        if major == 6:
            return self._tagged(length, depth)
        return length if major == 0 else -1 - length

    def _take(self, count: int) -> bytes:
        stop = self.at + count
        if stop > len(self._body):
            raise ValueError("cut off")
        taken = self._body[self.at : stop]
        self.at = stop
        return taken

    def _length(self, info: int) -> int | None:
        if info == 31:
            return None
        form = _LENGTHS.get(info)
        if form is None:
            raise ValueError("a length that is not defined")
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _bytes(self, length: int | None, major: int) -> bytes:
        if length is not None:
            return self._take(length)
        pieces = []
        while (head := self._take(1)[0]) != 0xFF:
            self._items += 1
            piece = self._length(head & 31) if head & 31 >= 24 else head & 31
            if head >> 5 != major or piece is None or self._items > _ITEMS_MAX:
                raise ValueError("a piece of another kind")
            pieces.append(self._take(piece))
        return b"".join(pieces)

    def _text(self, length: int | None) -> str:
        return self._bytes(length, 3).decode()

    def _several(self, length: int | None, depth: int) -> Iterable[Any]:
        if length is not None and length > len(self._body) - self.at:
            raise ValueError("cut off")
        left = -1 if length is None else length
        while left:
            value = self.value(depth + 1)
            if value is _BREAK:
                if length is None:
                    return
                raise ValueError("an end where none is due")
            left -= 1
            yield value

    def _map(self, length: int | None, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        left = -1 if length is None else length
        while left:
            key = self.value(depth + 1)
            if key is _BREAK and length is None:
                break
            value = self.value(depth + 1)
            if not isinstance(key, str) or value is _BREAK:
                raise ValueError("not a pair of a text and a value")
            found[key] = value
            left -= 1
        return found

    def _tagged(self, tag: int, depth: int) -> Any:
        if tag in {2, 3}:
            raw = self._take(1)[0]
            length = raw & 31 if raw & 31 < 24 else self._length(raw & 31)
            if raw >> 5 != 2 or length is None or length > _BIG_BYTES_MAX:
                raise ValueError("not a big integer")
            number = int.from_bytes(self._take(length), "big")
            return number if tag == 2 else -1 - number
        value = self.value(depth + 1)
        if value is _BREAK:
            raise ValueError("a tag without a value")
        if tag == 1:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError("a timestamp that is no number")
            return value / 1000 if isinstance(value, int) and abs(value) < 2**63 else value
        return value  # any other tag says what a value means, which the member says here

    def _simple(self, info: int) -> Any:
        if info in _FLOATS:
            number: float = struct.unpack(_FLOATS[info], self._take(1 << (info - 24)))[0]
            if math.isnan(number):
                raise ValueError("not a number")
            return number
        if info == 31:
            return _BREAK
        if info not in _SIMPLE:
            raise ValueError("a simple value that is not defined")
        return _SIMPLE[info]


# --- writing ----------------------------------------------------------------------------------------------------------


def dumps(value: dict[str, Any]) -> bytes:
    """An answer's body."""
    pieces: list[bytes] = []
    _write(value, pieces.append)
    return b"".join(pieces)


def from_json(pieces: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same answer, of which only JSON is at hand."""
    return (dumps(_json.decode(b"".join(pieces))),)


@lru_cache(maxsize=256)
def _name(key: str) -> bytes:
    """A member's name: there are few."""
    text = key.encode()
    return _head(0x60, len(text)) + text


def _write(value: Any, add: Callable[[bytes], None]) -> None:
    if isinstance(value, str):
        text = value.encode()
        add(_head(0x60, len(text)) + text)
    elif isinstance(value, dict):
        add(b"\xbf")
        for key, entry in value.items():
            add(_name(key))
            if key in BLOBS:
                raw = a2b_base64(entry)
                add(_head(0x40, len(raw)))
                add(raw)
            elif key in TIMESTAMPS:
                add(b"\xc1")
                _write(round(entry * 1000), add)
            else:
                _write(entry, add)
        add(b"\xff")
    elif isinstance(value, list | tuple):
        add(b"\x9f")
        for entry in value:
            _write(entry, add)
        add(b"\xff")
    elif isinstance(value, bool):
        add(b"\xf5" if value else b"\xf4")
    else:
        assert isinstance(value, int), f"answers hold no {type(value).__name__} but in timestamps"
        add(_head(0x00, value) if value >= 0 else _head(0x20, -1 - value))


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major | number,))
    if number < 0x100:
        return bytes((major | 24, number))
    if number < 0x10000:
        return bytes((major | 25,)) + number.to_bytes(2, "big")
    if number < 0x100000000:
        return bytes((major | 26,)) + number.to_bytes(4, "big")
    return bytes((major | 27,)) + number.to_bytes(8, "big")
