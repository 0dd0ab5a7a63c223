"""Where do iterators stand, and what does a read answer? All on a clock that only moves when told."""

from __future__ import annotations

import base64
import json

import pytest

from streamlet.broker import sequence
from streamlet.broker.inline import EPOCH_S, InlineBroker

SHARD = "shardId-000000000000"


def test_put_then_read_gives_the_same_records_in_order(world: InlineBroker) -> None:
    put = world.put("a", "b", "c")
    answer = world.ask("GetRecords", ShardIterator=world.iterator(0))
    assert set(answer) == {"MillisBehindLatest", "NextShardIterator", "Records"}
    assert [record["SequenceNumber"] for record in answer["Records"]] == [entry["SequenceNumber"] for entry in put]
    assert answer["Records"][0] == {
        "SequenceNumber": put[0]["SequenceNumber"],
        "ApproximateArrivalTimestamp": EPOCH_S,
        "Data": base64.b64encode(b"a").decode(),
        "PartitionKey": "k",
    }
    assert answer["MillisBehindLatest"] == 0


def test_numbers_rise_within_a_shard_whatever_the_clock_does(world: InlineBroker) -> None:
    numbers = []
    for now_s in (EPOCH_S, EPOCH_S + 100, EPOCH_S - 100, EPOCH_S - 100, EPOCH_S + 1):
        world.now_s = now_s
        numbers += [int(entry["SequenceNumber"]) for entry in world.put("x", "y")]
    assert numbers == sorted(set(numbers))
    records = world.ask("GetRecords", ShardIterator=world.iterator(0))["Records"]
    arrivals = [record["ApproximateArrivalTimestamp"] for record in records]
    assert arrivals == sorted(arrivals)


def test_any_partition_key_comes_back_unchanged(world: InlineBroker) -> None:
    keys = ["a b", 'quote"', "back\\slash", "\u0000\u001f\n", "é漢😀", "x" * 256, "7", "½"]
    for key in keys:
        world.ask("PutRecord", StreamName="s", Data="", PartitionKey=key)
    records = world.ask("GetRecords", ShardIterator=world.iterator(0))["Records"]
    assert [record["PartitionKey"] for record in records] == keys


def test_every_answer_has_a_new_iterator_and_old_ones_re_read(world: InlineBroker) -> None:
    world.put("a")
    first = world.iterator(0, "LATEST")
    second = world.ask("GetRecords", ShardIterator=first)["NextShardIterator"]
    third = world.ask("GetRecords", ShardIterator=second)["NextShardIterator"]
    assert len({first, second, third}) == 3
    world.put("b")
    assert world.read(first) == world.read(second) == world.read(third) == ["b"]


def test_latest_is_resolved_when_asked_for(world: InlineBroker) -> None:
    world.put("before")
    latest = world.iterator(0, "LATEST")
    world.put("after")
    assert world.read(latest) == ["after"]


def test_at_and_after_a_number(world: InlineBroker) -> None:
    put = world.put("a", "b", "c")
    middle = put[1]["SequenceNumber"]
    assert world.read(world.iterator(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=middle)) == ["b", "c"]
    assert world.read(world.iterator(0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=middle)) == ["c"]
    last = put[2]["SequenceNumber"]
    after = world.iterator(0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=last)
    world.put("d")
    assert world.read(after) == ["d"]


def test_the_shards_own_bounds_are_positions(world: InlineBroker) -> None:
    world.put("a", "b")
    world.ask("SplitShard", StreamName="s", ShardToSplit=SHARD, NewStartingHashKey=str(2**127))
    bounds = world.ask("ListShards", StreamName="s")["Shards"][0]["SequenceNumberRange"]
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        assert world.read(world.iterator(0, kind, StartingSequenceNumber=bounds["StartingSequenceNumber"])) == ["a", "b"]
        end = world.ask("GetRecords", ShardIterator=world.iterator(0, kind, StartingSequenceNumber=bounds["EndingSequenceNumber"]))
        assert end["Records"] == []
        assert "ChildShards" in end


def test_a_number_between_two_records_is_a_position_too(world: InlineBroker) -> None:
    """With a record's counter but an earlier second it lies before it, with a later one behind it."""
    put = world.put("a", "b")
    found = sequence.parse(int(put[0]["SequenceNumber"]))
    assert found is not None
    for second, expected in ((found.second - 1, ["a", "b"]), (found.second + 1, ["b"])):
        number = str(sequence.make(found.creation_s, 0, found.counter, second))
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            assert world.read(world.iterator(0, kind, StartingSequenceNumber=number)) == expected


def test_at_timestamp_counts_milliseconds(world: InlineBroker) -> None:
    for ms in (0, 1, 2):
        world.now_s = EPOCH_S + ms / 1000
        world.put(f"r{ms}")
    world.now_s += 10
    read = {
        at: world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=at))
        for at in (1.0, EPOCH_S, EPOCH_S + 0.001, EPOCH_S + 0.002, EPOCH_S + 0.003)
    }
    assert list(read.values()) == [["r0", "r1", "r2"], ["r0", "r1", "r2"], ["r1", "r2"], ["r2"], []]


def test_an_arrival_time_finds_its_record_again(world: InlineBroker) -> None:
    """As a double of seconds, which is a little below or above the millisecond it stands for."""
    for ms in range(1000):
        world.now_s = EPOCH_S + (ms + 0.5) / 1000
        world.put(str(ms))
    world.now_s += 1
    for record in world.ask("GetRecords", ShardIterator=world.iterator(0))["Records"]:
        at = record["ApproximateArrivalTimestamp"]
        found = world.ask("GetRecords", ShardIterator=world.iterator(0, "AT_TIMESTAMP", Timestamp=at), Limit=1)
        assert found["Records"] == [record]


def test_now_with_microseconds_is_not_in_the_future(world: InlineBroker) -> None:
    world.put("a")
    world.now_s = EPOCH_S + 0.0019
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S + 0.0019)) == []
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S + 0.0009)) == ["a"]
    world.now_s = EPOCH_S + 1
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S - 1e-7)) == ["a"]


def test_at_timestamp_resolves_to_the_tip_and_sees_what_comes_then(world: InlineBroker) -> None:
    world.put("old")
    world.now_s += 1
    iterator = world.iterator(0, "AT_TIMESTAMP", Timestamp=world.now_s)
    world.put("new")
    assert world.read(iterator) == ["new"]


def test_limit_and_behind(world: InlineBroker) -> None:
    world.put("a", "b", "c")
    world.now_s += 5
    first = world.ask("GetRecords", ShardIterator=world.iterator(0), Limit=2)
    assert (len(first["Records"]), first["MillisBehindLatest"]) == (2, 5000)
    second = world.ask("GetRecords", ShardIterator=first["NextShardIterator"], Limit=2)
    assert (len(second["Records"]), second["MillisBehindLatest"]) == (1, 0)


def test_behind_is_never_0_before_the_tip(world: InlineBroker) -> None:
    """Even if all was put and read within one millisecond: 0 would say "caught up"."""
    world.put("a", "b")
    assert world.ask("GetRecords", ShardIterator=world.iterator(0), Limit=1)["MillisBehindLatest"] == 1


def test_an_answer_holds_ten_thousand_records(world: InlineBroker) -> None:
    for _ in range(21):
        world.put(*["x"] * 500)
    answer = world.ask("GetRecords", ShardIterator=world.iterator(0))
    assert len(answer["Records"]) == 10_000
    assert len(world.ask("GetRecords", ShardIterator=answer["NextShardIterator"])["Records"]) == 500


def test_an_answer_holds_ten_mebibytes_of_data_and_keys(world: InlineBroker) -> None:
    size = 1024 * 1024
    exact = base64.b64encode(b"x" * (size - 1)).decode()  # with its key of one byte: a full mebibyte
    for _ in range(12):
        world.ask("PutRecord", StreamName="s", Data=exact, PartitionKey="k")
    first = world.ask("GetRecords", ShardIterator=world.iterator(0))
    assert len(first["Records"]) == 10
    assert len(world.ask("GetRecords", ShardIterator=first["NextShardIterator"])["Records"]) == 2


def test_one_record_larger_than_the_rest_of_an_answer_waits_for_the_next(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="big", ShardCount=1, MaxRecordSizeInKiB=10240)
    big = base64.b64encode(b"x" * (10 * 1024 * 1024 - 1)).decode()
    world.put("small", stream="big")
    world.ask("PutRecord", StreamName="big", Data=big, PartitionKey="k")
    first = world.ask("GetRecords", ShardIterator=world.iterator(0, stream="big"))
    second = world.ask("GetRecords", ShardIterator=first["NextShardIterator"])
    assert [len(first["Records"]), len(second["Records"]), second["MillisBehindLatest"]] == [1, 1, 0]


def test_an_iterator_lives_300_seconds(world: InlineBroker) -> None:
    world.now_s = 1421889422.0  # Thu Jan 22 01:17:02 UTC 2015, behind the stream's creation: only the texts matter
    iterator = world.iterator(0)
    world.now_s += 300
    assert world.read(iterator) == []
    world.now_s += 0.001
    assert world.refused("GetRecords", ShardIterator=iterator) == (
        "ExpiredIteratorException",
        (
            "Iterator expired. The iterator was created at time Thu Jan 22 01:17:02 UTC 2015 while right now it is "
            "Thu Jan 22 01:22:02 UTC 2015 which is further in the future than the tolerated delay of 300000 milliseconds."
        ),
    )


def test_the_form_of_an_iterator(world: InlineBroker) -> None:
    """base64 of a version and whole blocks, within 152-280 bytes; in double quotes it is accepted as well."""
    for name in ("s2", "n" * 128):
        world.ask("CreateStream", StreamName=name, ShardCount=1)
        iterator = world.iterator(0, stream=name)
        raw = base64.b64decode(iterator, validate=True)
        assert raw[:8] == bytes(7) + b"\x01"
        assert 152 <= len(raw) <= 280
        assert len(raw) % 16 == 8
        assert len(iterator) <= 512
        assert world.read(f'"{iterator}"') == []


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-4], lambda t: "B" + t[1:], lambda t: t[:40] + "zz" + t[42:], lambda _: "é", lambda _: '""']
)
def test_a_damaged_iterator_is_invalid(world: InlineBroker, damage) -> None:  # type: ignore[no-untyped-def]
    assert world.refused("GetRecords", ShardIterator=damage(world.iterator(0))) == ("InvalidArgumentException", "Invalid ShardIterator.")


def test_what_is_older_than_the_retention_is_gone(world: InlineBroker) -> None:
    old = world.put("old")[0]["SequenceNumber"]
    early = world.iterator(0)
    world.now_s += 3600
    world.put("new")
    world.now_s += 23 * 3600
    assert world.read(world.iterator(0)) == ["old", "new"]  # exactly 24 hours: still there
    world.now_s += 0.001
    assert world.read(world.iterator(0)) == ["new"]
    assert world.read(world.iterator(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=old)) == ["new"]
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S)) == ["new"]
    world.now_s += 3600
    assert world.read(world.iterator(0)) == []
    assert world.refused("GetRecords", ShardIterator=early)[0] == "ExpiredIteratorException"
    later = world.put("again")[0]["SequenceNumber"]
    assert int(later) > int(old)
    assert world.read(world.iterator(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=later)) == ["again"]


def test_trimming_lets_go_of_memory_and_keeps_positions(world: InlineBroker) -> None:
    """A reader that stands behind the trimmed part is not moved; also across many small trims."""
    shard = world.stream().shards[0]
    for hour in range(60):
        world.now_s = EPOCH_S + hour * 3600
        world.put(*(f"{hour}.{index}" for index in range(500)))
        iterator = world.iterator(0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=world.put("mark")[0]["SequenceNumber"])
        world.put("behind")
        assert world.read(iterator) == ["behind"]
    assert shard.trimmed == 35 * 502
    assert world.read(world.iterator(0))[0] == "35.0"
    assert shard.tip - 1 - shard.dropped <= 25 * 502 + 502


def test_a_longer_retention_keeps_and_a_shorter_one_lets_go(world: InlineBroker) -> None:
    world.ask("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    world.put("a")
    world.now_s += 47 * 3600
    assert world.read(world.iterator(0)) == ["a"]
    world.ask("DecreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=24)
    assert world.read(world.iterator(0)) == []
    world.ask("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    assert world.read(world.iterator(0)) == []


def test_a_read_answer_is_json_whatever_is_in_it(world: InlineBroker) -> None:
    world.ask("PutRecord", StreamName="s", Data="", PartitionKey='"\\\u2028')
    answer = world.post("GetRecords", json.dumps({"ShardIterator": world.iterator(0)}))
    assert json.loads(b"".join(answer.body))["Records"][0]["Data"] == ""
