"""What Lambda gets for an answer."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from streamlet import App, Batch, ConfigurationError, HandlerError, ParquetSink, Record, RecordFailed


def event(*payloads: bytes, stream: str = "orders") -> dict[str, Any]:
    """Reference: Lambda developer guide, with-kinesis, example event."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "1",
                    "sequenceNumber": str(n),
                    "data": b64encode(payload).decode(),
                    "approximateArrivalTimestamp": 1545084650.987,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"shardId-000000000006:{n}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
                "awsRegion": "us-east-2",
                "eventSourceARN": f"arn:aws:kinesis:us-east-2:123456789012:stream/{stream}",
            }
            for n, payload in enumerate(payloads, 90)
        ]
    }


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    if made._lambda is not None:
        made._lambda.close()


def failures(*numbers: int) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": str(n)} for n in numbers]}


def test_success_is_an_empty_list(app: App) -> None:
    seen: list[Any] = []
    app.on_record("orders")(lambda record: seen.append((record.value, record.partition_key, record.shard_id, record.arrived_at_s)))
    assert app.lambda_handler(event(b"1", b"2"), None) == failures()
    assert seen == [(1, "1", "shardId-000000000006", 1545084650.987), (2, "1", "shardId-000000000006", 1545084650.987)]


def test_a_failing_record_is_named_and_those_after_it_are_not_touched(app: App) -> None:
    seen = []

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        seen.append(record.value)

    assert app.lambda_handler(event(b"1", b"2", b"no json", b"4"), None) == failures(92)
    assert seen == [1, 2]


def test_a_batch_that_raises_raises(app: App) -> None:
    """So that Lambda counts a function error, and bisects if it is told to."""

    @app.on_batch("orders")
    def handle(batch: Batch) -> None:
        raise ZeroDivisionError("of the handler")

    with pytest.raises(ZeroDivisionError, match="of the handler"):
        app.lambda_handler(event(b"1"), None)


def test_a_batch_handler_may_name_the_record(app: App) -> None:
    @app.on_batch("orders")
    async def handle(batch: Batch) -> None:
        raise RecordFailed(batch[1])

    assert app.lambda_handler(event(b"1", b"2", b"3"), None) == failures(91)


def test_one_loop_lives_through_all_invocations_and_the_lifespan_runs_once(app: App) -> None:
    loops, entered = [], []

    @app.lifespan
    async def lifespan(app: App) -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    @app.on_record("orders")
    async def handle(record: Record) -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(3):
        app.lambda_handler(event(b"1"), None)
    assert len(set(loops)) == 1
    assert entered == ["in"]
    app._lambda.close()
    assert entered == ["in", "out"]


@pytest.mark.parametrize(
    "bad", [{}, {"Records": []}, {"Records": [{"s3": {}}]}, [], None, "text", {"Records": [{"eventSourceARN": 5, "eventID": "x"}]}]
)
def test_an_event_of_another_kind_is_told_from_a_stream(app: App, bad: Any) -> None:
    app.on_record("orders")(lambda record: None)
    with pytest.raises(HandlerError, match="no Kinesis event"):
        app.lambda_handler(bad, None)


def test_an_unknown_stream_says_which_there_are(app: App) -> None:
    app.on_record("orders")(lambda record: None)
    with pytest.raises(ConfigurationError, match="no handler for stream 'refunds'.*it has orders"):
        app.lambda_handler(event(b"1", stream="refunds"), None)


def test_data_that_is_not_base64_is_named(app: App) -> None:
    app.on_record("orders")(lambda record: None)
    bad = event(b"1")
    bad["Records"][0]["kinesis"]["data"] = "MQ%%"
    with pytest.raises(HandlerError, match="record 90 of the event"):
        app.lambda_handler(bad, None)


def test_files_are_written_before_the_answer_and_an_equal_replay_overwrites_them(app: App, tmp_path: Path) -> None:
    """Rows of the records before a failing one land; each carries its sequence number."""

    @app.on_record("orders", sink=ParquetSink(f"file://{tmp_path}", schema={"n": "int64"}))
    def handle(record: Record) -> dict[str, Any]:
        return {"n": record.value}

    for _ in range(2):
        assert app.lambda_handler(event(b"1", b"2", b'"three"', b"4"), None) == failures(92)
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.ParquetFile(path).read().to_pylist() == [
        {"n": 1, "_sequence_number": "90", "_sub_sequence_number": 0},
        {"n": 2, "_sequence_number": "91", "_sub_sequence_number": 0},
    ]
