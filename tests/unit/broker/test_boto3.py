"""Is an unmodified boto3 content? The whole life of a stream, and errors as its own exception classes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from streamlet.broker import Broker


def drain(client: Any, shard_id: str, limit: int = 10_000) -> tuple[list[dict[str, Any]], list[str]]:
    """All records of a shard up to its end (or tip), and its children."""
    iterator = client.get_shard_iterator(StreamName="orders", ShardId=shard_id, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    records: list[dict[str, Any]] = []
    while True:
        answer = client.get_records(ShardIterator=iterator, Limit=limit)
        records += answer["Records"]
        iterator = answer.get("NextShardIterator")
        if iterator is None:
            return records, [child["ShardId"] for child in answer["ChildShards"]]
        if not answer["Records"] and answer["MillisBehindLatest"] == 0:
            return records, []


def put_thousand(client: Any, start: int) -> None:
    for first in range(start, start + 1000, 500):
        records = [{"Data": f"value {index}".encode(), "PartitionKey": f"key {index}"} for index in range(first, first + 500)]
        answer = client.put_records(StreamName="orders", Records=records)
        assert answer["FailedRecordCount"] == 0


def test_the_life_of_a_stream(client: Any) -> None:
    client.create_stream(StreamName="orders", ShardCount=1)
    client.get_waiter("stream_exists").wait(StreamName="orders")
    put_thousand(client, 0)
    client.split_shard(StreamName="orders", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    put_thousand(client, 1000)
    parent, children = drain(client, "shardId-000000000000", limit=300)
    assert [record["Data"] for record in parent] == [f"value {index}".encode() for index in range(1000)]
    assert children == ["shardId-000000000001", "shardId-000000000002"]
    both = [record for child in children for record in drain(client, child)[0]]
    assert sorted(int(record["PartitionKey"][4:]) for record in both) == list(range(1000, 2000))
    client.merge_shards(StreamName="orders", ShardToMerge=children[0], AdjacentShardToMerge=children[1])
    put_thousand(client, 2000)
    for child in children:
        assert drain(client, child)[1] == ["shardId-000000000003"]
    merged, _ = drain(client, "shardId-000000000003")
    assert [record["Data"] for record in merged] == [f"value {index}".encode() for index in range(2000, 3000)]
    # By hand: boto3's own paginator repeats StreamName beside NextToken, which the service refuses as well.
    first = client.list_shards(StreamName="orders", MaxResults=3)
    second = client.list_shards(NextToken=first["NextToken"])
    assert [shard["ShardId"][-1] for shard in first["Shards"] + second["Shards"]] == ["0", "1", "2", "3"]
    client.delete_stream(StreamName="orders")
    client.get_waiter("stream_not_exists").wait(StreamName="orders")
    assert client.list_streams()["StreamNames"] == ["s"]


def test_all_iterator_types(client: Any) -> None:
    def read(kind: str, **more: Any) -> list[bytes]:
        found = client.get_shard_iterator(StreamName="s", ShardId="shardId-000000000000", ShardIteratorType=kind, **more)
        return [record["Data"] for record in client.get_records(ShardIterator=found["ShardIterator"])["Records"]]

    first = client.put_record(StreamName="s", Data=b"1", PartitionKey="k")
    client.put_record(StreamName="s", Data=b"2", PartitionKey="k", SequenceNumberForOrdering=first["SequenceNumber"])
    assert read("TRIM_HORIZON") == [b"1", b"2"]
    assert read("LATEST") == []
    assert read("AT_SEQUENCE_NUMBER", StartingSequenceNumber=first["SequenceNumber"]) == [b"1", b"2"]
    assert read("AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=first["SequenceNumber"]) == [b"2"]
    assert read("AT_TIMESTAMP", Timestamp=datetime(2020, 1, 1, tzinfo=UTC)) == [b"1", b"2"]


def test_by_arn(client: Any) -> None:
    arn = client.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    assert arn == "arn:aws:kinesis:eu-west-1:123456789012:stream/s"
    put = client.put_record(StreamARN=arn, Data=b"x", PartitionKey="k")
    iterator = client.get_shard_iterator(StreamARN=arn, ShardId=put["ShardId"], ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    records = client.get_records(ShardIterator=iterator, StreamARN=arn)["Records"]
    assert [record["SequenceNumber"] for record in records] == [put["SequenceNumber"]]
    assert "EncryptionType" not in records[0]
    assert abs((datetime.now(UTC) - records[0]["ApproximateArrivalTimestamp"]).total_seconds()) < 3600


@pytest.mark.parametrize(
    ("operation", "members", "error", "text"),
    [
        ("describe_stream", {"StreamName": "no"}, "ResourceNotFoundException", "Stream no under account 123456789012 not found."),
        ("get_records", {"ShardIterator": "x"}, "InvalidArgumentException", "Invalid ShardIterator."),
        (
            "get_records",
            {"ShardIterator": "x" * 513},
            "ValidationException",
            (
                f"1 validation error detected: Value '{'x' * 513}' at 'shardIterator' failed to satisfy constraint: "
                "Member must have length less than or equal to 512"
            ),
        ),
        (
            "create_stream",
            {"StreamName": "s", "ShardCount": 1},
            "ResourceInUseException",
            "Stream s under account 123456789012 already exists.",
        ),
        (
            "put_records",
            {"StreamName": "s", "Records": []},
            "ValidationException",
            "1 validation error detected: Value at 'records' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
    ],
)
def test_errors_are_boto3s_own_classes(client: Any, operation: str, members: dict[str, Any], error: str, text: str) -> None:
    with pytest.raises(getattr(client.exceptions, error)) as caught:
        getattr(client, operation)(**members)
    assert caught.value.response["Error"] == {"Code": error, "Message": text}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_control_from_the_test_while_a_client_works(broker: Broker, client: Any) -> None:
    children = broker.split_shard("s", "shardId-000000000000")
    found = {client.put_record(StreamName="s", Data=b"", PartitionKey=f"k{index}")["ShardId"] for index in range(40)}
    assert found == set(children)
    assert client.put_record(StreamName="s", Data=b"", PartitionKey="k")["ShardId"] in children
    assert broker.merge_shards("s", *children) == "shardId-000000000003"
