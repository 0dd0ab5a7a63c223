"""boto3 as its examples use it: get_records shard by shard in turn, put_records of 500."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from common import RECORD_BYTES, Meter, main, payloads  # type: ignore[import-not-found]  # it lies beside this program

LIMIT = 1_000
CALL_RECORDS = 500


def _client(url: str) -> Any:
    return boto3.client("kinesis", endpoint_url=url, config=Config(retries={"max_attempts": 0}))


def consume(url: str, records: int) -> None:
    client, meter, got, size = _client(url), Meter(records), 0, 0
    shards = [shard["ShardId"] for shard in client.list_shards(StreamName="bench")["Shards"]]
    iterators = [
        client.get_shard_iterator(StreamName="bench", ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"] for shard in shards
    ]
    while got < records:
        for n, iterator in enumerate(iterators):
            answer = client.get_records(ShardIterator=iterator, Limit=LIMIT)
            iterators[n] = answer["NextShardIterator"]
            for record in answer["Records"]:
                size += len(record["Data"])
            got += len(answer["Records"])
            meter.at(got)
    meter.end(got if size == got * RECORD_BYTES else 0)


def produce(url: str, records: int) -> None:
    client, data, meter, put = _client(url), payloads(), Meter(records), 0
    for first in range(0, records, CALL_RECORDS):
        entries = [{"Data": data[n % len(data)], "PartitionKey": f"customer-{n}"} for n in range(first, min(records, first + CALL_RECORDS))]
        answer = client.put_records(StreamName="bench", Records=entries)
        put += sum("SequenceNumber" in record for record in answer["Records"])
        meter.at(put)
    meter.end(put)


main(consume, produce)
