"""What does a failure document say? Lambda's on-failure record of a Kinesis mapping, key for key.

Source: Lambda developer guide, kinesis-on-failure-destination, and recordings of what AWS sends (LocalStack's snapshot tests;
docs/DESIGN.md names them). SQS and SNS get the document without records; S3, and our file, get them as `payload`.

CHOICES, where streamlet is not Lambda:
- `requestContext.requestId` is a UUID. If the document was made for a real invocation, it is that one's; otherwise it follows
  from `document_id`, so a document that is sent again after a crash carries the same id and can be recognised by it.
- ARNs name the region and account that they are given, by default us-east-1 and 000000000000.
- A record from inside a KPL aggregate has `kinesis.subSequenceNumber` beside its sequence number, which Lambda's never do:
  without it the records of one aggregate could not be told apart.
"""

from __future__ import annotations

import uuid
from binascii import b2a_base64
from datetime import UTC, datetime
from typing import Any, Final

from streamlet.core.failure import RECORD_AGE_EXCEEDED
from streamlet.model.arn import partition_of
from streamlet.model.record import Record
from streamlet.model.window import Window
from streamlet.ports import FailureDocument

__all__ = ["event_record", "failure_document", "iso_ms", "window_fields"]

_NAMESPACE: Final = uuid.UUID("5b1c8f0e-6a1e-5c0a-9f0e-7d2c4b8a3e10")  # ours; any fixed one would do


def failure_document(
    document: FailureDocument, *, payload: bool, region: str = "us-east-1", account_id: str = "000000000000"
) -> dict[str, Any]:
    """The document as it is sent; with `payload`, the full event records are in it."""
    first, last = document.records[0], document.records[-1]
    name = document.function_name
    out: dict[str, Any] = {
        "requestContext": {
            "requestId": _request_id(document),
            "functionArn": name if name.startswith("arn:") else f"arn:{partition_of(region)}:lambda:{region}:{account_id}:function:{name}",
            "condition": document.condition,
            "approximateInvokeCount": document.invoke_count,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": document.function_error},
        "version": "1.0",
        "timestamp": iso_ms(document.timestamp_s),
        "KinesisBatchInfo": {
            "shardId": document.shard_id,
            "startSequenceNumber": first.sequence_number,
            "endSequenceNumber": last.sequence_number,
            "approximateArrivalOfFirstRecord": iso_ms(first.arrived_at_s),
            "approximateArrivalOfLastRecord": iso_ms(last.arrived_at_s),
            "batchSize": len(document.records),
            "streamArn": _stream_arn(document.stream, region, account_id),
        },
    }
    if document.condition == RECORD_AGE_EXCEEDED:
        del out["responseContext"]  # the function was not asked, so there is no response
    if payload:
        out["payload"] = {
            "Records": [
                event_record(record, document.stream, document.shard_id, region=region, account_id=account_id)
                for record in document.records
            ]
        }
    return out


def event_record(record: Record, stream: str, shard_id: str, *, region: str, account_id: str) -> dict[str, Any]:
    """One record as in the event that Lambda hands to a function."""
    kinesis: dict[str, Any] = {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": record.partition_key,
        "sequenceNumber": record.sequence_number,
        "data": b2a_base64(record.data, newline=False).decode("ascii"),
        "approximateArrivalTimestamp": round(record.arrived_at_s, 3),
    }
    if record.sub_sequence_number:
        kinesis["subSequenceNumber"] = record.sub_sequence_number
    return {
        "kinesis": kinesis,
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard_id}:{record.sequence_number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:{partition_of(region)}:iam::{account_id}:role/streamlet",
        "awsRegion": region,
        "eventSourceARN": _stream_arn(stream, region, account_id),
    }


def window_fields(window: Window, state: Any, shard_id: str, stream_arn: str) -> dict[str, Any]:
    """What a tumbling window adds to a Kinesis event (reference: Lambda developer guide, services-kinesis-windows)."""
    return {
        "window": {"start": f"{window.start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{window.end:%Y-%m-%dT%H:%M:%SZ}"},
        "state": state,
        "shardId": shard_id,
        "eventSourceARN": stream_arn,
        "isFinalInvokeForWindow": window.is_final,
        "isWindowTerminatedEarly": window.is_terminated_early,
    }


def _request_id(document: FailureDocument) -> str:
    try:
        return str(uuid.UUID(document.request_id))
    except ValueError:
        return str(uuid.uuid5(_NAMESPACE, document.document_id))


def _stream_arn(stream: str, region: str, account_id: str) -> str:
    return stream if stream.startswith("arn:") else f"arn:{partition_of(region)}:kinesis:{region}:{account_id}:stream/{stream}"


def iso_ms(epoch_s: float) -> str:
    """UTC with milliseconds and Z, as Lambda writes it."""
    # To the nearest millisecond first: isoformat cuts off, and 0.123 is stored as 0.12299….
    return datetime.fromtimestamp(round(epoch_s, 3), UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
