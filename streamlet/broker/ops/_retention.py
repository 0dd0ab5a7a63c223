"""What do the two retention calls have in common? Request and lower bound."""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import invalid_argument, not_active
from streamlet.broker.limits import RETENTION_HOURS_MAX, RETENTION_HOURS_MIN
from streamlet.broker.ops._base import Call, StreamRequest, known_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name
from streamlet.broker.stream import Stream

__all__ = ["MEMBERS", "RetentionRequest", "checked_stream"]


class RetentionRequest(StreamRequest, kw_only=True, gc=False):
    """The hours to keep records for."""

    retention_period_hours: int


MEMBERS: Final = (Member("RetentionPeriodHours", "integer", required=True), stream_name(), stream_arn())


def checked_stream(call: Call, request: RetentionRequest) -> Stream:
    """The stream, when the hours are ones that any stream may have."""
    stream = known_stream(call, target(request))
    if stream.status != "ACTIVE":
        raise not_active(stream.name, call.account, stream.status)
    hours = request.retention_period_hours
    if hours < RETENTION_HOURS_MIN:
        raise invalid_argument(f"Minimum allowed retention period is 24 hours. Requested retention period ({hours} hours) is too short.")
    if hours > RETENTION_HOURS_MAX:
        raise invalid_argument(f"Maximum allowed retention period is 8760 hours. Requested retention period ({hours} hours) is too long.")
    return stream
