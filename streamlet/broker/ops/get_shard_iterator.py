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

from streamlet.broker import sequence
from streamlet.broker.errors import invalid_argument, shard_not_there
from streamlet.broker.ops._base import Call, Operation, StreamRequest, dry_run, shard_index, target
from streamlet.broker.schema import SEQUENCE, Member, shard_id, stream_arn, stream_name
from streamlet.broker.shard import Shard, shard_name
from streamlet.broker.tokens import IteratorToken, seal_iterator

__all__ = ["OPERATION"]

# The order in which the service's own text lists them.
_TYPES: Final = ("AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON")


class _Request(StreamRequest, kw_only=True, gc=False):
    shard_id: str
    shard_iterator_type: str
    starting_sequence_number: str | None = None
    timestamp: float | None = None
    dry_run: bool | None = None


_MEMBERS: Final = (
    shard_id("ShardId", required=True),
    Member("ShardIteratorType", "string", required=True, enum=_TYPES),
    Member("StartingSequenceNumber", "string", pattern=SEQUENCE),
    stream_name(),
    Member("Timestamp", "timestamp"),
    stream_arn(),
    Member("DryRun", "boolean"),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    name = target(request)
    index = shard_index(request.shard_id, name, call.account)
    stream = call.state.find(name, call.now_ms)
    if stream is not None:
        stream.expire(call.now_ms)
    shard = stream.shards.get(index) if stream is not None and stream.status != "CREATING" else None
    if stream is None or shard is None:
        raise shard_not_there(shard_name(index), name, call.account)
    position = _position(call, request, shard, name)
    if request.dry_run:
        raise dry_run()
    token = IteratorToken(call.now_ms, stream.incarnation, call.state.next_serial(), position, index, name)
    return {"ShardIterator": seal_iterator(token)}


def _position(call: Call, request: _Request, shard: Shard, name: str) -> int:
    kind = request.shard_iterator_type
    found = None
    if request.starting_sequence_number is not None:
        if kind in {"TRIM_HORIZON", "LATEST"}:
            raise _contradiction(f"{kind} and also a StartingSequenceNumber.")
        found = _own(request.starting_sequence_number, shard, name, call.account)
    if kind == "LATEST":
        return shard.tip
    if kind == "AT_TIMESTAMP":
        return _position_at(call, request, shard)
    if kind == "TRIM_HORIZON":
        return 0
    if found is None:
        raise _contradiction(f"{kind} and no StartingSequenceNumber.")
    return shard.position_from(found, after=kind == "AFTER_SEQUENCE_NUMBER")


def _contradiction(what: str) -> Exception:
    return invalid_argument(
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber "
        f"or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified {what}"
    )


def _own(raw: str, shard: Shard, name: str, account: str) -> sequence.Sequence:
    found = sequence.parse(int(raw))
    start = f"StartingSequenceNumber {raw} used in GetShardIterator on shard {shard.id} in stream {name} under account {account} is invalid"
    if found is None:
        raise invalid_argument(f"{start}.")
    if found.shard_index != shard.index:
        other = found.shard_index
        # Python's zero padding counts the sign, as Java's does: shardId--00000000001.
        raise invalid_argument(
            f"Invalid StartingSequenceNumber. It encodes {shard_name(other)}, while it was used in a call to a shard with {shard.id}"
        )
    if found.version != 2 or found.creation_s != shard.creation_s:
        raise invalid_argument(f"{start} because it did not come from this stream.")
    return found


def _position_at(call: Call, request: _Request, shard: Shard) -> int:
    if request.timestamp is None:
        raise invalid_argument(
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter."
        )
    # Cut, not rounded: a client that asks for its own "now", with microseconds, must not come to lie in the future.
    # The microsecond on top makes good for arithmetic on doubles that ended a hair below a whole millisecond.
    timestamp_ms = int(request.timestamp * 1000 + 0.001)
    if timestamp_ms > call.now_ms:
        raise invalid_argument(
            "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
            f"timestampInMillis: {timestamp_ms}, currentTimestampInMillis: {call.now_ms}"
        )
    return shard.position_at(timestamp_ms)


OPERATION: Final = Operation("GetShardIterator", _MEMBERS, _Request, _run)
