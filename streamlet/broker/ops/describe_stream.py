"""DescribeStream: what is a stream, and which shards has it?

Rules and oddities:
- At most 100 shards an answer, whatever Limit says; HasMoreShards tells of more.
- ExclusiveStartShardId is compared as text and needs not exist.
- CREATING shows no shards; UPDATING shows the old picture until everything changes at once.
- StreamCreationTimestamp is in whole seconds.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.limits import DESCRIBE_SHARDS_MAX
from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._describe import shard_shape, stream_shape, visible_shards
from streamlet.broker.schema import Member, shard_id, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    limit: int = DESCRIBE_SHARDS_MAX
    exclusive_start_shard_id: str = ""


_MEMBERS: Final = (Member("Limit", "integer", low=1, high=10_000), shard_id("ExclusiveStartShardId"), stream_name(), stream_arn())


def _run(call: Call, request: _Request) -> dict[str, Any]:
    stream = known_stream(call, target(call, request))
    shards = [shard for shard in visible_shards(stream, call.now_ms) if shard.id > request.exclusive_start_shard_id]
    page = shards[: min(request.limit, DESCRIBE_SHARDS_MAX)]
    description = stream_shape(call, stream)
    description["Shards"] = [shard_shape(shard) for shard in page]
    description["HasMoreShards"] = len(shards) > len(page)
    return {"StreamDescription": description}


OPERATION: Final = Operation("DescribeStream", _MEMBERS, _Request, _run)
