"""Events are as Lambda and S3 send them: an App answers them, and their fields are those of AWS's own examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from streamlet import App, Batch, ConfigurationError, Record, S3Object, lambda_context
from streamlet.testing import FakeLambdaContext, VirtualBroker, aggregate, kinesis_event, s3_event, sns_event, window_event


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    made.close()


def test_the_app_gets_the_values(app: App) -> None:
    seen: list[tuple[Any, str, str]] = []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        seen.append((record.value, record.partition_key, record.shard_id))
        if record.value == 3:
            raise ValueError

    event = kinesis_event([1, b"[2]", 3, 4], stream="orders", key=lambda value: f"k{value!r}", shard_id="shardId-000000000007")
    failing = event["Records"][2]["kinesis"]["sequenceNumber"]
    assert app.lambda_handler(event, FakeLambdaContext()) == {"batchItemFailures": [{"itemIdentifier": failing}]}
    assert seen == [(1, "k1", "shardId-000000000007"), ([2], "kb'[2]'", "shardId-000000000007"), (3, "k3", "shardId-000000000007")]


def test_a_kinesis_event_has_the_fields_of_the_developer_guide() -> None:
    """Source: Lambda developer guide, with-kinesis-example, "Sample event"."""
    guide = {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "1",
                    "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
                    "data": "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",
                    "approximateArrivalTimestamp": 1545084650.987,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::111122223333:role/lambda-role",
                "awsRegion": "us-east-2",
                "eventSourceARN": "arn:aws:kinesis:us-east-2:111122223333:stream/lambda-stream",
            }
        ]
    }
    made = kinesis_event(
        [b"Hello, this is a test."],
        stream="lambda-stream",
        shard_id="shardId-000000000006",
        key="1",
        arrived_at_s=1545084650.987,
        region="us-east-2",
        account_id="111122223333",
    )
    made["Records"][0]["invokeIdentityArn"] = guide["Records"][0]["invokeIdentityArn"]
    assert made == guide


def test_a_record_is_taken_as_it_is() -> None:
    record = Record(b"1", "a", "17", 0, 1.5)
    [made] = kinesis_event([record], stream="orders")["Records"]
    assert (made["kinesis"]["sequenceNumber"], made["kinesis"]["partitionKey"]) == ("17", "a")


def test_a_window_event_has_the_window_that_the_time_lies_in(app: App) -> None:
    seen: list[tuple[Any, Any, Any]] = []

    @app.on_window("orders", tumbling_window_s=120)
    def total(batch: Batch, state: dict[str, int]) -> dict[str, int]:
        seen.append((batch.window, list(batch.values), dict(state)))
        return {"sum": state.get("sum", 0) + sum(batch.values)}

    at_s = datetime(2020, 12, 9, 7, 4, 30, tzinfo=UTC).timestamp()
    event = window_event([1, 2], stream="orders", start_s=at_s, window_s=120)
    assert list(event) == ["Records", "window", "state", "shardId", "eventSourceARN", "isFinalInvokeForWindow", "isWindowTerminatedEarly"]
    assert event["window"] == {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"}
    answer = app.lambda_handler(event, FakeLambdaContext())
    assert answer == {"state": {"sum": 3}, "batchItemFailures": []}
    app.lambda_handler(window_event([], stream="orders", start_s=at_s, window_s=120, state=answer["state"], is_final=True), None)
    assert [(window.is_final, values, state) for window, values, state in seen] == [(False, [1, 2], {}), (True, [], {"sum": 3})]


def test_s3_keys_are_quoted_on_the_way_and_whole_at_the_handler(app: App) -> None:
    seen: list[S3Object] = []
    app.on_s3("landing")(seen.append)
    keys = ["in/my file.csv", "in/ä+%&=?.csv", "a/b/c", "in/(1)~*'\".csv"]
    event = s3_event("landing", *keys, version_id="v1", region="eu-west-1")
    assert [record["s3"]["object"]["key"] for record in event["Records"]][:2] == ["in/my+file.csv", "in/%C3%A4%2B%25%26%3D%3F.csv"]
    app.lambda_handler(event, FakeLambdaContext())
    assert [thing.key for thing in seen] == keys
    assert (seen[0].size, seen[0].version_id, seen[0].region) == (1024, "v1", "eu-west-1")
    sequencers = [thing.sequencer or "" for thing in seen]
    assert sequencers == sorted(set(sequencers))


def test_a_deletion_has_neither_size_nor_etag() -> None:
    [record] = s3_event("landing", "x", event_name="ObjectRemoved:Delete")["Records"]
    assert record["s3"]["object"].keys() == {"key", "sequencer"}


def test_a_bucket_through_a_topic() -> None:
    inner = s3_event("landing", "x")
    [record] = sns_event(inner, topic="landed", subject="Amazon S3 Notification")["Records"]
    assert json.loads(record["Sns"]["Message"]) == inner
    assert record["Sns"]["TopicArn"] == "arn:aws:sns:us-east-1:123456789012:landed"
    assert sns_event("text")["Records"][0]["Sns"]["Message"] == "text"


def test_the_context_runs_down_and_the_handler_stops_in_time(app: App) -> None:
    told: list[Any] = []

    @app.on_record("orders")
    def handle(record: Record) -> None:
        context = lambda_context()
        assert context is not None
        told.append((context.function_name, context.memory_limit_mb, 0 <= context.remaining_s() <= 0.5))

    event = kinesis_event([1, 2], stream="orders")
    answer = app.lambda_handler(event, FakeLambdaContext(remaining_s=0.5, function_name="shop", memory_limit_mb=256))
    assert told == [("shop", 256, True)]  # the margin is a second: only the first is begun
    assert answer["batchItemFailures"] == [{"itemIdentifier": event["Records"][1]["kinesis"]["sequenceNumber"]}]
    assert FakeLambdaContext(remaining_s=0).get_remaining_time_in_millis() == 0


def test_powertools_and_others_find_what_they_read() -> None:
    context = FakeLambdaContext(function_name="shop")
    assert context.invoked_function_arn == "arn:aws:lambda:us-east-1:123456789012:function:shop"
    assert (context.memory_limit_in_mb, context.function_version, context.log_group_name) == ("128", "$LATEST", "/aws/lambda/shop")
    assert context.identity is context.client_context is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: s3_event("landing"),
        lambda: window_event([], stream="orders", start_s=0, window_s=0),
        lambda: window_event([], stream="orders", start_s=0, window_s=True),
        lambda: FakeLambdaContext(remaining_s=-1),
    ],
)
def test_a_wrong_call_says_what_to_do(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"must be|needs"):
        wrong()


def test_an_aggregate_is_one_record_of_the_stream_and_its_values_are_the_handler_s() -> None:
    seen: list[Any] = []
    app = App("orders")
    app.on_record("orders")(lambda record: seen.append((record.partition_key, record.value)))
    packed = aggregate({"n": 1}, b'{"n": 2}', key=lambda value: "one" if isinstance(value, dict) else "two")
    event = kinesis_event([{"n": 0}, packed], stream="orders")
    assert len(event["Records"]) == 2
    app.lambda_handler(event, FakeLambdaContext())
    app.close()
    assert seen == [("key", {"n": 0}), ("one", {"n": 1}), ("two", {"n": 2})]
    with pytest.raises(ConfigurationError, match="holds nothing"):
        aggregate()


@pytest.mark.parametrize("key", ["", "k" * 257, lambda value: value, None, 5])
def test_a_key_that_is_no_partition_key_is_refused_at_once(key: Any) -> None:
    """A number, mostly: the function was to give text."""
    makers: list[Callable[[], Any]] = [
        lambda: aggregate(1, key=key),
        lambda: kinesis_event([1], stream="s", key=key),
        lambda: VirtualBroker().put("s", 1, key=key),
    ]
    for make in makers:
        with pytest.raises(ConfigurationError, match="partition key .* must be text of 1 to 256 characters, as in key=str"):
            make()
