"""What becomes of consumers with enhanced fan-out, and which operations are answered usefully?"""

from __future__ import annotations

import base64
import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any

from kit import CASES, HASH_KEYS, Case, Differs, Frame, Kit, Missing, case, holds, same, wait_until

FAN_OUT = "kinesis-api.md 8"
CONSUMERS = "errors.md 8, recorded on AWS 2022-08"


def events(frames: Iterator[Frame]) -> Iterator[dict[str, Any]]:
    """The events after the initial response."""
    same("first frame", next(frames).kind, "initial-response")
    for frame in frames:
        same("frame", (frame.headers.get(":message-type"), frame.kind), ("event", "SubscribeToShardEvent"))
        yield frame.data


def some(found: Iterator[dict[str, Any]], wanted: int) -> tuple[list[bytes], dict[str, Any]]:
    """The payloads of as many events as hold so many records, and the last event."""
    payloads: list[bytes] = []
    deadline = time.monotonic() + 15
    for event in found:
        payloads += [base64.b64decode(record["Data"]) for record in event["Records"]]
        if len(payloads) >= wanted:
            return payloads, event
        holds("records within 15 s", time.monotonic() < deadline, payloads)
    raise Differs(f"the stream ended after {len(payloads)} of {wanted} records")


# --- consumers --------------------------------------------------------------------------------------------------------


@case("consumers", "registered, described by ARN and by name, listed, counted", CONSUMERS)
def _(k: Kit) -> None:
    name = k.stream()
    made = k.ask("RegisterStreamConsumer", StreamARN=k.arn(name), ConsumerName="c")["Consumer"]
    same("members", set(made), {"ConsumerName", "ConsumerARN", "ConsumerStatus", "ConsumerCreationTimestamp"})
    holds("its ARN", made["ConsumerARN"].startswith(f"{k.arn(name)}/consumer/c:"), made["ConsumerARN"])
    for by in ({"ConsumerARN": made["ConsumerARN"]}, {"StreamARN": k.arn(name), "ConsumerName": "c"}):
        found = k.ask("DescribeStreamConsumer", by)["ConsumerDescription"]
        same("described", (found["ConsumerARN"], found["StreamARN"]), (made["ConsumerARN"], k.arn(name)))
    listed = k.ask("ListStreamConsumers", StreamARN=k.arn(name))
    same("listed", [c["ConsumerName"] for c in listed["Consumers"]], ["c"])
    same("counted", k.ask("DescribeStreamSummary", StreamName=name)["StreamDescriptionSummary"]["ConsumerCount"], 1)


@case("consumers", "a fresh consumer is CREATING, then ACTIVE", "kinesis-api.md 5")
def _(k: Kit) -> None:
    name = k.stream()
    made = k.ask("RegisterStreamConsumer", StreamARN=k.arn(name), ConsumerName="c")["Consumer"]
    same("status", made["ConsumerStatus"], "CREATING")
    describe = {"ConsumerARN": made["ConsumerARN"]}
    wait_until("ACTIVE", lambda: k.ask("DescribeStreamConsumer", describe)["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE")


@case("consumers", "a name that is taken", "botocore's model; the text is not known")
def _(k: Kit) -> None:
    name = k.stream()
    k.consumer(name)
    k.refused("RegisterStreamConsumer", "ResourceInUseException", StreamARN=k.arn(name), ConsumerName="c")


@case("consumers", "a missing one is not found", "botocore's model; the text is not known")
def _(k: Kit) -> None:
    arn = k.arn(k.stream())
    k.refused("DescribeStreamConsumer", "ResourceNotFoundException", StreamARN=arn, ConsumerName="no-such")
    k.refused("DeregisterStreamConsumer", "ResourceNotFoundException", ConsumerARN=f"{arn}/consumer/no-such:1")


@case("consumers", "deregistered, it is gone", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    consumer = k.consumer(name)
    k.ask("DeregisterStreamConsumer", ConsumerARN=consumer)
    wait_until("the consumer goes", lambda: k.post("DescribeStreamConsumer", {"ConsumerARN": consumer}).status != 200)
    same("listed", k.ask("ListStreamConsumers", StreamARN=k.arn(name))["Consumers"], [])


@case("consumers", "listed in pages", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    for consumer in ("a", "b", "c"):
        k.ask("RegisterStreamConsumer", StreamARN=k.arn(name), ConsumerName=consumer)
    first = k.ask("ListStreamConsumers", StreamARN=k.arn(name), MaxResults=2)
    rest = k.ask("ListStreamConsumers", StreamARN=k.arn(name), NextToken=first["NextToken"])
    pages = [[consumer["ConsumerName"] for consumer in page["Consumers"]] for page in (first, rest)]
    same("sizes", [len(page) for page in pages], [2, 1])
    same("all, once", sorted(pages[0] + pages[1]), ["a", "b", "c"])
    holds("no token at the end", "NextToken" not in rest)


# --- SubscribeToShard -------------------------------------------------------------------------------------------------


@case("fan-out", "the first frame is the initial response", f"{FAN_OUT}, measured with botocore")
def _(k: Kit) -> None:
    consumer = k.consumer(k.stream())
    with k.subscribed(consumer) as frames:
        first = next(frames)
    same("headers", (first.headers.get(":message-type"), first.kind), ("event", "initial-response"))
    same("payload", first.data, {})


@case("fan-out", "stored records come, then new ones are pushed", FAN_OUT)
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1", b"2")
    with k.subscribed(k.consumer(name)) as frames:
        found = events(frames)
        payloads, event = some(found, 2)
        same("stored", payloads, [b"1", b"2"])
        same("members", set(event), {"Records", "ContinuationSequenceNumber", "MillisBehindLatest"})
        k.put(name, b"3")
        same("pushed", some(found, 1)[0], [b"3"])


@case("fan-out", "LATEST brings only what comes", FAN_OUT)
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"old")
    with k.subscribed(k.consumer(name), Type="LATEST") as frames:
        found = events(frames)
        holds("an idle event comes", next(found)["Records"] == [])
        k.put(name, b"new")
        same("pushed", some(found, 1)[0], [b"new"])


@case("fan-out", "a subscription goes on AFTER its continuation sequence number", FAN_OUT)
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1", b"2")
    with k.subscribed(k.consumer(name, "one")) as frames:
        number = some(events(frames), 2)[1]["ContinuationSequenceNumber"]
    k.put(name, b"3")
    position = {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": number}
    with k.subscribed(k.consumer(name, "two"), **position) as frames:
        same("records", some(events(frames), 1)[0], [b"3"])


@case("fan-out", "AT_TIMESTAMP, and AT_SEQUENCE_NUMBER with the shard's first number", "errors.md 8, recorded on AWS 2022-08 and 2025-08")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1")
    with k.subscribed(k.consumer(name, "one"), Type="AT_TIMESTAMP", Timestamp=k.now_s() - 60) as frames:
        same("by time", some(events(frames), 1)[0], [b"1"])
    number = k.shards(name)[0]["SequenceNumberRange"]["StartingSequenceNumber"]
    with k.subscribed(k.consumer(name, "two"), Type="AT_SEQUENCE_NUMBER", SequenceNumber=number) as frames:
        same("by number", some(events(frames), 1)[0], [b"1"])


@case("fan-out", "at the shard's end an event names the children, then the stream ends", FAN_OUT)
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1")
    with k.subscribed(k.consumer(name)) as frames:
        found = events(frames)
        same("records", some(found, 1)[0], [b"1"])
        k.split(name)
        last: dict[str, Any] = {}
        for event in found:
            last = event
        children = [(child["ShardId"][-1], child["ParentShards"]) for child in last.get("ChildShards", [])]
        same("children", children, [("1", ["shardId-000000000000"]), ("2", ["shardId-000000000000"])])


@case("fan-out", "a second subscription within five seconds is refused", "errors.md 7.8, reports of 2018 and 2023")
def _(k: Kit) -> None:
    name = k.stream()
    consumer = k.consumer(name)
    with k.subscribed(consumer) as frames:
        next(frames)
        members = {"ConsumerARN": consumer, "ShardId": "shardId-000000000000", "StartingPosition": {"Type": "LATEST"}}
        answer = k.post("SubscribeToShard", members) if _refuses(k, members) else None
        if answer is None:
            raise Differs("accepted instead of ResourceInUseException")
        text = k.is_error(answer, "ResourceInUseException")
        holds("text", text.startswith("Another active subscription exists for this consumer: "), text)


def _refuses(k: Kit, members: dict[str, Any]) -> bool:
    """True if the head of the answer says so; a stream that was opened instead would never end."""
    head, body = k.wire("SubscribeToShard", members)
    with k.socket() as link:
        link.sendall(head + body)
        return not link.recv(12).endswith(b" 200")


@case("fan-out", "an unknown consumer or shard is a plain 400 before any frame", "kinesis-api.md 8")
def _(k: Kit) -> None:
    name = k.stream()
    consumer = k.consumer(name)
    members = {"ConsumerARN": consumer, "ShardId": "shardId-000000000009", "StartingPosition": {"Type": "LATEST"}}
    k.refused("SubscribeToShard", "ResourceNotFoundException", **members)
    missing = f"{k.arn(name)}/consumer/no-such:1"
    k.refused("SubscribeToShard", "ResourceNotFoundException", **{**members, "ConsumerARN": missing, "ShardId": "shardId-000000000000"})


@case("fan-out", "a sequence number of another shard", "errors.md 7.8, report of 2018-09 (type and beginning)")
def _(k: Kit) -> None:
    name = k.stream(2)
    number = k.put(name, b"", hash_key=HASH_KEYS - 1)[0]["SequenceNumber"]
    position = {"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": number}
    members = {"ConsumerARN": k.consumer(name), "ShardId": "shardId-000000000000", "StartingPosition": position}
    text = k.refused("SubscribeToShard", "InvalidArgumentException", **members)
    holds("text", text.startswith("Invalid StartingSequenceNumber. It encodes shardId-000000000001"), text)


@case("fan-out", "an unmodified boto3 reads a subscription", f"{FAN_OUT}, measured with botocore")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"1")
    client = k.boto3()
    try:
        answer = client.subscribe_to_shard(
            ConsumerARN=k.consumer(name), ShardId="shardId-000000000000", StartingPosition={"Type": "TRIM_HORIZON"}
        )
        stream = answer["EventStream"]
        try:
            for event in stream:
                if event["SubscribeToShardEvent"]["Records"]:
                    same("record", event["SubscribeToShardEvent"]["Records"][0]["Data"], b"1")
                    return
        finally:
            stream.close()
    except (Differs, Missing):
        raise
    except Exception as error:
        raise Differs(f"botocore: {type(error).__name__}: {error}") from error
    finally:
        client.close()
    raise Differs("the subscription ended without a record")


# --- every operation of the model -------------------------------------------------------------------------------------

SCHEDULE = {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}


def _members(k: Kit, operation: str) -> dict[str, Any]:
    """A request that the service would answer with 200, with whatever must exist for it."""
    ones: dict[str, Callable[[str], dict[str, Any]]] = {
        "AddTagsToStream": lambda s: {"StreamName": s, "Tags": {"a": "b"}},
        "DecreaseStreamRetentionPeriod": lambda s: {"StreamName": s, "RetentionPeriodHours": 24},
        "DeleteResourcePolicy": lambda s: {"ResourceARN": _policy(k, s)},
        "DeleteStream": lambda s: {"StreamName": s},
        "DeregisterStreamConsumer": lambda s: {"ConsumerARN": k.consumer(s)},
        "DescribeStream": lambda s: {"StreamName": s},
        "DescribeStreamConsumer": lambda s: {"ConsumerARN": k.consumer(s)},
        "DescribeStreamSummary": lambda s: {"StreamName": s},
        "DisableEnhancedMonitoring": lambda s: {"StreamName": s, "ShardLevelMetrics": ["ALL"]},
        "EnableEnhancedMonitoring": lambda s: {"StreamName": s, "ShardLevelMetrics": ["IncomingBytes"]},
        "GetRecords": lambda s: {"ShardIterator": k.iterator(s)},
        "GetResourcePolicy": lambda s: {"ResourceARN": k.arn(s)},
        "GetShardIterator": lambda s: {"StreamName": s, "ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"},
        "IncreaseStreamRetentionPeriod": lambda s: {"StreamName": s, "RetentionPeriodHours": 48},
        "ListShards": lambda s: {"StreamName": s},
        "ListStreamConsumers": lambda s: {"StreamARN": k.arn(s)},
        "ListTagsForResource": lambda s: {"ResourceARN": k.arn(s)},
        "ListTagsForStream": lambda s: {"StreamName": s},
        "MergeShards": lambda s: {"StreamName": s, "ShardToMerge": "shardId-000000000000", "AdjacentShardToMerge": "shardId-000000000001"},
        "PutRecord": lambda s: {"StreamName": s, "Data": b"x", "PartitionKey": "k"},
        "PutRecords": lambda s: {"StreamName": s, "Records": [{"Data": b"x", "PartitionKey": "k"}]},
        "PutResourcePolicy": lambda s: {"ResourceARN": k.arn(s), "Policy": _document(k.arn(s))},
        "RegisterStreamConsumer": lambda s: {"StreamARN": k.arn(s), "ConsumerName": "c"},
        "RemoveTagsFromStream": lambda s: {"StreamName": s, "TagKeys": ["a"]},
        "SplitShard": lambda s: {"StreamName": s, "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "99"},
        "StartStreamEncryption": lambda s: {"StreamName": s, "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
        "StopStreamEncryption": lambda s: _encrypted(k, s),
        "SubscribeToShard": lambda s: {
            "ConsumerARN": k.consumer(s),
            "ShardId": "shardId-000000000000",
            "StartingPosition": {"Type": "LATEST"},
        },
        "TagResource": lambda s: {"ResourceARN": k.arn(s), "Tags": {"a": "b"}},
        "UntagResource": lambda s: {"ResourceARN": k.arn(s), "TagKeys": ["a"]},
        "UpdateMaxRecordSize": lambda s: {"StreamARN": k.arn(s), "MaxRecordSizeInKiB": 2048},
        "UpdateShardCount": lambda s: {"StreamName": s, "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"},
        "UpdateStreamMode": lambda s: {"StreamARN": k.arn(s), **SCHEDULE},
    }
    on_demand: dict[str, Callable[[str], dict[str, Any]]] = {
        "UpdateStreamRecordDistributionStrategy": lambda s: {"StreamARN": k.arn(s), "RecordDistributionStrategy": "AUTO"},
        "UpdateStreamWarmThroughput": lambda s: {"StreamName": s, "WarmThroughputMiBps": 10},
        "CreateChannel": lambda s: _channel(k.arn(s)),
        "CreateQueue": lambda s: {
            "QueueName": "q",
            "StreamConfigurationList": [{"StreamARN": k.arn(s), "StartingPosition": {"Type": "LATEST"}}],
        },
    }
    if operation in ones:
        return ones[operation](k.stream(2))
    if operation == "CreateStream":
        return {"StreamName": k.name(), "ShardCount": 1}
    if operation == "UpdateAccountSettings":
        return {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}
    if operation in on_demand:
        name = k.name()
        k.ask("CreateStream", StreamName=name, **SCHEDULE)
        k.settle(name)
        if operation == "UpdateStreamWarmThroughput":  # the account must have asked for On-demand Advantage
            k.post("UpdateAccountSettings", {"MinimumThroughputBillingCommitment": {"Status": "ENABLED"}})
        return on_demand[operation](name)
    kind = next((kind for kind in ("Channel", "Queue") if kind in operation), "")
    if kind and not operation.startswith("List"):
        return {f"{kind}ARN": f"arn:aws:kinesis:us-east-1:000000000000:{kind.lower()}/abc"}
    return {}


def _document(arn: str) -> str:
    statement = f'{{"Effect":"Allow","Principal":{{"AWS":"000000000000"}},"Action":"kinesis:GetRecords","Resource":"{arn}"}}'
    return f'{{"Version":"2012-10-17","Statement":[{statement}]}}'


def _policy(k: Kit, stream: str) -> str:
    arn = k.arn(stream)
    k.ask("PutResourcePolicy", ResourceARN=arn, Policy=_document(arn))
    return arn


def _encrypted(k: Kit, stream: str) -> dict[str, Any]:
    members = {"StreamName": stream, "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    k.ask("StartStreamEncryption", members)
    k.settle(stream)
    return members


def _channel(arn: str) -> dict[str, Any]:
    return {
        "ChannelName": "c",
        "ServiceExecutionRoleARN": "arn:aws:iam::000000000000:role/r",
        "StreamConfigurationList": [{"StreamARN": arn, "RecordConfiguration": {"RecordFormatType": "JSON"}}],
        "S3DestinationConfiguration": {
            "StorageConfiguration": {"BucketARN": "arn:aws:s3:::b", "ExpectedBucketOwner": "000000000000", "CompressionType": "NONE"}
        },
    }


def _useful(operation: str) -> Callable[[Kit], None]:
    def run(k: Kit) -> None:
        from botocore import xform_name
        from botocore.exceptions import ClientError

        client = k.boto3()
        try:
            output = client.meta.service_model.operation_model(operation).output_shape
            members = _members(k, operation)
            try:
                answer = getattr(client, xform_name(operation))(**members)
            except ClientError as error:
                code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status >= 500 or status in {404, 501} or code in {"UnknownOperationException", "501", "404"}:
                    raise Missing(code) from error
                raise Differs(f"{code}: {error.response['Error'].get('Message', '')}") from error
            if operation == "SubscribeToShard":
                answer.pop("EventStream").close()
                return
            answer.pop("ResponseMetadata")
            if output is not None:
                same("against the model's shape", list(_offences(output, answer, "")), [])
        except (ClientError, Differs, Missing):
            raise
        except Exception as error:
            raise Missing(f"botocore: {type(error).__name__}: {error}") from error
        finally:
            client.close()

    return run


_CLASSES = {
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "timestamp": dt.datetime,
    "blob": bytes,
    "list": list,
    "map": dict,
    "structure": dict,
}


def _offences(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Members that are missing, or of the wrong type. botocore drops unknown ones; its bounds are for requests and often wrong for answers."""
    if not isinstance(value, _CLASSES[shape.type_name]):
        yield f"{path} is {type(value).__name__}, not {shape.type_name}"
    elif shape.type_name == "structure":
        yield from (f"{path}.{name} is missing" for name in shape.required_members if name not in value)
        for name, member in shape.members.items():
            if name in value:
                yield from _offences(member, value[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for index, entry in enumerate(value):
            yield from _offences(shape.member, entry, f"{path}[{index}]")


def _operations() -> list[str]:
    import botocore.session

    return list(botocore.session.get_session().get_service_model("kinesis").operation_names)


CASES += [Case("operations", name, "botocore's model: 200 with its output shape", _useful(name)) for name in sorted(_operations())]

# What an operation changed is seen through another one.


@case("changes", "encryption shows in descriptions, answers and records, and goes again", "kinesis-api.md 4 and 5")
def _(k: Kit) -> None:
    name = k.stream()
    key = {"StreamName": name, "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    k.ask("StartStreamEncryption", key)
    k.settle(name)
    found = k.ask("DescribeStream", StreamName=name)["StreamDescription"]
    same("described", (found.get("EncryptionType"), found.get("KeyId")), ("KMS", "alias/aws/kinesis"))
    same("put", k.put(name, b"x")[0].get("EncryptionType"), "KMS")
    same("record", k.ask("GetRecords", ShardIterator=k.iterator(name))["Records"][0].get("EncryptionType"), "KMS")
    k.ask("StopStreamEncryption", key)
    k.settle(name)
    found = k.ask("DescribeStream", StreamName=name)["StreamDescription"]
    same("stopped", (found.get("EncryptionType"), "KeyId" in found), ("NONE", False))


@case("changes", "monitoring: the metrics before and after, and in the description", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    answer = k.ask("EnableEnhancedMonitoring", StreamName=name, ShardLevelMetrics=["IncomingBytes"])
    same("answer", (answer["CurrentShardLevelMetrics"], answer["DesiredShardLevelMetrics"]), ([], ["IncomingBytes"]))
    k.settle(name)
    found = k.ask("DescribeStream", StreamName=name)["StreamDescription"]
    same("described", found["EnhancedMonitoring"], [{"ShardLevelMetrics": ["IncomingBytes"]}])
    k.ask("DisableEnhancedMonitoring", StreamName=name, ShardLevelMetrics=["ALL"])
    k.settle(name)
    found = k.ask("DescribeStream", StreamName=name)["StreamDescription"]
    same("disabled", found["EnhancedMonitoring"], [{"ShardLevelMetrics": []}])


@case("changes", "UpdateStreamMode shows in the description", "kinesis-api.md 4")
def _(k: Kit) -> None:
    name = k.stream()
    k.ask("UpdateStreamMode", StreamARN=k.arn(name), **SCHEDULE)
    k.settle(name)
    same("mode", k.ask("DescribeStream", StreamName=name)["StreamDescription"]["StreamModeDetails"]["StreamMode"], "ON_DEMAND")


@case("changes", "UpdateMaxRecordSize lets bigger records in", "kinesis-api.md 1")
def _(k: Kit) -> None:
    name = k.stream()
    k.ask("UpdateMaxRecordSize", StreamARN=k.arn(name), MaxRecordSizeInKiB=2048)
    k.settle(name)
    same("shown", k.ask("DescribeStreamSummary", StreamName=name)["StreamDescriptionSummary"]["MaxRecordSizeInKiB"], 2048)
    k.put(name, bytes(1536 * 1024))
    same("read", [len(payload) for payload in k.read(k.iterator(name))], [1536 * 1024])


@case(
    "changes",
    "a resource policy is kept and goes again; without one the answer is an empty document",
    "errors.md 7.8, recorded on AWS 2025-08",
)
def _(k: Kit) -> None:
    name = k.stream()
    arn = k.arn(name)
    same("none", k.ask("GetResourcePolicy", ResourceARN=arn), {"Policy": "{}"})
    k.ask("PutResourcePolicy", ResourceARN=arn, Policy=_document(arn))
    same("kept", k.ask("GetResourcePolicy", ResourceARN=arn)["Policy"], _document(arn))
    k.ask("DeleteResourcePolicy", ResourceARN=arn)
    same("gone", k.ask("GetResourcePolicy", ResourceARN=arn), {"Policy": "{}"})


@case("changes", "DescribeLimits counts open shards", "kinesis-api.md 4")
def _(k: Kit) -> None:
    before = k.ask("DescribeLimits")["OpenShardCount"]
    k.stream(3)
    same("three more", k.ask("DescribeLimits")["OpenShardCount"], before + 3)


__all__: list[str] = []
