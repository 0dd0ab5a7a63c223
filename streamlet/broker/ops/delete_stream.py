"""DeleteStream: how does a stream go away?

Rules and oddities:
- Allowed in every status but DELETING, with records or without. Answers with an empty body.
- Gone at once, unless the state has a control delay. Iterators into it answer "does not exist" from then on.
- EnforceConsumerDeletion has no effect: there are no registered consumers yet.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import not_active
from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]

_MEMBERS: Final = (stream_name(), Member("EnforceConsumerDeletion", "boolean"), stream_arn())


def _run(call: Call, request: StreamRequest) -> None:
    stream = known_stream(call, target(request))
    if stream.status == "DELETING":
        # The service's wording for this case is not known; this is its wording for a reshard.
        raise not_active(stream.name, call.account, stream.status)
    call.state.delete(stream, call.now_ms)


OPERATION: Final = Operation("DeleteStream", _MEMBERS, StreamRequest, _run)
