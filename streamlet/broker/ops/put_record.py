"""PutRecord: how is one record stored?

Rules and oddities:
- Order: stream and status -> ExplicitHashKey -> SequenceNumberForOrdering -> size.
- SequenceNumberForOrdering must parse, and its put time must not lie in the future; shard and stream are not compared.
  Numbers here increase per shard anyway, so it has no further effect.
- Right after a reshard the children's numbers are a second ahead of the clock: "the future" starts behind the newest
  second that this stream has given out.
- Data and partition key together may not be larger than the stream's record size; the text is the one for Data.
- No EncryptionType: the stream is not encrypted.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker import sequence
from streamlet.broker.errors import invalid_argument
from streamlet.broker.ops._base import Call, Operation, StreamRequest, active_stream, dry_run, target
from streamlet.broker.ops._put import check_hash_key, checked_size
from streamlet.broker.schema import HASH_KEY, SEQUENCE, Member, stream_arn, stream_name
from streamlet.broker.stream import Stream

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    data: str
    partition_key: str
    explicit_hash_key: str | None = None
    sequence_number_for_ordering: str | None = None
    dry_run: bool | None = None


_MEMBERS: Final = (
    Member("SequenceNumberForOrdering", "string", pattern=SEQUENCE),
    Member("PartitionKey", "string", required=True, low=1, high=256),
    Member("ExplicitHashKey", "string", pattern=HASH_KEY),
    Member("Data", "blob", required=True, low=0, high=10_485_760, hidden=True),
    stream_name(),
    stream_arn(),
    Member("DryRun", "boolean"),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    stream = active_stream(call, target(request))
    check_hash_key(request.explicit_hash_key)
    if request.sequence_number_for_ordering is not None:
        _check_ordering(call, stream, request.sequence_number_for_ordering)
    size = checked_size(request.data, request.partition_key, stream.record_bytes_max, "data")
    if request.dry_run:
        raise dry_run()
    shard = stream.route(request.partition_key, request.explicit_hash_key)
    shard.trim(stream.horizon_ms(call.now_ms))
    number = shard.append(request.data, request.partition_key, size, call.now_ms)
    return {"ShardId": shard.id, "SequenceNumber": number}


def _check_ordering(call: Call, stream: Stream, raw: str) -> None:
    found = sequence.parse(int(raw))
    if found is None or found.second > max(call.now_ms // 1000, stream.newest_second):
        raise invalid_argument(
            f"ExclusiveMinimumSequenceNumber {raw} used in PutRecord on stream {stream.name} under account {call.account} is invalid."
        )


OPERATION: Final = Operation("PutRecord", _MEMBERS, _Request, _run)
