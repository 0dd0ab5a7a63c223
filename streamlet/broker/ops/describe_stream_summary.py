"""DescribeStreamSummary: what is a stream, without its shards?

Rules and oddities:
- DescribeStream without Shards and HasMoreShards, plus OpenShardCount, ConsumerCount and MaxRecordSizeInKiB.
- OpenShardCount is 0 while CREATING.
- On-demand streams say who distributes their records, and how warm they are kept, once that was set.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._describe import stream_shape
from streamlet.broker.schema import stream_arn, stream_name

__all__ = ["OPERATION"]

_MEMBERS: Final = (stream_name(), stream_arn())


def _run(call: Call, request: StreamRequest) -> dict[str, Any]:
    stream = known_stream(call, target(call, request))
    summary = stream_shape(call, stream)
    summary["OpenShardCount"] = len(stream.open) if stream.has_shards else 0
    summary["ConsumerCount"] = stream.consumers.count(call.now_ms)
    summary["MaxRecordSizeInKiB"] = stream.record_bytes_max // 1024
    if stream.mode == "ON_DEMAND":
        summary["RecordDistributionStrategy"] = stream.distribution
        if stream.warm_target_mibps is not None:
            summary["WarmThroughput"] = {"TargetMiBps": stream.warm_target_mibps, "CurrentMiBps": stream.warm_mibps or 0}
    return {"StreamDescriptionSummary": summary}


OPERATION: Final = Operation("DescribeStreamSummary", _MEMBERS, StreamRequest, _run)
