"""What do split and merge leave behind? Lineage, sequence numbers, listings, routing."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise
from typing import Any

import pytest

from streamlet.broker import sequence
from streamlet.broker.inline import EPOCH_S, InlineBroker

TOP = 2**128 - 1


def hash_of(key: str) -> int:
    return int.from_bytes(hashlib.md5(key.encode()).digest(), "big")


def listed(world: InlineBroker, **more: Any) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = world.ask("ListShards", StreamName="s", **more)["Shards"]
    return shards


def split(world: InlineBroker, index: int, at: int) -> None:
    world.ask("SplitShard", StreamName="s", ShardToSplit=f"shardId-{index:012d}", NewStartingHashKey=str(at))


def merge(world: InlineBroker, lower: int, upper: int) -> None:
    world.ask("MergeShards", StreamName="s", ShardToMerge=f"shardId-{lower:012d}", AdjacentShardToMerge=f"shardId-{upper:012d}")


def fields(text: str) -> sequence.Sequence:
    found = sequence.parse(int(text))
    assert found is not None
    return found


def test_children_start_a_second_after_their_parents_end(world: InlineBroker) -> None:
    world.now_s += 100
    split(world, 0, 2**127)
    world.now_s += 100
    merge(world, 1, 2)
    parent, lower, upper, child = listed(world)
    end = fields(parent["SequenceNumberRange"]["EndingSequenceNumber"])
    assert (end.counter, end.second) == (sequence.CLOSING_COUNTER, int(EPOCH_S) + 100)
    for shard in (lower, upper):
        start = fields(shard["SequenceNumberRange"]["StartingSequenceNumber"])
        assert (start.counter, start.creation_s, start.second) == (0, end.second + 1, end.second + 1)
        assert shard["ParentShardId"] == parent["ShardId"]
        assert "AdjacentParentShardId" not in shard
    assert (child["ParentShardId"], child["AdjacentParentShardId"]) == (lower["ShardId"], upper["ShardId"])
    ends = {fields(shard["SequenceNumberRange"]["EndingSequenceNumber"]).second for shard in (lower, upper)}
    assert len(ends) == 1
    assert "EndingSequenceNumber" not in child["SequenceNumberRange"]
    assert child["HashKeyRange"] == {"StartingHashKey": "0", "EndingHashKey": str(TOP)}


def test_writes_right_after_a_split_lie_within_the_children(world: InlineBroker) -> None:
    """Event 1: split at second t; the children are created at t + 1. Event 2: a put, still at t."""
    parent_number = int(world.put("x")[0]["SequenceNumber"])
    split(world, 0, 2**127)
    for key in ("a", "b", "c", "d"):
        put = world.put("y", key=key)[0]
        shard = next(shard for shard in listed(world) if shard["ShardId"] == put["ShardId"])
        number = int(put["SequenceNumber"])
        assert number > int(shard["SequenceNumberRange"]["StartingSequenceNumber"]) > parent_number
        assert int(shard["HashKeyRange"]["StartingHashKey"]) <= hash_of(key) <= int(shard["HashKeyRange"]["EndingHashKey"])
        # It also orders a following put, although its second is ahead of the clock.
        world.ask("PutRecord", StreamName="s", Data="", PartitionKey=key, SequenceNumberForOrdering=put["SequenceNumber"])


def test_the_end_of_a_parent_names_its_children(world: InlineBroker) -> None:
    world.put("a", "b")
    iterator = world.iterator(0)
    split(world, 0, 2**127)
    part = world.ask("GetRecords", ShardIterator=iterator, Limit=1)
    assert "ChildShards" not in part
    end = world.ask("GetRecords", ShardIterator=part["NextShardIterator"])
    assert set(end) == {"ChildShards", "MillisBehindLatest", "Records"}
    assert [(child["ShardId"][-1], child["ParentShards"], child["HashKeyRange"]["StartingHashKey"]) for child in end["ChildShards"]] == [
        ("1", ["shardId-000000000000"], "0"),
        ("2", ["shardId-000000000000"], str(2**127)),
    ]
    merge(world, 1, 2)
    for parent in (1, 2):
        child = world.ask("GetRecords", ShardIterator=world.iterator(parent))["ChildShards"]
        assert [(shard["ShardId"][-1], shard["ParentShards"]) for shard in child] == [
            ("3", ["shardId-000000000001", "shardId-000000000002"])
        ]


def test_latest_on_a_closed_shard_is_its_end(world: InlineBroker) -> None:
    world.put("a")
    split(world, 0, 2**127)
    assert "ChildShards" in world.ask("GetRecords", ShardIterator=world.iterator(0, "LATEST"))


@pytest.mark.parametrize(
    ("at", "fine"),
    [(0, False), (1, False), (2, True), (TOP - 1, True), (TOP, False), (TOP + 1, False)],
    ids=["0", "1", "2", "-2", "-1", "max"],
)
def test_the_bounds_of_a_split(world: InlineBroker, at: int, fine: bool) -> None:
    if fine:
        split(world, 0, at)
        return
    assert world.refused("SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(at)) == (
        "InvalidArgumentException",
        (
            f"NewStartingHashKey {at} used in SplitShard() on shard shardId-000000000000 in stream s under account 000000000000 is not both "
            f"greater than one plus the shard's StartingHashKey 0 and less than the shard's EndingHashKey {TOP}."
        ),
    )


def test_refusals_of_reshards(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="t", ShardCount=3)
    zero, one, two = (f"shardId-{index:012d}" for index in range(3))
    where = "stream t under account 000000000000"
    not_adjacent = "are not an adjacent pair of shards eligible for merging"
    for lower, upper in ((one, zero), (zero, two), (zero, zero)):
        assert world.refused("MergeShards", StreamName="t", ShardToMerge=lower, AdjacentShardToMerge=upper) == (
            "InvalidArgumentException",
            f"Shards {lower} and {upper} in {where} {not_adjacent}",
        )
    missing = ("ResourceNotFoundException", f"Could not find shard shardId-000000000009 in {where}.")
    assert world.refused("SplitShard", StreamName="t", ShardToSplit="x-9", NewStartingHashKey="5") == missing
    assert world.refused("MergeShards", StreamName="t", ShardToMerge=zero, AdjacentShardToMerge="9") == missing
    odd = ("ResourceNotFoundException", f"Could not find shard shard-x in {where}.")
    assert world.refused("SplitShard", StreamName="t", ShardToSplit="shard-x", NewStartingHashKey="5") == odd
    world.ask("MergeShards", StreamName="t", ShardToMerge=zero, AdjacentShardToMerge=one)
    closed = (
        "InvalidArgumentException",
        f"Shard {zero} in {where} has already been merged or split, and thus is not eligible for merging or splitting.",
    )
    assert world.refused("SplitShard", StreamName="t", ShardToSplit=zero, NewStartingHashKey="5") == closed
    assert world.refused("MergeShards", StreamName="t", ShardToMerge=zero, AdjacentShardToMerge=one) == closed


def test_the_shard_limit() -> None:
    world = InlineBroker(shards_max=2)
    world.ask("CreateStream", StreamName="s", ShardCount=2)
    code, text = world.refused("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey="5")
    assert code == "LimitExceededException"
    assert text.startswith(
        "This request would exceed the shard limit for the account 000000000000 in eu-west-1. Current shard count for the account: 2. "
        "Limit: 2. Number of additional shards that would have resulted from this request: 1. Refer to the AWS Service Limits page "
    )
    assert "request: 3." in world.refused("CreateStream", StreamName="t", ShardCount=3)[1]


def test_filters(world: InlineBroker) -> None:
    """Lineage 0 -> 1, 2 at hour 1; 1, 2 -> 3 at hour 2; now it is hour 3."""
    world.now_s = EPOCH_S + 3600
    split(world, 0, 2**127)
    world.now_s = EPOCH_S + 7200
    merge(world, 1, 2)
    world.now_s = EPOCH_S + 3 * 3600

    def found(kind: str, **more: Any) -> list[int]:
        return world.shards(ShardFilter={"Type": kind, **more})

    assert world.shards() == found("FROM_TRIM_HORIZON") == [0, 1, 2, 3]
    assert found("AT_LATEST") == [3]
    assert found("AT_TRIM_HORIZON") == [0]
    assert found("AFTER_SHARD_ID", ShardId="shardId-000000000001") == [2, 3]
    at = {hour: found("AT_TIMESTAMP", Timestamp=EPOCH_S + hour * 3600) for hour in (-1, 0.5, 1, 1.5, 2, 9)}
    assert at == {-1: [0], 0.5: [0], 1: [1, 2], 1.5: [1, 2], 2: [3], 9: [3]}
    since = {hour: found("FROM_TIMESTAMP", Timestamp=EPOCH_S + hour * 3600) for hour in (-1, 0.5, 1, 1.5, 2, 2.5)}
    assert since == {-1: [0, 1, 2, 3], 0.5: [0, 1, 2, 3], 1: [0, 1, 2, 3], 1.5: [1, 2, 3], 2: [1, 2, 3], 2.5: [3]}
    world.now_s = EPOCH_S + 25.5 * 3600  # the trim horizon is at hour 1.5: shard 0 has expired
    assert found("AT_TRIM_HORIZON") == [1, 2]
    assert world.shards() == [1, 2, 3]
    assert world.refused("GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="LATEST") == (
        "ResourceNotFoundException",
        "Shard shardId-000000000000 in stream s under account 000000000000 does not exist",
    )
    assert listed(world)[0]["ParentShardId"] == "shardId-000000000000"  # still told, although it is gone


def test_at_the_trim_horizon_one_generation_even_if_the_clock_stands_still(world: InlineBroker) -> None:
    split(world, 0, 2**127)
    split(world, 1, 2**126)
    assert world.shards(ShardFilter={"Type": "AT_TRIM_HORIZON"}) == [0]
    assert world.shards(ShardFilter={"Type": "AT_LATEST"}) == [2, 3, 4]


def test_pages(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="many", ShardCount=250)
    first = world.ask(
        "ListShards", StreamName="many", MaxResults=100, ShardFilter={"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000009"}
    )
    second = world.ask("ListShards", NextToken=first["NextToken"], MaxResults=100)
    third = world.ask("ListShards", NextToken=second["NextToken"], MaxResults=100)
    assert set(third) == {"Shards"}
    ids = [int(shard["ShardId"][-12:]) for page in (first, second, third) for shard in page["Shards"]]
    assert ids == list(range(10, 250))
    both = world.refused("ListShards", NextToken=first["NextToken"], StreamName="many")
    assert both == ("InvalidArgumentException", "NextToken and StreamName cannot be provided together.")
    assert world.refused("ListShards") == ("InvalidArgumentException", "Either NextToken or StreamName should be provided.")
    assert world.refused("ListShards", NextToken="AAAA")[0] == "InvalidArgumentException"
    page = world.ask("DescribeStream", StreamName="many")["StreamDescription"]
    assert (len(page["Shards"]), page["HasMoreShards"]) == (100, True)
    rest = world.ask("DescribeStream", StreamName="many", ExclusiveStartShardId="shardId-000000000199")["StreamDescription"]
    assert (len(rest["Shards"]), rest["HasMoreShards"]) == (50, False)
    world.now_s += 301
    assert world.refused("ListShards", NextToken=first["NextToken"])[0] == "ExpiredNextTokenException"


def test_with_a_delay_the_old_picture_stays_until_all_changes_at_once() -> None:
    world = InlineBroker(control_delay_ms=1000)

    def status() -> tuple[str, int]:
        description = world.ask("DescribeStream", StreamName="s")["StreamDescription"]
        return description["StreamStatus"], len(description["Shards"])

    world.ask("CreateStream", StreamName="s", ShardCount=1)
    assert status() == ("CREATING", 0)
    assert world.refused("PutRecord", StreamName="s", Data="", PartitionKey="k") == (
        "ResourceNotFoundException",
        "Stream s under account 000000000000 not found.",
    )
    busy = "Stream s under account 000000000000 not ACTIVE, instead in state"
    assert world.refused("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey="5") == (
        "ResourceInUseException",
        f"{busy} CREATING",
    )
    world.now_s += 1
    assert status() == ("ACTIVE", 1)
    split(world, 0, 2**127)
    assert status() == ("UPDATING", 1)
    assert world.put("x")[0]["ShardId"] == "shardId-000000000000"
    assert world.refused("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey="5")[1] == f"{busy} UPDATING"
    world.now_s += 1
    assert status() == ("ACTIVE", 3)
    world.ask("DeleteStream", StreamName="s")
    assert status()[0] == "DELETING"
    world.now_s += 1
    assert world.refused("DescribeStream", StreamName="s")[0] == "ResourceNotFoundException"


def test_a_stream_deleted_while_updating_goes_away() -> None:
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 1
    split(world, 0, 2**127)
    world.now_s += 0.5
    world.ask("DeleteStream", StreamName="s")
    world.now_s += 0.5  # the split takes effect; it does not bring the stream back
    assert world.ask("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamStatus"] == "DELETING"
    world.now_s += 0.5
    assert world.ask("ListStreams")["StreamNames"] == []


@pytest.mark.parametrize("seed", range(5))
def test_after_any_reshards_the_open_shards_tile_the_ring_and_nothing_is_lost(seed: int) -> None:
    """Random puts, splits, merges and rescales; then every record is found by following the lineage."""
    rng = random.Random(seed)
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=rng.randint(1, 5))
    expected: set[str] = set()
    for step in range(60):
        world.now_s += rng.choice([0, 0, 0.3, 5])
        key = f"key{step}"
        expected.add(key)
        put = world.put(key, key=key)[0]
        stream = world.stream()
        opened = stream.open
        home = next(shard for shard in opened if shard.id == put["ShardId"])
        assert home.start <= hash_of(key) <= home.end
        action = rng.random()
        if action < 0.3:
            shard = rng.choice(opened)
            split(world, shard.index, rng.randint(shard.start + 2, shard.end - 1))
        elif action < 0.6 and len(opened) > 1:
            place = rng.randrange(len(opened) - 1)
            merge(world, opened[place].index, opened[place + 1].index)
        elif action < 0.7:
            count = rng.randint((len(opened) + 1) // 2, 2 * len(opened))
            world.ask("UpdateShardCount", StreamName="s", TargetShardCount=count, ScalingType="UNIFORM_SCALING")
            assert len(world.stream().open) == count
        bounds = [(shard.start, shard.end) for shard in world.stream().open]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == TOP
        assert all(a[1] + 1 == b[0] for a, b in pairwise(bounds))
    roots = world.shards(ShardFilter={"Type": "AT_TRIM_HORIZON"})
    seen: set[str] = set()
    todo = [f"shardId-{index:012d}" for index in roots]
    visited = set()
    while todo:
        shard_id = todo.pop()
        if shard_id in visited:
            continue
        visited.add(shard_id)
        answer = world.ask("GetRecords", ShardIterator=world.iterator(shard_id))
        seen.update(record["PartitionKey"] for record in answer["Records"])
        todo += [child["ShardId"] for child in answer.get("ChildShards", ())]
    assert seen == expected
    for found in listed(world):
        limits = found["SequenceNumberRange"]
        assert int(limits["StartingSequenceNumber"]) < int(limits.get("EndingSequenceNumber", 10**60))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 3), (4, 8), (8, 4), (3, 6), (6, 4)])
def test_rescaling_gives_equal_ranges(before: int, after: int) -> None:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=before)
    answer = world.ask("UpdateShardCount", StreamName="s", TargetShardCount=after, ScalingType="UNIFORM_SCALING")
    assert (answer["CurrentShardCount"], answer["TargetShardCount"]) == (before, after)
    assert [shard.start for shard in world.stream().open] == [2**128 // after * index for index in range(after)]


def test_rescaling_too_far_is_refused(world: InlineBroker) -> None:
    assert (
        world.refused("UpdateShardCount", StreamName="s", TargetShardCount=3, ScalingType="UNIFORM_SCALING")[0] == "LimitExceededException"
    )
