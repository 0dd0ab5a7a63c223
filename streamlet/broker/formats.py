"""How are bodies read and written? One format for each content type that the service speaks.

Operations speak in the terms of JSON (payloads are base64 text, timestamps are seconds), and the records are kept as
JSON text. CBOR is translated at the border (cbor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from streamlet.broker import cbor

__all__ = ["CBOR", "CBOR_TYPE", "JSON", "JSON_TYPE", "Format"]

JSON_TYPE: Final = "application/x-amz-json-1.1"
CBOR_TYPE: Final = "application/x-amz-cbor-1.1"


class Format(NamedTuple):
    """`decode` raises ValueError. `from_json` makes a body of one that an operation has written in JSON itself."""

    content_type: str
    decode: Callable[[bytes], Any]
    encode: Callable[[dict[str, Any]], bytes]
    from_json: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]
    typed: bool  # may an operation's own typed decode read the body?


def _as_it_is(pieces: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return pieces


JSON: Final = Format(JSON_TYPE, msgspec.json.decode, msgspec.json.encode, _as_it_is, typed=True)
CBOR: Final = Format(CBOR_TYPE, cbor.loads, cbor.dumps, cbor.from_json, typed=False)
