"""GetShardIterator: where shall reading begin?

Rules and oddities:
- Order: shard id form -> stream -> shard -> the rules of reference/errors.md 7.3 in their order.
- LATEST and AT_TIMESTAMP are resolved here, so what is put afterwards is seen; TRIM_HORIZON is the oldest record at
  the time of the read.
- A stream that is CREATING has no shards: "does not exist".
- A sequence number of a shard that is still known but whose record has expired reads from the trim horizon on.
- Numbers of version 0 (small integers) answer 500 InternalFailure on AWS; here they did "not come from this stream".
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.errors import shard_not_there
from streamlet.broker.ops._base import Call, Operation, StreamRequest, dry_run, find_stream, shard_index, target
from streamlet.broker.ops._position import TYPES, position
from streamlet.broker.schema import SEQUENCE, Member, shard_id, stream_arn, stream_name
from streamlet.broker.shard import shard_name
from streamlet.broker.tokens import IteratorToken, seal_iterator

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    shard_id: str
    shard_iterator_type: str
    starting_sequence_number: str | None = None
    timestamp: float | None = None
    dry_run: bool | None = None


_MEMBERS: Final = (
    shard_id("ShardId", required=True),
    Member("ShardIteratorType", "string", required=True, enum=TYPES),
    Member("StartingSequenceNumber", "string", pattern=SEQUENCE),
    stream_name(),
    Member("Timestamp", "timestamp"),
    stream_arn(),
    Member("DryRun", "boolean"),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    meant = target(call, request)
    index = shard_index(request.shard_id, meant.name, meant.account)
    stream = find_stream(call, meant)
    if stream is not None:
        stream.expire(call.now_ms)
    shard = stream.shards.get(index) if stream is not None and stream.has_shards else None
    if stream is None or shard is None:
        raise shard_not_there(shard_name(index), meant.name, meant.account)
    place = position(
        call,
        shard,
        request.shard_iterator_type,
        request.starting_sequence_number,
        request.timestamp,
        operation="GetShardIterator",
        stream=meant.name,
        account=meant.account,
    )
    if request.dry_run:
        raise dry_run()
    if call.state.quotas is not None:
        call.state.quotas.iterator(stream, index, call.now_ms, call.account)
    owner = (stream.name, stream.account, stream.region)
    token = IteratorToken(call.now_ms, stream.identity, call.state.next_serial(), place, index, *owner)
    return {"ShardIterator": seal_iterator(token)}


OPERATION: Final = Operation("GetShardIterator", _MEMBERS, _Request, _run)
