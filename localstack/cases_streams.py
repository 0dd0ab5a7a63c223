"""What becomes of streams and shards: life cycle, listing, retention, tags, resharding and lineage?"""

from __future__ import annotations

import re
from typing import Any

from kit import HASH_KEYS, Kit, b64, case, holds, same, wait_until

RESHARD = "errors.md 7.5"
FILTER = "kinesis-api.md 5 (botocore's model)"
NAME_IN_USE = "errors.md 7.1, recorded on AWS until 2020"


# --- streams ----------------------------------------------------------------------------------------------------------


@case("streams", "a name that is taken", NAME_IN_USE)
def _(k: Kit) -> None:
    name = k.stream()
    text = f"Stream {name} under account {k.account(name)} already exists."
    k.refused("CreateStream", "ResourceInUseException", text, StreamName=name, ShardCount=1)


@case("streams", "a missing stream", "errors.md 7.1, recorded on AWS until 2020 and 2025-09")
def _(k: Kit) -> None:
    text = re.compile(r"Stream no-such under account \d{12} not found\.")
    for operation in ("DescribeStream", "DescribeStreamSummary", "DeleteStream", "ListTagsForStream", "ListShards"):
        k.refused(operation, "ResourceNotFoundException", text, StreamName="no-such")


@case("streams", "an ARN addresses a stream; the error text shows the bare name", "errors.md 9, recorded on AWS 2024-07 and 2025-09")
def _(k: Kit) -> None:
    name = k.stream()
    arn = k.arn(name)
    k.ask("PutRecord", StreamARN=arn, Data=b64(b"x"), PartitionKey="k")
    token = k.ask("GetShardIterator", StreamARN=arn, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    same("record", k.read(token, StreamARN=arn), [b"x"])
    same("name", k.ask("DescribeStream", StreamARN=arn)["StreamDescription"]["StreamName"], name)
    text = f"Stream no-such under account {k.account(name)} not found."
    k.refused("DescribeStream", "ResourceNotFoundException", text, StreamARN=arn.replace(name, "no-such"))


@case("streams", "members of DescribeStream", "errors.md 8, recorded on AWS 2022-09")
def _(k: Kit) -> None:
    found = k.ask("DescribeStream", StreamName=k.stream())["StreamDescription"]
    expected = {"StreamName", "StreamARN", "StreamStatus", "RetentionPeriodHours", "EncryptionType", "EnhancedMonitoring"}
    expected |= {"HasMoreShards", "Shards", "StreamCreationTimestamp", "StreamModeDetails"}
    same("members", set(found), expected)
    values = {
        "RetentionPeriodHours": 24,
        "EncryptionType": "NONE",
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "HasMoreShards": False,
    }
    same("values", {name: found[name] for name in values}, values)
    same("mode", found["StreamModeDetails"], {"StreamMode": "PROVISIONED"})


@case("streams", "members of DescribeStreamSummary", "errors.md 8; kinesis-api.md 3")
def _(k: Kit) -> None:
    found = k.ask("DescribeStreamSummary", StreamName=k.stream(3))["StreamDescriptionSummary"]
    same("counts", (found.get("OpenShardCount"), found.get("ConsumerCount")), (3, 0))
    same("record size", found.get("MaxRecordSizeInKiB"), 1024)
    holds("no shards", "Shards" not in found and "HasMoreShards" not in found)


@case("streams", "the first shards are equal slices of the hash keys", "kinesis-api.md 5")
def _(k: Kit) -> None:
    shards = k.shards(k.stream(3))
    same("ids", [shard["ShardId"] for shard in shards], [f"shardId-{n:012d}" for n in range(3)])
    ranges = [(int(s["HashKeyRange"]["StartingHashKey"]), int(s["HashKeyRange"]["EndingHashKey"])) for s in shards]
    starts = [HASH_KEYS // 3 * n for n in range(3)]
    same("ranges", ranges, list(zip(starts, [start - 1 for start in starts[1:]] + [HASH_KEYS - 1], strict=True)))
    holds("no parent, no end", all("ParentShardId" not in s and "EndingSequenceNumber" not in s["SequenceNumberRange"] for s in shards))


@case("streams", "without a shard count a stream gets four", "errors.md 9, recorded on AWS 2022-08")
def _(k: Kit) -> None:
    name = k.name()
    k.ask("CreateStream", StreamName=name, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    k.settle(name)
    same("shards", len(k.shards(name)), 4)
    same("mode", k.ask("DescribeStream", StreamName=name)["StreamDescription"]["StreamModeDetails"]["StreamMode"], "ON_DEMAND")


@case("streams", "DescribeStream pages by Limit and ExclusiveStartShardId", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream(5)
    first = k.ask("DescribeStream", StreamName=name, Limit=2)["StreamDescription"]
    same("first page", (len(first["Shards"]), first["HasMoreShards"]), (2, True))
    rest = k.ask("DescribeStream", StreamName=name, ExclusiveStartShardId=first["Shards"][-1]["ShardId"])["StreamDescription"]
    same("second page", ([s["ShardId"][-1] for s in rest["Shards"]], rest["HasMoreShards"]), (["2", "3", "4"], False))


@case("streams", "DescribeStream tells at most 100 shards", "errors.md 8")
def _(k: Kit) -> None:
    found = k.ask("DescribeStream", StreamName=k.stream(101))["StreamDescription"]
    same("shards", (len(found["Shards"]), found["HasMoreShards"]), (100, True))


@case("streams", "ListStreams is sorted and pages by name and by token", "errors.md 8 and 9")
def _(k: Kit) -> None:
    names = sorted(k.stream() for _ in range(3))
    before = names[0][:-1]
    first = k.ask("ListStreams", ExclusiveStartStreamName=before, Limit=2)
    same("first page", (first["StreamNames"], first["HasMoreStreams"]), (names[:2], True))
    by_name = k.ask("ListStreams", ExclusiveStartStreamName=names[1], Limit=1)
    same("by name", by_name["StreamNames"], names[2:])
    by_token = k.ask("ListStreams", NextToken=first["NextToken"], Limit=1)
    same("by token", by_token["StreamNames"], names[2:])


@case("streams", "ListStreams tells summaries", "errors.md 9")
def _(k: Kit) -> None:
    name = k.stream()
    found = k.ask("ListStreams", ExclusiveStartStreamName=name[:-1], Limit=1)["StreamSummaries"][0]
    same("summary", (found["StreamName"], found["StreamStatus"]), (name, "ACTIVE"))
    holds("members", {"StreamARN", "StreamModeDetails", "StreamCreationTimestamp"} <= set(found), found)


@case("streams", "a deleted stream is gone, and its name is free", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"old")
    k.ask("DeleteStream", StreamName=name)
    wait_until("the stream goes", lambda: k.post("DescribeStream", {"StreamName": name}).status != 200)
    k.ask("CreateStream", StreamName=name, ShardCount=1)
    k.settle(name)
    same("records", k.read(k.iterator(name)), [])


@case("streams", "a stream with consumers is deleted only with EnforceConsumerDeletion", "errors.md 7.8, reports of 2019 and 2020")
def _(k: Kit) -> None:
    name = k.stream()
    k.consumer(name)
    text = k.refused("DeleteStream", "ResourceInUseException", StreamName=name)
    holds("the text says how", "set the EnforceConsumerDeletion parameter to true" in text, text)
    k.ask("DeleteStream", StreamName=name, EnforceConsumerDeletion=True)


# --- retention and tags -----------------------------------------------------------------------------------------------


@case("retention", "raised, shown, lowered; the same again is fine", "errors.md 7.6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    for operation, hours in (("Increase", 48), ("Increase", 48), ("Decrease", 30), ("Decrease", 30)):
        k.ask(f"{operation}StreamRetentionPeriod", StreamName=name, RetentionPeriodHours=hours)
        k.settle(name)
        same("hours", k.ask("DescribeStream", StreamName=name)["StreamDescription"]["RetentionPeriodHours"], hours)


@case("retention", "below 24 hours", "errors.md 7.6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    text = "Minimum allowed retention period is 24 hours. Requested retention period (23 hours) is too short."
    for operation in ("Increase", "Decrease"):
        k.refused(f"{operation}StreamRetentionPeriod", "InvalidArgumentException", text, StreamName=name, RetentionPeriodHours=23)


@case("retention", "increase to less, decrease to more", "errors.md 7.6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    k.ask("IncreaseStreamRetentionPeriod", StreamName=name, RetentionPeriodHours=48)
    k.settle(name)
    start = "Requested retention period ({} hours) for stream {} can not be {} than existing retention period (48 hours). Use {}RetentionPeriod API."
    text = start.format(30, name, "shorter", "Decrease")
    k.refused("IncreaseStreamRetentionPeriod", "InvalidArgumentException", text, StreamName=name, RetentionPeriodHours=30)
    text = start.format(50, name, "longer", "Increase")
    k.refused("DecreaseStreamRetentionPeriod", "InvalidArgumentException", text, StreamName=name, RetentionPeriodHours=50)


@case("retention", "above 8,760 hours is refused", "kinesis-api.md 2.2; the text is not known")
def _(k: Kit) -> None:
    answer = k.post("IncreaseStreamRetentionPeriod", {"StreamName": k.stream(), "RetentionPeriodHours": 8_761})
    same("status", answer.status, 400)


@case("tags", "sorted by code point, paged by key", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    k.ask("AddTagsToStream", StreamName=name, Tags={"b": "2", "a": "1", "B": "", "é": "4"})
    page = k.ask("ListTagsForStream", StreamName=name, Limit=2)
    same("first page", page, {"Tags": [{"Key": "B", "Value": ""}, {"Key": "a", "Value": "1"}], "HasMoreTags": True})
    page = k.ask("ListTagsForStream", StreamName=name, ExclusiveStartTagKey="a")
    same("second page", ([tag["Key"] for tag in page["Tags"]], page["HasMoreTags"]), (["b", "é"], False))
    k.ask("RemoveTagsFromStream", StreamName=name, TagKeys=["b", "no-such"])
    same("removed", [tag["Key"] for tag in k.ask("ListTagsForStream", StreamName=name)["Tags"]], ["B", "a", "é"])


@case("tags", "characters that are not allowed", "errors.md 7.6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    text = "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @."
    for key in ("a;b", "tab\t"):
        k.refused("AddTagsToStream", "InvalidArgumentException", text, StreamName=name, Tags={key: "x"})
        k.refused("RemoveTagsFromStream", "InvalidArgumentException", text, StreamName=name, TagKeys=[key])


@case("tags", "more than fifty keys", "errors.md 7.6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    for start in range(0, 50, 10):
        k.ask("AddTagsToStream", StreamName=name, Tags={f"key-{n}": "" for n in range(start, start + 10)})
    text = (
        f"Failed to add tags to stream {name} under account {k.account(name)} because a given stream cannot have more than 10 tags "
        "associated with it."
    )
    k.refused("AddTagsToStream", "InvalidArgumentException", text, StreamName=name, Tags={"one more": ""})


@case("tags", "tags given at CreateStream are there", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream(1, Tags={"made": "with"})
    same("tags", k.ask("ListTagsForStream", StreamName=name)["Tags"], [{"Key": "made", "Value": "with"}])


@case("tags", "TagResource and AddTagsToStream see the same tags", "kinesis-api.md 1")
def _(k: Kit) -> None:
    name = k.stream()
    k.ask("TagResource", ResourceARN=k.arn(name), Tags={"a": "1", "b": "2"})
    same("old style", [tag["Key"] for tag in k.ask("ListTagsForStream", StreamName=name)["Tags"]], ["a", "b"])
    k.ask("UntagResource", ResourceARN=k.arn(name), TagKeys=["a"])
    same("new style", k.ask("ListTagsForResource", ResourceARN=k.arn(name))["Tags"], [{"Key": "b", "Value": "2"}])


# --- resharding -------------------------------------------------------------------------------------------------------


def lineage(shard: dict[str, Any]) -> tuple[str | None, str | None]:
    return shard.get("ParentShardId"), shard.get("AdjacentParentShardId")


def id_of(number: int) -> str:
    return f"shardId-{number:012d}"


@case("resharding", "split: the parent stays listed and is closed, its children know it", "kinesis-api.md 5; errors.md 8")
def _(k: Kit) -> None:
    name = k.stream(2)
    k.split(name, 0)
    shards = k.shards(name)
    same("ids", [shard["ShardId"] for shard in shards], [id_of(n) for n in range(4)])
    closed = ["EndingSequenceNumber" in shard["SequenceNumberRange"] for shard in shards]
    same("closed", closed, [True, False, False, False])
    same("parents", [lineage(shard) for shard in shards[2:]], [(id_of(0), None)] * 2)
    quarter, half = HASH_KEYS // 4, HASH_KEYS // 2
    ranges = [(int(s["HashKeyRange"]["StartingHashKey"]), int(s["HashKeyRange"]["EndingHashKey"])) for s in shards[2:]]
    same("ranges", ranges, [(0, quarter - 1), (quarter, half - 1)])


@case("resharding", "merge: the child knows both parents", "kinesis-api.md 5; errors.md 8")
def _(k: Kit) -> None:
    name = k.stream(2)
    k.merge(name)
    shards = k.shards(name)
    same("ids", [shard["ShardId"] for shard in shards], [id_of(n) for n in range(3)])
    same("parents", lineage(shards[2]), (id_of(0), id_of(1)))
    same("range", shards[2]["HashKeyRange"], {"StartingHashKey": "0", "EndingHashKey": str(HASH_KEYS - 1)})


@case("resharding", "after a split records go to the open children", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"old")
    k.split(name)
    # The service writes into the parent until the clock reaches the children's creation second.
    wait_until("puts go to a child", lambda: k.put(name, b"new", hash_key=0)[0]["ShardId"] != id_of(0))
    same("upper", k.put(name, b"new", hash_key=HASH_KEYS - 1)[0]["ShardId"], id_of(2))


@case("resharding", "a closed shard is read to its end: no next iterator, and its children", "kinesis-api.md 5; botocore's model")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1", b"2")
    k.split(name)
    found, page = k.end(name)
    same("records", found, [b"1", b"2"])
    children = page.get("ChildShards", [])
    same("children", [(c["ShardId"], c["ParentShards"]) for c in children], [(id_of(1), [id_of(0)]), (id_of(2), [id_of(0)])])
    same("children's ranges", [c["HashKeyRange"]["StartingHashKey"] for c in children], ["0", str(HASH_KEYS // 2)])


@case("resharding", "both parents of a merge name the child with both parents", "botocore's model")
def _(k: Kit) -> None:
    name = k.stream(2)
    k.merge(name)
    for parent in (0, 1):
        children = k.end(name, parent)[1].get("ChildShards", [])
        same("child", [(c["ShardId"], sorted(c["ParentShards"])) for c in children], [(id_of(2), [id_of(0), id_of(1)])])


@case("resharding", "an open shard's answer has no ChildShards", "errors.md 8")
def _(k: Kit) -> None:
    name = k.stream()
    holds("none", "ChildShards" not in k.ask("GetRecords", ShardIterator=k.iterator(name)))


@case("resharding", "LATEST on a closed shard ends at once", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1")
    k.split(name)
    page = k.ask("GetRecords", ShardIterator=k.iterator(name, 0, "LATEST"))
    same("records and next", (page["Records"], page.get("NextShardIterator")), ([], None))


@case("resharding", "children begin after their parent's end", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    last = k.put(name, b"1")[0]["SequenceNumber"]
    k.split(name)
    parent, *children = k.shards(name)
    end = int(parent["SequenceNumberRange"]["EndingSequenceNumber"])
    holds("the last record is before the end", int(last) < end)
    for child in children:
        holds("the end is before the child's start", end < int(child["SequenceNumberRange"]["StartingSequenceNumber"]))


@case("resharding", "the bounds of a split", f"{RESHARD}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    account = k.account(name)
    for key in ("0", "1", str(HASH_KEYS - 1)):
        text = (
            f"NewStartingHashKey {key} used in SplitShard() on shard shardId-000000000000 in stream {name} under account {account} "
            f"is not both greater than one plus the shard's StartingHashKey 0 and less than the shard's EndingHashKey {HASH_KEYS - 1}."
        )
        k.refused("SplitShard", "InvalidArgumentException", text, StreamName=name, ShardToSplit=id_of(0), NewStartingHashKey=key)
    k.split(name, 0, 2)


@case("resharding", "a closed shard is not split again", f"{RESHARD}, report of 2021-02")
def _(k: Kit) -> None:
    name = k.stream()
    k.split(name)
    text = (
        f"Shard shardId-000000000000 in stream {name} under account {k.account(name)} has already been merged or split, and thus is "
        "not eligible for merging or splitting."
    )
    k.refused("SplitShard", "InvalidArgumentException", text, StreamName=name, ShardToSplit=id_of(0), NewStartingHashKey="999")


@case("resharding", "shards that are no neighbours, or in reverse, are not merged", f"{RESHARD}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream(3)
    for one, two in ((0, 2), (1, 0)):
        text = f"Shards {id_of(one)} and {id_of(two)} in stream {name} under account {k.account(name)} are not an adjacent pair of shards eligible for merging"
        k.refused(
            "MergeShards", "InvalidArgumentException", text, StreamName=name, ShardToMerge=id_of(one), AdjacentShardToMerge=id_of(two)
        )


@case("resharding", "an unknown shard", "errors.md 7.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    text = f"Could not find shard {id_of(7)} in stream {name} under account {k.account(name)}."
    k.refused("SplitShard", "ResourceNotFoundException", text, StreamName=name, ShardToSplit=id_of(7), NewStartingHashKey="99")


@case("resharding", "UpdateShardCount doubles, halves, and keeps the lineage", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream(2)
    for target, before in ((4, 2), (2, 4)):
        answer = k.ask("UpdateShardCount", StreamName=name, TargetShardCount=target, ScalingType="UNIFORM_SCALING")
        same("answer", (answer["StreamName"], answer["CurrentShardCount"], answer["TargetShardCount"]), (name, before, target))
        k.settle(name)
        opened = [shard for shard in k.shards(name) if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
        same("open shards", len(opened), target)
        starts = sorted(int(shard["HashKeyRange"]["StartingHashKey"]) for shard in opened)
        same("equal slices", starts, [HASH_KEYS // target * n for n in range(target)])
        holds("with parents", all("ParentShardId" in shard for shard in opened))


@case("resharding", "UpdateShardCount beyond twice the shards is refused", "kinesis-api.md 2.2; the text is not known")
def _(k: Kit) -> None:
    answer = k.post("UpdateShardCount", {"StreamName": k.stream(), "TargetShardCount": 3, "ScalingType": "UNIFORM_SCALING"})
    same("status", answer.status, 400)
    holds(
        "a known error", answer.data["__type"] in {"LimitExceededException", "InvalidArgumentException", "ValidationException"}, answer.data
    )


# --- ListShards -------------------------------------------------------------------------------------------------------


def listed(k: Kit, name: str, **shard_filter: Any) -> list[int]:
    return [int(shard["ShardId"][-12:]) for shard in k.shards(name, ShardFilter=shard_filter)]


@case("ListShards", "AT_LATEST tells open shards only", FILTER)
def _(k: Kit) -> None:
    name = k.stream(2)
    k.split(name)
    same("shards", listed(k, name, Type="AT_LATEST"), [1, 2, 3])


@case("ListShards", "AT_TRIM_HORIZON tells what was open at the horizon, FROM_TRIM_HORIZON all", FILTER)
def _(k: Kit) -> None:
    name = k.stream(2)
    k.split(name)
    same("at", listed(k, name, Type="AT_TRIM_HORIZON"), [0, 1])
    same("from", listed(k, name, Type="FROM_TRIM_HORIZON"), [0, 1, 2, 3])


@case("ListShards", "AFTER_SHARD_ID goes by the id", FILTER)
def _(k: Kit) -> None:
    same("shards", listed(k, k.stream(4), Type="AFTER_SHARD_ID", ShardId=id_of(1)), [2, 3])


@case("ListShards", "AT_TIMESTAMP and FROM_TIMESTAMP", FILTER)
def _(k: Kit) -> None:
    name = k.stream()
    k.wait(1.1)
    before = k.now_s()
    k.wait(1.1)
    k.split(name)
    same("at, before the split", listed(k, name, Type="AT_TIMESTAMP", Timestamp=before), [0])
    same("from, before the split", listed(k, name, Type="FROM_TIMESTAMP", Timestamp=before), [0, 1, 2])


@case("ListShards", "pages by MaxResults and NextToken; the last has none", "errors.md 8")
def _(k: Kit) -> None:
    name = k.stream(5)
    pages, answer = [], k.ask("ListShards", StreamName=name, MaxResults=2)
    while True:
        pages.append([int(shard["ShardId"][-1]) for shard in answer["Shards"]])
        if "NextToken" not in answer:
            break
        answer = k.ask("ListShards", NextToken=answer["NextToken"], MaxResults=2)
    same("pages", pages, [[0, 1], [2, 3], [4]])


@case("ListShards", "the filter holds over pages", FILTER)
def _(k: Kit) -> None:
    name = k.stream(4)
    k.split(name, 1)
    answer = k.ask("ListShards", StreamName=name, MaxResults=3, ShardFilter={"Type": "AT_LATEST"})
    rest = k.ask("ListShards", NextToken=answer["NextToken"])
    same("shards", [int(shard["ShardId"][-1]) for shard in answer["Shards"] + rest["Shards"]], [0, 2, 3, 4, 5])


@case("ListShards", "a token with another selector", "errors.md 7.7, recorded on AWS until 2020; reports of 2024 and 2025")
def _(k: Kit) -> None:
    name = k.stream(2)
    token = k.ask("ListShards", StreamName=name, MaxResults=1)["NextToken"]
    text = "NextToken and StreamName cannot be provided together."
    k.refused("ListShards", "InvalidArgumentException", text, NextToken=token, StreamName=name)


@case("ListShards", "neither a name nor a token", "errors.md 7.7, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.refused("ListShards", "InvalidArgumentException", "Either NextToken or StreamName should be provided.")


@case("ListShards", "a garbage token is a 400", "errors.md 7.7; the text is not known")
def _(k: Kit) -> None:
    for token in ("garbage!", "AAAA", "é" * 100):
        answer = k.post("ListShards", {"NextToken": token})
        same("status", answer.status, 400)
        holds("a known error", answer.data["__type"] in {"InvalidArgumentException", "ExpiredNextTokenException"}, answer.data)


@case("ListShards", "a token older than five minutes has expired", "kinesis-api.md 3")
def _(k: Kit) -> None:
    token = k.ask("ListShards", StreamName=k.stream(2), MaxResults=1)["NextToken"]
    k.jump(301)
    k.refused("ListShards", "ExpiredNextTokenException", NextToken=token)


@case("ListShards", "ExclusiveStartShardId is exclusive", "errors.md 8")
def _(k: Kit) -> None:
    same("shards", [s["ShardId"][-1] for s in k.shards(k.stream(3), ExclusiveStartShardId=id_of(0))], ["1", "2"])


__all__: list[str] = []
