"""DeleteStream: how does a stream go away?

Rules and oddities:
- Allowed in every status but DELETING, with records or without. Answers with an empty body.
- Gone at once, unless the state has a control delay. Iterators into it answer "does not exist" from then on.
- With consumers it is refused, unless EnforceConsumerDeletion says to delete them too.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import ApiError, not_active
from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    enforce_consumer_deletion: bool = False


_MEMBERS: Final = (stream_name(), Member("EnforceConsumerDeletion", "boolean"), stream_arn())


def _run(call: Call, request: _Request) -> None:
    stream = known_stream(call, target(call, request))
    if stream.status == "DELETING":
        # The service's wording for this case is not known; this is its wording for a reshard.
        raise not_active(stream.name, call.account, stream.status)
    if not request.enforce_consumer_deletion and stream.consumers.count(call.now_ms):
        raise ApiError(
            "ResourceInUseException",
            f"DeleteStream can\u2019t delete {call.account}:{stream.name} because there are consumers associated with this data stream. "
            f"To delete {stream.name} anyway, set the EnforceConsumerDeletion parameter to true to force the deletion "
            "of all the consumers that are associated with it.",
        )
    call.state.delete(stream, call.now_ms)


OPERATION: Final = Operation("DeleteStream", _MEMBERS, _Request, _run)
