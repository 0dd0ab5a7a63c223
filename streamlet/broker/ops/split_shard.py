"""SplitShard: how does one shard become two?

Rules and oddities:
- Order: shard id form -> stream -> ACTIVE -> shard in stream -> already closed -> shard limit -> hash bounds
  (the place of "already closed" is not recorded).
- NewStartingHashKey lies in [start + 2, end - 1]: checked on AWS around 2020.
- The lower child keeps start … new - 1 and has the smaller id. Answers with an empty body.
- Immediate unless the state has a control delay; until then the stream is UPDATING and writes go to the parent.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import already_resharded, invalid_argument
from streamlet.broker.ops._base import Call, Operation, StreamRequest, check_shard_limit, find_shard, settled_stream, shard_index, target
from streamlet.broker.schema import HASH_KEY, Member, shard_id, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    shard_to_split: str
    new_starting_hash_key: str


_MEMBERS: Final = (
    Member("NewStartingHashKey", "string", required=True, pattern=HASH_KEY),
    stream_name(),
    shard_id("ShardToSplit", required=True),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> None:
    meant = target(call, request)
    account, name = meant.account, meant.name
    index = shard_index(request.shard_to_split, name, account)
    stream = settled_stream(call, meant)
    shard = find_shard(stream, index, account)
    if not shard.is_open:
        raise already_resharded(shard.id, name, account)
    check_shard_limit(call, (stream.account, stream.region), 1)
    start = int(request.new_starting_hash_key)
    if not shard.start + 2 <= start <= shard.end - 1:
        raise invalid_argument(
            f"NewStartingHashKey {start} used in SplitShard() on shard {shard.id} in stream {name} under account {account} "
            f"is not both greater than one plus the shard's StartingHashKey {shard.start} "
            f"and less than the shard's EndingHashKey {shard.end}."
        )
    call.state.change(stream, call.now_ms, lambda now_ms: stream.split(shard, start, now_ms))


OPERATION: Final = Operation("SplitShard", _MEMBERS, _Request, _run)
