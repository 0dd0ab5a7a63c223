"""UpdateStreamWarmThroughput: for how much traffic is an on-demand stream kept ready?

Rules and oddities:
- On-demand streams only, in accounts with MinimumThroughputBillingCommitment, and up to 10 GiBps.
- A number that is shown: it has no effect on the shards. The old one is "current" until the stream is ACTIVE again.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamlet.broker.ops._base import Call, Operation, StreamRequest, arn, settled_stream, target
from streamlet.broker.ops._mode import check_warm
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    warm_mibps: int = msgspec.field(name="WarmThroughputMiBps")


_MEMBERS: Final = (stream_arn(), stream_name(), Member("WarmThroughputMiBps", "integer", required=True, low=0))


def _run(call: Call, request: _Request) -> dict[str, Any]:
    meant = target(call, request)
    stream = settled_stream(call, meant)
    check_warm(call, stream.mode, request.warm_mibps)

    def apply(_now_ms: int) -> None:
        stream.warm_mibps = request.warm_mibps

    stream.warm_target_mibps = request.warm_mibps
    call.state.change(stream, call.now_ms, apply)
    return {
        "StreamARN": arn(call, stream),
        "StreamName": stream.name,
        "WarmThroughput": {"TargetMiBps": request.warm_mibps, "CurrentMiBps": stream.warm_mibps or 0},
    }


OPERATION: Final = Operation("UpdateStreamWarmThroughput", _MEMBERS, _Request, _run)
