"""Is what one operation changes seen through another? Mode, sizes, encryption, monitoring, policies, tags, account settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamlet.broker.inline import EPOCH_S, InlineBroker

ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"
KEY = "12345678-1234-1234-1234-123456789012"
DAY_S = 24 * 3600
SEVEN = [
    "IncomingBytes",
    "IncomingRecords",
    "OutgoingBytes",
    "OutgoingRecords",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
]


def summary(world: InlineBroker, stream: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = world.ask("DescribeStreamSummary", StreamName=stream)["StreamDescriptionSummary"]
    return found


def records(world: InlineBroker, shard: int = 0, stream: str = "s") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.ask("GetRecords", ShardIterator=world.iterator(shard, stream=stream))["Records"]
    return found


def on_demand(world: InlineBroker, **members: Any) -> None:
    world.ask("UpdateStreamMode", StreamARN=ARN, StreamModeDetails={"StreamMode": "ON_DEMAND"}, **members)


def commit(world: InlineBroker, status: str = "ENABLED") -> dict[str, Any]:
    answer = world.ask("UpdateAccountSettings", MinimumThroughputBillingCommitment={"Status": status})
    assert answer == world.ask("DescribeAccountSettings")
    found: dict[str, Any] = answer["MinimumThroughputBillingCommitment"]
    return found


def test_encryption_shows_on_answers_and_on_records_put_meanwhile(world: InlineBroker) -> None:
    one = {"StreamName": "s", "Data": "aGk=", "PartitionKey": "k"}
    many = {"StreamName": "s", "Records": [{"Data": "aGk=", "PartitionKey": "a b"}]}
    assert "EncryptionType" not in world.ask("PutRecord", **one) | world.ask("PutRecords", **many)
    world.ask("StartStreamEncryption", StreamName="s", EncryptionType="KMS", KeyId=KEY)
    assert world.ask("PutRecord", **one)["EncryptionType"] == world.ask("PutRecords", **many)["EncryptionType"] == "KMS"
    assert (summary(world)["EncryptionType"], summary(world)["KeyId"]) == ("KMS", KEY)
    world.ask("StopStreamEncryption", StreamName="s", EncryptionType="KMS", KeyId=KEY)
    assert (summary(world)["EncryptionType"], "KeyId" in summary(world)) == ("NONE", False)
    assert "EncryptionType" not in world.ask("PutRecord", **one)
    assert [record.get("EncryptionType") for record in records(world)] == [None, None, "KMS", "KMS", None]


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        (KEY, True),
        ("mrk-" + "0" * 32, True),
        ("alias/aws/kinesis", True),
        (f"arn:aws:kms:eu-west-1:000000000000:key/{KEY}", True),
        ("arn:aws:kms:eu-west-1:000000000000:alias/mine", True),
        ("alias/", False),
        ("key", False),
        (f"arn:aws:s3:eu-west-1:000000000000:key/{KEY}", False),
    ],
)
def test_forms_of_a_key(world: InlineBroker, key: str, taken: bool) -> None:
    members = {"StreamName": "s", "EncryptionType": "KMS", "KeyId": key}
    if taken:
        world.ask("StartStreamEncryption", **members)
        assert summary(world)["KeyId"] == key
    else:
        assert world.refused("StartStreamEncryption", **members)[0] == "KMSNotFoundException"
        assert "KeyId" not in summary(world)


def test_monitoring_tells_before_and_after(world: InlineBroker) -> None:
    answer = world.ask("EnableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["OutgoingBytes", "IncomingBytes"])
    assert (answer["CurrentShardLevelMetrics"], answer["DesiredShardLevelMetrics"]) == ([], ["IncomingBytes", "OutgoingBytes"])
    assert (answer["StreamName"], answer["StreamARN"]) == ("s", ARN)
    answer = world.ask("EnableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["ALL"])
    assert (answer["CurrentShardLevelMetrics"], answer["DesiredShardLevelMetrics"]) == (["IncomingBytes", "OutgoingBytes"], SEVEN)
    answer = world.ask("DisableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=SEVEN[1:])
    assert answer["DesiredShardLevelMetrics"] == ["IncomingBytes"]
    assert summary(world)["EnhancedMonitoring"] == [{"ShardLevelMetrics": ["IncomingBytes"]}]
    world.ask("DisableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["ALL"])
    assert summary(world)["EnhancedMonitoring"] == [{"ShardLevelMetrics": []}]
    text = world.refused("EnableEnhancedMonitoring", StreamName="s", ShardLevelMetrics=["Other"])[1]
    assert (
        "at 'shardLevelMetrics' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: ["
        in text
    )


def test_the_record_size_counts_from_now_on(world: InlineBroker) -> None:
    big = {"StreamName": "s", "Data": "A" * (4 * 1024 * 1024 // 3 // 4 * 4 + 8), "PartitionKey": "k"}
    assert world.refused("PutRecord", **big)[0] == "ValidationException"
    world.ask("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=2048)
    world.ask("PutRecord", **big)
    assert summary(world)["MaxRecordSizeInKiB"] == 2048
    assert world.refused("UpdateMaxRecordSize", StreamARN=ARN, MaxRecordSizeInKiB=1023)[0] == "ValidationException"
    assert "'streamARN'" in world.refused("UpdateMaxRecordSize", MaxRecordSizeInKiB=1024)[1]


def test_automatic_distribution_needs_no_keys_and_uses_every_shard(world: InlineBroker) -> None:
    strategy = "UpdateStreamRecordDistributionStrategy"
    assert world.refused(strategy, StreamARN=ARN, RecordDistributionStrategy="AUTO")[0] == "InvalidArgumentException"
    world.ask("UpdateShardCount", StreamName="s", TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    on_demand(world)
    assert summary(world)["RecordDistributionStrategy"] == "USER_PARTITION_KEY"
    keyless: dict[str, Any] = {"StreamName": "s", "Records": [{"Data": "aGk="}, {"Data": "aGk=", "PartitionKey": "k"}]}
    assert "at 'records.1.member.partitionKey'" in world.refused("PutRecords", **keyless)[1]
    assert "at 'partitionKey'" in world.refused("PutRecord", StreamName="s", Data="")[1]
    world.ask(strategy, StreamARN=ARN, RecordDistributionStrategy="AUTO")
    assert summary(world)["RecordDistributionStrategy"] == "AUTO"
    assert len({entry["ShardId"] for entry in world.ask("PutRecords", **keyless)["Records"]}) == 2
    hashed = {world.ask("PutRecord", StreamName="s", Data="", ExplicitHashKey="0")["ShardId"] for _ in range(2)}
    assert len(hashed) == 2
    found = [record for shard in world.shards(ShardFilter={"Type": "AT_LATEST"}) for record in records(world, shard)]
    assert sorted(record.get("PartitionKey", "") for record in found) == ["", "", "", "k"]
    world.ask("UpdateStreamMode", StreamARN=ARN, StreamModeDetails={"StreamMode": "PROVISIONED"})
    assert "RecordDistributionStrategy" not in summary(world)
    assert world.refused("PutRecords", **keyless)[0] == "ValidationException"


def test_warm_throughput_needs_on_demand_mode_and_a_commitment(world: InlineBroker) -> None:
    assert "On-Demand" in world.refused("UpdateStreamWarmThroughput", StreamName="s", WarmThroughputMiBps=5)[1]
    on_demand(world)
    assert "MinimumThroughputBillingCommitment" in world.refused("UpdateStreamWarmThroughput", StreamName="s", WarmThroughputMiBps=5)[1]
    commit(world)
    answer = world.ask("UpdateStreamWarmThroughput", StreamName="s", WarmThroughputMiBps=5)
    assert answer == {"StreamARN": ARN, "StreamName": "s", "WarmThroughput": {"TargetMiBps": 5, "CurrentMiBps": 5}}
    assert summary(world)["WarmThroughput"] == {"TargetMiBps": 5, "CurrentMiBps": 5}
    assert world.refused("UpdateStreamWarmThroughput", StreamName="s", WarmThroughputMiBps=10_241)[0] == "LimitExceededException"
    on_demand(world, WarmThroughputMiBps=6)
    assert summary(world)["WarmThroughput"]["CurrentMiBps"] == 6


def test_a_commitment_lasts_for_a_day(world: InlineBroker) -> None:
    assert world.ask("DescribeAccountSettings") == {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}
    assert commit(world, "DISABLED") == {"Status": "DISABLED"}
    begun = {"Status": "ENABLED", "StartedAt": EPOCH_S, "EarliestAllowedEndAt": EPOCH_S + DAY_S}
    assert commit(world) == begun
    world.now_s += 3600
    assert commit(world, "DISABLED") == begun | {"Status": "ENABLED_UNTIL_EARLIEST_ALLOWED_END"}
    assert commit(world) == begun
    commit(world, "DISABLED")
    world.now_s = EPOCH_S + DAY_S
    ended = world.ask("DescribeAccountSettings")["MinimumThroughputBillingCommitment"]
    assert ended == begun | {"Status": "DISABLED", "EndedAt": EPOCH_S + DAY_S}
    assert commit(world)["StartedAt"] == EPOCH_S + DAY_S


def test_policies_are_kept_as_they_are(world: InlineBroker) -> None:
    statement = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kinesis:*", "Resource": ARN}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=1)
    consumer = world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")["Consumer"]["ConsumerARN"]
    for arn in (ARN, consumer):
        assert world.ask("GetResourcePolicy", ResourceARN=arn) == {"Policy": "{}"}
        missing = ("ResourceNotFoundException", f"No resource policy found for resource ARN {arn}.")
        assert world.refused("DeleteResourcePolicy", ResourceARN=arn) == missing
        world.ask("PutResourcePolicy", ResourceARN=arn, Policy=policy)
    world.ask("DeleteResourcePolicy", ResourceARN=ARN)
    assert world.ask("GetResourcePolicy", ResourceARN=ARN) == {"Policy": "{}"}
    assert world.ask("GetResourcePolicy", ResourceARN=consumer) == {"Policy": policy}
    assert world.refused("GetResourcePolicy", ResourceARN=ARN + "x") == (
        "ResourceNotFoundException",
        "Stream sx under account 000000000000 not found.",
    )
    for arn in (consumer + "1", ARN.replace(":stream/", ":channel/"), ARN.replace(":stream/", ":otherstream/")):
        assert world.refused("GetResourcePolicy", ResourceARN=arn)[0] == "ResourceNotFoundException"
    no_effect = {key: value for key, value in statement.items() if key != "Effect"}
    wrong = ["", "x", "[]", "{}", '{"Statement":[]}', '{"Statement":[5]}', "[" * 5000, json.dumps({"Statement": no_effect})]
    wrong += [
        json.dumps({"Statement": {key: value for key, value in statement.items() if key != part}}) for part in ("Principal", "Action")
    ]
    for text in wrong:
        assert world.refused("PutResourcePolicy", ResourceARN=ARN, Policy=text)[0] == "InvalidArgumentException", text


def test_both_ways_of_tagging_are_about_the_same_tags(world: InlineBroker) -> None:
    consumer = world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c", Tags={"x": "y"})["Consumer"]["ConsumerARN"]
    world.ask("AddTagsToStream", StreamName="s", Tags={"b": "1"})
    world.ask("TagResource", ResourceARN=ARN, Tags={"a": "2", "b": "3"})
    tags = [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}]
    assert world.ask("ListTagsForStream", StreamName="s")["Tags"] == world.ask("ListTagsForResource", ResourceARN=ARN)["Tags"] == tags
    world.ask("UntagResource", ResourceARN=ARN, TagKeys=["a", "zz"])
    assert world.ask("ListTagsForStream", StreamName="s")["Tags"] == tags[1:]
    world.ask("TagResource", ResourceARN=consumer, Tags={"z": ""})
    world.ask("UntagResource", ResourceARN=consumer, TagKeys=["x"])
    assert world.ask("ListTagsForResource", ResourceARN=consumer) == {"Tags": [{"Key": "z", "Value": ""}]}
    many = {str(n): "" for n in range(50)}
    assert world.refused("TagResource", ResourceARN=ARN, Tags=many)[0] == "InvalidArgumentException"
    assert world.refused("CreateStream", StreamName="t", Tags={"a;": ""})[0] == "InvalidArgumentException"
    assert world.refused("DescribeStream", StreamName="t")[0] == "ResourceNotFoundException"


def test_consumers_hold_a_stream_until_they_may_go_too(world: InlineBroker) -> None:
    world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")
    code, text = world.refused("DeleteStream", StreamName="s")
    assert (code, text.startswith("DeleteStream can\u2019t delete 000000000000:s because")) == ("ResourceInUseException", True)
    assert world.refused("DeleteStream", StreamName="s", EnforceConsumerDeletion=False)[0] == "ResourceInUseException"
    world.ask("DeleteStream", StreamName="s", EnforceConsumerDeletion=True)
    assert world.refused("DescribeStream", StreamName="s")[0] == "ResourceNotFoundException"


def test_on_demand_streams_are_limited(world: InlineBroker) -> None:
    for number in range(50):
        world.ask("CreateStream", StreamName=f"t{number}", StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert world.ask("DescribeLimits")["OnDemandStreamCount"] == 50
    assert world.refused("CreateStream", StreamName="u", StreamModeDetails={"StreamMode": "ON_DEMAND"})[0] == "LimitExceededException"
    assert world.refused("UpdateStreamMode", StreamARN=ARN, StreamModeDetails={"StreamMode": "ON_DEMAND"})[0] == "LimitExceededException"
    world.ask("CreateStream", StreamName="u")


def test_at_most_five_streams_are_creating() -> None:
    world = InlineBroker(control_delay_ms=1000)
    for number in range(5):
        world.ask("CreateStream", StreamName=f"t{number}", ShardCount=1)
    assert world.refused("CreateStream", StreamName="u", ShardCount=1)[0] == "LimitExceededException"
    world.now_s += 1
    world.ask("CreateStream", StreamName="u", ShardCount=1)


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("StartStreamEncryption", {"StreamName": "s", "EncryptionType": "KMS", "KeyId": KEY}),
    ("StopStreamEncryption", {"StreamName": "s", "EncryptionType": "KMS", "KeyId": KEY}),
    ("EnableEnhancedMonitoring", {"StreamName": "s", "ShardLevelMetrics": ["ALL"]}),
    ("DisableEnhancedMonitoring", {"StreamName": "s", "ShardLevelMetrics": ["ALL"]}),
    ("UpdateStreamMode", {"StreamARN": ARN, "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}),
    ("UpdateMaxRecordSize", {"StreamARN": ARN, "MaxRecordSizeInKiB": 2048}),
    ("SplitShard", {"StreamName": "s", "ShardToSplit": "0", "NewStartingHashKey": "9"}),
    ("UpdateShardCount", {"StreamName": "s", "TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING"}),
]


@pytest.mark.parametrize(("operation", "members"), CHANGES)
def test_a_change_shows_when_its_time_has_come(operation: str, members: dict[str, Any]) -> None:
    """CREATING and UPDATING refuse other changes; records go in while UPDATING; the old picture stays until ACTIVE."""
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    text = "Stream s under account 000000000000 not ACTIVE, instead in state "
    assert world.refused(operation, **members) == ("ResourceInUseException", text + "CREATING")
    world.now_s += 1
    before = summary(world)
    assert before["StreamStatus"] == "ACTIVE"
    world.ask(operation, **members)
    assert summary(world) == before | {"StreamStatus": "UPDATING"}
    assert world.refused(operation, **members) == ("ResourceInUseException", text + "UPDATING")
    world.put("while")
    world.now_s += 0.999
    assert summary(world)["StreamStatus"] == "UPDATING"
    world.now_s += 0.001
    after = summary(world)
    assert after["StreamStatus"] == "ACTIVE"
    assert (after != before) == (operation not in {"StopStreamEncryption", "DisableEnhancedMonitoring"})
    assert world.read(world.iterator(0)) == ["while"]
    world.ask("DeleteStream", StreamName="s")
    assert world.refused(operation, **members) == ("ResourceInUseException", text + "DELETING")


def test_a_stream_that_never_was_active_shows_no_shards() -> None:
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=2)
    for status in ("CREATING", "DELETING"):
        description = world.ask("DescribeStream", StreamName="s")["StreamDescription"]
        assert (description["StreamStatus"], description["Shards"], description["HasMoreShards"]) == (status, [], False)
        assert summary(world)["OpenShardCount"] == 0
        assert world.shards() == []
        text = "Shard shardId-000000000000 in stream s under account 000000000000 does not exist"
        asked = {"StreamName": "s", "ShardId": "0", "ShardIteratorType": "LATEST"}
        assert world.refused("GetShardIterator", **asked) == ("ResourceNotFoundException", text)
        assert world.refused("PutRecord", StreamName="s", Data="", PartitionKey="k")[0] == "ResourceNotFoundException"
        if status == "CREATING":
            world.now_s += 0.5
            world.ask("DeleteStream", StreamName="s")
            world.now_s += 0.6  # past the time when it would have been ACTIVE
    assert world.refused("DeleteStream", StreamName="s")[0] == "ResourceInUseException"
    world.now_s += 0.4
    assert world.refused("DescribeStream", StreamName="s")[0] == "ResourceNotFoundException"


def test_a_change_counts_from_the_time_when_it_was_due() -> None:
    """Whoever asks first, however late, finds the same shards."""
    pictures = []
    for asks_at in (1.0, 3600.0):
        world = InlineBroker(control_delay_ms=1000)
        world.ask("CreateStream", StreamName="s", ShardCount=1)
        world.now_s += 1
        world.ask("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey="9")
        world.now_s += asks_at
        pictures.append(world.ask("ListShards", StreamName="s"))
    assert pictures[0] == pictures[1]
