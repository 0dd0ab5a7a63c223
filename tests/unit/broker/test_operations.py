"""Do the operations answer and refuse as the service does? Streams, writes, iterator rules, tags, retention."""

from __future__ import annotations

import base64
import json
from typing import Any

import botocore.session
import pytest

from streamlet.broker import sequence
from streamlet.broker.inline import EPOCH_S, InlineBroker
from streamlet.broker.ops import OPERATIONS

SHARD = "shardId-000000000000"
WHERE = "stream s under account 000000000000"
ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"


def test_a_streams_description(world: InlineBroker) -> None:
    description = world.ask("DescribeStream", StreamARN=ARN)["StreamDescription"]
    assert description == {
        "StreamName": "s",
        "StreamARN": ARN,
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": int(EPOCH_S),
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
        "Shards": [
            {
                "ShardId": SHARD,
                "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(2**128 - 1)},
                "SequenceNumberRange": {"StartingSequenceNumber": str(sequence.make(int(EPOCH_S) - 2, 0, 0, int(EPOCH_S) - 2))},
            }
        ],
        "HasMoreShards": False,
    }
    summary = world.ask("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]
    assert (summary["OpenShardCount"], summary["ConsumerCount"], summary["MaxRecordSizeInKiB"]) == (1, 0, 1024)
    assert summary.keys() - description.keys() == {"OpenShardCount", "ConsumerCount", "MaxRecordSizeInKiB"}


def test_shards_of_a_new_stream_are_equal_slices(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="three", ShardCount=3)
    ranges = [shard["HashKeyRange"] for shard in world.ask("ListShards", StreamName="three")["Shards"]]
    assert [int(found["StartingHashKey"]) for found in ranges] == [2**128 // 3 * index for index in range(3)]
    assert ranges[-1]["EndingHashKey"] == str(2**128 - 1)


def test_a_stream_without_a_shard_count_has_four(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="t", StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert world.shards("t") == [0, 1, 2, 3]
    text = "Request is invalid. Stream t under account 000000000000 is in On-Demand mode."
    assert world.refused("UpdateShardCount", StreamName="t", TargetShardCount=8, ScalingType="UNIFORM_SCALING") == (
        "ValidationException",
        text,
    )


def test_control_answers_have_an_empty_body(world: InlineBroker) -> None:
    for operation, members in (
        ("CreateStream", {"StreamName": "t", "ShardCount": 2}),
        ("MergeShards", {"StreamName": "t", "ShardToMerge": "0", "AdjacentShardToMerge": "1"}),
        ("SplitShard", {"StreamName": "t", "ShardToSplit": "2", "NewStartingHashKey": "5"}),
        ("AddTagsToStream", {"StreamName": "t", "Tags": {"a": "b"}}),
        ("RemoveTagsFromStream", {"StreamName": "t", "TagKeys": ["a"]}),
        ("DeleteStream", {"StreamName": "t"}),
    ):
        answer = world.post(operation, json.dumps(members))
        assert (answer.status, b"".join(answer.body), answer.content_type) == (200, b"", "application/x-amz-json-1.1")


def test_names_and_arns(world: InlineBroker) -> None:
    assert world.refused("DescribeStream") == (
        "ValidationException",
        "1 validation error detected: Value null at 'streamName' failed to satisfy constraint: Member must not be null",
    )
    assert world.refused("DescribeStream", StreamARN=ARN + "-other") == (
        "ResourceNotFoundException",
        "Stream s-other under account 000000000000 not found.",
    )
    assert world.refused("DescribeStream", StreamARN=ARN, StreamName="t")[0] == "InvalidArgumentException"
    assert world.refused("DescribeStream", StreamARN="arn:s")[0] == "ValidationException"
    assert world.refused("CreateStream", StreamName="s", ShardCount=1) == (
        "ResourceInUseException",
        "Stream s under account 000000000000 already exists.",
    )


def test_streams_are_listed_in_pages(world: InlineBroker) -> None:
    for name in ("b", "a", "c"):
        world.ask("CreateStream", StreamName=name, ShardCount=1)
    first = world.ask("ListStreams", Limit=3)
    assert (first["StreamNames"], first["HasMoreStreams"]) == (["a", "b", "c"], True)
    assert [summary["StreamName"] for summary in first["StreamSummaries"]] == ["a", "b", "c"]
    second = world.ask("ListStreams", NextToken=first["NextToken"])
    assert (second["StreamNames"], second["HasMoreStreams"], "NextToken" in second) == (["s"], False, False)
    assert world.ask("ListStreams", ExclusiveStartStreamName="bb")["StreamNames"] == ["c", "s"]


def test_a_stream_made_anew_knows_its_own_numbers_only(world: InlineBroker) -> None:
    number = world.put("old")[0]["SequenceNumber"]
    iterator = world.iterator(0)
    world.ask("DeleteStream", StreamName="s")
    gone = ("ResourceNotFoundException", f"Shard {SHARD} in {WHERE} does not exist")
    assert world.refused("GetRecords", ShardIterator=iterator) == gone
    assert world.refused("GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="LATEST") == gone
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    assert world.refused("GetRecords", ShardIterator=iterator) == ("InvalidArgumentException", "Invalid ShardIterator.")
    assert world.refused(
        "GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number
    ) == (
        "InvalidArgumentException",
        (
            f"StartingSequenceNumber {number} used in GetShardIterator on shard {SHARD} in {WHERE} is invalid "
            "because it did not come from this stream."
        ),
    )


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"ShardIteratorType": "LATEST", "StartingSequenceNumber": "1"},
            (
                "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) TRIM_HORIZON or LATEST "
                "and no StartingSequenceNumber. Request specified LATEST and also a StartingSequenceNumber."
            ),
        ),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER"},
            (
                "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) TRIM_HORIZON or LATEST "
                "and no StartingSequenceNumber. Request specified AT_SEQUENCE_NUMBER and no StartingSequenceNumber."
            ),
        ),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(2**130)},
            f"StartingSequenceNumber {2**130} used in GetShardIterator on shard {SHARD} in {WHERE} is invalid.",
        ),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "7"},
            f"Invalid StartingSequenceNumber. It encodes shardId-000000000007, while it was used in a call to a shard with {SHARD}",
        ),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(sequence.make(1, 2**32 - 1, 1, 1))},
            f"Invalid StartingSequenceNumber. It encodes shardId--00000000001, while it was used in a call to a shard with {SHARD}",
        ),
        (
            {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "0"},
            (
                f"StartingSequenceNumber 0 used in GetShardIterator on shard {SHARD} in {WHERE} is invalid "
                "because it did not come from this stream."
            ),
        ),
        (
            {"ShardIteratorType": "AT_TIMESTAMP"},
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter.",
        ),
        (
            {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": EPOCH_S + 0.001},
            (
                "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
                "timestampInMillis: 1800000000001, currentTimestampInMillis: 1800000000000"
            ),
        ),
    ],
)
def test_iterator_rules(world: InlineBroker, members: dict[str, Any], text: str) -> None:
    assert world.refused("GetShardIterator", StreamName="s", ShardId="0", **members) == ("InvalidArgumentException", text)


def test_forms_of_a_shard_id(world: InlineBroker) -> None:
    for form in ("0", "shardId-0", "x-00", "-0", SHARD):
        assert world.read(world.iterator(form)) == []
    for form in ("shardId", "a-b", "-", "1-2-3", "99999999999"):
        assert world.refused("GetShardIterator", StreamName="s", ShardId=form, ShardIteratorType="LATEST") == (
            "ResourceNotFoundException",
            f"Could not find shard {form} in {WHERE}.",
        )


def test_explicit_hash_keys(world: InlineBroker) -> None:
    world.ask("CreateStream", StreamName="t", ShardCount=4)
    records = [{"Data": "", "PartitionKey": "k", "ExplicitHashKey": str(2**126 * index)} for index in range(4)]
    answers = world.ask("PutRecords", StreamName="t", Records=records)["Records"]
    assert [answer["ShardId"][-1] for answer in answers] == ["0", "1", "2", "3"]
    bad = {"Data": "", "PartitionKey": "k", "ExplicitHashKey": str(2**128)}
    text = f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {2**128}"
    assert world.refused("PutRecords", StreamName="t", Records=[*records, bad]) == ("InvalidArgumentException", text)
    assert world.refused("PutRecord", StreamName="t", **bad) == ("InvalidArgumentException", text)
    assert [len(world.read(world.iterator(index, stream="t"))) for index in range(4)] == [1, 1, 1, 1]  # the bad request left nothing


def test_ordering_numbers_must_not_be_of_the_future(world: InlineBroker) -> None:
    future = str(sequence.make(1, 5, 1, int(EPOCH_S) + 1))
    for number in (future, str(2**140)):
        assert world.refused("PutRecord", StreamName="s", Data="", PartitionKey="k", SequenceNumberForOrdering=number) == (
            "InvalidArgumentException",
            f"ExclusiveMinimumSequenceNumber {number} used in PutRecord on {WHERE} is invalid.",
        )
    world.ask("PutRecord", StreamName="s", Data="", PartitionKey="k", SequenceNumberForOrdering=str(sequence.make(1, 5, 1, int(EPOCH_S))))


def test_sizes(world: InlineBroker) -> None:
    mebibyte = base64.b64encode(b"x" * 1024 * 1024).decode()
    below = base64.b64encode(b"x" * (1024 * 1024 - 2)).decode()
    limit = "failed to satisfy constraint: Member must have length less than or equal to 1048576"
    for data, key in ((mebibyte, "k"), (below, "kéy")):
        assert world.refused("PutRecord", StreamName="s", Data=data, PartitionKey=key) == (
            "ValidationException",
            f"1 validation error detected: Value at 'data' {limit}",
        )
        records = [{"Data": "", "PartitionKey": "k"}, {"Data": data, "PartitionKey": key}]
        assert world.refused("PutRecords", StreamName="s", Records=records) == (
            "ValidationException",
            f"1 validation error detected: Value at 'records.2.member.data' {limit}",
        )
    world.ask("PutRecord", StreamName="s", Data=below, PartitionKey="kk")
    records = [{"Data": below, "PartitionKey": "kk"}] * 10
    assert world.ask("PutRecords", StreamName="s", Records=records)["FailedRecordCount"] == 0
    code, text = world.refused("PutRecords", StreamName="s", Records=[*records, {"Data": "", "PartitionKey": "k"}])
    assert (code, text) == ("InvalidArgumentException", "Records size exceeds 10 MB limit")


def test_a_dry_run_checks_and_stores_nothing(world: InlineBroker) -> None:
    record = {"Data": "", "PartitionKey": "k"}
    assert world.refused("PutRecord", StreamName="s", DryRun=True, **record)[0] == "DryRunOperationException"
    assert world.refused("PutRecords", StreamName="s", DryRun=True, Records=[record])[0] == "DryRunOperationException"
    assert world.refused("PutRecord", StreamName="t", DryRun=True, **record)[0] == "ResourceNotFoundException"
    iterator = world.iterator(0)
    assert world.refused("GetRecords", ShardIterator=iterator, DryRun=True)[0] == "DryRunOperationException"
    assert world.read(iterator) == []


def test_fast_and_careful_path_of_put_records_agree(world: InlineBroker) -> None:
    """A fraction where nobody looks at it, null members and unknown ones go the careful way, with the same result."""
    plain = world.put("a")
    odd: dict[str, Any] = {
        "Records": [{"Data": "YQ==", "PartitionKey": "k", "ExplicitHashKey": None, "New": 1}],
        "StreamName": "s",
        "StreamARN": None,
        "X": {},
    }
    answer = world.ask("PutRecords", **odd)
    assert answer.keys() == {"FailedRecordCount", "Records"}
    assert plain[0].keys() == answer["Records"][0].keys() == {"SequenceNumber", "ShardId"}
    assert world.read(world.iterator(0)) == ["a", "a"]
    code, text = world.refused("PutRecords", StreamName="s", Records=[{"Data": "YQ==", "PartitionKey": "k", "ExplicitHashKey": "01"}])
    assert code == "ValidationException"
    assert text.endswith(
        "'records.1.member.explicitHashKey' failed to satisfy constraint: Member must satisfy regular expression pattern: 0|([1-9]\\d{0,38})"
    )
    # Arabic digits are digits to Python's \d and to no one else.
    assert world.refused("PutRecords", StreamName="s", Records=[{"Data": "", "PartitionKey": "k", "ExplicitHashKey": "1٣"}])[0] == (
        "ValidationException"
    )
    assert world.refused("PutRecords", StreamName="s\n", Records=[{"Data": "", "PartitionKey": "k"}])[0] == "ValidationException"
    assert world.refused("PutRecords", StreamName="s", Records=[{"Data": "YR==", "PartitionKey": "k"}])[0] == "SerializationException"


@pytest.mark.parametrize(
    ("operation", "hours", "text"),
    [
        ("Increase", 23, "Minimum allowed retention period is 24 hours. Requested retention period (23 hours) is too short."),
        ("Decrease", 0, "Minimum allowed retention period is 24 hours. Requested retention period (0 hours) is too short."),
        ("Increase", 8761, "Maximum allowed retention period is 8760 hours. Requested retention period (8761 hours) is too long."),
        (
            "Increase",
            47,
            (
                "Requested retention period (47 hours) for stream s can not be shorter than existing retention period (48 hours). "
                "Use DecreaseRetentionPeriod API."
            ),
        ),
        (
            "Decrease",
            49,
            (
                "Requested retention period (49 hours) for stream s can not be longer than existing retention period (48 hours). "
                "Use IncreaseRetentionPeriod API."
            ),
        ),
    ],
)
def test_retention_refusals(world: InlineBroker, operation: str, hours: int, text: str) -> None:
    world.ask("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    world.ask("DecreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    refused = world.refused(f"{operation}StreamRetentionPeriod", StreamName="s", RetentionPeriodHours=hours)
    assert refused == ("InvalidArgumentException", text)


def test_tags(world: InlineBroker) -> None:
    world.ask("AddTagsToStream", StreamName="s", Tags={"b": "1", "a": "", "ä": "+=@"})
    world.ask("AddTagsToStream", StreamName="s", Tags={"b": "2"})
    page = world.ask("ListTagsForStream", StreamName="s", Limit=2)
    assert page == {"Tags": [{"Key": "a", "Value": ""}, {"Key": "b", "Value": "2"}], "HasMoreTags": True}
    assert world.ask("ListTagsForStream", StreamName="s", ExclusiveStartTagKey="b;")["Tags"] == [{"Key": "ä", "Value": "+=@"}]
    world.ask("RemoveTagsFromStream", StreamName="s", TagKeys=["a", "zz"])
    invalid = "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @."
    assert world.refused("AddTagsToStream", StreamName="s", Tags={"a;": "b"}) == ("InvalidArgumentException", invalid)
    assert world.refused("RemoveTagsFromStream", StreamName="s", TagKeys=["a%"])[1].startswith(
        f"Failed to remove tags from {WHERE} because"
    )
    text = f"Failed to add tags to {WHERE} because a given stream cannot have more than 10 tags associated with it."
    assert world.refused("AddTagsToStream", StreamName="s", Tags={str(n): "" for n in range(49)}) == ("InvalidArgumentException", text)
    assert len(world.ask("ListTagsForStream", StreamName="s")["Tags"]) == 2


def test_the_members_of_every_operation_are_those_of_the_model() -> None:
    """Names, kinds and bounds, except where the notes say otherwise."""
    model = botocore.session.get_session().get_service_model("kinesis")
    ignored = {"DryRun"}
    for name, operation in OPERATIONS.items():
        shape = model.operation_model(name).input_shape
        ours = {member.name: member for member in operation.members}
        assert ours.keys() - ignored == shape.members.keys() - ignored, name
        for member_name, member in ours.items():
            theirs = shape.members[member_name]
            assert member.kind == theirs.type_name, (name, member_name)
            if "min" in theirs.metadata:
                assert member.low == theirs.metadata["min"], (name, member_name)
            if "max" in theirs.metadata:
                assert member.high == theirs.metadata["max"], (name, member_name)
