"""What does Lambda hand to a function? Events of a stream, of a bucket, and of a topic, field by field.

    app.lambda_handler(kinesis_event([{"n": 1}, {"n": 2}], stream="orders"), FakeLambdaContext())

Sources: Lambda developer guide, with-kinesis-example, services-kinesis-windows and with-sns; Amazon S3 user guide,
notification-content-structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote_plus

import msgspec

from streamlet.destinations.document import event_record, iso_ms, window_fields
from streamlet.errors import ConfigurationError
from streamlet.kpl.aggregate import aggregate as packed
from streamlet.model.record import Record
from streamlet.model.window import Window

__all__ = ["aggregate", "key_of", "kinesis_event", "payload", "s3_event", "sns_event", "window_event"]

SHARD: Final = "shardId-000000000000"
ACCOUNT: Final = "123456789012"
REGION: Final = "us-east-1"
ARRIVED_AT_S: Final = 1_700_000_000.0
_FIRST_SEQUENCE_NUMBER: Final = 49590338271490256608559692538361571095921575989136588898  # of the guide's example


def kinesis_event(
    values: Iterable[Any],
    *,
    stream: str,
    shard_id: str = SHARD,
    key: str | Callable[[Any], str] = "key",
    arrived_at_s: float = ARRIVED_AT_S,
    region: str = REGION,
    account_id: str = ACCOUNT,
) -> dict[str, Any]:
    """The event of a mapping on a stream. A value is a `Record`, taken as it is; `bytes`, the payload; or anything else, as JSON.

    `key` is the partition key, or gives one for a value. `arrived_at_s`, epoch seconds, is when the first arrived; each of
    the others came a millisecond later. The n-th value's sequence number is always the same.
    """
    records = [_record(n, value, stream, shard_id, key, arrived_at_s) for n, value in enumerate(values)]
    return {"Records": [event_record(record, stream, shard_id, region=region, account_id=account_id) for record in records]}


def aggregate(*values: Any, key: str | Callable[[Any], str] = "key") -> bytes:
    """The payload of one record of a stream that holds all of these, as the Kinesis Producer Library packs them: to put, or for an event.
    A value is `bytes`, or anything else, as JSON. `key` is their partition key, or gives one for a value."""
    if not values:
        raise ConfigurationError("aggregate() holds nothing: give it the values of its user records, as in aggregate({'n': 1}, {'n': 2})")
    return packed([(key_of(value, key), payload(value)) for value in values])


def window_event(
    values: Iterable[Any],
    *,
    stream: str,
    start_s: float,
    window_s: int,
    state: Mapping[str, Any] | None = None,
    is_final: bool = False,
    is_terminated_early: bool = False,
    shard_id: str = SHARD,
    key: str | Callable[[Any], str] = "key",
    region: str = REGION,
    account_id: str = ACCOUNT,
) -> dict[str, Any]:
    """The event of a mapping with tumbling windows: the window of `window_s` seconds in which `start_s` (epoch seconds) lies.

    `state` is what the call before returned, nothing at first. A final call has no values, as a rule.
    """
    if isinstance(window_s, bool) or not isinstance(window_s, int) or not 1 <= window_s <= 900:
        raise ConfigurationError(f"window_s={window_s!r}: must be 1 to 900 whole seconds")
    start = int(start_s // window_s) * window_s
    event = kinesis_event(values, stream=stream, shard_id=shard_id, key=key, arrived_at_s=start_s, region=region, account_id=account_id)
    window = Window(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(start + window_s, UTC), is_final, is_terminated_early)
    return event | window_fields(window, dict(state or {}), shard_id, f"arn:aws:kinesis:{region}:{account_id}:stream/{stream}")


def s3_event(
    bucket: str,
    *keys: str,
    event_name: str = "ObjectCreated:Put",
    size: int = 1024,
    etag: str = "0123456789abcdef0123456789abcdef",
    version_id: str | None = None,
    event_time_s: float = ARRIVED_AT_S,
    region: str = REGION,
) -> dict[str, Any]:
    """The event of a bucket's notification, one record for each key (S3 itself sends one). In it the keys are quoted, as S3 does:
    `my file.csv` becomes `my+file.csv`. `size` is in bytes; a deletion has neither size nor etag. `event_time_s` is in epoch seconds."""
    if not keys:
        raise ConfigurationError("s3_event needs a bucket and at least one key, as in s3_event('landing', 'in/orders.csv')")
    records = []
    for n, key in enumerate(keys):
        thing: dict[str, Any] = {"key": quote_plus(key, safe="/")}
        if not event_name.startswith("ObjectRemoved"):
            thing |= {"size": size, "eTag": etag}
        if version_id is not None:
            thing["versionId"] = version_id
        records.append(
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": region,
                "eventTime": iso_ms(event_time_s),
                "eventName": event_name,
                "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
                "requestParameters": {"sourceIPAddress": "192.0.2.1"},
                "responseElements": {"x-amz-request-id": f"{n:016X}", "x-amz-id-2": "EXAMPLE"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "streamlet",
                    "bucket": {"name": bucket, "ownerIdentity": {"principalId": "AEXAMPLE"}, "arn": f"arn:aws:s3:::{bucket}"},
                    "object": {**thing, "sequencer": f"{0x0055AED6DCD90281E5 + n:018X}"},
                },
            }
        )
    return {"Records": records}


def sns_event(
    message: Any, *, topic: str = "topic", subject: str | None = None, region: str = REGION, account_id: str = ACCOUNT
) -> dict[str, Any]:
    """The event of a subscription to a topic. `message` is text as it is, anything else becomes JSON: with `s3_event(...)` it is what
    a bucket sends through a topic."""
    arn = f"arn:aws:sns:{region}:{account_id}:{topic}"
    return {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": f"{arn}:00000000-0000-0000-0000-000000000000",
                "Sns": {
                    "Type": "Notification",
                    "MessageId": "00000000-0000-0000-0000-000000000001",
                    "TopicArn": arn,
                    "Subject": subject,
                    "Message": message if isinstance(message, str) else msgspec.json.encode(message).decode(),
                    "Timestamp": iso_ms(ARRIVED_AT_S),
                    "SignatureVersion": "1",
                    "Signature": "EXAMPLE",
                    "SigningCertUrl": "EXAMPLE",
                    "UnsubscribeUrl": "EXAMPLE",
                    "MessageAttributes": {},
                },
            }
        ]
    }


def payload(value: Any) -> bytes:
    """What a test's value is in a stream: bytes as they are, anything else as JSON.

    By msgspec, which knows its Structs; and orjson keeps a buffer of 4 KB behind every small payload.
    """
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else msgspec.json.encode(value)


def key_of(value: Any, key: str | Callable[[Any], str]) -> str:
    """The partition key of a test's value. Raises ConfigurationError if it can be none."""
    made = key(value) if callable(key) else key
    if not isinstance(made, str) or not 1 <= len(made) <= 256:
        raise ConfigurationError(f"partition key {made!r} of {value!r}: must be text of 1 to 256 characters, as in key=str")
    return made


def _record(n: int, value: Any, stream: str, shard_id: str, key: str | Callable[[Any], str], arrived_at_s: float) -> Record:
    if isinstance(value, Record):
        return value
    return Record(payload(value), key_of(value, key), str(_FIRST_SEQUENCE_NUMBER + n), 0, arrived_at_s + n / 1000, shard_id, stream)
