"""Which user records are inside a record that the Kinesis Producer Library has aggregated?

The layout (reference/formats.md section 1): four magic bytes, a protobuf message AggregatedRecord, the MD5 of the message.

    AggregatedRecord: 1 repeated string partition_key_table; 2 repeated string explicit_hash_key_table; 3 repeated Record
    Record:           1 required uint64 partition_key_index; 2 optional uint64 explicit_hash_key_index; 3 required bytes data

The function is total: any bytes at all are either an aggregate or they are not, and what is not quite one is plain data,
as the Kinesis Client Library has it. Unknown fields are skipped, as protobuf asks. Keys may come after the records that
use them: messages have no order of fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from typing import Final, NamedTuple

from streamlet.kpl import MAGIC

__all__ = ["MAGIC", "UserRecord", "deaggregate"]

_DIGEST_BYTES: Final = 16
_VARINT_BYTES_MAX: Final = 10
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


class UserRecord(NamedTuple):
    """One record as its producer put it. `explicit_hash_key` is decimal text. Its sub-sequence number is its place."""

    partition_key: str
    explicit_hash_key: str | None
    data: bytes


class _Malformed(Exception):
    """Not the message that it would have to be."""


def deaggregate(data: bytes) -> list[UserRecord] | None:
    """The user records in their order, or None where `data` is not an aggregate."""
    if not data.startswith(MAGIC) or len(data) <= len(MAGIC) + _DIGEST_BYTES:
        return None
    message = data[len(MAGIC) : -_DIGEST_BYTES]
    if md5(message, usedforsecurity=False).digest() != data[-_DIGEST_BYTES:]:
        return None
    try:
        return _records(message)
    except _Malformed:
        return None


def _records(message: bytes) -> list[UserRecord]:
    keys: list[str] = []
    hashes: list[str] = []
    found: list[tuple[int, int | None, bytes]] = []
    for number, value in _fields(message):
        # A known field of another wire type is an unknown field to protobuf, and skipped.
        if isinstance(value, bytes):
            if number == 1:
                keys.append(value.decode("utf-8", "replace"))
            elif number == 2:
                hashes.append(value.decode("utf-8", "replace"))
            elif number == 3:
                found.append(_record(value))
    records = []
    for key, explicit, data in found:
        if key >= len(keys) or (explicit is not None and explicit >= len(hashes)):
            raise _Malformed
        records.append(UserRecord(keys[key], None if explicit is None else hashes[explicit], data))
    return records


def _record(message: bytes) -> tuple[int, int | None, bytes]:
    key: int | None = None
    explicit: int | None = None
    data: bytes | None = None
    for number, value in _fields(message):
        if isinstance(value, bytes):
            data = value if number == 3 else data
        elif number == 1:
            key = value
        elif number == 2:
            explicit = value
    if key is None or data is None:
        raise _Malformed
    return key, explicit, data


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field that is a varint or has a length; others are stepped over."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise _Malformed
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == _BYTES:
            length, at = _varint(message, at)
            if length > end - at:
                raise _Malformed
            yield number, message[at : at + length]
            at += length
        elif kind in {_FIXED_64, _FIXED_32}:
            at += 8 if kind == _FIXED_64 else 4
            if at > end:
                raise _Malformed
        else:  # groups are not used by the library, and 6 and 7 are no wire types
            raise _Malformed


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An unsigned integer of up to 64 bits, low groups of seven bits first, and where it ends."""
    if at < len(message) and (value := message[at]) < 0x80:
        return value, at + 1  # nearly all are below 128
    value = 0
    for place, byte in enumerate(message[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise _Malformed
