"""The console's Avro decoder beside fastavro, and what it does not let itself be talked into."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker.console.avro import AvroError, read_container, read_value

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": ["null", "string"]},
        {"name": "total", "type": "double"},
        {"name": "weight", "type": "float"},
        {"name": "paid", "type": "boolean"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "SENT"]}},
        {"name": "before", "type": {"type": "array", "items": "State"}},
        {"name": "tags", "type": {"type": "map", "values": "int"}},
        {"name": "raw", "type": "bytes"},
        {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 3}},
        {"name": "next", "type": ["null", "shop.Order"]},
        {"name": "at", "type": {"type": "int", "logicalType": "date"}},
    ],
}


def order(**more: Any) -> dict[str, Any]:
    return {
        "id": -(2**40),
        "customer": "Ada Ω",
        "total": 9.5,
        "weight": 0.5,
        "paid": True,
        "state": "SENT",
        "before": ["NEW", "SENT"],
        "tags": {"a": 1, "b": -70000},
        "raw": b"\x00\xff",
        "code": b"abc",
        "next": None,
        "at": 20000,
        **more,
    }


def shown(value: Any) -> Any:
    """As the console has it: bytes as Latin-1 text, numbers that a browser would round as text."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    return value if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 2**53 else str(value)


def bare(value: Any, schema: Any = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_a_container_says_what_fastavro_wrote(codec: str) -> None:
    """All of Avro's types, recursion, several blocks, the codecs of the standard library."""
    out = io.BytesIO()
    orders = [order(id=n, next=order(id=n + 1)) for n in range(50)]
    fastavro.writer(out, fastavro.parse_schema(SCHEMA), orders, codec=codec, sync_interval=500)
    schema, values, more = read_container(out.getvalue())
    assert (values, more) == ([shown(entry) for entry in orders], False)
    assert schema["fields"][0]["name"] == "id"


@pytest.mark.parametrize(
    "framing", [b"", b"\xc3\x01" + b"\7" * 8, b"\0\0\0\0\7", b"\3\0" + b"\7" * 16], ids=["bare", "single object", "confluent", "glue"]
)
def test_a_bare_value_with_its_schema(framing: bytes) -> None:
    """With each of the headers that stand before values in streams, or none."""
    assert read_value(framing + bare(order()), json.dumps(SCHEMA)) == shown(order())


def test_a_compressed_glue_value() -> None:
    """Byte 1 says zlib."""
    assert read_value(b"\3\5" + b"\7" * 16 + zlib.compress(bare(order())), json.dumps(SCHEMA)) == shown(order())


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_any_numbers_and_texts(numbers: list[int], reals: dict[str, float]) -> None:
    """Beside fastavro."""
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "n", "type": {"type": "array", "items": "long"}},
            {"name": "r", "type": {"type": "map", "values": "double"}},
        ],
    }
    value = {"n": numbers, "r": reals}
    assert read_value(bare(value, schema), json.dumps(schema)) == shown(value)


def varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def container(schema: Any, block: bytes, count: int, codec: bytes = b"null") -> bytes:
    texts = [(b"avro.schema", json.dumps(schema).encode()), (b"avro.codec", codec)]
    meta = varint(2) + b"".join(varint(len(k)) + k + varint(len(v)) + v for k, v in texts) + b"\0"
    return b"Obj\x01" + meta + b"s" * 16 + varint(count) + varint(len(block)) + block + b"s" * 16


NULLS = {"type": "array", "items": "null"}


@pytest.mark.parametrize(
    ("data", "schema", "says"),
    [
        (varint(2**60) + b"\0", NULLS, "more than 20000 values"),
        (varint(-(2**60)) + varint(9) + b"\0", NULLS, "more than 20000 values"),
        (varint(2**60), {"type": "map", "values": "null"}, "end too early"),
        (b"\2" * 5000, {"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]}, "nested more than 64 deep"),
        (b"", {"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}, "nested more than 64 deep"),
        (varint(2**62) + b"x", "string", "end too early"),
        (varint(-5) + b"x", "bytes", "end too early"),
        (b"\xff" * 11, "long", "more than 64 bits"),
        (b"\x0a", {"type": "enum", "name": "E", "symbols": ["A"]}, "no branch 5"),
        (b"\x01", ["null", "int"], "no branch -1"),
        (b"x", "int", "bytes are left"),
        (b"", {"type": "fixed", "name": "F", "size": -1}, "end too early"),
        (b"", {"type": "record", "name": "R"}, "no proper fields"),
        (b"", {"type": "record", "fields": []}, "has no name"),
        (b"", "Unheard", "does not say what"),
        (b"", 7, "no type"),
        (b"", {"type": {"type": {"type": 7}}}, "no type"),
    ],
)
def test_bounds_of_a_value(data: bytes, schema: Any, says: str) -> None:
    """No count, depth or length is believed; what is wrong is said."""
    with pytest.raises(AvroError, match=says):
        read_value(data if says != "bytes are left" else b"\x02x", json.dumps(schema))


def test_a_container_of_more_values_than_are_decoded() -> None:
    """The first ones are shown, and that there are more."""
    _, values, more = read_container(container("null", b"", 2**60))
    assert more
    assert 0 < len(values) <= 20_000


def test_a_block_that_inflates_without_end() -> None:
    """It is cut off while it inflates, not afterwards."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(b"\0" * (64 << 20)) + squeeze.flush()
    packed = container("long", bomb, 1, b"deflate")
    tracemalloc.start()
    try:
        with pytest.raises(AvroError, match="inflates to more than 4 MiB"):
            read_container(packed)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_so_many_values_and_no_more() -> None:
    """Of one value; of a container's blocks together."""
    within, beyond = (varint(count) + b"\0" for count in (19_000, 20_001))
    assert len(read_value(within, json.dumps(NULLS))) == 19_000
    with pytest.raises(AvroError, match="more than 20000 values"):
        read_value(beyond, json.dumps(NULLS))
    block = container("long", b"\2" * 4_000, 4_000)
    head = len(block) - 4_000 - 16 - len(varint(4_000)) * 2
    _, values, more = read_container(block + block[head:] * 9)
    assert more
    assert 4_000 < len(values) <= 20_000


def test_blocks_that_tell_their_size() -> None:
    """A negative count is followed by the block's bytes, for readers that skip it."""
    items = varint(-2) + varint(2) + varint(7) + varint(8) + varint(1) + varint(9) + b"\0"
    assert read_value(items, json.dumps({"type": "array", "items": "int"})) == [7, 8, 9]


@pytest.mark.parametrize("schema", ["", "{", "[" * 100_000, '{"type":' * 500 + '"null"' + "}" * 500])
def test_a_schema_that_is_none(schema: str) -> None:
    """Said, not thrown."""
    with pytest.raises(AvroError, match="schema"):
        read_value(b"\0", schema)


def answered(read: Callable[[], Any]) -> bool:
    """Did it come to a value, or to a reason?"""
    try:
        read()
    except AvroError as error:
        return bool(str(error))
    return True


@given(st.binary(max_size=80))
def test_any_bytes_at_all(data: bytes) -> None:
    """A value, or a reason."""
    assert answered(lambda: read_value(data, json.dumps(SCHEMA)))
    assert answered(lambda: read_container(b"Obj\x01" + data))


WORDS = st.sampled_from(["type", "items", "values", "fields", "name", "symbols", "size", "namespace"]) | st.text(max_size=3)
TYPES = st.sampled_from(["record", "enum", "fixed", "array", "map", "null", "long", "string"])
SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | TYPES | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)


@given(SCHEMAS, st.binary(max_size=20))
def test_any_schema_at_all(schema: Any, data: bytes) -> None:
    """JSON that is no schema, or half of one."""
    assert answered(lambda: read_value(data, json.dumps(schema)))
