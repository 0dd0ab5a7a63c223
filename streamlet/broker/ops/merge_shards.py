"""MergeShards: how do two shards become one?

Rules and oddities:
- Order: form of ShardToMerge -> form of AdjacentShardToMerge -> stream -> ACTIVE -> both in stream -> already closed
  -> adjacency.
- ShardToMerge must be the lower one: the reversed pair is "not adjacent", as on AWS around 2020.
- The child's ParentShardId is ShardToMerge, its AdjacentParentShardId the other. Answers with an empty body.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import already_resharded, invalid_argument
from streamlet.broker.ops._base import Call, Operation, StreamRequest, find_shard, settled_stream, shard_index, target
from streamlet.broker.schema import shard_id, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    shard_to_merge: str
    adjacent_shard_to_merge: str


_MEMBERS: Final = (
    shard_id("ShardToMerge", required=True),
    shard_id("AdjacentShardToMerge", required=True),
    stream_name(),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> None:
    meant = target(call, request)
    account, name = meant.account, meant.name
    indexes = [shard_index(raw, name, account) for raw in (request.shard_to_merge, request.adjacent_shard_to_merge)]
    stream = settled_stream(call, meant)
    lower, upper = (find_shard(stream, index, account) for index in indexes)
    for shard in (lower, upper):
        if not shard.is_open:
            raise already_resharded(shard.id, name, account)
    if lower.end + 1 != upper.start:
        raise invalid_argument(
            f"Shards {lower.id} and {upper.id} in stream {name} under account {account} "
            "are not an adjacent pair of shards eligible for merging"
        )
    call.state.change(stream, call.now_ms, lambda now_ms: stream.merge(lower, upper, now_ms))


OPERATION: Final = Operation("MergeShards", _MEMBERS, _Request, _run)
