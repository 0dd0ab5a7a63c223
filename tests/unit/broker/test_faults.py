"""Do faults strike as often as told, and then no more?"""

from __future__ import annotations

from typing import Any

import botocore.exceptions
import pytest

from streamlet.broker import Broker
from streamlet.broker.inline import InlineBroker

RECORDS = [{"Data": "YQ==", "PartitionKey": f"k{index}"} for index in range(10)]


def _tip(broker: Broker) -> int:
    stream = broker.state.find_by_name("s", broker.state.now_ms)
    assert stream is not None
    return stream.shards[0].tip


def failed(world: InlineBroker) -> list[int]:
    answer = world.ask("PutRecords", StreamName="s", Records=RECORDS)
    indices = [index for index, entry in enumerate(answer["Records"]) if "ErrorCode" in entry]
    assert answer["FailedRecordCount"] == len(indices)
    for index in indices:
        assert answer["Records"][index] == {
            "ErrorCode": "ProvisionedThroughputExceededException",
            "ErrorMessage": "Rate exceeded for shard shardId-000000000000 in stream s under account 000000000000.",
        }
    return indices


def test_failing_records_by_index_and_by_fraction(world: InlineBroker) -> None:
    world.faults.fail_records([0, 9, 77], times=2)
    world.faults.fail_records(0.25)
    world.faults.fail_records(1.0)
    world.faults.fail_records(0.001)
    assert [failed(world) for _ in range(6)] == [[0, 9], [0, 9], [4, 9], list(range(10)), [9], []]
    assert len(world.read(world.iterator(0))) == 60 - 4 - 2 - 10 - 1
    with pytest.raises(ValueError, match="fraction"):
        world.faults.fail_records(1.5)


def test_failed_records_leave_no_gap_in_the_numbers(world: InlineBroker) -> None:
    world.faults.fail_records([0])
    put = world.put("a", "b")
    shard = world.stream().shards[0]
    assert shard.tip == 2
    assert "ErrorCode" in put[0]
    assert world.read(world.iterator(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=put[1]["SequenceNumber"])) == ["b"]


def test_throttled_calls_do_nothing(world: InlineBroker) -> None:
    world.faults.throttle("PutRecords", 2)
    world.faults.throttle("ListStreams")
    text = "Rate exceeded for stream s under account 000000000000."
    for _ in range(2):
        assert world.refused("PutRecords", StreamName="s", Records=RECORDS) == ("ProvisionedThroughputExceededException", text)
    assert world.refused("ListStreams") == ("LimitExceededException", "Rate exceeded for account 000000000000.")
    world.put("x")
    assert world.read(world.iterator(0)) == ["x"]
    world.ask("ListStreams")


def test_all_iterators_given_out_so_far_expire(world: InlineBroker) -> None:
    world.put("a")
    old = world.iterator(0)
    following = world.ask("GetRecords", ShardIterator=old)["NextShardIterator"]
    world.faults.expire_iterators()
    for iterator in (old, following):
        assert world.refused("GetRecords", ShardIterator=iterator)[0] == "ExpiredIteratorException"
    assert world.read(world.iterator(0)) == ["a"]


def test_a_connection_that_breaks_before_or_after_the_write(broker: Broker, client: Any) -> None:
    """The client sees the same; only the stream knows."""
    for fault, stored in ((broker.faults.reset_before, 0), (broker.faults.reset_after, 1)):
        fault("PutRecord")
        with pytest.raises(botocore.exceptions.ConnectionClosedError):
            client.put_record(StreamName="s", Data=b"x", PartitionKey="k")
        assert _tip(broker) - 1 == stored
    client.put_record(StreamName="s", Data=b"x", PartitionKey="k")
    assert _tip(broker) == 3
