"""How is a consumer named and shown? By its ARN, or by the stream's ARN and its own name."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from streamlet.broker.consumers import Consumer
from streamlet.broker.errors import invalid_argument
from streamlet.broker.ops._base import Call, Request, arn, arn_target, find_stream, known_stream
from streamlet.broker.schema import NAME, Member
from streamlet.broker.stream import Stream
from streamlet.broker.subscriptions import consumer_not_found

__all__ = ["ConsumerRequest", "Found", "by_arn", "consumer_arn", "consumer_arn_member", "consumer_name", "consumer_shape", "find_consumer"]

_PATTERN: Final = r"^(arn):aws.*:kinesis:.*:\d{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+"
_PARTS: Final = re.compile(r"(arn:aws.*:kinesis:.*:\d{12}:stream/[a-zA-Z0-9_.-]+)/consumer/([a-zA-Z0-9_.-]+):([0-9]+)", re.ASCII)


class ConsumerRequest(Request, kw_only=True, gc=False):
    """A request that names a consumer, one way or the other."""

    stream_arn: str | None = None
    consumer_name: str | None = None
    consumer_arn: str | None = None


class Found(NamedTuple):
    """A consumer and its stream."""

    stream: Stream
    consumer: Consumer


def consumer_name(*, required: bool = False) -> Member:
    """The member ConsumerName."""
    return Member("ConsumerName", "string", required, 1, 128, NAME)


def consumer_arn_member(*, required: bool = False) -> Member:
    """The member ConsumerARN."""
    return Member("ConsumerARN", "string", required, 1, 2048, _PATTERN)


def consumer_arn(call: Call, stream: Stream, consumer: Consumer) -> str:
    """The consumer's ARN. It ends with the second of its creation: one that is made anew has another."""
    return f"{arn(call, stream)}/consumer/{consumer.name}:{consumer.creation_s}"


def by_arn(call: Call, text: str) -> Found | None:
    """The consumer that an ARN names, in any status, or None; also None for an ARN that is no consumer's."""
    parts = _PARTS.fullmatch(text)
    stream = None if parts is None else find_stream(call, arn_target(parts[1]))
    if parts is None or stream is None:
        return None
    consumer = stream.consumers.find(parts[2], call.now_ms)
    return Found(stream, consumer) if consumer is not None and consumer.creation_s == int(parts[3]) else None


def find_consumer(call: Call, request: ConsumerRequest) -> Found:
    """The consumer that a request names. With both, the ARN decides. Raises ApiError; the text for neither is ours."""
    if request.consumer_arn is not None:
        found = by_arn(call, request.consumer_arn)
        if found is None:
            raise consumer_not_found(request.consumer_arn, call.account)
        return found
    if request.stream_arn is None or request.consumer_name is None:
        raise invalid_argument("Either ConsumerARN, or StreamARN and ConsumerName should be provided.")
    stream = known_stream(call, arn_target(request.stream_arn))
    consumer = stream.consumers.find(request.consumer_name, call.now_ms)
    if consumer is None:
        raise consumer_not_found(request.consumer_name, call.account)
    return Found(stream, consumer)


def consumer_shape(call: Call, stream: Stream, consumer: Consumer, status: str) -> dict[str, Any]:
    """A Consumer."""
    return {
        "ConsumerName": consumer.name,
        "ConsumerARN": consumer_arn(call, stream, consumer),
        "ConsumerStatus": status,
        "ConsumerCreationTimestamp": consumer.creation_s,
    }
