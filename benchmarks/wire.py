"""Which bytes go to a Kinesis, and what do the answers hold? Plain HTTP/1.1 and JSON; nothing of streamlet's own client is used.

Requests are built before the clock starts. Answers are looked at for what must be in them, not parsed: the load generator
shares the machine with the server.
"""

from __future__ import annotations

import base64
import json
import random
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = [
    "CALL_RECORDS",
    "HEADERS",
    "RECORD_BYTES",
    "BadAnswer",
    "Frame",
    "FrameReader",
    "check_put",
    "check_puts",
    "entries",
    "payload",
    "put_request",
    "puts_request",
    "read_records",
    "refusal",
    "request",
]

RECORD_BYTES: Final = 1_024
CALL_RECORDS: Final = 500
_SEED: Final = 20131202

# The signature is not a real one: the brokers take any, as long as its form is right.
HEADERS: Final = {
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Date": "20260101T000000Z",
    "Authorization": (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/kinesis/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" + "0" * 64
    ),
}


class BadAnswer(Exception):
    """An answer that is not what the service would give: the figure would mean nothing."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def request(operation: str, members: dict[str, Any] | bytes) -> bytes:
    """A whole HTTP request."""
    body = members if isinstance(members, bytes) else json.dumps(members, separators=(",", ":")).encode()
    head = {"Host": "127.0.0.1", "X-Amz-Target": f"Kinesis_20131202.{operation}", **HEADERS, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST / HTTP/1.1\r\n{lines}\r\n".encode() + body


def payload(number: int) -> str:
    """1,024 bytes that do not compress, as base64. The same ones for the same number."""
    return base64.b64encode(random.Random(_SEED + number).randbytes(RECORD_BYTES)).decode()


def entries(call: int) -> list[dict[str, str]]:
    """The records of one PutRecords: 500 of 1 KB, each with a partition key of its own."""
    return [{"Data": payload(call * CALL_RECORDS + n), "PartitionKey": f"customer-{call}-{n}"} for n in range(CALL_RECORDS)]


def put_request(stream: str, number: int) -> bytes:
    """PutRecord of 1 KB."""
    return request("PutRecord", {"StreamName": stream, "Data": payload(number), "PartitionKey": f"customer-{number}"})


def puts_request(stream: str, call: int) -> bytes:
    """PutRecords of 500 x 1 KB."""
    return request("PutRecords", {"StreamName": stream, "Records": entries(call)})


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_FAILED: Final = re.compile(rb'"FailedRecordCount"\s*:\s*(\d+)')
_NEXT: Final = re.compile(rb'"NextShardIterator"\s*:\s*(null|"[^"]*")')


def refusal(status: int, body: bytes) -> BadAnswer:
    """What an answer other than 200 says, in short."""
    text = body[:200].decode("utf-8", "replace")
    return BadAnswer(f"HTTP {status}: {'a page of HTML' if text.lstrip().startswith('<') else text}")


def _check_status(status: int, body: bytes) -> None:
    if status != 200:
        raise refusal(status, body)


def check_put(status: int, body: bytes) -> int:
    """One record was taken. Raises BadAnswer."""
    _check_status(status, body)
    if b'"SequenceNumber"' not in body:
        raise BadAnswer(f"PutRecord answered without a sequence number: {body[:200]!r}")
    return 1


def check_puts(status: int, body: bytes) -> int:
    """All 500 were taken. Raises BadAnswer."""
    _check_status(status, body)
    failed = _FAILED.search(body)
    if failed is not None and int(failed[1]):
        raise BadAnswer(f"PutRecords: {int(failed[1])} of {CALL_RECORDS} records failed")
    taken = body.count(b'"SequenceNumber"')
    if taken != CALL_RECORDS:
        raise BadAnswer(f"PutRecords: {CALL_RECORDS} records were sent and {taken} have a sequence number")
    return CALL_RECORDS


def read_records(status: int, body: bytes) -> tuple[int, str]:
    """How many records a GetRecords answer holds, and the next iterator ("" at the end of a shard). Raises BadAnswer."""
    _check_status(status, body)
    # The iterator stands before the records or after them, according to the server; the records are most of the answer.
    at = body.rfind(b'"NextShardIterator"', max(0, len(body) - 4_096))
    if at < 0:
        at = body.find(b'"NextShardIterator"')
    found = _NEXT.match(body, at) if at >= 0 else None
    # moto's iterators hold escaped line ends.
    return body.count(b'"SequenceNumber"'), (json.loads(found[1]) or "") if found is not None else ""


class Frame(NamedTuple):
    """One message of an event stream."""

    headers: dict[str, str]
    payload: bytes


class FrameReader:
    """Cuts a stream of bytes into event-stream messages; sums are checked. Raises BadAnswer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The messages that are now complete."""
        self._buffer += data
        while len(self._buffer) >= 12:
            total, header_bytes, prelude_sum = struct.unpack_from(">III", self._buffer)
            if zlib.crc32(self._buffer[:8]) != prelude_sum:
                raise BadAnswer("an event-stream message whose prelude has a wrong sum")
            if len(self._buffer) < total:
                return
            message = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(message[:-4]) != struct.unpack(">I", message[-4:])[0]:
                raise BadAnswer("an event-stream message with a wrong sum")
            yield Frame(_headers(message[12 : 12 + header_bytes]), message[12 + header_bytes : -4])


def _headers(block: bytes) -> dict[str, str]:
    found = {}
    at = 0
    while at < len(block):
        name_end = at + 1 + block[at]
        name, kind = block[at + 1 : name_end].decode(), block[name_end]
        if kind != 7:
            raise BadAnswer(f"event-stream header {name} is of type {kind}; those of Kinesis are strings, type 7")
        (size,) = struct.unpack_from(">H", block, name_end + 1)
        found[name] = block[name_end + 3 : name_end + 3 + size].decode()
        at = name_end + 3 + size
    return found
