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
from typing import Final

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, shard_not_there
from streamlet.broker.faults import DuplicateRead, EmptyRead, ExpiredIterator, Where
from streamlet.broker.limits import ITERATOR_LIFE_MS, READ_BYTES_MAX, READ_RECORDS_MAX
from streamlet.broker.ops._base import Call, Encoded, Operation, StreamRequest, arn_target, dry_run
from streamlet.broker.schema import Member, blob_size, stream_arn
from streamlet.broker.shard import Read, Shard, child_shape, shard_name
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
    if call.faults.active:
        where = Where("GetRecords", token.stream, frozenset({token.shard_index}))
        if call.faults.take(ExpiredIterator, where) is not None:
            raise _expired(token.created_ms, now_ms)
    if not call.owner and token.region not in {"", call.region}:
        raise invalid_argument("Invalid ShardIterator.")
    stream = call.state.find(token.account, token.region, token.stream, now_ms)
    shard = None if stream is None else stream.shards.get(token.shard_index)
    if stream is None or shard is None:
        raise shard_not_there(shard_name(token.shard_index), token.stream, token.account or call.account)
    if stream.identity != token.identity:
        raise invalid_argument("Invalid ShardIterator.")
    if request.stream_arn is not None and arn_target(request.stream_arn).name != stream.name:
        raise invalid_argument(f"StreamARN {request.stream_arn} does not name the stream of the ShardIterator.")
    if request.dry_run:
        raise dry_run()
    quotas = call.state.quotas
    if quotas is not None:
        quotas.read(stream, shard.index, now_ms, call.account)
    shard.trim(stream.horizon_ms(now_ms))
    read = shard.read(token.position, request.limit, READ_BYTES_MAX, now_ms)
    if call.faults.active:
        read = _disturbed(call, token, shard, request.limit, read)
    if quotas is not None:
        quotas.was_read(stream, shard.index, _bytes_of(read.fragments), now_ms)
    if read.at_end:
        children = b",".join(msgspec.json.encode(child_shape(child)) for child in shard.children)
        head = b'{"ChildShards":[%b],"MillisBehindLatest":0,"Records":[' % children
    else:
        following = token._replace(created_ms=now_ms, serial=call.state.next_serial(), position=read.position)
        head = b'{"MillisBehindLatest":%d,"NextShardIterator":"%b","Records":[' % (read.behind_ms, seal_iterator(following).encode())
    return head, read.joined, b"]}"


def _disturbed(call: Call, token: IteratorToken, shard: Shard, limit: int, read: Read) -> Read:
    """What is read while faults are armed. Each waits for a read that it would change."""
    if not read.fragments:
        return read
    where = Where("GetRecords", token.stream, frozenset({shard.index}))
    if call.faults.take(EmptyRead, where) is not None:
        return shard.read(token.position, 0, READ_BYTES_MAX, call.now_ms)
    # A read that only repeated would never get on: at least one record of the answer is new.
    before = min(token.position - 1 - shard.trimmed, limit - 1)
    repeat = call.faults.take(DuplicateRead, where) if before > 0 else None
    if repeat is None:
        return read
    again = shard.read(token.position - min(repeat.back, before), limit, READ_BYTES_MAX, call.now_ms)
    return again if again.position > token.position else read


class _Stored(msgspec.Struct):
    Data: str
    PartitionKey: str


_stored: Final = msgspec.json.Decoder(_Stored)


def _bytes_of(fragments: list[bytes]) -> int:
    """Data and partition keys, as quotas count them."""
    records = map(_stored.decode, fragments)
    return sum(blob_size(record.Data) + len(record.PartitionKey.encode()) for record in records)


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
