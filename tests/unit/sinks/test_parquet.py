"""The Parquet sink: rows on the right record, files that can be made again to the byte."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import io
import json
import subprocess
import sys
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Optional, TypedDict

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlet.core.rolling import Roll
from streamlet.errors import ConfigurationError, RowError
from streamlet.model.record import Record
from streamlet.ports import Sink, SinkObject, Span
from streamlet.sinks.objects import ObjectStore
from streamlet.sinks.parquet import ParquetSink
from streamlet.sinks.schema import schema_of, type_of_text

SHARD = "shardId-000000000003"


def records_of(payloads: Sequence[bytes], first: int = 1000) -> list[Record]:
    return [Record(data, "k", str(first + 3 * n), 0, 0.0, SHARD, "orders") for n, data in enumerate(payloads)]


def span_of(records: Sequence[Record]) -> Span:
    return Span("orders", SHARD, records[0].position, records[-1].position)


def sink_of(schema: Any, **options: Any) -> ParquetSink:
    return ParquetSink("memory://", schema=schema, **options)


def read(item: SinkObject) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(item.data)).to_pylist()
    return rows


def landed(sink: ParquetSink, payloads: Sequence[bytes], rows: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """What is in the one file that comes of it."""
    records = records_of(payloads)
    items = sink.build([sink.collect(records, rows)], span_of(records))
    return [row for item in items for row in read(item)]


def landed_rows(schema: Any, rows: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    return landed(sink_of(schema, **options), [b""] * len(rows), rows)


def refusal(schema: Any, rows: Sequence[Any], **options: Any) -> tuple[int, str]:
    sink: Sink = sink_of(schema, **options)
    with pytest.raises(RowError) as caught:
        sink.collect(records_of([b""] * len(rows)), rows)
    return caught.value.index, str(caught.value)


# ── building it ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schema": None}, "needs schema=.*not guessed"),
        ({"schema": {}}, "no columns"),
        ({"schema": {"a": "integer64"}}, "'integer64' is no type"),
        ({"schema": {"a": 5}}, "write it as text"),
        ({"schema": {"a": "list<int64"}}, "should be a '>'"),
        ({"schema": "a int64"}, "use a pyarrow.Schema"),
        ({"schema": {"a": pa.month_day_nano_interval()}}, "Parquet cannot hold"),
        ({"schema": {"a": pa.dictionary(pa.int32(), pa.string())}}, "makes dictionaries by itself"),
        ({"schema": {"_row_number": "int64"}}, "taken for the records' positions"),
        ({"partition_by": ["b"]}, "no column 'b'"),
        ({"partition_by": ["a"]}, "nothing would be left"),
        ({"schema": {"a": "int64", "f": "float64"}, "partition_by": ["f"]}, "use a string, integer, boolean or date32"),
        ({"schema": {"a": "int64", "b": "int64"}, "partition_by": ["a", "a"]}, "twice"),
        ({"compression": "zip"}, "zstd, snappy"),
        ({"extra": "ignore"}, "'error' or 'drop'"),
        ({"roll": 60}, "Roll"),
        ({"url": "out"}, "names no object store"),
    ],
)
def test_contradictions_are_refused_when_it_is_built(options: dict[str, Any], text: str) -> None:
    options = {"url": "memory://", "schema": {"a": "int64"}} | options
    with pytest.raises(ConfigurationError, match=text):
        ParquetSink(options.pop("url"), **options)


def test_it_is_a_value() -> None:
    """Frozen, comparable, and its repr keeps secrets."""

    def make() -> ParquetSink:
        return ParquetSink("s3://b/p", schema={"a": "int64"}, roll=Roll(rows_max=5), storage={"secret_access_key": "hidden"})

    assert make() == make()
    assert "hidden" not in repr(make())
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().url = "x"  # type: ignore[misc]


def test_what_it_needs_is_imported_when_it_is_built() -> None:
    program = """
import sys
import streamlet.sinks.parquet, streamlet.sinks.schema, streamlet.sinks.objects
assert not {"pyarrow", "obstore"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int64", pa.int64()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("timestamp[ms]", pa.timestamp("ms")),
        ("timestamp[ns, Europe/Berlin]", pa.timestamp("ns", tz="Europe/Berlin")),
        ("timestamp[us, tz=UTC]", pa.timestamp("us", tz="UTC")),
        ("decimal(18, 2)", pa.decimal128(18, 2)),
        (
            "list<struct<a: int32, b: map<string, float>>>",
            pa.list_(pa.struct([("a", pa.int32()), ("b", pa.map_(pa.string(), pa.float64()))])),
        ),
        ("time64[us]", pa.time64("us")),
    ],
)
def test_types_as_text(text: str, kind: pa.DataType) -> None:
    assert type_of_text(text) == kind


# ── schemas from types ───────────────────────────────────────────────────────────────────────────────────────────


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Place:
    city: str
    zip: str | None = None


@dataclasses.dataclass
class Order:
    id: int
    price: float
    paid: bool
    at: dt.datetime
    day: dt.date
    raw: bytes
    color: Color
    key: uuid.UUID
    place: Place
    tags: list[str]
    counts: dict[str, int]
    note: Optional[str] = None  # noqa: UP045  both spellings are people's


class Small(msgspec.Struct):
    id: int
    name: str = ""


class SmallDict(TypedDict):
    id: int
    name: str | None


class SmallModel(pydantic.BaseModel):
    id: int
    name: str = ""


def test_schema_of_a_dataclass() -> None:
    """What is Optional or has a default may be null; the rest must be there."""
    assert schema_of(Order) == pa.schema(
        [
            pa.field("id", pa.int64(), False),
            pa.field("price", pa.float64(), False),
            pa.field("paid", pa.bool_(), False),
            pa.field("at", pa.timestamp("us", tz="UTC"), False),
            pa.field("day", pa.date32(), False),
            pa.field("raw", pa.binary(), False),
            pa.field("color", pa.string(), False),
            pa.field("key", pa.string(), False),
            pa.field("place", pa.struct([pa.field("city", pa.string(), False), pa.field("zip", pa.string())]), False),
            pa.field("tags", pa.list_(pa.field("item", pa.string(), False)), False),
            pa.field("counts", pa.map_(pa.string(), pa.int64()), False),
            pa.field("note", pa.string()),
        ]
    )


def test_schema_of_the_others() -> None:
    expected = pa.schema([pa.field("id", pa.int64(), False), pa.field("name", pa.string())])
    assert schema_of(Small) == schema_of(SmallDict) == schema_of(SmallModel) == expected


class Money(msgspec.Struct):
    amount: Decimal


class Either(msgspec.Struct):
    value: int | str


class Tree(msgspec.Struct):
    children: list["Tree"]  # noqa: UP037


class Vague(msgspec.Struct):
    value: Any


@pytest.mark.parametrize(
    ("row_type", "text"),
    [(Money, r"decimal\(18,2\)"), (Either, "one type"), (Tree, "contains itself"), (Vague, "no column type"), (int, "dataclass")],
)
def test_types_that_say_too_little(row_type: type, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        schema_of(row_type)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_every_kind() -> None:
    """Dataclass, Struct, model and dict, also mixed; enums, UUIDs and nested objects as what they stand for."""
    order = Order(
        1, 2.5, True, dt.datetime(2026, 11, 24, 10, tzinfo=dt.timezone(dt.timedelta(hours=2))), dt.date(2026, 11, 24), b"\x00\xff",
        Color.RED, uuid.UUID(int=5), Place("Bonn"), ["a", "b"], {"x": 1},
    )  # fmt: skip
    expected = {
        "id": 1, "price": 2.5, "paid": True, "at": dt.datetime(2026, 11, 24, 8, tzinfo=dt.UTC), "day": dt.date(2026, 11, 24),
        "raw": b"\x00\xff", "color": "red", "key": str(uuid.UUID(int=5)), "place": {"city": "Bonn", "zip": None}, "tags": ["a", "b"],
        "counts": [("x", 1)], "note": None,
    }  # fmt: skip
    assert landed_rows(Order, [order]) == [expected]
    assert landed_rows(Order, [order, {**vars(order), "place": {"city": "Bonn"}}]) == [expected, expected]
    schema = {"id": "int64", "name": "string"}
    mixed = [Small(1, "a"), SmallModel(id=2, name="b"), {"id": 3}, SmallDict(id=4, name=None)]
    assert landed_rows(schema, mixed) == [{"id": n, "name": name} for n, name in ((1, "a"), (2, "b"), (3, None), (4, None))]


def test_a_record_has_a_row_several_or_none() -> None:
    schema = {"n": "int64"}
    assert landed_rows(schema, [{"n": 0}, None, [{"n": 1}, {"n": 2}], [], ({"n": 3},)]) == [{"n": n} for n in range(4)]


def test_no_rows_no_files() -> None:
    sink = sink_of({"n": "int64"})
    records = records_of([b"{}", b"{}"])
    chunk = sink.collect(records, [None, []])
    assert chunk.rows == 0
    assert sink.build([chunk], span_of(records)) == []
    assert sink.build([], span_of(records)) == []


def test_json_values_come_as_they_are_written() -> None:
    """A handler may return record.value: ISO text for times and dates, floats and text for decimals."""
    rows = [{"at": "2026-11-24T10:00:00.5+02:00", "day": "2026-11-24", "price": 1.1}, {"at": "2026-11-24 10:00:00", "price": "2.30"}]
    assert landed_rows({"at": "timestamp", "day": "date32", "price": "decimal(9,2)"}, rows) == [
        {"at": dt.datetime(2026, 11, 24, 8, 0, 0, 500_000, dt.UTC), "day": dt.date(2026, 11, 24), "price": Decimal("1.10")},
        {"at": dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC), "day": None, "price": Decimal("2.30")},
    ]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", 1.5), ("int64", 1.0), ("int64", True), ("int64", "1"), ("int64", 2**63), ("int8", 128), ("uint8", -1),
        ("float64", True), ("float64", "1"), ("float64", 2**60 + 1), ("float64", Decimal(1)), ("string", 5), ("string", b"x"),
        ("string", ["x"]), ("string", "\ud800"), ("bool", 1), ("bool", "true"), ("binary", "text"), ("timestamp", 5),
        ("timestamp", "yesterday"), ("timestamp", dt.date(2026, 1, 1)), ("timestamp[ms]", dt.datetime(2026, 1, 1, 0, 0, 0, 1, dt.UTC)),
        ("date32", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), ("date32", 5), ("date32", "2026-13-01"), ("decimal(9,2)", 1.255), ("decimal(9,2)", Decimal("1e9")),
        ("decimal(9,2)", True), ("decimal(9,2)", "x"), ("list<int64>", "12"), ("list<int64>", [1, "2"]), ("list<int64>", {"a": 1}),
        ("struct<a: int64>", {"a": "x"}), ("struct<a: int64>", {"b": 1}), ("struct<a: int64>", 5), ("map<string, int64>", {"a": "x"}),
        ("map<string, int64>", {1: 1}), ("map<string, int64>", [1]), ("list<list<int64>>", [[1], [2, 2.5]]), ("int64 not null", None),
    ],
)  # fmt: skip
def test_nothing_is_bent_to_fit(kind: str, value: Any) -> None:
    """pyarrow makes 1 of 1.5 and a day of a datetime; here it is the record's failure, with column, value and position."""
    index, text = refusal({"id": "int64", "c": kind}, [{"id": 1, "c": _good(kind)}] * 3 + [{"id": 1, "c": value}])
    assert index == 3
    assert text.startswith(f"record 1009 of orders {SHARD}: column 'c")


def _good(kind: str) -> Any:
    return 1 if kind == "int64 not null" else None


def test_fields_that_the_schema_does_not_have() -> None:
    """An error that names them, or left out, as `extra` says; in nested rows, too."""
    rows = [{"a": 1}, {"a": 1, "new": 2}]
    assert refusal({"a": "int64", "b": "int64"}, rows) == (
        1,
        f"record 1003 of orders {SHARD}: column 'new' is not in the schema (it has a, b); add it, or set extra='drop'",
    )
    assert landed_rows({"a": "int64", "b": "int64"}, rows, extra="drop") == [{"a": 1, "b": None}] * 2
    nested = [{"s": {"a": 1, "new": 2}}]
    assert "'s.new'" in refusal({"s": "struct<a: int64>"}, nested)[1]
    assert landed_rows({"s": "struct<a: int64>"}, nested, extra="drop") == [{"s": {"a": 1}}]
    assert refusal({"id": "int64"}, [Small(1)])[0] == 0
    assert landed_rows({"id": "int64"}, [Small(1)], extra="drop") == [{"id": 1}]


def test_required_fields() -> None:
    """At the top and inside: a null where the schema forbids it would make a file that readers choke on."""
    assert refusal(SmallDict, [{"id": 1}, {"name": "x"}])[0] == 1
    assert refusal(Order, [5])[1].endswith("5 (int) is no row; use a dict, dataclass, msgspec.Struct or pydantic model")
    inner = pa.schema([("l", pa.list_(pa.struct([pa.field("a", pa.int64(), False), ("b", pa.int64())])))])
    assert landed_rows(inner, [{"l": None}, {"l": []}, {"l": [{"a": 1}, None]}])
    assert refusal(inner, [{"l": None}, {"l": []}, {"l": [{"a": 1}]}, {"l": [{"a": 1}, {"b": 1}]}])[0] == 3
    struct = pa.schema([("s", pa.struct([pa.field("a", pa.int64(), False)]))])
    assert landed_rows(struct, [{"s": None}, {"s": {"a": 1}}]) == [{"s": None}, {"s": {"a": 1}}]
    assert refusal(struct, [{"s": None}, {"s": {"a": 1}}, {"s": {}}])[0] == 2


def test_the_first_record_is_blamed_whichever_column_is_looked_at_first() -> None:
    """The caller keeps the rows before it, so they must go through."""
    rows: list[Any] = [{"a": 1, "b": "x"} for _ in range(10)]
    rows[7] = {"a": "wrong", "b": "x"}
    rows[5] = [{"a": 1, "b": "x"}, {"a": 1, "b": 5}]
    rows[3] = None
    rows[9] = {"new": 1}
    assert refusal({"a": "int64", "b": "string"}, rows)[0] == 5
    assert sink_of({"a": "int64", "b": "string"}).collect(records_of([b""] * 5), rows[:5]).rows == 4


VALUES = st.sampled_from(
    [None, 1, 1.5, True, "x", "2026-11-24", b"x", [1], ["x"], {"a": 1}, {"a": "x"}, {"z": 1}, dt.date(2026, 1, 1), 2**70]
)
SCHEMA = {"i": "int64", "f": "float64", "s": "string not null", "d": "date32", "l": "list<int64>", "n": "struct<a: int64>"}
GOOD = {"i": 1, "f": 1.5, "s": "x", "d": "2026-11-24", "l": [1], "n": {"a": 1}}


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*SCHEMA, "new"]), VALUES, max_size=2).map(lambda change: GOOD | change), max_size=8))
def test_a_batch_is_its_rows_one_by_one(rows: list[dict[str, Any]]) -> None:
    """Together they give what each gives alone, or the blame is on the first that fails alone."""
    sink = sink_of(SCHEMA)
    alone, bad = [], None
    for index, row in enumerate(rows):
        try:
            alone += landed(sink, [b""], [row])
        except RowError:
            bad = index
            break
    if bad is None:
        assert rows == [] or landed(sink, [b""] * len(rows), rows) == alone
    else:
        assert refusal(SCHEMA, rows)[0] == bad


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_payloads_are_the_rows() -> None:
    """Without a handler: JSON with line breaks, spaces around, text beyond ASCII, dates, missing fields."""
    payloads = [
        b'{"id": 1, "day": "2026-11-24", "at": "2026-11-24T10:00:00Z", "s": {"d": "2026-01-01"}}',
        b' {"id":\n2,\r\n"name": "a\\nb"}\n',
        '{"id": 3, "name": "grün"}'.encode(),
        b"{}",
    ]
    schema = {"id": "int64", "name": "string", "day": "date32", "at": "timestamp", "s": "struct<d: date32>"}
    empty = dict.fromkeys(schema)
    assert landed(sink_of(schema), payloads) == [
        empty
        | {"id": 1, "day": dt.date(2026, 11, 24), "at": dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC), "s": {"d": dt.date(2026, 1, 1)}},
        empty | {"id": 2, "name": "a\nb"},
        empty | {"id": 3, "name": "grün"},
        empty,
    ]


def test_types_that_the_bulk_reader_lacks() -> None:
    """Base64 for binary, objects for maps: the same rows, only slower."""
    sink = sink_of({"b": "binary", "m": "map<string, int64>"})
    assert landed(sink, [b'{"b": "AP8=", "m": {"x": 1}}', b"{}"]) == [{"b": b"\x00\xff", "m": [("x", 1)]}, {"b": None, "m": None}]
    for bad, text in ((b'{"b": "!"}', "column 'b'"), (b"[]", "is a list"), (b"{", "not JSON")):
        with pytest.raises(RowError, match=text) as caught:
            sink.collect(records_of([b"{}", bad]), None)
        assert caught.value.index == 1


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "the payload is empty"),
        (b"null", "the payload is null, and a row is an object"),
        (b"[1]", "the payload is a list"),
        (b"garbage", "not JSON"),
        (b'{"id": 1', "not JSON"),
        (b'{"id": 1}{"id": 2}', "not JSON"),
        (b'{"id": 1}\n{"id": 2}', "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b'{"name": "}', "not JSON"),
        (b'{"id": "1"}', "column 'id': \"1\" \\(a string\\) does not fit int64"),
        (b'{"id": 1.5}', "column 'id': 1.5 \\(a number\\) does not fit int64"),
        (b'{"name": 5}', "column 'name'"),
        (b'{"day": "2026-13-01"}', "column 'day'"),
        (b'{"new": 1}', "column 'new' is not in the schema \\(it has id, name, day, must\\)"),
        (b'{"must": null}', "column 'must' is required"),
        (b'{"id": 1, "id": 2, "must": 1}', "specified twice"),
    ],
)
def test_a_bad_payload_is_found_among_good_ones(payload: bytes, text: str) -> None:
    """Named by its record, wherever it stands; also where it would swallow or add a row for its neighbours."""
    sink = sink_of({"id": "int64", "name": "string", "day": "date32", "must": "int64 not null"})
    good = b'{"id": 1, "must": 1}'
    for index in (0, 4, 8):
        payloads = [good] * 9
        payloads[index] = payload
        with pytest.raises(RowError, match=text) as caught:
            sink.collect(records_of(payloads), None)
        assert caught.value.index == index
        assert str(caught.value).startswith(f"record {1000 + 3 * index} of orders {SHARD}: ")


def test_a_missing_row_does_not_make_up_for_a_double_one() -> None:
    """Nothing and two objects are two rows for two records, and both on the wrong one."""
    sink = sink_of({"id": "int64"})
    with pytest.raises(RowError) as caught:
        sink.collect(records_of([b'{"id": 1}', b"", b'{"id": 2}\n{"id": 3}']), None)
    assert caught.value.index == 1
    with pytest.raises(RowError) as caught:
        sink.collect(records_of([b'{"id": 1}', b'{"id": 2}\n{"id": 3}', b""]), None)
    assert caught.value.index == 1


PIECES = st.sampled_from(
    [b"", b"\n", b"null", b"[]", b"{}", b'{"i":1}', b'{"i":"x"}', b'{"i":1.5}', b'{"x":1}', b'{"x":"a"}', b'{"x":{"i":1}}', b'{"s":"a\\u00e9"}',
     '{"s":"é"}'.encode(), b'{"s":"\xe9"}', b'{"i":1}{"i":2}', b'{"i":1}\n{"i":2}', b'{"s":"', b'"}', b'{"s":"}', b'{"i":', b"1}", b'{"n":{"a":1}}',
     b'{"n":{"a":', b"}}", b'{"n":{"a":1,"b":2}}', b'{"n":{"d":"2026-01-01"}}', b'{"n":{"d":"x"}}', b' {"i":3} ', b'{"s":"a"},', b'{"l":[1,null]}',
     b'{"l":[{}]}', b"\xef\xbb\xbf{}"]
)  # fmt: skip


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(PIECES, max_size=7), st.sampled_from(["error", "drop"]))
def test_payloads_together_are_payloads_one_by_one(payloads: list[bytes], extra: str) -> None:
    """The bulk reader knows nothing of records; whatever it meets, each row is its own record's, or the first bad one is blamed."""
    sink = sink_of({"i": "int64", "s": "string", "l": "list<int64>", "n": "struct<a: int64, d: date32>"}, extra=extra)
    alone: list[Any] = []
    bad = None
    for index, payload in enumerate(payloads):
        try:
            alone += landed(sink, [payload])
        except RowError:
            bad = index
            break
    if bad is None:
        assert len(alone) == len(payloads)
        assert payloads == [] or landed(sink, payloads) == alone
    else:
        with pytest.raises(RowError) as caught:
            sink.collect(records_of(payloads), None)
        assert caught.value.index == bad


GOOD_VALUES = {
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "s": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "b": st.none() | st.booleans(),
    "d": st.none() | st.dates().map(str),
    "t": st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)).map(lambda at: at.isoformat() + "Z"),  # noqa: DTZ001
    "l": st.none() | st.lists(st.none() | st.integers(0, 5), max_size=3),
    "n": st.none() | st.fixed_dictionaries({}, optional={"a": st.none() | st.integers(0, 5), "d": st.none() | st.dates().map(str)}),
    "ln": st.none() | st.lists(st.none() | st.fixed_dictionaries({}, optional={"x": st.none() | st.text('ab\n\\"')}), max_size=3),
}


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=GOOD_VALUES), max_size=6), st.booleans())
def test_both_ways_in_give_the_same_rows(rows: list[dict[str, Any]], pretty: bool) -> None:
    """A payload parsed in bulk, and the same JSON as a handler's row: two implementations, one table."""
    schema = {"i": "int64", "f": "float64", "s": "string", "b": "bool", "d": "date32", "t": "timestamp", "l": "list<int64>"}
    sink: Any = sink_of({**schema, "n": "struct<a: int64, d: date32>", "ln": "list<struct<x: string>>"})
    payloads = [json.dumps(row, indent=1 if pretty else None, ensure_ascii=pretty).encode() for row in rows]
    records = records_of(payloads)
    bulk, by_row = sink.collect(records, None).table, sink.collect(records, rows).table
    bulk.validate(full=True)
    by_row.validate(full=True)
    assert bulk.equals(by_row)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_partitions() -> None:
    """Hive's layout: columns in the path and not in the file, each file in the order of the records, keys in order."""
    sink = sink_of({"n": "int64", "day": "date32", "kind": "string"}, partition_by=["day", "kind"])
    rows: list[Any] = [{"n": n, "day": f"2026-11-0{1 + n % 2}", "kind": ("a/b c", None, "é")[n % 3]} for n in range(60)]
    records = records_of([b""] * 60)
    chunks = [sink.collect(records[i : i + 7], rows[i : i + 7]) for i in range(0, 60, 7)]
    items = sink.build(chunks, span_of(records))
    assert [item.key.rpartition("/")[0] for item in items] == [
        f"day=2026-11-0{day}/kind={kind}" for day in (1, 2) for kind in ("%C3%A9", "__HIVE_DEFAULT_PARTITION__", "a%2Fb%20c")
    ]
    assert {item.key.rpartition("/")[2] for item in items} == {f"orders-{SHARD}-1000-1177.parquet"}
    assert [[row["n"] for row in read(item)] for item in items][2] == [n for n in range(60) if n % 2 == 0 and n % 3 == 0]
    assert sum(item.rows for item in items) == 60
    assert pq.read_schema(io.BytesIO(items[0].data)).names == ["n"]


def test_no_two_values_share_a_partition() -> None:
    """The second file under one key would be taken for the first, and its rows lost."""
    values: list[Any] = [
        None,
        "",
        "__HIVE_DEFAULT_PARTITION__",
        "%5F_HIVE_DEFAULT_PARTITION__",
        "a",
        "a/",
        "a%2F",
        " a",
        "A",
        ".",
        "..",
        "a=b",
    ]
    sink = sink_of({"n": "int64", "p": "string"}, partition_by=["p"])
    records = records_of([b""] * len(values))
    items = sink.build([sink.collect(records, [{"n": 1, "p": value} for value in values])], span_of(records))
    assert len({item.key for item in items}) == len(values)


def test_partition_values_as_readers_see_them(tmp_path: Path) -> None:
    """Arrow's own reader gets back what went in."""
    sink = ParquetSink(f"file://{tmp_path}", schema={"n": "int64", "kind": "string", "hour": "int32"}, partition_by=["kind", "hour"])
    rows = [{"n": 1, "kind": "a/b c", "hour": 7}, {"n": 2, "kind": None, "hour": 8}, {"n": 3, "kind": "100%", "hour": 9}]
    records = records_of([b""] * 3)
    sink.check()
    for item in sink.build([sink.collect(records, rows)], span_of(records)):
        assert sink.put_if_absent(item)
        assert not sink.put_if_absent(item)
        sink.put(item)
    found = sorted(pq.read_table(tmp_path, partitioning="hive", use_threads=False).to_pylist(), key=lambda row: row["n"])
    assert [(row["n"], row["kind"], row["hour"]) for row in found] == [(1, "a/b c", 7), (2, None, 8), (3, "100%", 9)]


def test_a_value_that_no_path_holds_is_its_records_failure() -> None:
    """Found while collecting: once the range is prepared, it could only block the shard."""
    assert refusal({"n": "int64", "p": "string"}, [{"p": "ok"}, {"p": "é" * 60}], partition_by="p")[0] == 1


def test_the_same_again(tmp_path: Path) -> None:
    """Same records, rows and range: same keys, counts, digests and bytes, however they were cut into batches."""
    schema = {"n": "int64", "p": "string"}
    payloads = [orjson.dumps({"n": n, "p": "abc"[n % 3]}) for n in range(50)]
    records = records_of(payloads)

    def made(size: int, rows: Sequence[Any] | None) -> list[SinkObject]:
        sink = sink_of(schema, partition_by="p")
        starts = range(0, 50, size)
        chunks = [sink.collect(records[i : i + size], None if rows is None else rows[i : i + size]) for i in starts]
        return sink.build(chunks, span_of(records), positions=True)

    first = made(50, None)
    assert made(50, None) == first
    assert made(7, None) == first
    assert made(1, [json.loads(payload) for payload in payloads]) == first


def test_the_digest_knows_which_rows_a_file_holds() -> None:
    """Another record, another number of rows of a record, another order of the partitions: another digest. Other values: the same."""
    sink = sink_of({"n": "int64", "p": "string"}, partition_by="p")
    records = records_of([b""] * 4)

    def digests(rows: Sequence[Any]) -> list[str]:
        return [item.digest for item in sink.build([sink.collect(records, rows)], span_of(records))]

    a, b = {"n": 1, "p": "a"}, {"n": 1, "p": "b"}
    assert digests([a, a, b, b]) == digests([a | {"n": 9}, a, b, b])
    seen = [digests(rows) for rows in ([a, a, b, b], [a, b, a, b], [a, [a, a], b, b], [[a, a], a, b, b], [a, None, b, b], [b, b, a, a])]
    assert len({tuple(found) for found in seen}) == len(seen)
    # The same record with its rows the other way round: each partition holds another row of it.
    assert digests([[a, b], a, b, b]) != digests([[b, a], a, b, b])


def test_positions_as_columns() -> None:
    """Where a range may be replayed differently, each row says where it comes from; sub-sequence numbers are kept apart."""
    sink = sink_of({"n": "int64"})
    records = [Record(b'{"n": 1}', "k", "7", 0), Record(b'{"n": 2}', "k", "7", 1), Record(b'{"n": 3}', "k", "8", 0)]
    span = Span("orders", SHARD, records[0].position, records[1].position)
    (item,) = sink.build([sink.collect(records[:2], [[{"n": 1}, {"n": 2}], {"n": 3}])], span, positions=True)
    assert read(item) == [
        {"n": 1, "_sequence_number": "7", "_sub_sequence_number": 0},
        {"n": 2, "_sequence_number": "7", "_sub_sequence_number": 0},
        {"n": 3, "_sequence_number": "7", "_sub_sequence_number": 1},
    ]
    assert item.key == f"orders-{SHARD}-7-7.1.parquet"
    assert pq.read_schema(io.BytesIO(item.data)).field("_sub_sequence_number").type == pa.int32()
    (plain,) = sink.build([sink.collect(records[:2], None)], span)
    assert read(plain) == [{"n": 1}, {"n": 2}]
    assert plain.digest != item.digest


def test_the_footer_names_the_range() -> None:
    sink = sink_of({"n": "int64 not null"}, compression="snappy")
    records = records_of([b'{"n": 1}', b'{"n": 2}'])
    (item,) = sink.build([sink.collect(records, None)], span_of(records))
    file = pq.ParquetFile(io.BytesIO(item.data))
    found = {key: value for key, value in file.metadata.metadata.items() if key.startswith(b"streamlet.")}
    assert found == {
        b"streamlet.stream": b"orders",
        b"streamlet.shard": SHARD.encode(),
        b"streamlet.first": b"1000",
        b"streamlet.last": b"1003",
    }
    assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
    assert not file.schema_arrow.field("n").nullable


def test_very_long_names_are_cut_and_stay_unique(tmp_path: Path) -> None:
    """128 letters of stream and two 129-digit numbers are more than a file system takes."""
    sink = ParquetSink(f"file://{tmp_path}", schema={"n": "int64"})
    keys = set()
    for first in (10**128, 10**128 + 1):
        records = [Record(b'{"n": 1}', "k", str(first + n)) for n in range(3)]
        (item,) = sink.build([sink.collect(records, None)], Span("s" * 128, SHARD, records[0].position, records[-1].position))
        assert sink.put_if_absent(item)
        keys.add(item.key)
    assert len(keys) == 2


def test_chunks_tell_their_size() -> None:
    """The engine bounds its memory by it."""
    sink = sink_of({"s": "string"})
    chunk = sink.collect(records_of([b'{"s": "' + b"x" * 1000 + b'"}'] * 100), None)
    assert chunk.rows == 100
    assert 100_000 < chunk.size_bytes < 130_000


def test_a_store_of_ones_own() -> None:
    """The simulator puts its own behind the sink."""
    store = ObjectStore("memory://")
    sink = ParquetSink("memory://elsewhere", schema={"n": "int64"}, store=store)
    records = records_of([b'{"n": 1}'])
    (item,) = sink.build([sink.collect(records, None)], span_of(records))
    sink.put(item)
    assert store.list() == [item.key]
