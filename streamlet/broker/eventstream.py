"""How does one message of an event stream look on the wire?

    total length (4) | header length (4) | CRC32 of those 8 bytes (4) | headers | payload | CRC32 of all before it (4)

Numbers are big-endian. A header is a name (length 1), a type and a value; the service only sends strings (type 7,
length 2), and only those are read and written here. Source: reference/kinesis-api.md section 8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from zlib import crc32

__all__ = ["EVENT_STREAM_TYPE", "FrameError", "Message", "decode", "encode", "event", "exception", "headers"]

EVENT_STREAM_TYPE: Final = "application/vnd.amazon.eventstream"

_PRELUDE: Final = struct.Struct(">II")
_STRING: Final = 7
_OVERHEAD: Final = 16
_MESSAGE_BYTES_MAX: Final = 24 * 1024 * 1024


class FrameError(ValueError):
    """The bytes are not a message."""


class Message(NamedTuple):
    """One message. All headers are strings."""

    headers: dict[str, str]
    payload: bytes


def headers(values: Mapping[str, str]) -> bytes:
    """A message's headers, encoded. Those of a kind of event never change: encode them once."""
    pieces = []
    for name, value in values.items():
        key, text = name.encode(), value.encode()
        pieces.append(bytes([len(key)]) + key + bytes([_STRING]) + len(text).to_bytes(2, "big") + text)
    return b"".join(pieces)


def event(kind: str, content_type: str) -> bytes:
    """The headers of an event."""
    return headers({":message-type": "event", ":event-type": kind, ":content-type": content_type})


def exception(kind: str, content_type: str) -> bytes:
    """The headers of an exception that the model knows."""
    return headers({":message-type": "exception", ":exception-type": kind, ":content-type": content_type})


def encode(head: bytes, payload: Iterable[bytes]) -> bytes:
    """A message with encoded headers and a payload in pieces, which are copied once."""
    pieces = tuple(payload)
    prelude = _PRELUDE.pack(_OVERHEAD + len(head) + sum(map(len, pieces)), len(head))
    body = b"".join((prelude, crc32(prelude).to_bytes(4, "big"), head, *pieces))
    return body + crc32(body).to_bytes(4, "big")


def decode(data: bytes) -> tuple[Message, int] | None:
    """The first message and how many bytes it took; None while it is not complete. Raises FrameError."""
    if len(data) < 12:
        return None
    total, head_bytes = _PRELUDE.unpack_from(data)
    if crc32(data[:8]) != int.from_bytes(data[8:12], "big"):
        raise FrameError("the check sum of a message's lengths is wrong")
    if not _OVERHEAD + head_bytes <= total <= _MESSAGE_BYTES_MAX:
        raise FrameError(f"a message of {total} bytes with {head_bytes} bytes of headers")
    if len(data) < total:
        return None
    if crc32(data[: total - 4]) != int.from_bytes(data[total - 4 : total], "big"):
        raise FrameError("the check sum of a message is wrong")
    return Message(_read_headers(data[12 : 12 + head_bytes]), data[12 + head_bytes : total - 4]), total


def _read_headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name = data[at + 1 : name_end].decode()
            kind, size = data[name_end], int.from_bytes(data[name_end + 1 : name_end + 3], "big")
            at = name_end + 3 + size
            if kind != _STRING or name in found or at > len(data):
                raise FrameError(f"the header {name!r} is of type {kind}, comes twice, or is cut off")
            found[name] = data[at - size : at].decode()
    except (IndexError, UnicodeDecodeError):
        raise FrameError("headers are cut off") from None
    return found
