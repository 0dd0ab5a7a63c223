"""IncreaseStreamRetentionPeriod: how long are records kept?

Rules and oddities:
- Order: stream -> below 24 (or above 8760) -> comparison with the current value; the same value is accepted.
- It does not bring back what has expired. Answers with an empty body.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import invalid_argument
from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._retention import MEMBERS, RetentionRequest, checked_stream

__all__ = ["OPERATION"]


def _run(call: Call, request: RetentionRequest) -> None:
    stream, hours = checked_stream(call, request), request.retention_period_hours
    if hours < stream.retention_hours:
        raise invalid_argument(
            f"Requested retention period ({hours} hours) for stream {stream.name} can not be shorter than "
            f"existing retention period ({stream.retention_hours} hours). Use DecreaseRetentionPeriod API."
        )
    # What has expired under the old period is gone before the new one counts.
    stream.expire(call.now_ms)
    stream.retention_hours = hours
    stream.expire(call.now_ms)


OPERATION: Final = Operation("IncreaseStreamRetentionPeriod", MEMBERS, RetentionRequest, _run)
