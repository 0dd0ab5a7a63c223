"""RegisterStreamConsumer: how does a consumer come to be?

Rules and oddities:
- Order: stream -> its state -> the name is taken -> tags -> limits. 20 consumers per stream, 5 of them CREATING at once.
- The answer always says CREATING, as the service's does; ACTIVE comes with the state's control delay, which may be 0.
- The creation second is part of the ARN, so a consumer that is made anew gets a later one, even within the same second.
- The wordings for a name that is taken and for the limits are ours: the service's are not known.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamlet.broker.errors import ApiError
from streamlet.broker.limits import CONSUMERS_CREATING_MAX, CONSUMERS_MAX
from streamlet.broker.ops._base import Call, Operation, Request, arn_target, known_stream
from streamlet.broker.ops._consumer import consumer_name, consumer_shape
from streamlet.broker.ops._tags import check_characters
from streamlet.broker.schema import STREAM_ARN, Member

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    stream_arn: str
    consumer_name: str
    tags: dict[str, str] = msgspec.field(default_factory=dict)


_MEMBERS: Final = (
    Member("StreamARN", "string", True, 1, 2048, STREAM_ARN),
    consumer_name(required=True),
    Member("Tags", "map", low=1, high=200, key=(1, 128), element=(0, 256)),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    stream = known_stream(call, arn_target(request.stream_arn))
    if stream.status not in {"ACTIVE", "UPDATING"}:
        text = f"Stream {stream.name} under account {call.account} not ACTIVE or UPDATING, instead in state {stream.status}"
        raise ApiError("ResourceInUseException", text)
    name, consumers = request.consumer_name, stream.consumers
    if consumers.find(name, call.now_ms) is not None:
        raise ApiError("ResourceInUseException", f"Consumer {name} under stream {stream.name}, account {call.account} already exists.")
    check_characters(call, stream.name, (text for pair in request.tags.items() for text in pair), "add tags to")
    there = consumers.all(call.now_ms)
    if len(there) >= CONSUMERS_MAX:
        raise ApiError(
            "LimitExceededException", f"Stream {stream.name} under account {call.account} has {len(there)} consumers, the limit."
        )
    if sum(consumer.status(call.now_ms) == "CREATING" for consumer in there) >= CONSUMERS_CREATING_MAX:
        text = f"Stream {stream.name} under account {call.account} has {CONSUMERS_CREATING_MAX} consumers in CREATING status, the limit."
        raise ApiError("LimitExceededException", text)
    made = consumers.register(name, call.now_ms, call.state.control_delay_ms, dict(request.tags))
    return {"Consumer": consumer_shape(call, stream, made, "CREATING")}


OPERATION: Final = Operation("RegisterStreamConsumer", _MEMBERS, _Request, _run)
