"""What the tests of the Lambda runtime share: events as AWS sends them, a context, and an aggregate as the KPL makes it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5
from typing import Any

STREAM_ARN = "arn:aws:kinesis:us-east-2:123456789012:stream"
SHARD = "shardId-000000000006"


class Context:
    """Lambda's context object (reference: awslambdaric, LambdaContext), with its remaining time under control."""

    aws_request_id = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
    function_name = "orders"
    function_version = "$LATEST"
    invoked_function_arn = "arn:aws:lambda:us-east-2:123456789012:function:orders"
    memory_limit_in_mb = "512"
    log_group_name = "/aws/lambda/orders"
    log_stream_name = "2026/01/01/[$LATEST]0"

    def __init__(self, remaining_ms: int = 30_000) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


def event(*payloads: bytes, stream: str = "orders", keys: str = "", consumer: str = "", first: int = 90) -> dict[str, Any]:
    """Reference: Lambda developer guide, with-kinesis, example event. With a consumer, as enhanced fan-out."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": keys[n - first] if keys else "1",
                    "sequenceNumber": str(n),
                    "data": b64encode(payload).decode(),
                    "approximateArrivalTimestamp": 1545084650.987,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{SHARD}:{n}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
                "awsRegion": "us-east-2",
                "eventSourceARN": f"{STREAM_ARN}/{stream}" + (f"/consumer/{consumer}" if consumer else ""),
            }
            for n, payload in enumerate(payloads, first)
        ]
    }


def window_event(*payloads: bytes, state: Any, is_final: bool = False, early: bool = False, stream: str = "orders") -> dict[str, Any]:
    """Reference: Lambda developer guide, services-kinesis-windows, example event."""
    return {
        **event(*payloads, stream=stream),
        "window": {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"},
        "state": state,
        "shardId": SHARD,
        "eventSourceARN": f"{STREAM_ARN}/{stream}",
        "isFinalInvokeForWindow": is_final,
        "isWindowTerminatedEarly": early,
    }


def failures(*numbers: int) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": str(n)} for n in numbers]}


def aggregate(*users: tuple[str, bytes]) -> bytes:
    """(partition key, payload) of each user record (reference: kpl-aggregation-format.md of amazon-kinesis-producer). Short texts only."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes([number << 3 | 2, len(data)]) + data

    message = b"".join(field(1, key.encode()) for key, _ in users)
    for index, (_, data) in enumerate(users):
        message += field(3, bytes([1 << 3, index]) + field(3, data))
    return b"\xf3\x89\x9a\xc2" + message + md5(message, usedforsecurity=False).digest()
