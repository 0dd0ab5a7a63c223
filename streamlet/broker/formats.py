"""How are bodies read and written? One format for each content type that the service speaks.

Today the CBOR one can only say errors, which is what the service answers in it for an empty body of an unknown
content type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from streamlet.broker.errors import ApiError

__all__ = ["CBOR", "CBOR_TYPE", "JSON", "JSON_TYPE", "Format"]

JSON_TYPE: Final = "application/x-amz-json-1.1"
CBOR_TYPE: Final = "application/x-amz-cbor-1.1"


class Format(NamedTuple):
    content_type: str
    decode: Callable[[bytes], Any]
    encode: Callable[[dict[str, Any]], bytes]
    typed: bool  # may an operation's own typed decode read the body?


def _cbor_texts(value: dict[str, Any]) -> bytes:
    """A CBOR map of short texts: all that an error body is made of."""
    assert len(value) < 24, "the count must fit into the map's first byte"
    pieces = [bytes([0xA0 + len(value)])]
    for item in (text.encode() for pair in value.items() for text in pair):
        # Major type 3 with the length in the byte itself, or in the two that follow.
        pieces += [bytes([0x60 + len(item)]) if len(item) < 24 else b"\x79" + min(len(item), 0xFFFF).to_bytes(2, "big"), item[:0xFFFF]]
    return b"".join(pieces)


def _cbor_unread(_body: bytes) -> Any:
    raise ApiError("SerializationException", f"This broker does not read {CBOR_TYPE} yet: set AWS_CBOR_DISABLE=true.", key="Message")


JSON: Final = Format(JSON_TYPE, msgspec.json.decode, msgspec.json.encode, typed=True)
CBOR: Final = Format(CBOR_TYPE, _cbor_unread, _cbor_texts, typed=False)
