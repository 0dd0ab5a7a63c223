"""What does a ResourceARN name? A stream, or a stream's consumer."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Final, NamedTuple

from streamlet.broker.consumers import Consumer
from streamlet.broker.errors import ApiError
from streamlet.broker.ops._base import Call, Request, arn_target, known_stream
from streamlet.broker.ops._consumer import by_arn
from streamlet.broker.schema import STREAM_ARN, Member
from streamlet.broker.stream import Stream
from streamlet.broker.subscriptions import consumer_not_found

__all__ = ["RESOURCE_ARN", "Resource", "ResourceRequest", "find_resource"]

_STREAM: Final = re.compile(STREAM_ARN, re.ASCII)

RESOURCE_ARN: Final = Member("ResourceARN", "string", True, 1, 2048, r"arn:aws.*:kinesis:.*:\d{12}:.*(stream|channel)/\S+")


class ResourceRequest(Request, kw_only=True, gc=False):
    """A request that names a stream or a consumer."""

    resource_arn: str


class Resource(NamedTuple):
    """A stream, or one of its consumers."""

    stream: Stream
    consumer: Consumer | None

    @property
    def tags(self) -> MutableMapping[str, str]:
        """Its labels, to be changed in place."""
        return self.stream.tags if self.consumer is None else self.consumer.tags

    @property
    def holder(self) -> Stream | Consumer:
        """What carries the policy."""
        return self.stream if self.consumer is None else self.consumer


def find_resource(call: Call, text: str) -> Resource:
    """The stream or consumer. Raises ResourceNotFoundException; channels and queues are never there."""
    if not _STREAM.fullmatch(text):
        raise ApiError("ResourceNotFoundException", f"Resource {text} under account {call.account} not found.")
    if "/consumer/" in text:
        found = by_arn(call, text)
        if found is None:
            raise consumer_not_found(text, call.account)
        return Resource(found.stream, found.consumer)
    return Resource(known_stream(call, arn_target(text)), None)
