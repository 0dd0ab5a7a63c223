"""What do the two monitoring calls have in common? The metrics, and an answer that tells before and after."""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, StreamRequest, arn, settled_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["MEMBERS", "MonitoringRequest", "switch"]

_METRICS: Final = (
    "IncomingBytes",
    "IncomingRecords",
    "OutgoingBytes",
    "OutgoingRecords",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
)
MEMBERS: Final = (
    stream_name(),
    Member("ShardLevelMetrics", "list", required=True, low=1, high=7, enum=(*_METRICS, "ALL")),
    stream_arn(),
)


class MonitoringRequest(StreamRequest, kw_only=True, gc=False):
    """The metrics to switch."""

    shard_level_metrics: list[str]


def switch(call: Call, request: MonitoringRequest, *, on: bool) -> dict[str, Any]:
    """Switch metrics; ALL stands for the seven that there are, and is shown as them."""
    meant = target(call, request)
    stream = settled_stream(call, meant)
    named = set(_METRICS) if "ALL" in request.shard_level_metrics else set(request.shard_level_metrics)
    before = stream.metrics
    after = tuple(
        metric for metric in _METRICS if (metric in before or metric in named if on else metric in before and metric not in named)
    )

    def apply(_now_ms: int) -> None:
        stream.metrics = after

    call.state.change(stream, call.now_ms, apply)
    return {
        "StreamName": stream.name,
        "CurrentShardLevelMetrics": before,
        "DesiredShardLevelMetrics": after,
        "StreamARN": arn(call, stream),
    }
