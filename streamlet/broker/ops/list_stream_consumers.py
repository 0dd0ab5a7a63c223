"""ListStreamConsumers: who is registered with a stream, page by page?

Rules and oddities:
- Sorted by name; at most 100 a page, whatever MaxResults says; NextToken only when there are more.
- A token stands for its stream and lives 300 s; it excludes StreamCreationTimestamp. StreamARN is required beside it.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.errors import invalid_argument, stream_not_found
from streamlet.broker.limits import LIST_CONSUMERS_MAX
from streamlet.broker.ops._base import Call, Operation, Request, arn_target, known_stream
from streamlet.broker.ops._consumer import consumer_shape
from streamlet.broker.schema import STREAM_ARN, Member
from streamlet.broker.tokens import PageToken, open_page, seal_page

__all__ = ["OPERATION"]

_KIND: Final = "ListStreamConsumers"


class _Request(Request, kw_only=True, gc=False):
    stream_arn: str
    next_token: str | None = None
    max_results: int = LIST_CONSUMERS_MAX
    stream_creation_timestamp: float | None = None


_MEMBERS: Final = (
    Member("StreamARN", "string", True, 1, 2048, STREAM_ARN),
    Member("NextToken", "string", low=1, high=1_048_576),
    Member("MaxResults", "integer", low=1, high=10_000),
    Member("StreamCreationTimestamp", "timestamp"),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    after, created = "", request.stream_creation_timestamp
    token = None
    if request.next_token is not None:
        if created is not None:
            raise invalid_argument("NextToken and StreamCreationTimestamp cannot be provided together.")
        token = open_page(request.next_token, _KIND, call.now_ms)
        after = token.after
    stream = known_stream(call, arn_target(request.stream_arn))
    if token is not None and token.identity != stream.identity:
        raise invalid_argument("Invalid NextToken.")
    if created is not None and int(created) != stream.created_ms // 1000:
        # It tells a stream from an earlier one of the same name; whole seconds are what descriptions say.
        raise stream_not_found(stream.name, call.account)
    left = [consumer for consumer in stream.consumers.all(call.now_ms) if consumer.name > after]
    page = left[: min(request.max_results, LIST_CONSUMERS_MAX)]
    answer: dict[str, Any] = {"Consumers": [consumer_shape(call, stream, consumer, consumer.status(call.now_ms)) for consumer in page]}
    if len(left) > len(page):
        answer["NextToken"] = seal_page(PageToken(_KIND, call.now_ms, after=page[-1].name, stream=stream.name, identity=stream.identity))
    return answer


OPERATION: Final = Operation(_KIND, _MEMBERS, _Request, _run)
