"""The bytes that the producer library would write, and that `deaggregate` takes apart again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlet.kpl.aggregate import aggregate
from streamlet.kpl.deaggregate import UserRecord, deaggregate
from tests.unit.kpl.test_deaggregate import EXAMPLE


def test_the_library_s_own_example() -> None:
    assert aggregate([("pk0", b"data0"), ("pk1", b"data1"), ("pk0", b"data2")]) == EXAMPLE


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.binary(max_size=300)), min_size=1))
def test_what_was_packed_comes_out(records: list[tuple[str, bytes]]) -> None:
    """Keys and payloads of any length, also above the 127 bytes whose length takes one byte."""
    assert deaggregate(aggregate(records)) == [UserRecord(key, None, data) for key, data in records]


def test_more_keys_than_one_byte_can_count() -> None:
    records = [(f"k{n}", str(n).encode()) for n in range(20_000)]
    assert deaggregate(aggregate(records)) == [UserRecord(key, None, data) for key, data in records]
