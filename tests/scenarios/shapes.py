"""What do Lambda's event and its failure document look like, key for key and in the order of keys that was recorded?

Written from the reference alone, like the interpreter, and imports nothing of the package: what a runtime sends is held against it.
Ids cannot be known beforehand; they are handed in. Times are epoch seconds.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["ACCOUNT", "REGION", "Sent", "document", "event", "function_arn", "stream_arn"]

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"


def stream_arn(stream: str) -> str:
    return f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{stream}"


def function_arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A record as the stream has it."""

    shard_id: str
    key: str
    number: str
    data: bytes
    arrival_s: float


def event(records: Sequence[Sent], stream: str, **window: Any) -> dict[str, Any]:
    """The event of a call. With tumbling windows `shard_id`, `start_s`, `end_s`, `state`, `final` and `early` are given, too."""
    told: dict[str, Any] = {"Records": [_event_record(record, stream) for record in records]}
    if window:
        told["window"] = {"start": _second(window["start_s"]), "end": _second(window["end_s"])}
        told["state"] = window["state"]
        told["shardId"] = window["shard_id"]
        told["eventSourceARN"] = stream_arn(stream)
        told["isFinalInvokeForWindow"] = window["final"]
        told["isWindowTerminatedEarly"] = window["early"]
    return told


def _event_record(record: Sent, stream: str) -> dict[str, Any]:
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record.key,
            "sequenceNumber": record.number,
            "data": b64encode(record.data).decode(),
            "approximateArrivalTimestamp": round(record.arrival_s, 3),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{record.shard_id}:{record.number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{ACCOUNT}:role/streamlet",
        "awsRegion": REGION,
        "eventSourceARN": stream_arn(stream),
    }


def document(
    records: Sequence[Sent],
    stream: str,
    function: str,
    *,
    request_id: str,
    condition: str,
    invoke_count: int,
    function_error: str | None,
    at_s: float,
    with_records: bool,
) -> dict[str, Any]:
    """What is told of records that were given up; `with_records` as S3 gets it."""
    first, last = records[0], records[-1]
    told: dict[str, Any] = {
        "requestContext": {
            "requestId": request_id,
            "functionArn": function_arn(function),
            "condition": condition,
            "approximateInvokeCount": invoke_count,
        }
    }
    if condition == "RetryAttemptsExhausted":
        told["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": function_error}
    told |= {
        "version": "1.0",
        "timestamp": _millisecond(at_s),
        "KinesisBatchInfo": {
            "shardId": first.shard_id,
            "startSequenceNumber": first.number,
            "endSequenceNumber": last.number,
            "approximateArrivalOfFirstRecord": _millisecond(first.arrival_s),
            "approximateArrivalOfLastRecord": _millisecond(last.arrival_s),
            "batchSize": len(records),
            "streamArn": stream_arn(stream),
        },
    }
    if with_records:
        told["payload"] = event(records, stream)
    return told


def _second(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _millisecond(at_s: float) -> str:
    whole_ms = round(at_s * 1000)
    return datetime.fromtimestamp(whole_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{whole_ms % 1000:03}Z"
