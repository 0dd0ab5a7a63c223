"""PutRecord: how is one record stored?

Rules and oddities:
- Order: stream and status -> PartitionKey -> ExplicitHashKey -> SequenceNumberForOrdering -> size.
- SequenceNumberForOrdering must parse, and its put time must not lie in the future; shard and stream are not compared.
  Numbers here increase per shard anyway, so it has no further effect.
- Right after a reshard the children's numbers are a second ahead of the clock: "the future" starts behind the newest
  second that this stream has given out.
- Data and partition key together may not be larger than the stream's record size; the text is the one for Data.
- EncryptionType only where the stream is encrypted.
- PartitionKey may be missing where the stream distributes by itself; elsewhere that is seen once the stream is known.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from streamlet.broker import sequence
from streamlet.broker.errors import ApiError, invalid_argument, null_member
from streamlet.broker.faults import DuplicatePut, Where
from streamlet.broker.ops._base import Call, Encoded, Operation, active_stream, dry_run, target
from streamlet.broker.ops._put import (
    ENCRYPTED,
    RECORD_MEMBERS,
    Data,
    HashKey,
    PartitionKey,
    PutRequest,
    check_hash_key,
    record_size,
    too_large,
    whole,
)
from streamlet.broker.quotas import throttle_text
from streamlet.broker.schema import SEQUENCE, Member, is_blob, stream_arn, stream_name
from streamlet.broker.stream import Stream

__all__ = ["OPERATION"]


class _Request(PutRequest, kw_only=True, gc=False):
    data: Data
    partition_key: PartitionKey = ""
    explicit_hash_key: HashKey | None = None
    sequence_number_for_ordering: Annotated[str, msgspec.Meta(pattern=whole(SEQUENCE))] | None = None


_MEMBERS: Final = (
    Member("SequenceNumberForOrdering", "string", pattern=SEQUENCE),
    *RECORD_MEMBERS,
    stream_name(),
    stream_arn(),
    Member("DryRun", "boolean"),
)


_decoder: Final = msgspec.json.Decoder(_Request)


def _decode(body: bytes) -> _Request | None:
    request = _decoder.decode(body)
    return request if is_blob(request.data) else None


def _run(call: Call, request: _Request) -> Encoded:
    stream = active_stream(call, target(call, request))
    if not request.partition_key and stream.distribution != "AUTO":
        raise null_member("partitionKey")
    check_hash_key(request.explicit_hash_key)
    if request.sequence_number_for_ordering is not None:
        _check_ordering(call, stream, request.sequence_number_for_ordering)
    size = record_size(request.data, request.partition_key)
    if size > stream.record_bytes_max:
        raise too_large(["data"], stream.record_bytes_max)
    if request.dry_run:
        raise dry_run()
    route = stream.route if stream.distribution != "AUTO" else stream.next_in_turn
    shard = route(request.partition_key, request.explicit_hash_key)
    quotas = call.state.quotas
    if quotas is not None and not quotas.put(stream, shard.index, size, call.now_ms):
        text = throttle_text("PutRecord", call.account, stream.name, shard.index)
        raise ApiError("ProvisionedThroughputExceededException", text)
    tail = ENCRYPTED if stream.key_id else ""
    shard.trim(stream.horizon_ms(call.now_ms))
    number = shard.append(request.data, request.partition_key, size, call.now_ms, tail)
    if call.faults.active and call.faults.take(DuplicatePut, Where("PutRecord", stream.name, frozenset({shard.index}))) is not None:
        shard.append(request.data, request.partition_key, size, call.now_ms, tail)
    return (f'{{"SequenceNumber":"{number}","ShardId":"{shard.id}"{tail}}}'.encode(),)


def _check_ordering(call: Call, stream: Stream, raw: str) -> None:
    found = sequence.parse(int(raw))
    if found is None or found.second > max(call.now_ms // 1000, stream.newest_second):
        raise invalid_argument(
            f"ExclusiveMinimumSequenceNumber {raw} used in PutRecord on stream {stream.name} under account {call.account} is invalid."
        )


OPERATION: Final = Operation("PutRecord", _MEMBERS, _Request, _run, _decode)
