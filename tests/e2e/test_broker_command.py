"""A stock boto3 script against `streamlet broker`: create a stream, put 1,000 records, read them from both children after a split."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest


@pytest.fixture
def url() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "streamlet", "broker", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.startswith("listening on http://127.0.0.1:")
    yield line.removeprefix("listening on ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    process.stdout.close()


def test_a_stock_boto3_script(url: str) -> None:
    kinesis = boto3.client("kinesis", endpoint_url=url, region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local")
    kinesis.create_stream(StreamName="orders", ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName="orders")
    parent = kinesis.list_shards(StreamName="orders")["Shards"][0]["ShardId"]
    kinesis.split_shard(StreamName="orders", ShardToSplit=parent, NewStartingHashKey=str(2**127))
    for begin in range(0, 1000, 500):
        answer = kinesis.put_records(
            StreamName="orders", Records=[{"Data": f"record {n}".encode(), "PartitionKey": f"key-{n}"} for n in range(begin, begin + 500)]
        )
        assert answer["FailedRecordCount"] == 0
    seen: dict[str, int] = {}
    for shard in kinesis.list_shards(StreamName="orders")["Shards"]:
        iterator = kinesis.get_shard_iterator(StreamName="orders", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
        token, count = iterator["ShardIterator"], 0
        while token:
            page = kinesis.get_records(ShardIterator=token)
            count += len(page["Records"])
            if not page["Records"] and not page["MillisBehindLatest"]:
                break
            token = page.get("NextShardIterator")
        seen[shard["ShardId"]] = count
    children = {shard: count for shard, count in seen.items() if shard != parent}
    assert seen[parent] == 0
    assert len(children) == 2
    assert all(children.values())
    assert sum(children.values()) == 1000
    kinesis.close()
