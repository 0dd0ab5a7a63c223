"""`decode=`: one function from payload to value, chosen once; errors say what is wrong with the bytes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import subprocess
import sys
from typing import Any, NewType, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from streamlet.codecs.json import decoder_for
from streamlet.errors import ConfigurationError, DecodeError
from streamlet.model.record import Record


@dataclasses.dataclass
class Line:
    sku: str
    count: int = 1


@dataclasses.dataclass
class Order:
    id: int
    lines: list[Line]
    parent: Order | None = None


class Event(msgspec.Struct):
    at: dt.datetime
    raw: bytes = b""


Lines = NewType("Lines", list[Line])


class Row(TypedDict):
    id: int
    note: NotRequired[str]


class Model(pydantic.BaseModel):
    id: int


class Opaque:
    pass


@dataclasses.dataclass
class Holder:
    inner: list[Opaque]


@pytest.mark.parametrize(
    ("decode", "data", "value"),
    [
        (None, b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (bytes, b"\xff\x00", b"\xff\x00"),
        (str, "grün".encode(), "grün"),
        (Order, b'{"id": 1, "lines": [{"sku": "x"}], "new": true}', Order(1, [Line("x")])),
        (Order, b'{"id": 1, "lines": [], "parent": {"id": 2, "lines": []}}', Order(1, [], Order(2, []))),
        (Event, b'{"at": "2026-11-24T10:00:00Z", "raw": "AQI="}', Event(dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC), b"\x01\x02")),
        (Row, b'{"id": 1}', {"id": 1}),
        (list[Line], b'[{"sku": "x", "count": 2}]', [Line("x", 2)]),
        (Line | None, b"null", None),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (Model, b'{"id": "5"}', Model(id=5)),
        (len, b"four", 4),
        (msgspec.msgpack.decode, msgspec.msgpack.encode([1]), [1]),
        (Lines, b'[{"sku": "a"}]', [Line("a")]),
    ],
)
def test_values(decode: Any, data: bytes, value: Any) -> None:
    assert decoder_for(decode)(data) == value


@pytest.mark.parametrize("decode", [5, "json", Opaque, Holder, list[Opaque], Opaque(), [dict]])
def test_what_is_no_decoder_is_found_at_registration(decode: Any) -> None:
    """Not at the first record."""
    with pytest.raises(ConfigurationError, match="decode="):
        decoder_for(decode)


@pytest.mark.parametrize(
    ("decode", "data", "text"),
    [
        (None, b"{", "JSONDecodeError"),
        (str, b"\xff", "utf-8"),
        (Order, b'{"id": "1", "lines": []}', r"Expected `int`, got `str` - at `\$.id`"),
        (Row, b"{}", "missing required field `id`"),
        (Model, b'{"id": "x"}', "id"),
    ],
)
def test_errors_name_the_record_and_the_field(decode: Any, data: bytes, text: str) -> None:
    record = Record(data, "k", "495903", 0, 0.0, "shardId-000000000001", "orders", decoder_for(decode))
    with pytest.raises(DecodeError, match=text) as caught:
        _ = record.value
    assert "record 495903 of orders shardId-000000000001" in str(caught.value)


def test_pydantic_is_imported_by_those_who_use_it() -> None:
    program = """
import sys, dataclasses
from streamlet.codecs.json import decoder_for
@dataclasses.dataclass
class Line: sku: str
decoder_for(Line)(b'{"sku": "x"}')
assert not {"pydantic", "pyarrow", "obstore"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
