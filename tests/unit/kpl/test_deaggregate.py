"""Aggregates of the producer library, built here by a writer of its own, and everything that only looks like one."""

from __future__ import annotations

from hashlib import md5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamlet.kpl.deaggregate import MAGIC, UserRecord, deaggregate

# Written by aws-kinesis-agg: (pk0, data0), (pk1, data1), (pk0, data2).
EXAMPLE = bytes.fromhex(
    "f3899ac20a03706b300a03706b311a0908001a0564617461301a0908011a0564617461311a0908001a05646174613226624d3494b832af0392a90d02c308ee"
)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def record(key: int | None, data: bytes | None, explicit: int | None = None) -> bytes:
    parts = [(1, key), (2, explicit), (3, data)]
    return field(3, b"".join(field(number, value) for number, value in parts if value is not None))


def sealed(*parts: bytes) -> bytes:
    message = b"".join(parts)
    return MAGIC + message + md5(message, usedforsecurity=False).digest()


def test_the_library_s_own_example() -> None:
    """Three records of two keys, in their order."""
    assert deaggregate(EXAMPLE) == [
        UserRecord("pk0", None, b"data0"),
        UserRecord("pk1", None, b"data1"),
        UserRecord("pk0", None, b"data2"),
    ]


@given(st.lists(st.tuples(st.text(max_size=300), st.none() | st.integers(0, 2**128 - 1).map(str), st.binary(max_size=300)), min_size=1))
def test_what_was_packed_comes_out(records: list[tuple[str, str | None, bytes]]) -> None:
    """Keys of any length and script, with hash keys and without, in order."""
    keys = list(dict.fromkeys(key for key, _, _ in records))
    hashes = list(dict.fromkeys(explicit for _, explicit, _ in records if explicit is not None))
    packed = sealed(
        *(field(1, key.encode("utf-8", "surrogatepass")) for key in keys),
        *(field(2, text.encode()) for text in hashes),
        *(record(keys.index(k), data, None if h is None else hashes.index(h)) for k, h, data in records),
    )
    assert deaggregate(packed) == [UserRecord(*entry) for entry in records]


def test_fields_come_in_any_order_and_unknown_ones_are_skipped() -> None:
    """Protobuf orders nothing; newer writers may add fields of any wire type; tags within a record are not for us."""
    inner = field(4, field(1, b"tag")) + field(3, b"data") + field(1, 0) + varint(9 << 3 | 1) + b"8 bytes!" + varint(9 << 3 | 5) + b"four"
    assert deaggregate(sealed(field(3, inner), field(77, 5), field(78, b"new"), field(1, b"key"))) == [UserRecord("key", None, b"data")]


def test_the_last_of_a_field_that_may_be_there_once_counts() -> None:
    """As protobuf merges."""
    inner = field(1, 7) + field(3, b"old") + field(1, 0) + field(3, b"new")
    assert deaggregate(sealed(field(1, b"key"), field(3, inner))) == [UserRecord("key", None, b"new")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain",
        MAGIC,
        MAGIC + b"\0" * 16,
        EXAMPLE[:-1],
        EXAMPLE[:-1] + bytes([EXAMPLE[-1] ^ 1]),
        b"\0" + EXAMPLE,
        EXAMPLE + b"\0",
        sealed(field(1, b"key"), record(1, b"data")),
        sealed(field(1, b"key"), record(0, b"data", 0)),
        sealed(field(1, b"key"), record(None, b"data")),
        sealed(field(1, b"key"), record(0, None)),
        sealed(field(1, b"key")[:-1]),
        sealed(varint(1 << 3 | 3)),
        sealed(b"\x00\x00"),
        sealed(b"\x08" + b"\xff" * 10),
        sealed(varint(1 << 3 | 1) + b"short"),
    ],
    ids=[
        *("empty", "plain", "magic alone", "no message", "cut", "check sum", "shifted", "longer", "no such key", "no such hash key"),
        *("no key", "no data", "length beyond the end", "group", "field 0", "endless varint", "fixed beyond the end"),
    ],
)
def test_what_is_not_quite_an_aggregate_is_plain_data(data: bytes) -> None:
    """Magic, check sum and message must all be right."""
    assert deaggregate(data) is None


def test_an_aggregate_of_nothing() -> None:
    """Keys without records: an aggregate, and empty."""
    assert deaggregate(sealed(field(1, b"key"))) == []


@given(st.binary(max_size=200))
@example(b"\x1a\x02\x08\x80")
def test_any_message_at_all_has_an_answer(message: bytes) -> None:
    """With a right check sum, whatever is inside."""
    found = deaggregate(sealed(message))
    assert found is None or all(isinstance(entry, UserRecord) for entry in found)
