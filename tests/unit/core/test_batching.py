"""When a batch closes."""

from __future__ import annotations

import json
from base64 import b64encode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core import batching
from streamlet.core.batching import Batcher, event_bytes
from streamlet.destinations.document import event_record
from streamlet.model.record import Record
from streamlet.runtimes.esm.host import EVENT_BYTES_MAX


def record(n: int, size: int = 10) -> Record:
    return Record(b"x" * size, "key", str(n))


def numbers(batch: list[Record] | None) -> list[int] | None:
    return None if batch is None else [int(r.sequence_number) for r in batch]


def test_without_a_window_a_batch_is_whatever_is_there() -> None:
    batcher = Batcher(3)
    assert batcher.next_batch(0) is None
    batcher.add([record(n) for n in range(4)])
    assert [numbers(batcher.next_batch(0)) for _ in range(3)] == [[0, 1, 2], [3], None]
    assert batcher.wake_at_s() is None


def test_where_nothing_is_admitted_the_window_opens_when_it_is_asked_for_again() -> None:
    """What is to come first is an invocation, and a window begins when that has ended."""
    batcher = Batcher(3, batching_window_s=10)
    batcher.add([record(0)])
    assert batcher.next_batch(100) is None
    assert batcher.flush(lambda records: 0) is None
    assert batcher.wake_at_s() is None
    assert batcher.next_batch(108) is None
    assert batcher.wake_at_s() == 118


def test_a_window_waits_for_its_end_or_for_enough_records() -> None:
    batcher = Batcher(3, batching_window_s=10)
    batcher.add([record(0)])
    assert batcher.next_batch(100) is None
    assert batcher.wake_at_s() == 110
    batcher.add([record(1)])
    assert batcher.next_batch(109.9) is None
    assert numbers(batcher.next_batch(110)) == [0, 1]
    batcher.add([record(n) for n in range(2, 6)])
    assert numbers(batcher.next_batch(120)) == [2, 3, 4]
    # The rest waits for a window of its own, which begins when the batch before is done with: at the next question.
    assert batcher.next_batch(131) is None
    assert batcher.wake_at_s() == 141
    assert batcher.next_batch(140.9) is None
    assert numbers(batcher.flush()) == [5]
    assert batcher.flush() is None


def test_bytes_close_a_batch_and_a_giant_is_alone() -> None:
    bound = 2 * event_bytes(record(0, 100))
    batcher = Batcher(100, 1000, payload_bytes_max=bound)
    batcher.add([record(0, 100), record(1, 100), record(2, 100), record(3, 10_000), record(4, 1)])
    assert [numbers(batcher.next_batch(0)) for _ in range(3)] == [[0, 1], [2], [3]]


def test_the_byte_count_is_on_the_safe_side_of_a_real_event() -> None:
    """The example event of the Lambda developer guide, with long ids."""
    r = Record(b"\xff" * 1000, "k" * 40, "9" * 56, 0, 1545084650.987)
    event = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": r.partition_key,
            "sequenceNumber": r.sequence_number,
            "data": b64encode(r.data).decode(),
            "approximateArrivalTimestamp": r.arrived_at_s,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": "shardId-000000000006:" + r.sequence_number,
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
        "awsRegion": "us-east-2",
        "eventSourceARN": "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream",
    }
    real = len(json.dumps(event, separators=(",", ":")))
    assert real <= event_bytes(r) <= real + 150


@given(st.lists(st.lists(st.integers(0, 400), max_size=20), max_size=10), st.integers(1, 7), st.integers(0, 3))
def test_nothing_is_lost_doubled_or_reordered(adds: list[list[int]], batch_size: int, window_s: int) -> None:
    batcher, out, n, now_s = Batcher(batch_size, window_s, payload_bytes_max=3000), [], 0, 0.0
    for sizes in adds:
        now_s += 1
        batcher.add([record(n + i, size) for i, size in enumerate(sizes)])
        n += len(sizes)
        while (batch := batcher.next_batch(now_s)) is not None:
            assert 1 <= len(batch) <= batch_size
            assert len(batch) == 1 or sum(map(event_bytes, batch)) <= 3000
            out += batch
    while (batch := batcher.flush()) is not None:
        out += batch
    assert numbers(out) == list(range(n))
    assert len(batcher) == 0


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256))
def test_the_key_is_counted_as_json_in_utf_8(key: str) -> None:
    r"""A key may be JSON itself, or full of control characters, which take six bytes each."""
    assert event_bytes(Record(b"", key, "1")) == 640 - 2 + len(orjson.dumps(key))


_LONG = "arn:aws-us-gov:kinesis:us-gov-west-1:123456789012:stream/" + "s" * 128


@pytest.mark.parametrize("key", ["k", "k" * 256, "ключ" * 64, "\U0001f600" * 256, '{"a":1}' * 36, "\x01" * 256])
@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
def test_no_event_of_a_full_batch_is_above_what_an_invocation_takes(key: str, size: int) -> None:
    """The largest batches there are: of records with the longest names, and of any key."""
    one = Record(b"\xff" * size, key, "9" * 56, 0, 1545084650.987, "shardId-000000000000")
    batcher = Batcher(10_000)
    batcher.add([one] * 10_000)
    batch = batcher.next_batch(0)
    assert batch is not None
    entry = orjson.dumps(event_record(one, _LONG, one.shard_id, region="us-gov-west-1", account_id="123456789012"))
    assert len(b'{"Records":[]}') + len(batch) * (len(entry) + 1) <= EVENT_BYTES_MAX
    assert len(batch) == 10_000 or (len(batch) + 1) * event_bytes(one) > 6_000_000


def test_sizes_in_figures() -> None:
    assert [event_bytes(Record(b"x" * n, "key", "1")) for n in (0, 1, 3, 4)] == [643, 647, 647, 651]
    assert batching.PAYLOAD_BYTES_MAX == 6_000_000


def test_exactly_the_byte_limit_is_full_and_fits() -> None:
    batcher = Batcher(100, 1000, payload_bytes_max=2 * event_bytes(record(0)))
    batcher.add([record(0)])
    assert batcher.next_batch(0) is None
    batcher.add([record(1)])
    assert numbers(batcher.next_batch(0)) == [0, 1]


def test_what_is_buffered_is_told() -> None:
    batcher = Batcher(2, 60)
    assert (len(batcher), batcher.buffered_bytes) == (0, 0)
    batcher.add([record(n, n) for n in range(5)])
    batcher.next_batch(0)
    assert (len(batcher), batcher.buffered_bytes) == (3, sum(event_bytes(record(n, n)) for n in (2, 3, 4)))
    while batcher.flush() is not None:
        pass
    assert (len(batcher), batcher.buffered_bytes) == (0, 0)


def test_leftovers_of_a_slow_invocation_get_a_whole_window() -> None:
    """The window is 10 s and the invocation takes 60 s. The next window starts when the invocation completes; it is not over by then."""
    batcher = Batcher(2, batching_window_s=10)
    batcher.add([record(n) for n in range(3)])
    assert numbers(batcher.next_batch(0)) == [0, 1]
    assert batcher.next_batch(60) is None
    assert batcher.wake_at_s() == 70
    assert numbers(batcher.next_batch(70)) == [2]


@pytest.mark.parametrize("left_over", [[], [7]])
def test_what_comes_during_an_invocation_opens_no_window(left_over: list[int]) -> None:
    """A record comes in the fifth second of an invocation that takes 60 s: the window of 10 s begins when that has ended."""
    batcher = Batcher(3, batching_window_s=10)
    batcher.add([record(n) for n in [0, 1, 2, *left_over]])
    assert numbers(batcher.next_batch(0)) == [0, 1, 2]
    batcher.add([record(8)])
    assert batcher.wake_at_s() is None, "the invocation runs"
    assert batcher.next_batch(60) is None
    assert batcher.wake_at_s() == 70
    assert numbers(batcher.next_batch(70)) == [*left_over, 8]


def test_an_empty_read_opens_no_window() -> None:
    batcher = Batcher(2, batching_window_s=10)
    batcher.add([])
    assert batcher.next_batch(0) is None
    assert batcher.wake_at_s() is None
    assert batcher.next_batch(100) is None


def test_a_record_is_sized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 records in batches of 7: work per record does not grow with the buffer."""
    sized = 0

    def counted(r: Record) -> int:
        nonlocal sized
        sized += 1
        return event_bytes(r)

    monkeypatch.setattr(batching, "event_bytes", counted)
    batcher = Batcher(7)
    batcher.add([record(n) for n in range(10_000)])
    handed_out = 0
    while (batch := batcher.next_batch(0)) is not None:
        handed_out += len(batch)
    assert handed_out == sized == 10_000


class _Plain:
    """What a batcher should do, one record at a time."""

    def __init__(self, size: int, window_s: int, bytes_max: int) -> None:
        self.size, self.window_s, self.bytes_max = size, window_s, bytes_max
        self.waiting: list[Record] = []
        self.opens_s: int | None = None
        self.asked_s = 0

    def add(self, records: list[Record]) -> None:
        self.waiting += records

    def next_batch(self, now_s: int) -> list[Record] | None:
        if not self.waiting:
            return None
        if self.opens_s is None:
            self.opens_s = now_s
        over = sum(map(event_bytes, self.waiting)) >= self.bytes_max
        if len(self.waiting) < self.size and not over and now_s - self.opens_s < self.window_s:
            return None
        batch = [self.waiting.pop(0)]
        while self.waiting and len(batch) < self.size and sum(map(event_bytes, [*batch, self.waiting[0]])) <= self.bytes_max:
            batch.append(self.waiting.pop(0))
        self.opens_s = None
        return batch


@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 2000), max_size=8)), max_size=15),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(650, 4000),
)
def test_against_a_plain_one(turns: list[tuple[int, list[int]]], size: int, window_s: int, bytes_max: int) -> None:
    batcher, plain = Batcher(size, window_s, bytes_max), _Plain(size, window_s, bytes_max)
    n = now_s = 0
    for wait_s, sizes in turns:
        now_s += wait_s
        records = [record(n + i, length) for i, length in enumerate(sizes)]
        n += len(records)
        batcher.add(records)
        plain.add(records)
        for _ in range(3):
            # The invocation takes a second, and the next question follows at once.
            batch = batcher.next_batch(now_s)
            assert batch == plain.next_batch(now_s)
            if batch is None:
                break
            now_s += 1
        assert len(batcher) == len(plain.waiting)
        assert batcher.buffered_bytes == sum(map(event_bytes, plain.waiting))
        assert batcher.wake_at_s() == (None if plain.opens_s is None else plain.opens_s + window_s)


def test_what_is_not_admitted_waits_and_joins_what_comes() -> None:
    batcher = Batcher(3, 10.0)
    batcher.add([record(n) for n in range(5)])
    assert batcher.next_batch(0.0, lambda records: 0) is None
    assert len(batcher) == 5
    assert numbers(batcher.next_batch(0.0, lambda records: len(records) - 1)) == [0, 1]
    assert numbers(batcher.next_batch(1.0, lambda records: len(records))) == [2, 3, 4], "not the third alone"
    assert batcher.flush(lambda records: 0) is None
