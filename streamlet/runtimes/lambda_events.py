"""What is in the event that Lambda hands over? Records of a stream, with or without a tumbling window, or S3's notifications.

    event                                              told by
    Kinesis, shared throughput or enhanced fan-out     Records[0].kinesis; the ARN is the stream's or its consumer's
    Kinesis with a tumbling window                     window, at the top; Records may be empty then
    S3                                                 Records[0].s3

Sources: Lambda developer guide, with-kinesis and services-kinesis-windows, example events; Amazon S3 user guide,
notification-content-structure. Records of a Kinesis event come as dicts, which msgspec converts, base64 and all, in one pass
(the standard library's base64 alone takes three times as long).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from streamlet.errors import HandlerError
from streamlet.model.record import Record
from streamlet.model.s3 import S3Object
from streamlet.model.window import Window

__all__ = ["StreamSource", "is_s3", "objects_of", "records_of", "source_of", "window_of"]

_BODY: Final = " that come straight from it. Of a bucket's event in a message, call app.lambda_handler(json.loads(body), context)"
_ANOTHER_WAY: Final = {
    "aws:sqs": _BODY,
    "aws:sns": _BODY,
    "aws.s3": " that come straight from it, not through EventBridge, whose events of S3 are of another form",
}


class StreamSource(msgspec.Struct, frozen=True):
    """Where a Kinesis event comes from. A batch never mixes shards or streams."""

    stream: str
    shard_id: str
    arn: str


class _Kinesis(msgspec.Struct, gc=False):
    data: bytes
    partitionKey: str  # noqa: N815  Lambda's name
    sequenceNumber: str  # noqa: N815
    approximateArrivalTimestamp: float  # noqa: N815


class _Entry(msgspec.Struct, gc=False):
    kinesis: _Kinesis


def is_s3(event: Any) -> bool:
    """Is it S3's? Also the test event, which tells of no object, where a notification is set up."""
    try:
        return event.get("Event") == "s3:TestEvent" or ("s3" in event["Records"][0] and _source(event) == "aws:s3")
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


def source_of(event: Any) -> StreamSource:
    """Stream and shard of a Kinesis event. Raises HandlerError for any other."""
    try:
        if "window" in event:
            arn, shard_id = event["eventSourceARN"], event["shardId"]
        else:
            first = event["Records"][0]
            arn, shard_id = first["eventSourceARN"], first["eventID"].rsplit(":", 1)[0]
            first["kinesis"]  # another source's records have an ARN, too
        return StreamSource(arn.split(":stream/", 1)[1].split("/", 1)[0], shard_id, arn)
    except (KeyError, IndexError, TypeError, AttributeError):
        keys = sorted(map(str, event))[:5] if isinstance(event, dict) else type(event).__name__
        source = _source(event)
        raise HandlerError(
            f"this is no Kinesis event and no S3 event (got {f'an event of {source}' if source else keys}): lambda_handler answers an event "
            "source mapping on a stream, or a bucket's notifications" + _ANOTHER_WAY.get(source, "")
        ) from None


def _source(event: Any) -> str:
    """Which service it names; "" where it names none."""
    records = event.get("Records") if isinstance(event, dict) else None
    first = records[0] if isinstance(records, list) and records else event
    named = [first.get(key) for key in ("eventSource", "EventSource", "source")] if isinstance(first, dict) else []
    return next((name for name in named if isinstance(name, str)), "")


def records_of(entries: Sequence[Any], stream: str, shard_id: str, decoder: Callable[[bytes], Any]) -> list[Record]:
    """The records of a Kinesis event. Raises HandlerError, which names the record, for what Lambda does not send."""
    try:
        found = msgspec.convert(entries, list[_Entry])
    except msgspec.ValidationError as error:
        raise _odd(entries, str(error)) from None
    out: list[Record] = []
    for entry in found:
        kinesis = entry.kinesis
        data, number = kinesis.data, kinesis.sequenceNumber
        if not (number.isdigit() and number.isascii()):
            raise _odd([], f"{number!r} is no sequence number")
        out.append(Record(data, kinesis.partitionKey, number, 0, kinesis.approximateArrivalTimestamp, shard_id, stream, decoder))
    return out


def _odd(entries: Sequence[Any], error: str) -> HandlerError:
    """A wrong field is told by its place, as in `$[3].kinesis.data`; a person looks for the sequence number."""
    place = re.search(r"\$\[(\d+)\]", error)
    try:
        which = f"record {entries[int(place[1])]['kinesis']['sequenceNumber']}" if place else "a record"
    except (KeyError, IndexError, TypeError):
        which = "a record"
    return HandlerError(f"{which} of the event is not as Lambda sends it: {error}")


def window_of(event: Any) -> Window:
    """The window of an event that has one."""
    try:
        window = event["window"]
        return Window(
            datetime.fromisoformat(window["start"]),
            datetime.fromisoformat(window["end"]),
            event["isFinalInvokeForWindow"],
            event["isWindowTerminatedEarly"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HandlerError(f"the event's tumbling window is not as Lambda sends it: {error!r}") from None


def objects_of(event: Any) -> Iterator[S3Object]:
    """What S3's event tells, in its order; one object as a rule."""
    from urllib.parse import unquote_plus

    for record in event.get("Records", ()):
        try:
            s3 = record["s3"]
            thing = s3["object"]
            yield S3Object(
                bucket=s3["bucket"]["name"],
                key=unquote_plus(thing["key"]),
                event_name=record["eventName"],
                event_time=datetime.fromisoformat(record["eventTime"]),
                size=thing.get("size"),
                etag=thing.get("eTag"),
                version_id=thing.get("versionId"),
                sequencer=thing.get("sequencer"),
                region=record.get("awsRegion", ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HandlerError(f"a record of the event is not as S3 sends it: {error!r}") from None
