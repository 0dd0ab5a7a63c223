"""Are the service's rates enforced at their exact boundaries, on a clock that only moves when told?"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import botocore.session
import pytest

from streamlet.broker import Broker
from streamlet.broker.faults import FailRecords
from streamlet.broker.inline import InlineBroker
from streamlet.broker.quotas import RATES, Bucket, Quotas

PTE = "ProvisionedThroughputExceededException"
WRITE_TEXT = "Rate exceeded for shard shardId-000000000000 in stream s under account 000000000000."
READ_TEXT = "Rate exceeded for Shard - 000000000000/s/shardId-000000000000"
LOW, HIGH = "0", str(2**128 - 1)
KIB = 1024


@pytest.fixture
def world() -> InlineBroker:
    made = InlineBroker(enforce_limits=True)
    made.ask("CreateStream", StreamName="s", ShardCount=1)
    made.now_s += 10
    return made


def blob(size: int) -> str:
    """Base64 of so many bytes."""
    return "A" * (size // 3 * 4) + ("", "AA==", "AAA=")[size % 3]


def put(world: InlineBroker, count: int, size: int = 0, stream: str = "s", **more: Any) -> list[int]:
    """PutRecords of records of `size` bytes, of which the key is one; the indices that failed."""
    records = [{"Data": blob(max(size - 1, 0)), "PartitionKey": "k", **more}] * count
    answer = world.ask("PutRecords", StreamName=stream, Records=records)
    failed = [index for index, entry in enumerate(answer["Records"]) if "ErrorCode" in entry]
    assert answer["FailedRecordCount"] == len(failed)
    assert all(answer["Records"][index] == {"ErrorCode": PTE, "ErrorMessage": WRITE_TEXT} for index in failed)
    return failed


def put_one(world: InlineBroker, size: int) -> bool:
    answer = world.post("PutRecord", json.dumps({"StreamName": "s", "Data": blob(size - 1), "PartitionKey": "k"}))
    if answer.status != 200:
        assert json.loads(b"".join(answer.body)) == {"__type": PTE, "message": WRITE_TEXT}
    return answer.status == 200


def after_ms(world: InlineBroker, ms: int) -> None:
    world.now_s = (world.state.now_ms + ms) / 1000 + 1e-6


# --- in --------------------------------------------------------------------------------------------------------------------


def test_the_thousandth_record_passes_and_the_next_does_not(world: InlineBroker) -> None:
    assert put(world, 500) == []
    assert put(world, 499) == []
    assert put_one(world, 1)
    assert not put_one(world, 1)
    assert put(world, 3) == [0, 1, 2]
    # What was refused took nothing out: a thousandth of a second brings one record, not none.
    after_ms(world, 1)
    assert put(world, 3) == [1, 2]
    after_ms(world, 1_000)
    assert put(world, 500) == put(world, 500) == []
    assert put(world, 1) == [0]


def test_what_was_saved_up_is_a_second_at_most(world: InlineBroker) -> None:
    after_ms(world, 3_600_000)
    assert put(world, 500) == put(world, 500) == []
    assert put(world, 1) == [0]


def test_a_megabyte_a_second_counts_data_and_key(world: InlineBroker) -> None:
    assert put(world, 4, 256 * KIB) == []
    assert put(world, 1, 1) == [0]
    after_ms(world, 500)
    assert put(world, 1, 512 * KIB + 1) == [0]
    assert put(world, 1, 512 * KIB) == []


def test_records_are_judged_one_by_one_in_the_order_of_the_request(world: InlineBroker) -> None:
    sizes = [600 * KIB, 500 * KIB, 400 * KIB, 100 * KIB, 24 * KIB]
    records = [{"Data": blob(size - 1), "PartitionKey": "k"} for size in sizes]
    answer = world.ask("PutRecords", StreamName="s", Records=records)
    assert ["ErrorCode" in entry for entry in answer["Records"]] == [False, True, False, True, False]
    numbers = [int(entry["SequenceNumber"]) for entry in answer["Records"] if "SequenceNumber" in entry]
    assert numbers == sorted(numbers)
    assert next(world.state.all_streams(world.state.now_ms)).shards[0].tip == 4


def test_each_shard_has_its_own_second(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="two", ShardCount=2)
    assert put(world, 500, stream="two", ExplicitHashKey=LOW) == put(world, 500, stream="two", ExplicitHashKey=LOW) == []
    assert put(world, 500, stream="two", ExplicitHashKey=HIGH) == []
    records = [{"Data": "", "PartitionKey": "k", "ExplicitHashKey": key} for key in (LOW, HIGH, LOW, HIGH)]
    answer = world.ask("PutRecords", StreamName="two", Records=records)
    assert ["ErrorCode" in entry for entry in answer["Records"]] == [True, False, True, False]


def test_a_fault_that_fails_a_record_leaves_its_share_to_others(world: InlineBroker) -> None:
    assert put(world, 500) == put(world, 498) == []
    world.faults.fail_records([0])
    assert put(world, 4) == [0, 3]


def test_each_shard_has_its_own_megabyte(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="two", ShardCount=2)
    for key in (LOW, HIGH):
        assert put(world, 1, 1024 * KIB, stream="two", ExplicitHashKey=key) == []
    answer = world.ask("PutRecords", StreamName="two", Records=[{"Data": "", "PartitionKey": "k", "ExplicitHashKey": LOW}])
    assert answer["FailedRecordCount"] == 1


def test_a_fault_and_a_full_shard_each_fail_their_own(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="two", ShardCount=2)
    for _ in range(2):
        put(world, 500, stream="two", ExplicitHashKey=LOW)
    world.faults.add(FailRecords((0,), error="InternalFailure"))
    records = [{"Data": "", "PartitionKey": "k", "ExplicitHashKey": key} for key in (HIGH, LOW, HIGH)]
    answer = world.ask("PutRecords", StreamName="two", Records=records)
    assert [entry.get("ErrorCode") for entry in answer["Records"]] == ["InternalFailure", PTE, None]


def test_a_record_of_many_seconds_needs_a_full_bucket_and_is_paid_back(world: InlineBroker) -> None:
    stream = next(world.state.all_streams(world.state.now_ms))
    stream.record_bytes_max = 10 * 1024 * KIB
    assert put_one(world, 1)
    assert not put_one(world, 10 * 1024 * KIB)
    after_ms(world, 1_000)
    assert put_one(world, 10 * 1024 * KIB)
    # The bucket held 1 MiB, and owes 9.
    after_ms(world, 8_999)
    assert not put_one(world, 1 * KIB)
    after_ms(world, 1_001)
    assert put_one(world, 1024 * KIB)


# --- out -------------------------------------------------------------------------------------------------------------------


def test_the_fifth_read_passes_and_the_sixth_does_not(world: InlineBroker) -> None:
    put(world, 3)
    iterator = world.iterator(0)
    for _ in range(5):
        world.ask("GetRecords", ShardIterator=iterator)
    assert world.refused("GetRecords", ShardIterator=iterator) == (PTE, READ_TEXT)
    after_ms(world, 199)
    assert world.refused("GetRecords", ShardIterator=iterator) == (PTE, READ_TEXT)
    after_ms(world, 1)
    world.ask("GetRecords", ShardIterator=iterator)
    assert world.refused("GetRecords", ShardIterator=iterator) == (PTE, READ_TEXT)


def test_a_read_that_is_wrong_costs_nothing(world: InlineBroker) -> None:
    for _ in range(9):
        assert world.refused("GetRecords", ShardIterator="nonsense")[0] == "InvalidArgumentException"
    iterator = world.iterator(0)
    for _ in range(5):
        world.ask("GetRecords", ShardIterator=iterator)


def fill(world: InlineBroker, mib: int) -> None:
    for _ in range(mib):
        assert put(world, 1, 1024 * KIB) == []
        after_ms(world, 1_000)


def test_ten_megabytes_block_the_shard_for_five_seconds(world: InlineBroker) -> None:
    fill(world, 12)
    after_ms(world, 60_000)
    iterator = world.iterator(0)
    answer = world.ask("GetRecords", ShardIterator=iterator)
    assert len(answer["Records"]) == 10
    for ms in (0, 1_000, 4_000):
        after_ms(world, ms)
        assert world.refused("GetRecords", ShardIterator=answer["NextShardIterator"]) == (PTE, READ_TEXT)
    after_ms(world, 1)
    assert len(world.ask("GetRecords", ShardIterator=answer["NextShardIterator"])["Records"]) == 2


def test_two_megabytes_a_second_may_come_in_several_answers(world: InlineBroker) -> None:
    fill(world, 4)
    iterator = world.iterator(0)
    for _ in range(2):
        assert len(world.ask("GetRecords", ShardIterator=iterator, Limit=1)["Records"]) == 1
    assert world.refused("GetRecords", ShardIterator=iterator, Limit=1) == (PTE, READ_TEXT)
    after_ms(world, 1)
    assert len(world.ask("GetRecords", ShardIterator=iterator, Limit=1)["Records"]) == 1
    after_ms(world, 400)
    assert world.refused("GetRecords", ShardIterator=iterator, Limit=1) == (PTE, READ_TEXT)


def test_five_iterators_a_second_for_each_shard(world: InlineBroker) -> None:
    for _ in range(5):
        world.iterator(0)
    ask = {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"}
    assert world.refused("GetShardIterator", **ask) == (PTE, READ_TEXT)
    after_ms(world, 200)
    world.ask("GetShardIterator", **ask)


# --- control ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "per_s", "text"),
    [
        ("ListStreams", {}, 5, "Rate exceeded for account 000000000000."),
        ("DescribeStream", {"StreamName": "s"}, 10, "Rate exceeded for stream s under account 000000000000."),
        ("DescribeStreamSummary", {"StreamName": "s"}, 20, "Rate exceeded for stream s under account 000000000000."),
        ("ListTagsForStream", {"StreamName": "s"}, 5, "Rate exceeded for stream s under account 000000000000."),
        ("ListShards", {"StreamName": "s"}, 1_000, "Rate exceeded for stream s under account 000000000000."),
    ],
)
def test_control_calls(world: InlineBroker, operation: str, members: dict[str, Any], per_s: int, text: str) -> None:
    for _ in range(per_s):
        world.ask(operation, **members)
    assert world.refused(operation, **members) == ("LimitExceededException", text)
    after_ms(world, 1_000)
    world.ask(operation, **members)


def test_accounts_and_operations_do_not_share(world: InlineBroker) -> None:
    for _ in range(5):
        world.ask("ListStreams")
    assert world.refused("ListStreams")[0] == "LimitExceededException"
    scope = "AWS4-HMAC-SHA256 Credential={}/20260101/{}/kinesis/aws4_request, SignedHeaders=host, Signature=x"
    for key, region in (("111122223333", "eu-west-1"), ("AKIAEXAMPLE", "us-east-1")):
        assert world.post("ListStreams", "{}", authorization=scope.format(key, region)).status == 200
    world.ask("DescribeStream", StreamName="s")


def test_the_table_names_operations_that_are_there_and_none_of_the_data_plane() -> None:
    assert set(RATES) & {"PutRecord", "PutRecords", "GetRecords", "GetShardIterator", "SubscribeToShard"} == set()
    assert set(RATES) <= set(botocore.session.get_session().get_service_model("kinesis").operation_names)


# --- the rest --------------------------------------------------------------------------------------------------------------


def test_subscribing_once_a_second_per_consumer_and_shard(world: InlineBroker) -> None:
    quotas = world.state.quotas
    assert quotas is not None
    stream = next(world.state.all_streams(world.state.now_ms))
    quotas.subscribe(stream, "one", 0, 10_000, "a")
    quotas.subscribe(stream, "two", 0, 10_000, "a")
    quotas.subscribe(stream, "one", 1, 10_000, "a")
    with pytest.raises(Exception, match="Rate exceeded for stream s under account a") as caught:
        quotas.subscribe(stream, "one", 0, 10_999, "a")
    assert getattr(caught.value, "code", "") == "LimitExceededException"
    quotas.subscribe(stream, "one", 0, 11_000, "a")


def test_a_second_subscription_within_a_second(connect: Any) -> None:
    with Broker.in_thread(streams={"s": 1}, enforce_limits=True, clock=lambda: 1_800_000_000.0) as broker:
        client = connect(broker.endpoint_url)
        arn = client.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
        consumer = client.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"]
        ask = {"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "LATEST"}}
        with closing(client.subscribe_to_shard(**ask)["EventStream"]):
            with pytest.raises(client.exceptions.LimitExceededException, match="Rate exceeded for stream s"):
                client.subscribe_to_shard(**ask)
        client.close()


def test_throttles_are_counted(world: InlineBroker) -> None:
    quotas = world.state.quotas
    assert quotas is not None
    assert quotas.snapshot() == ()
    put(world, 500)
    put(world, 500)
    put(world, 7)
    for _ in range(7):
        world.post("ListStreams", "{}")
    found = [(counted.name, counted.shard, counted.reason, counted.times) for counted in quotas.snapshot()]
    assert found == [("s", 0, "write_records", 7), ("ListStreams", -1, "control", 2)]


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    bucket = Bucket(10, 5_000)
    bucket.take(10)
    assert not bucket.holds(1, 1_000)
    assert not bucket.holds(1, 1_099)
    assert bucket.holds(1, 1_100)


def test_buckets_that_are_full_are_let_go() -> None:
    quotas = Quotas()
    for number in range(20_001):
        quotas.control("ListStreams", None, f"{number:012d}", "r", number)
    assert len(quotas._buckets) < 500


def test_without_being_asked_nothing_is_enforced() -> None:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    for _ in range(3):
        assert put(world, 500) == []
    iterator = world.iterator(0)
    for _ in range(20):
        world.ask("GetRecords", ShardIterator=iterator)
        world.ask("ListStreams")


def test_a_running_broker_enforces_when_asked(connect: Any) -> None:
    with Broker.in_thread(streams={"s": 1}, enforce_limits=True, clock=lambda: 1_800_000_000.0) as broker:
        client = connect(broker.endpoint_url)
        for _ in range(2):
            assert client.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}] * 500)["FailedRecordCount"] == 0
        answer = client.put_records(StreamName="s", Records=[{"Data": b"x", "PartitionKey": "k"}] * 2)
        assert {entry["ErrorCode"] for entry in answer["Records"]} == {PTE}
        with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
            client.put_record(StreamName="s", Data=b"x", PartitionKey="k")
        client.close()
