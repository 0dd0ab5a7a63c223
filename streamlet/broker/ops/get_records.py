"""GetRecords: what comes next in a shard?

Rules and oddities:
- Order: token form -> token content -> expired -> stream and shard.
- At most Limit records (default and maximum 10,000) and 10 MiB of data and keys, but always one if there is one.
- The answer is spliced from stored JSON: no payload is decoded or encoded.
- Every answer carries a new iterator, also an empty one; old iterators go on working for their 300 s.
- The read that reaches the end of a closed shard carries ChildShards and no NextShardIterator, with or without records.
- MillisBehindLatest is 0 only at the tip.
- A stream that was deleted and made anew: AWS answers 500 InternalFailure to an old iterator; here it is invalid.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, shard_not_there
from streamlet.broker.limits import ITERATOR_LIFE_MS, READ_BYTES_MAX, READ_RECORDS_MAX
from streamlet.broker.ops._base import Call, Encoded, Operation, StreamRequest, dry_run
from streamlet.broker.schema import Member, stream_arn
from streamlet.broker.shard import Shard, shard_name
from streamlet.broker.tokens import IteratorToken, open_iterator, seal_iterator

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    shard_iterator: str
    limit: int = READ_RECORDS_MAX
    dry_run: bool | None = None


_MEMBERS: Final = (
    Member("Limit", "integer", low=1, high=10_000),
    Member("ShardIterator", "string", required=True, low=1, high=512),
    stream_arn(),
    Member("DryRun", "boolean"),
)


def _run(call: Call, request: _Request) -> Encoded:
    token = open_iterator(request.shard_iterator)
    now_ms = call.now_ms
    if now_ms - token.created_ms > ITERATOR_LIFE_MS or token.serial < call.state.iterators_void_before:
        raise _expired(token.created_ms, now_ms)
    stream = call.state.find(token.stream, now_ms)
    shard = None if stream is None else stream.shards.get(token.shard_index)
    if stream is None or shard is None:
        raise shard_not_there(shard_name(token.shard_index), token.stream, call.account)
    if stream.incarnation != token.incarnation:
        raise invalid_argument("Invalid ShardIterator.")
    if request.dry_run:
        raise dry_run()
    shard.trim(stream.horizon_ms(now_ms))
    read = shard.read(token.position, request.limit, READ_BYTES_MAX, now_ms)
    if read.at_end:
        children = b",".join(msgspec.json.encode(_child(child)) for child in shard.children)
        head = b'{"ChildShards":[%b],"MillisBehindLatest":0,"Records":[' % children
    else:
        following = IteratorToken(now_ms, token.incarnation, call.state.next_serial(), read.position, shard.index, token.stream)
        head = b'{"MillisBehindLatest":%d,"NextShardIterator":"%b","Records":[' % (read.behind_ms, seal_iterator(following).encode())
    return head, b",".join(read.fragments), b"]}"


def _child(shard: Shard) -> dict[str, Any]:
    return {
        "ShardId": shard.id,
        "ParentShards": [shard_name(parent) for parent in shard.parents],
        "HashKeyRange": {"StartingHashKey": str(shard.start), "EndingHashKey": str(shard.end)},
    }


def _expired(created_ms: int, now_ms: int) -> ApiError:
    created, now = _java_date(created_ms), _java_date(now_ms)
    return ApiError(
        "ExpiredIteratorException",
        f"Iterator expired. The iterator was created at time {created} while right now it is {now} "
        f"which is further in the future than the tolerated delay of {ITERATOR_LIFE_MS} milliseconds.",
    )


def _java_date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%a %b %d %H:%M:%S UTC %Y")


OPERATION: Final = Operation("GetRecords", _MEMBERS, _Request, _run)
