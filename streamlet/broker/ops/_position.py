"""Where in a shard does reading begin? The rules that GetShardIterator and SubscribeToShard share (reference/errors.md 7.3)."""

from __future__ import annotations

from typing import Final

from streamlet.broker import sequence
from streamlet.broker.errors import ApiError, invalid_argument
from streamlet.broker.ops._base import Call
from streamlet.broker.ops._describe import milliseconds
from streamlet.broker.shard import Shard, shard_name

__all__ = ["TYPES", "position"]

# The order in which the service's own text lists them.
TYPES: Final = ("AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON")


def position(
    call: Call, shard: Shard, kind: str, number: str | None, timestamp: float | None, *, operation: str, stream: str, account: str
) -> int:
    """The counter of the first record to read; 0 stands for the trim horizon. `operation`, `stream`, `account` show in texts."""
    found = None
    if number is not None:
        if kind in {"TRIM_HORIZON", "LATEST"}:
            raise _contradiction(f"{kind} and also a StartingSequenceNumber.")
        used = f"StartingSequenceNumber {number} used in {operation} on shard {shard.id} in stream {stream} under account {account}"
        found = _own(number, shard, used)
    if kind == "LATEST":
        return shard.tip
    if kind == "AT_TIMESTAMP":
        return _position_at(call, shard, timestamp)
    if kind == "TRIM_HORIZON":
        return 0
    if found is None:
        raise _contradiction(f"{kind} and no StartingSequenceNumber.")
    return shard.position_from(found, after=kind == "AFTER_SEQUENCE_NUMBER")


def _contradiction(what: str) -> ApiError:
    return invalid_argument(
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber "
        f"or (2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified {what}"
    )


def _own(raw: str, shard: Shard, used: str) -> sequence.Sequence:
    found = sequence.parse(int(raw))
    if found is None:
        raise invalid_argument(f"{used} is invalid.")
    if found.shard_index != shard.index:
        other = found.shard_index
        # Python's zero padding counts the sign, as Java's does: shardId--00000000001.
        raise invalid_argument(
            f"Invalid StartingSequenceNumber. It encodes {shard_name(other)}, while it was used in a call to a shard with {shard.id}"
        )
    if found.version != 2 or found.creation_s != shard.creation_s:
        raise invalid_argument(f"{used} is invalid because it did not come from this stream.")
    return found


def _position_at(call: Call, shard: Shard, timestamp: float | None) -> int:
    if timestamp is None:
        raise invalid_argument(
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter."
        )
    timestamp_ms = milliseconds(timestamp)
    if timestamp_ms > call.now_ms:
        raise invalid_argument(
            "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
            f"timestampInMillis: {timestamp_ms}, currentTimestampInMillis: {call.now_ms}"
        )
    return shard.position_at(timestamp_ms)
