"""What do the two retention calls have in common? All but the direction and its text."""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import invalid_argument
from streamlet.broker.limits import RETENTION_HOURS_MAX, RETENTION_HOURS_MIN
from streamlet.broker.ops._base import Call, StreamRequest, settled_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["MEMBERS", "RetentionRequest", "set_retention"]


class RetentionRequest(StreamRequest, kw_only=True, gc=False):
    """The hours to keep records for."""

    retention_period_hours: int


MEMBERS: Final = (Member("RetentionPeriodHours", "integer", required=True), stream_name(), stream_arn())


def set_retention(call: Call, request: RetentionRequest, *, longer: bool) -> None:
    """Keep records longer, or less long. Raises ApiError for hours that no stream may have, or in the other direction."""
    meant = target(call, request)
    stream, hours = settled_stream(call, meant), request.retention_period_hours
    if hours < RETENTION_HOURS_MIN:
        raise invalid_argument(f"Minimum allowed retention period is 24 hours. Requested retention period ({hours} hours) is too short.")
    if hours > RETENTION_HOURS_MAX:
        raise invalid_argument(f"Maximum allowed retention period is 8760 hours. Requested retention period ({hours} hours) is too long.")
    if hours < stream.retention_hours if longer else hours > stream.retention_hours:
        word, other = ("shorter", "Decrease") if longer else ("longer", "Increase")
        raise invalid_argument(
            f"Requested retention period ({hours} hours) for stream {stream.name} can not be {word} than "
            f"existing retention period ({stream.retention_hours} hours). Use {other}RetentionPeriod API."
        )
    # What has expired under the old period is gone before the new one counts.
    stream.expire(call.now_ms)
    stream.retention_hours = hours
    stream.expire(call.now_ms)
