"""UpdateStreamMode: is the stream provisioned, or does it scale on demand?

Rules and oddities:
- By ARN only. The shards stay as they are: there is no load here that would scale them.
- Going to PROVISIONED lets go of warm throughput and of automatic distribution. The mode it has already: no error.
- The limit of two switches a day is not enforced.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamlet.broker.ops._base import Call, Operation, Request, arn_target, settled_stream
from streamlet.broker.ops._mode import ModeDetails, check_on_demand_limit, check_warm, mode_details
from streamlet.broker.schema import Member, stream_arn

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    stream_arn: str
    stream_mode_details: ModeDetails
    warm_mibps: int | None = msgspec.field(default=None, name="WarmThroughputMiBps")


_MEMBERS: Final = (
    stream_arn(required=True),
    mode_details(required=True),
    Member("WarmThroughputMiBps", "integer", low=0),
)


def _run(call: Call, request: _Request) -> None:
    meant = arn_target(request.stream_arn)
    stream = settled_stream(call, meant)
    mode = request.stream_mode_details.stream_mode
    if request.warm_mibps is not None:
        check_warm(call, mode, request.warm_mibps)
    if mode == "ON_DEMAND" and stream.mode != mode:
        check_on_demand_limit(call, (stream.account, stream.region))

    def apply(_now_ms: int) -> None:
        stream.mode = mode
        if mode == "PROVISIONED":
            stream.warm_mibps = stream.warm_target_mibps = None
            stream.distribution = "USER_PARTITION_KEY"
        elif request.warm_mibps is not None:
            stream.warm_mibps = stream.warm_target_mibps = request.warm_mibps

    call.state.change(stream, call.now_ms, apply)


OPERATION: Final = Operation("UpdateStreamMode", _MEMBERS, _Request, _run)
