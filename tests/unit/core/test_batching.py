"""When a batch closes."""

from __future__ import annotations

import json
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.batching import Batcher, event_bytes
from streamlet.model.record import Record


def record(n: int, size: int = 10) -> Record:
    return Record(b"x" * size, "key", str(n))


def numbers(batch: list[Record] | None) -> list[int] | None:
    return None if batch is None else [int(r.sequence_number) for r in batch]


def test_without_a_window_a_batch_is_whatever_is_there() -> None:
    batcher = Batcher(3)
    assert batcher.next_batch(0) is None
    batcher.add([record(n) for n in range(4)], 0)
    assert [numbers(batcher.next_batch(0)) for _ in range(3)] == [[0, 1, 2], [3], None]
    assert batcher.wake_at_s() is None


def test_a_window_waits_for_its_end_or_for_enough_records() -> None:
    batcher = Batcher(3, batching_window_s=10)
    batcher.add([record(0)], 100)
    assert batcher.wake_at_s() == 110
    assert batcher.next_batch(109.9) is None
    batcher.add([record(1)], 105)
    assert numbers(batcher.next_batch(110)) == [0, 1]
    batcher.add([record(n) for n in range(2, 6)], 120)
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
    batcher.add([record(0, 100), record(1, 100), record(2, 100), record(3, 10_000), record(4, 1)], 0)
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
        batcher.add([record(n + i, size) for i, size in enumerate(sizes)], now_s)
        n += len(sizes)
        while (batch := batcher.next_batch(now_s)) is not None:
            assert 1 <= len(batch) <= batch_size
            assert len(batch) == 1 or sum(map(event_bytes, batch)) <= 3000
            out += batch
    while (batch := batcher.flush()) is not None:
        out += batch
    assert numbers(out) == list(range(n))
    assert len(batcher) == 0
