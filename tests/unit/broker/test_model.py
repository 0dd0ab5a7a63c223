"""Is everything of the service's model here, and do all answers have its shapes, in JSON and in CBOR alike?

One story calls every operation. Each answer is held against the model: members known, required ones there, types and
bounds right. A second broker hears the same story in CBOR and must say the same.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest

import streamlet.broker.ops as package
from streamlet.broker import cbor
from streamlet.broker.inline import InlineBroker
from streamlet.broker.ops import OPERATIONS, UNSUPPORTED

CBOR = "application/x-amz-cbor-1.1"
MODEL = botocore.session.get_session().get_service_model("kinesis")
ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"
KEY = "12345678-1234-1234-1234-123456789012"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kinesis:*", "Resource": ARN}]}

# Every operation that a model has had so far: the installed one may be older.
REFERENCE = re.findall(
    r"\w+",
    """
AddTagsToStream CreateStream DecreaseStreamRetentionPeriod DeleteResourcePolicy DeleteStream DeregisterStreamConsumer
DescribeAccountSettings DescribeLimits DescribeStream DescribeStreamConsumer DescribeStreamSummary DisableEnhancedMonitoring
EnableEnhancedMonitoring GetRecords GetResourcePolicy GetShardIterator IncreaseStreamRetentionPeriod ListShards
ListStreamConsumers ListStreams ListTagsForResource ListTagsForStream MergeShards PutRecord PutRecords PutResourcePolicy
RegisterStreamConsumer RemoveTagsFromStream SplitShard StartStreamEncryption StopStreamEncryption SubscribeToShard TagResource
UntagResource UpdateAccountSettings UpdateMaxRecordSize UpdateShardCount UpdateStreamMode UpdateStreamRecordDistributionStrategy
UpdateStreamWarmThroughput CreateQueue UpdateQueue DescribeQueue DeleteQueue ListQueues ReceiveQueueRecords
ReceiveDeadLetterQueueRecords AcknowledgeQueueRecords AcknowledgeDeadLetterQueueRecords UpdateQueueRecordsVisibility
UpdateDeadLetterQueueRecordsVisibility RestoreDeadLetterQueueRecords CreateChannel UpdateChannel DescribeChannel DeleteChannel
ListChannels
""",
)


def test_nothing_of_the_model_is_forgotten() -> None:
    text = (Path(package.__file__).parent / "UNSUPPORTED.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")][1:]
    explained = {name.strip() for row in rows for name in row[1].split(",")}
    assert all(row[2].strip() for row in rows)
    assert explained == UNSUPPORTED.keys()
    assert not UNSUPPORTED.keys() & OPERATIONS.keys()
    assert len(REFERENCE) == 57
    assert UNSUPPORTED.keys() | OPERATIONS.keys() == set(REFERENCE) | set(MODEL.operation_names)


def test_what_is_not_here_says_so(world: InlineBroker) -> None:
    code, text = world.refused("DescribeChannel", ChannelARN="arn:aws:kinesis:eu-west-1:000000000000:channel/c")
    assert (code, "DescribeChannel" in text) == ("UnknownOperationException", True)
    assert world.refused("DescribeChannel")[0] == "ValidationException"
    assert world.refused("DescribeChannel", ChannelARN=5)[0] == "SerializationException"
    assert json.loads(b"".join(world.post("CreateQueue", "{}", authorization="").body))["__type"] == "MissingAuthenticationTokenException"


# --- shapes -----------------------------------------------------------------------------------------------------------


def faults(shape: Any, value: Any, path: str) -> list[str]:
    """Where a value is not of a shape of the model."""
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            return [f"{path}: not a structure"]
        found = [f"{path}.{name}: unknown" for name in value.keys() - shape.members.keys()]
        found += [f"{path}.{name}: missing" for name in set(shape.required_members) - value.keys()]
        return found + [
            fault for name in value.keys() & shape.members.keys() for fault in faults(shape.members[name], value[name], f"{path}.{name}")
        ]
    if kind == "list":
        # An empty list of metrics is what the service answers, whatever the model's minimum says.
        return [fault for index, entry in enumerate(value) for fault in faults(shape.member, entry, f"{path}[{index}]")]
    types: dict[str, Any] = {"string": str, "boolean": bool, "integer": int, "long": int, "timestamp": int | float, "blob": str}
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{path}: {value!r} is not a {kind}"]
    if kind == "string":
        bad = (value not in getattr(shape, "enum", ()) and bool(getattr(shape, "enum", ()))) or (
            "pattern" in shape.metadata and not re.fullmatch(shape.metadata["pattern"], value, re.ASCII)
        )
        size = len(value)
    elif kind == "blob":
        bad, size = None, len(base64.b64decode(value, validate=True))
    else:
        bad, size = None, value
    # The service answers 0 where the model of FailedRecordCount says 1 at least.
    low, high = 0 if path.endswith(".FailedRecordCount") else shape.metadata.get("min", 0), shape.metadata.get("max", 10**12)
    return [f"{path}: {value!r} breaks {shape.metadata}"] if bad or not low <= size <= high else []


Ask = Callable[..., Any]


def story(ask: Ask) -> None:
    """Calls every operation but SubscribeToShard, each with an answer that has all that it can have."""
    ask("UpdateAccountSettings", MinimumThroughputBillingCommitment={"Status": "ENABLED"})
    ask("UpdateAccountSettings", MinimumThroughputBillingCommitment={"Status": "DISABLED"})
    ask("DescribeAccountSettings")
    ask("CreateStream", StreamName="s", ShardCount=2, Tags={"a": "b"}, MaxRecordSizeInKiB=2048)
    on_demand = {"StreamMode": "ON_DEMAND"}
    ask("CreateStream", StreamName="od", StreamModeDetails=on_demand, WarmThroughputMiBps=5, RecordDistributionStrategy="AUTO")
    ask("DescribeLimits")
    ask("ListStreams", Limit=1)
    ask("AddTagsToStream", StreamName="s", Tags={"c": "d"})
    ask("RemoveTagsFromStream", StreamName="s", TagKeys=["a"])
    ask("ListTagsForStream", StreamName="s")
    ask("TagResource", ResourceARN=ARN, Tags={"e": ""})
    ask("UntagResource", ResourceARN=ARN, TagKeys=["c"])
    ask("ListTagsForResource", ResourceARN=ARN)
    ask("GetResourcePolicy", ResourceARN=ARN)
    ask("PutResourcePolicy", ResourceARN=ARN, Policy=json.dumps(POLICY))
    ask("GetResourcePolicy", ResourceARN=ARN)
    ask("DeleteResourcePolicy", ResourceARN=ARN)
    ask("EnableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["ALL"])
    ask("DisableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["IncomingBytes"])
    consumer = ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")["Consumer"]["ConsumerARN"]
    ask("DescribeStreamConsumer", ConsumerARN=consumer)
    ask("ListStreamConsumers", StreamARN=ARN)
    ask("DeregisterStreamConsumer", ConsumerARN=consumer)
    ask("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=1024)
    ask("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    ask("DecreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=24)
    records = [{"Data": base64.b64encode(bytes([n, 0, 255])).decode(), "PartitionKey": f"k{n}é"} for n in range(8)]
    ask("PutRecords", StreamName="s", Records=records)
    ask("StartStreamEncryption", StreamName="s", EncryptionType="KMS", KeyId=KEY)
    ask("PutRecords", StreamARN=ARN, Records=records)
    ask("PutRecord", StreamName="s", Data="", PartitionKey="k", ExplicitHashKey="0")
    ask("DescribeStream", StreamName="s")
    ask("DescribeStreamSummary", StreamName="s")
    ask("StopStreamEncryption", StreamName="s", EncryptionType="KMS", KeyId="alias/aws/kinesis")
    iterator = ask("GetShardIterator", StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    ask("GetRecords", ShardIterator=iterator, Limit=1)
    ask("SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey="77")
    ask("GetRecords", ShardIterator=iterator)
    ask("MergeShards", StreamName="s", ShardToMerge="shardId-000000000002", AdjacentShardToMerge="shardId-000000000003")
    ask("UpdateShardCount", StreamName="s", TargetShardCount=4, ScalingType="UNIFORM_SCALING")
    token = ask("ListShards", StreamName="s", MaxResults=2)["NextToken"]
    ask("ListShards", NextToken=token)
    ask("PutRecord", StreamName="od", Data="aGk=")
    iterator = ask("GetShardIterator", StreamName="od", ShardId="shardId-000000000001", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    ask("GetRecords", ShardIterator=iterator)
    ask("UpdateStreamWarmThroughput", StreamName="od", WarmThroughputMiBps=7)
    ask("DescribeStreamSummary", StreamName="od")
    arn = ARN.removesuffix("s") + "od"
    ask("UpdateStreamRecordDistributionStrategy", StreamARN=arn, RecordDistributionStrategy="USER_PARTITION_KEY")
    ask("UpdateStreamMode", StreamARN=arn, StreamModeDetails={"StreamMode": "PROVISIONED"})
    ask("DeleteStream", StreamName="od")


def test_every_answer_has_the_shape_of_the_model() -> None:
    world, called, found = InlineBroker(), {"SubscribeToShard"}, []  # its events have tests of their own

    def ask(operation: str, **members: Any) -> Any:
        answer = world.ask(operation, **members)
        called.add(operation)
        shape = MODEL.operation_model(operation).output_shape
        if shape is None:
            assert answer == {}, operation
        else:
            found.extend(faults(shape, answer, operation))
        return answer

    story(ask)
    assert found == []
    assert called == OPERATIONS.keys()


def test_the_checker_of_shapes_sees_what_is_wrong() -> None:
    shape = MODEL.operation_model("ListStreams").output_shape
    assert faults(shape, {"StreamNames": ["s"], "HasMoreStreams": False}, "") == []
    for answer in (
        {"StreamNames": ["s"]},
        {"StreamNames": [""], "HasMoreStreams": False},
        {"StreamNames": ["/"], "HasMoreStreams": False},
        {"StreamNames": [], "HasMoreStreams": 0},
        {"StreamNames": [], "HasMoreStreams": False, "Other": 1},
        {"StreamNames": [], "HasMoreStreams": False, "NextToken": None},
        {"StreamNames": [], "HasMoreStreams": False, "StreamSummaries": [{"StreamName": "s", "StreamARN": ARN, "StreamStatus": "GONE"}]},
    ):
        assert faults(shape, answer, "") != [], answer


def test_cbor_says_what_json_says() -> None:
    in_json, in_cbor = InlineBroker(), InlineBroker()
    timestamps = 0

    def ask(operation: str, **members: Any) -> Any:
        nonlocal timestamps
        expected = in_json.ask(operation, **members)
        answer = in_cbor.post(operation, cbor.dumps(members), content_type=CBOR)
        body = b"".join(answer.body)
        assert (answer.status, answer.content_type) == (200, CBOR), body
        assert (cbor.loads(body) if body else {}) == expected, operation
        timestamps += body.count(b"Timestamp\xc1\x1b")  # tag 1 around an integer of eight bytes
        return expected

    story(ask)
    assert timestamps > 10


def _members(shape: Any, kind: str, seen: tuple[str, ...] = ()) -> set[str]:
    if shape is None or shape.name in seen:
        return set()
    seen = (*seen, shape.name)
    if shape.type_name == "list":
        return _members(shape.member, kind, seen)
    if shape.type_name != "structure":
        return set()
    here = {name for name, member in shape.members.items() if member.type_name == kind}
    return here.union(*(_members(member, kind, seen) for member in shape.members.values()))


@pytest.mark.parametrize(("kind", "ours"), [("timestamp", cbor.TIMESTAMPS), ("blob", cbor.BLOBS)])
def test_timestamps_and_payloads_are_known_by_name(kind: str, ours: frozenset[str]) -> None:
    shapes = [MODEL.operation_model(name).output_shape for name in OPERATIONS]
    assert set().union(*(_members(shape, kind) for shape in shapes)) == ours
    # The same names mean nothing else anywhere.
    others = [other for other in ("string", "integer", "long", "boolean", "timestamp", "blob", "list", "structure") if other != kind]
    assert not ours & set().union(*(_members(shape, other) for shape in shapes for other in others))
