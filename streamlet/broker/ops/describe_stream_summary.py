"""DescribeStreamSummary: what is a stream, without its shards?

Rules and oddities:
- DescribeStream without Shards and HasMoreShards, plus OpenShardCount, ConsumerCount and MaxRecordSizeInKiB.
- OpenShardCount is 0 while CREATING.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._describe import stream_shape
from streamlet.broker.schema import stream_arn, stream_name

__all__ = ["OPERATION"]

_MEMBERS: Final = (stream_name(), stream_arn())


def _run(call: Call, request: StreamRequest) -> dict[str, Any]:
    stream = known_stream(call, target(request))
    summary = stream_shape(call, stream)
    summary["OpenShardCount"] = 0 if stream.status == "CREATING" else len(stream.open)
    summary["ConsumerCount"] = 0
    summary["MaxRecordSizeInKiB"] = stream.record_bytes_max // 1024
    return {"StreamDescriptionSummary": summary}


OPERATION: Final = Operation("DescribeStreamSummary", _MEMBERS, StreamRequest, _run)
