"""How are a stream and a shard described? Shapes that several operations answer with."""

from __future__ import annotations

from typing import Any

from streamlet.broker.ops._base import Call, arn
from streamlet.broker.shard import Shard, shard_name
from streamlet.broker.stream import Stream

__all__ = ["milliseconds", "seconds", "shard_shape", "stream_shape", "visible_shards"]


def seconds(at_ms: int) -> float | int:
    """A timestamp as JSON carries it: epoch seconds, with a fraction only when there is one."""
    return at_ms // 1000 if at_ms % 1000 == 0 else at_ms / 1000


def milliseconds(at_s: float) -> int:
    """A client's timestamp in epoch ms.

    Cut, not rounded: a client that asks for its own "now", with microseconds, must not come to lie in the future.
    The microsecond on top makes good for arithmetic on doubles that ended a hair below a whole millisecond.
    """
    return int(at_s * 1000 + 0.001)


def stream_shape(call: Call, stream: Stream) -> dict[str, Any]:
    """What DescribeStream and DescribeStreamSummary have in common."""
    shape = {
        "StreamName": stream.name,
        "StreamARN": arn(call, stream),
        "StreamStatus": stream.status,
        "StreamModeDetails": {"StreamMode": stream.mode},
        "RetentionPeriodHours": stream.retention_hours,
        "StreamCreationTimestamp": stream.created_ms // 1000,
        "EnhancedMonitoring": [{"ShardLevelMetrics": stream.metrics}],
        "EncryptionType": "KMS" if stream.key_id else "NONE",
    }
    if stream.key_id:
        shape["KeyId"] = stream.key_id
    return shape


def shard_shape(shard: Shard) -> dict[str, Any]:
    """A Shard. What has no value is left out, never null."""
    numbers = {"StartingSequenceNumber": shard.starting}
    if shard.ending is not None:
        numbers["EndingSequenceNumber"] = shard.ending
    shape: dict[str, Any] = {
        "ShardId": shard.id,
        "HashKeyRange": {"StartingHashKey": str(shard.start), "EndingHashKey": str(shard.end)},
        "SequenceNumberRange": numbers,
    }
    for member, parent in zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False):
        shape[member] = shard_name(parent)
    return shape


def visible_shards(stream: Stream, now_ms: int) -> list[Shard]:
    """The shards that listings show, in id order: none before the stream was ACTIVE, none that expired."""
    if not stream.has_shards:
        return []
    stream.expire(now_ms)
    return list(stream.shards.values())
