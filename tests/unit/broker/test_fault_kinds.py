"""Does each kind of fault show to a client as it says, as often as it says, and where it says?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from typing import Any

import botocore.exceptions
import pytest

from streamlet.broker import Broker
from streamlet.broker.faults import (
    KINDS,
    AnyFault,
    ClockJump,
    DuplicatePut,
    DuplicateRead,
    EmptyRead,
    EndSubscription,
    ExpiredIterator,
    FailRecords,
    FailSubscription,
    InternalFailure,
    Latency,
    ResetAfter,
    ResetBefore,
    Reshard,
    StallSubscription,
    Throttle,
)
from streamlet.broker.inline import InlineBroker

LOW, HIGH = "0", str(2**128 - 1)


def two(world: InlineBroker, name: str = "two") -> None:
    world.ask("CreateStream", StreamName=name, ShardCount=2)


def put(world: InlineBroker, count: int, stream: str = "s") -> None:
    world.put(*(str(index) for index in range(count)), stream=stream)


def throttled(world: InlineBroker, count: int, operation: str = "ListShards", **members: Any) -> list[int]:
    """Which of so many calls are refused."""
    members = members or {"StreamName": "s"}
    return [index for index in range(count) if world.post(operation, json.dumps(members)).status != 200]


# --- how often, and where --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "struck"),
    [
        (Throttle("ListShards"), [0]),
        (Throttle("ListShards", times=3), [0, 1, 2]),
        (Throttle("ListShards", times="always"), list(range(8))),
        (Throttle("ListShards", after=2, times=2), [2, 3]),
        (Throttle(), [0]),
        (Throttle("ListStreams"), []),
        (Throttle("ListShards", stream="s"), [0]),
        (Throttle("ListShards", stream="other"), []),
        (Throttle("ListShards", shard=0), []),
    ],
)
def test_how_often_a_fault_strikes(world: InlineBroker, fault: AnyFault, struck: list[int]) -> None:
    world.faults.add(fault)
    assert throttled(world, 8) == struck


def test_faults_of_a_kind_queue_and_the_later_one_waits(world: InlineBroker) -> None:
    first = world.faults.add(Throttle("ListShards", times=2))
    second = world.faults.add(Throttle("ListShards", after=1))
    assert throttled(world, 8) == [0, 1, 3]
    assert [(standing.id, standing.seen, standing.struck, standing.left) for standing in world.faults.list()] == [
        (first, 2, 2, 0),
        (second, 2, 1, 0),
    ]


def test_a_shards_fault_leaves_the_other_shard_alone(world: InlineBroker) -> None:
    two(world)
    world.faults.add(Throttle(stream="two", shard="shardId-000000000001", times="always"))
    one = {"StreamName": "two", "ShardIteratorType": "LATEST"}
    assert world.refused("GetShardIterator", ShardId="shardId-000000000001", **one) == (
        "ProvisionedThroughputExceededException",
        "Rate exceeded for Shard - 000000000000/two/shardId-000000000001",
    )
    iterator = world.ask("GetShardIterator", ShardId="shardId-000000000000", **one)["ShardIterator"]
    world.ask("GetRecords", ShardIterator=iterator)
    low = {"StreamName": "two", "Data": "YQ==", "PartitionKey": "k", "ExplicitHashKey": LOW}
    high = low | {"ExplicitHashKey": HIGH}
    world.ask("PutRecord", **low)
    text = "Rate exceeded for shard shardId-000000000001 in stream two under account 000000000000."
    assert world.refused("PutRecord", **high) == ("ProvisionedThroughputExceededException", text)
    entries = [{name: members[name] for name in ("Data", "PartitionKey", "ExplicitHashKey")} for members in (low, high)]
    world.ask("PutRecords", StreamName="two", Records=entries[:1])
    assert world.refused("PutRecords", StreamName="two", Records=entries)[0] == "ProvisionedThroughputExceededException"


def test_what_a_client_names_wrongly_meets_no_fault_and_is_refused_as_ever(world: InlineBroker) -> None:
    world.faults.add(Throttle(stream="s", shard=0, times="always"))
    record = {"Data": "YQ==", "PartitionKey": "k"}
    assert world.refused("GetRecords", ShardIterator="nonsense")[0] == "InvalidArgumentException"
    assert world.refused("PutRecord", StreamName="none", **record)[0] == "ResourceNotFoundException"
    assert world.refused("PutRecord", StreamName="s", ExplicitHashKey=str(2**128), **record)[0] == "InvalidArgumentException"


def test_a_fault_is_listed_removed_and_cleared(world: InlineBroker) -> None:
    kept, gone = (world.faults.add(Throttle("ListShards", times="always", after=1, shard=None)) for _ in range(2))
    assert world.faults.remove(gone).left is None
    with pytest.raises(KeyError):
        world.faults.remove(gone)
    assert throttled(world, 3) == [1, 2]
    assert [(standing.id, standing.seen, standing.struck) for standing in world.faults.list()] == [(kept, 3, 2)]
    assert world.faults.clear() == 1
    assert not world.faults.active
    assert throttled(world, 3) == []
    assert world.faults.add(Throttle()) == gone + 1


def test_spent_faults_cost_nothing_and_only_the_last_thousand_are_listed(world: InlineBroker) -> None:
    for _ in range(1_100):
        world.faults.throttle("ListShards")
    assert throttled(world, 1_101) == list(range(1_100))
    assert not world.faults.active
    listed = [standing.id for standing in world.faults.list()]
    assert listed == list(range(101, 1_101))


@pytest.mark.parametrize(
    ("kind", "members", "text"),
    [
        (Throttle, {"times": 0}, "times"),
        (Throttle, {"probability": 0.0}, "probability"),
        (Throttle, {"probability": 1.1}, "probability"),
        (Throttle, {"after": -1}, "after"),
        (Throttle, {"shard": "shard-1"}, "shard"),
        (Throttle, {"shard": -1}, "shard"),
        (Latency, {"delay_s": -1}, "delay_s"),
        (Latency, {"delay_s": 2, "delay_max_s": 1}, "delay_max_s"),
        (ClockJump, {"jump_s": 0}, "jump_s"),
        (FailRecords, {"which": 0.0}, "which"),
        (DuplicateRead, {"back": 0}, "back"),
        (Reshard, {"stream": "s", "at_record": 0}, "at_record"),
    ],
)
def test_a_value_out_of_range_is_refused_when_it_is_built(kind: Any, members: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kind(**members)


def test_an_operation_that_is_not_there_is_refused(world: InlineBroker) -> None:
    with pytest.raises(ValueError, match="'GetRecord' is none of the broker's"):
        world.faults.add(Throttle("GetRecord"))


# --- chance ----------------------------------------------------------------------------------------------------------------


def struck_by_chance(seed: int, *, before: int = 0) -> list[int]:
    world = InlineBroker(faults_seed=seed)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.faults.add(Throttle("ListShards", probability=0.3))
    world.faults.add(Latency("ListStreams", delay_s=0.1, probability=0.5))
    for _ in range(before):
        world.ask("ListStreams")
    return throttled(world, 300)


def test_the_same_seed_strikes_the_same_calls_whatever_else_is_armed() -> None:
    first = struck_by_chance(1)
    assert first == struck_by_chance(1) == struck_by_chance(1, before=17)
    assert first != struck_by_chance(2)
    assert 50 < len(first) < 130  # 90 of 300 on average: it goes on until it is removed


def test_equal_faults_have_chances_of_their_own(world: InlineBroker) -> None:
    for operation in ("ListShards", "ListStreams"):
        world.faults.add(Throttle(operation, probability=0.5))
    assert throttled(world, 64) != throttled(world, 64, "ListStreams", Limit=1)


def test_a_probability_with_times_ends() -> None:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.faults.add(Throttle("ListShards", probability=0.5, times=3))
    assert len(throttled(world, 100)) == 3


# --- the kinds -------------------------------------------------------------------------------------------------------------


def test_every_kind_is_in_the_list() -> None:
    assert len(KINDS) == len(set(KINDS)) == 15


def test_an_internal_failure_is_a_500_and_nothing_is_done(world: InlineBroker) -> None:
    world.faults.add(InternalFailure("PutRecord"))
    body = json.dumps({"StreamName": "s", "Data": "YQ==", "PartitionKey": "k"})
    answer = world.post("PutRecord", body)
    assert (answer.status, answer.body) == (500, (b'{"__type":"InternalFailure"}',))
    assert world.post("PutRecord", body).status == 200
    assert world.read(world.iterator(0)) == ["a"]


def test_a_fixed_latency_goes_with_answers_and_refusals(world: InlineBroker) -> None:
    world.faults.add(Latency(delay_s=0.25, times=2))
    world.faults.add(Throttle("ListShards"))
    delays = [world.post("ListShards", '{"StreamName":"s"}').delay_s for _ in range(3)]
    assert delays == [0.25, 0.25, 0.0]


def test_latencies_of_a_range_come_from_the_seed() -> None:
    def delays(seed: int) -> list[float]:
        world = InlineBroker(faults_seed=seed)
        world.faults.add(Latency("ListStreams", delay_s=0.2, delay_max_s=0.4, times="always"))
        return [world.post("ListStreams", "{}").delay_s for _ in range(50)]

    one = delays(1)
    assert one == delays(1) != delays(2)
    assert min(one) >= 0.2
    assert max(one) <= 0.4
    assert max(one) - min(one) > 0.1


def test_failing_records_with_either_error_and_of_one_shard(world: InlineBroker) -> None:
    two(world)
    records = [{"Data": "YQ==", "PartitionKey": "k", "ExplicitHashKey": (LOW, HIGH)[index % 2]} for index in range(6)]
    world.faults.add(FailRecords((0, 2), error="InternalFailure", stream="two", shard=1))
    world.faults.add(FailRecords(stream="other", times="always"))
    answer = world.ask("PutRecords", StreamName="two", Records=records)
    assert [index for index, entry in enumerate(answer["Records"]) if "ErrorCode" in entry] == [1, 5]
    assert answer["Records"][1] == {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
    assert answer["FailedRecordCount"] == 2
    assert world.ask("PutRecords", StreamName="two", Records=records)["FailedRecordCount"] == 0


def test_a_put_is_stored_twice_and_the_answer_names_the_first(world: InlineBroker) -> None:
    world.faults.add(DuplicatePut(times=2))
    first = world.ask("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")["SequenceNumber"]
    entries = world.put("b", "c")
    iterator = world.iterator(0)
    answer = world.ask("GetRecords", ShardIterator=iterator)["Records"]
    assert world.read(iterator) == ["a", "a", "b", "c", "b", "c"]
    numbers = [record["SequenceNumber"] for record in answer]
    assert numbers == sorted(numbers, key=int)
    assert len(set(numbers)) == 6
    assert (first, entries[0]["SequenceNumber"], entries[1]["SequenceNumber"]) == (numbers[0], numbers[2], numbers[3])


def test_a_read_repeats_what_was_read_before_and_goes_on(world: InlineBroker) -> None:
    put(world, 6)
    answer = world.ask("GetRecords", ShardIterator=world.iterator(0), Limit=3)
    world.faults.add(DuplicateRead(back=2, times=2))
    again = world.ask("GetRecords", ShardIterator=answer["NextShardIterator"], Limit=4)
    assert [record["Data"] for record in again["Records"][:2]] == [record["Data"] for record in answer["Records"][1:]]
    assert again["Records"][:2] == answer["Records"][1:]  # the same sequence numbers
    # At least one record is new: a client that reads two at a time is given one old one.
    last = world.ask("GetRecords", ShardIterator=again["NextShardIterator"], Limit=2)
    assert last["Records"][0] == again["Records"][-1]
    assert world.read(last["NextShardIterator"]) == []


def test_a_repeating_read_waits_for_something_to_repeat(world: InlineBroker) -> None:
    put(world, 2)
    fault = world.faults.add(DuplicateRead())
    assert world.read(world.iterator(0), Limit=1) == ["0"]
    assert world.read(world.iterator(0, "LATEST")) == []
    assert world.read(world.iterator(0), Limit=2) == ["0", "1"]
    first = world.ask("GetRecords", ShardIterator=world.iterator(0))["Records"][0]["SequenceNumber"]
    assert world.read(world.iterator(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=first)) == ["0", "1"]
    assert world.faults.list()[0].seen == 0, fault


def test_an_always_repeating_read_reaches_the_end(world: InlineBroker) -> None:
    put(world, 20)
    world.faults.add(DuplicateRead(back=5, times="always"))
    for limit in (1, 2, 7, 100):
        iterator, got = world.iterator(0), []
        for _ in range(100):
            answer = world.ask("GetRecords", ShardIterator=iterator, Limit=limit)
            if not answer["Records"]:
                break
            got += [record["SequenceNumber"] for record in answer["Records"]]
            assert len(answer["Records"]) <= limit
            iterator = answer["NextShardIterator"]
        assert len(set(got)) == 20
        assert answer["Records"] == []


def test_a_read_is_empty_although_there_are_records(world: InlineBroker) -> None:
    iterator = world.iterator(0)
    world.faults.add(EmptyRead())
    assert world.ask("GetRecords", ShardIterator=iterator)["MillisBehindLatest"] == 0
    put(world, 3)
    world.now_s += 5
    empty = world.ask("GetRecords", ShardIterator=iterator)
    assert empty["Records"] == []
    assert empty["MillisBehindLatest"] == 5_000
    assert world.read(empty["NextShardIterator"]) == ["0", "1", "2"]


def test_the_end_of_a_closed_shard_is_not_told_by_an_empty_read(world: InlineBroker) -> None:
    put(world, 3)
    world.ask("SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    world.faults.add(EmptyRead())
    empty = world.ask("GetRecords", ShardIterator=world.iterator(0))
    assert "ChildShards" not in empty
    last = world.ask("GetRecords", ShardIterator=empty["NextShardIterator"])
    assert len(last["Records"]) == 3
    assert len(last["ChildShards"]) == 2


def test_an_iterator_expires_before_its_time(world: InlineBroker) -> None:
    two(world)
    put(world, 1)
    iterator, other = world.iterator(0), world.iterator(1, stream="two")
    world.faults.add(ExpiredIterator(stream="s"))
    world.ask("GetRecords", ShardIterator=other)
    assert world.refused("GetRecords", ShardIterator=iterator)[0] == "ExpiredIteratorException"
    assert world.read(iterator) == ["0"]


def test_the_clock_stays_within_the_calendar(world: InlineBroker) -> None:
    """Texts name days: beyond the year 9999 there are none."""
    year_s = 366 * 86_400
    world.faults.add(ClockJump("ListStreams", jump_s=10 * year_s, times="always"))
    world.now_s = 253_000_000_000.0
    iterator = world.iterator(0)
    for _ in range(5):
        world.ask("ListStreams")
    assert world.state.ahead_s == 10 * year_s
    code, text = world.refused("GetRecords", ShardIterator=iterator)
    assert (code, "right now it is" in text) == ("ExpiredIteratorException", True)


def test_the_clock_jumps_before_a_call(world: InlineBroker) -> None:
    put(world, 1)
    iterator = world.iterator(0)
    world.faults.add(ClockJump("GetRecords", jump_s=301))
    assert world.refused("GetRecords", ShardIterator=iterator)[0] == "ExpiredIteratorException"
    world.faults.add(ClockJump("PutRecords", jump_s=-301))
    world.put("back")
    fresh = world.iterator(0)
    assert world.read(fresh) == ["0", "back"]
    arrivals = [record["ApproximateArrivalTimestamp"] for record in world.ask("GetRecords", ShardIterator=fresh)["Records"]]
    assert arrivals == [world.now_s] * 2
    assert world.state.ahead_s == 0


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1), (4,)])
def test_a_stream_is_split_at_a_record(world: InlineBroker, sizes: tuple[int, ...]) -> None:
    world.faults.add(Reshard("s", 3))
    for size, stored in zip(sizes, (sum(sizes[: n + 1]) for n in range(len(sizes))), strict=True):
        put(world, size)
        assert len(world.shards(ShardFilter={"Type": "AT_LATEST"})) == (2 if stored >= 3 else 1)
    assert world.shards() == [0, 1, 2]
    assert not world.faults.active


def test_records_that_failed_do_not_count_towards_a_reshard(world: InlineBroker) -> None:
    world.faults.add(Reshard("s", 2))
    world.faults.fail_records(1.0)
    put(world, 2)
    assert world.shards() == [0]
    world.ask("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
    assert world.shards() == [0]
    world.ask("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
    assert world.shards() == [0, 1, 2]


def test_reshards_come_again_and_split_the_widest_then_merge_the_narrowest(world: InlineBroker) -> None:
    world.faults.add(Reshard("s", 2, times=3))
    put(world, 7)  # three multiples at once
    assert world.shards(ShardFilter={"Type": "AT_LATEST"}) == [3, 4, 5, 6]
    put(world, 10)
    assert len(world.shards(ShardFilter={"Type": "AT_LATEST"})) == 4
    world.faults.add(Reshard("s", 1, "merge", shard=6))
    put(world, 1)
    assert world.shards(ShardFilter={"Type": "AT_LATEST"}) == [3, 4, 7]
    world.faults.add(Reshard("s", 1, "merge"))
    put(world, 1)
    assert world.shards(ShardFilter={"Type": "AT_LATEST"}) == [7, 8]


def test_a_reshard_that_cannot_be_does_not_happen(world: InlineBroker) -> None:
    world.faults.add(Reshard("s", 1, "merge"))
    world.faults.add(Reshard("s", 1, shard=7))
    put(world, 1)
    assert world.shards() == [0]
    world.state.control_delay_ms = 1000
    world.faults.add(Reshard("s", 1, times=2))
    put(world, 2)  # the second one finds the stream UPDATING
    world.now_s += 2
    assert world.shards() == [0, 1, 2]
    assert [standing.struck for standing in world.faults.list()] == [1, 1, 2]


# --- on a socket -----------------------------------------------------------------------------------------------------------


def test_boto3_meets_throttles_failures_resets_and_latency(broker: Broker, client: Any) -> None:
    """From another thread than the broker's, as a test of a synchronous program does."""
    record = {"StreamName": "s", "Data": b"x", "PartitionKey": "k"}
    broker.faults.add(Throttle("PutRecord"))
    with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
        client.put_record(**record)
    broker.faults.add(InternalFailure("PutRecord"))
    with pytest.raises(botocore.exceptions.ClientError, match="InternalFailure"):
        client.put_record(**record)
    for fault in (ResetBefore("PutRecord"), ResetAfter("PutRecord")):
        broker.faults.add(fault)
        with pytest.raises(botocore.exceptions.ConnectionClosedError):
            client.put_record(**record)
    broker.faults.add(Latency("PutRecord", delay_s=0.05))
    began = time.monotonic()
    client.put_record(**record)
    assert time.monotonic() - began >= 0.05  # a bound that a slow machine only makes safer
    iterator = client.get_shard_iterator(StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
    assert len(client.get_records(ShardIterator=iterator["ShardIterator"])["Records"]) == 2
    assert [standing.struck for standing in broker.faults.list()] == [1] * 5


# --- pushed ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def subscribe(broker: Broker, client: Any) -> Callable[[], Any]:
    """Subscribes a new consumer to the shard of `s` from its beginning; answers the events."""
    names = count()

    def made() -> Any:
        arn = client.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
        consumer = client.register_stream_consumer(StreamARN=arn, ConsumerName=f"c{next(names)}")["Consumer"]["ConsumerARN"]
        start = {"Type": "TRIM_HORIZON"}
        return client.subscribe_to_shard(ConsumerARN=consumer, ShardId="shardId-000000000000", StartingPosition=start)["EventStream"]

    client.put_records(StreamName="s", Records=[{"Data": b"%d" % index, "PartitionKey": "k"} for index in range(3)])
    return made


def payloads(event: dict[str, Any]) -> list[bytes]:
    return [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]]


def test_an_exception_in_the_stream(broker: Broker, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(FailSubscription("KMSThrottlingException", after=1))
    with closing(subscribe()) as events:
        told = iter(events)
        assert payloads(next(told)) == [b"0", b"1", b"2"]
        broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
        with pytest.raises(botocore.exceptions.EventStreamError, match="KMSThrottlingException"):
            next(told)


def test_a_subscription_that_ends_early(broker: Broker, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(EndSubscription(stream="s", shard=0))
    with closing(subscribe()) as events:
        assert list(events) == []
    with closing(subscribe()) as events:
        assert payloads(next(iter(events))) == [b"0", b"1", b"2"]


def test_a_subscription_that_stalls_goes_on_after_its_time(broker: Broker, client: Any, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(StallSubscription(stall_s=60))

    def a_minute_later() -> None:  # in one turn of the broker's loop: nothing is sent in between
        broker.state.ahead_s += 60
        broker.call("PutRecord", StreamName="s", Data="Yg==", PartitionKey="k")

    with closing(subscribe()) as events:
        told = iter(events)
        client.put_record(StreamName="s", Data=b"a", PartitionKey="k")
        client.list_streams()  # the loop has turned: what was due has been sent
        broker._on_loop(a_minute_later)
        assert payloads(next(told)) == [b"0", b"1", b"2", b"a", b"b"]


def test_a_subscription_whose_answer_was_lost_is_not_open(broker: Broker, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(ResetAfter("SubscribeToShard"))
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        subscribe()
    stream = next(broker.state.all_streams(broker.state.now_ms))
    consumer = stream.consumers.find("c0", broker.state.now_ms)
    assert consumer is not None
    assert not consumer.subscriptions


def test_a_subscription_that_stalls_for_good_says_nothing_until_it_expires(broker: Broker, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(StallSubscription())
    with closing(subscribe()) as events:
        told = iter(events)
        broker.state.ahead_s += 300
        broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
        assert list(told) == []


def test_a_push_that_repeats_what_was_pushed(broker: Broker, subscribe: Callable[[], Any]) -> None:
    broker.faults.add(DuplicateRead(back=2))
    with closing(subscribe()) as events:
        told = iter(events)
        assert payloads(next(told)) == [b"0", b"1", b"2"]
        broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
        assert payloads(next(told)) == [b"1", b"2", b"a"]
        broker.call("PutRecord", StreamName="s", Data="Yg==", PartitionKey="k")
        assert payloads(next(told)) == [b"b"]
