"""What does every operation have in common? Its description, the call it is given, and how it names a stream and a shard."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, null_member, shard_not_found, stream_not_found
from streamlet.broker.faults import Faults
from streamlet.broker.schema import Member
from streamlet.broker.shard import Shard, shard_name
from streamlet.broker.state import State
from streamlet.broker.stream import Stream

__all__ = [
    "Call",
    "Encoded",
    "Operation",
    "Request",
    "active_stream",
    "arn",
    "dry_run",
    "find_shard",
    "known_stream",
    "shard_index",
    "target",
]

_ARN: Final = re.compile(r"arn:aws.*:kinesis:.*:\d{12}:stream/(\S+)", re.ASCII)
_INDEX_MAX: Final = 2**31 - 1

Encoded = tuple[bytes, ...]
"""A JSON body in pieces, already encoded."""


class Call(NamedTuple):
    """Who calls, when, and on what. Account and region only show in texts and ARNs: all callers see the same streams."""

    state: State
    faults: Faults
    account: str
    region: str
    now_ms: int


def _service_name(field: str) -> str:
    return "".join("ARN" if part == "arn" else part.capitalize() for part in field.split("_"))


class Request(msgspec.Struct, rename=_service_name, kw_only=True, gc=False):
    """A request's members, snake_case here, as the model spells them on the wire."""


class StreamRequest(Request, kw_only=True, gc=False):
    """A request that names a stream. Either member may do it."""

    stream_name: str | None = None
    stream_arn: str | None = None


class Operation(NamedTuple):
    """One operation. `decode` is the typed fast path: it raises for, or answers None to, anything out of the ordinary."""

    name: str
    members: tuple[Member, ...]
    request: type[Request]
    run: Callable[[Call, Any], dict[str, Any] | Encoded | None]
    decode: Callable[[bytes], Request | None] | None = None


def arn(call: Call, name: str) -> str:
    """The stream's ARN as this caller knows it."""
    return f"arn:aws:kinesis:{call.region}:{call.account}:stream/{name}"


def target(request: StreamRequest) -> str:
    """The stream's name, from the name or from the ARN. The text for a disagreement is ours: the service's is not known."""
    name = request.stream_name
    if request.stream_arn is not None:
        match = _ARN.fullmatch(request.stream_arn)
        assert match is not None, "the pattern was checked with the other constraints"
        if name is not None and name != match[1]:
            raise invalid_argument(f"StreamARN {request.stream_arn} and StreamName {name} do not name the same stream.")
        return match[1]
    if name is None:
        raise null_member("streamName")
    return name


def known_stream(call: Call, name: str) -> Stream:
    """The stream in any status. Raises ResourceNotFoundException."""
    stream = call.state.find(name, call.now_ms)
    if stream is None:
        raise stream_not_found(name, call.account)
    return stream


def active_stream(call: Call, name: str) -> Stream:
    """The stream for a write: while CREATING or DELETING it is "not found"."""
    stream = known_stream(call, name)
    if stream.status in {"CREATING", "DELETING"}:
        raise stream_not_found(name, call.account)
    return stream


def shard_index(raw: str, name: str, account: str) -> int:
    """The number in a shard's id: what follows the first hyphen, or all of it; any prefix and leading zeros are fine."""
    digits = raw.partition("-")[2] if "-" in raw else raw
    if not (digits.isascii() and digits.isdigit()) or int(digits) > _INDEX_MAX:
        raise shard_not_found(raw, name, account)
    return int(digits)


def find_shard(stream: Stream, index: int, account: str) -> Shard:
    """A shard for a reshard. Raises ResourceNotFoundException."""
    shard = stream.shards.get(index)
    if shard is None:
        raise shard_not_found(shard_name(index), stream.name, account)
    return shard


def dry_run() -> ApiError:
    """What a call with DryRun answers when it would have gone through."""
    return ApiError("DryRunOperationException", "The request was rejected because the DryRun parameter was specified.")
