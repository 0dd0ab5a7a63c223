"""What is inside the opaque texts that a client hands back: shard iterators and listing tokens?

A shard iterator is standard base64 of 8 bytes version and 16·k bytes of content, between 152 and 280 bytes in all, as
on AWS. Here the content is plain, with a check sum: a broken one must be told from a good one, but there is no secret
to keep. `serial` makes every token a new text, as on AWS, even where two stand at the same place.
"""

from __future__ import annotations

import base64
import binascii
import struct
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument
from streamlet.broker.limits import ITERATOR_LIFE_MS

__all__ = ["IteratorToken", "PageToken", "open_iterator", "open_page", "seal_iterator", "seal_page"]

_VERSION: Final = (1).to_bytes(8, "big")
_FIELDS: Final = struct.Struct(">QQQQIB")  # created, identity, serial, position, shard index, length of what follows: stream/account/region
_SUM_BYTES: Final = 8
_BYTES_MIN: Final = 152
_BYTES_MAX: Final = 280


class IteratorToken(NamedTuple):
    """`position` is the counter of the next record to read; 0 stands for the trim horizon at the time of the read.

    Account and region are the stream's: both empty for a shared one.
    """

    created_ms: int
    identity: int
    serial: int
    position: int
    shard_index: int
    stream: str
    account: str
    region: str


def seal_iterator(token: IteratorToken) -> str:
    """The text that a client gets."""
    name = f"{token.stream}/{token.account}/{token.region}".encode()
    body = _FIELDS.pack(*token[:5], len(name)) + name
    # Padding up to 152 bytes, then in steps of 16; the check sum comes last.
    size = len(_VERSION) + len(body) + _SUM_BYTES
    total = max(_BYTES_MIN, size + (-(size - len(_VERSION)) % 16))
    body = _VERSION + body.ljust(total - len(_VERSION) - _SUM_BYTES, b"\0")
    return base64.b64encode(body + _sum(body)).decode()


def open_iterator(text: str) -> IteratorToken:
    """What a client hands back. Raises InvalidArgumentException `Invalid ShardIterator.` for anything not sealed here."""
    if len(text) > 1 and text[0] == text[-1] == '"':  # accepted by AWS: seen from shells that quote once too often
        text = text[1:-1]
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    canonical = base64.b64encode(raw).decode() == text
    if not canonical or not _BYTES_MIN <= len(raw) <= _BYTES_MAX or raw[:8] != _VERSION or _sum(raw[:-_SUM_BYTES]) != raw[-_SUM_BYTES:]:
        raise invalid_argument("Invalid ShardIterator.")
    created_ms, identity, serial, position, shard_index, length = _FIELDS.unpack_from(raw, 8)
    start = 8 + _FIELDS.size
    stream, account, region = raw[start : start + length].decode().split("/")
    return IteratorToken(created_ms, identity, serial, position, shard_index, stream, account, region)


def _sum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SUM_BYTES).digest()


class PageToken(msgspec.Struct, frozen=True, array_like=True):
    """Where a listing goes on: after the entry `after`, under the same conditions as its first page."""

    kind: str
    created_ms: int
    after: str
    stream: str = ""
    account: str = ""
    region: str = ""
    identity: int = 0
    filter_type: str = ""
    filter_value: str = ""


def seal_page(token: PageToken) -> str:
    """The text that a client gets."""
    body = msgspec.json.encode(token)
    return base64.urlsafe_b64encode(_sum(body) + body).decode()


def open_page(text: str, kind: str, now_ms: int) -> PageToken:
    """What a client hands back. The wording of both refusals is ours: the service's is not known."""
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii"))
        if _sum(raw[_SUM_BYTES:]) != raw[:_SUM_BYTES]:
            raise ValueError("foreign token")
        token = msgspec.json.decode(raw[_SUM_BYTES:], type=PageToken)
    except (binascii.Error, ValueError):
        raise invalid_argument("Invalid NextToken.") from None
    if token.kind != kind:
        raise invalid_argument("Invalid NextToken.")
    if now_ms - token.created_ms > ITERATOR_LIFE_MS:
        raise ApiError("ExpiredNextTokenException", "The pagination token passed to the operation has expired.")
    return token
