"""What is in the event that Lambda hands over? Records of a stream, with or without a tumbling window, or S3's notifications.

    event                                              told by
    Kinesis, shared throughput or enhanced fan-out     Records[0].kinesis; the ARN is the stream's or its consumer's
    Kinesis with a tumbling window                     window, at the top; Records may be empty then
    S3                                                 Records[0].s3

Sources: Lambda developer guide, with-kinesis and services-kinesis-windows, example events; Amazon S3 user guide,
notification-content-structure. Records of a Kinesis event come as dicts, which msgspec converts, base64 and all, in one pass
(the standard library's base64 alone takes three times as long). A KPL aggregate becomes its user records. Which of them the
shard's hash range covers cannot be told from the event: after a resharding the KCL leaves out those of the other shard, and
here they are handed out.
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

__all__ = ["KPL_MAGIC", "StreamSource", "is_s3", "objects_of", "records_of", "source_of", "window_of"]

# The same as kpl.deaggregate's, which brings in hashlib: a function without aggregates does not pay for it.
KPL_MAGIC: Final = b"\xf3\x89\x9a\xc2"


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
    """Is it S3's?"""
    try:
        return "s3" in event["Records"][0] and event["Records"][0].get("eventSource") == "aws:s3"
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
        raise HandlerError(
            f"this is no Kinesis event and no S3 event (got {keys}): lambda_handler answers an event source mapping on a stream, "
            "or a bucket's notifications"
        ) from None


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
        if data[:4] == KPL_MAGIC and (users := _user_records(data)) is not None:
            at_s = kinesis.approximateArrivalTimestamp
            out += [Record(user.data, user.partition_key, number, sub, at_s, shard_id, stream, decoder) for sub, user in enumerate(users)]
        else:
            out.append(Record(data, kinesis.partitionKey, number, 0, kinesis.approximateArrivalTimestamp, shard_id, stream, decoder))
    return out


def _user_records(data: bytes) -> Any:
    from streamlet.kpl.deaggregate import deaggregate

    return deaggregate(data)


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

    for record in event["Records"]:
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
