"""UpdateShardCount: how does a stream get another number of equal shards?

Rules and oddities:
- Splits at every boundary that is missing, then merges across every one that is too many, so that lineage is as for
  single reshards; a shard may pass through intermediate shards that never take a record, as on AWS.
- Target between half and double the current number, rounded outwards, and at most 10,000; the wording of that refusal is ours.
- The limit of ten calls per day is not enforced.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.errors import ApiError
from streamlet.broker.limits import SCALED_SHARDS_MAX
from streamlet.broker.ops._base import Call, Operation, StreamRequest, arn, check_shard_limit, settled_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    target_shard_count: int


_MEMBERS: Final = (
    stream_name(),
    Member("TargetShardCount", "integer", required=True, low=1),
    Member("ScalingType", "string", required=True, enum=("UNIFORM_SCALING",)),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    meant = target(call, request)
    stream, account = settled_stream(call, meant), meant.account
    if stream.mode != "PROVISIONED":
        raise ApiError("ValidationException", f"Request is invalid. Stream {stream.name} under account {account} is in On-Demand mode.")
    current, count = len(stream.open), request.target_shard_count
    if count > 2 * current or 2 * count < current:
        raise ApiError(
            "LimitExceededException",
            f"UpdateShardCount cannot take stream {stream.name} under account {account} from {current} to {count} shards: "
            "the target must be at least half and at most double the current open shard count.",
        )
    if count > SCALED_SHARDS_MAX:
        raise ApiError(
            "LimitExceededException",
            f"UpdateShardCount cannot take stream {stream.name} under account {account} to {count} shards: "
            f"the target must be at most {SCALED_SHARDS_MAX}.",
        )
    check_shard_limit(call, (stream.account, stream.region), count - current)
    call.state.change(stream, call.now_ms, lambda now_ms: stream.rescale(count, now_ms))
    return {
        "StreamName": stream.name,
        "CurrentShardCount": current,
        "TargetShardCount": count,
        "StreamARN": arn(call, stream),
    }


OPERATION: Final = Operation("UpdateShardCount", _MEMBERS, _Request, _run)
