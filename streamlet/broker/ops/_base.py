"""What does every operation have in common? Its description, the call it is given, and how it names a stream and a shard.

Where a stream is looked for: a name means the caller's own account and region, then the shared streams. An ARN says
account and region itself; one of another region than the caller's is "not found", as each region is a service of its
own. One of another account is honoured: resource policies are kept, but nobody is refused by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, not_active, null_member, shard_limit, shard_not_found, stream_not_found
from streamlet.broker.faults import Faults
from streamlet.broker.schema import Member
from streamlet.broker.shard import Shard, shard_name
from streamlet.broker.state import SHARED, State
from streamlet.broker.stream import Stream
from streamlet.broker.subscriptions import Subscription

__all__ = [
    "Call",
    "Encoded",
    "Operation",
    "Request",
    "StreamRequest",
    "Target",
    "active_stream",
    "arn",
    "arn_target",
    "check_shard_limit",
    "dry_run",
    "find_shard",
    "find_stream",
    "known_stream",
    "settled_stream",
    "shard_index",
    "target",
]

_ARN: Final = re.compile(r"arn:aws.*:kinesis:(.*):(\d{12}):stream/(\S+)", re.ASCII)
_PARTITIONS: Final = {"cn": "aws-cn", "us-gov": "aws-us-gov"}  # by the beginning of the region
_INDEX_MAX: Final = 2**31 - 1

Encoded = tuple[bytes, ...]
"""A JSON body in pieces, already encoded."""


class Call(NamedTuple):
    """Who calls, when, and on what.

    `owner` is the broker's own program: what it makes is shared, and a name means the only stream of that name
    anywhere. Account and region then only show in texts.
    """

    state: State
    faults: Faults
    account: str
    region: str
    now_ms: int
    owner: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """Account and region of what this caller makes."""
        return SHARED if self.owner else (self.account, self.region)


class Target(NamedTuple):
    """Which stream is meant. `anywhere`: the broker's owner gave a name alone."""

    account: str
    region: str
    name: str
    anywhere: bool = False


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
    run: Callable[[Call, Any], dict[str, Any] | Encoded | Subscription | None]
    decode: Callable[[bytes], Request | None] | None = None

    @property
    def stores(self) -> bool:
        """It stores records, which a log keeps as they are."""
        return self.name in {"PutRecord", "PutRecords"}

    @property
    def mutates(self) -> bool:
        """It may change something else, so that a log keeps the call: all but what only reads, by its name."""
        return not self.stores and not self.name.startswith(("Describe", "Get", "List", "SubscribeTo"))


def arn(call: Call, stream: Stream) -> str:
    """The stream's ARN; that of a shared stream as this caller knows it."""
    return _arn(stream.account or call.account, stream.region or call.region, stream.name)


@lru_cache(maxsize=1024)
def _arn(account: str, region: str, name: str) -> str:
    partition = next((partition for start, partition in _PARTITIONS.items() if region.startswith(f"{start}-")), "aws")
    return f"arn:{partition}:kinesis:{region}:{account}:stream/{name}"


def target(call: Call, request: StreamRequest) -> Target:
    """The stream's name, from the name or from the ARN. The text for a disagreement is ours: the service's is not known."""
    name = request.stream_name
    if request.stream_arn is not None:
        meant = arn_target(request.stream_arn)
        if name is not None and name != meant.name:
            raise invalid_argument(f"StreamARN {request.stream_arn} and StreamName {name} do not name the same stream.")
        return meant
    if name is None:
        raise null_member("streamName")
    return Target(call.account, call.region, name, call.owner)


@lru_cache(maxsize=1024)
def arn_target(text: str) -> Target:
    """What a stream's ARN names. Its form was checked with the other constraints."""
    match = _ARN.fullmatch(text)
    assert match is not None, "the pattern was checked with the other constraints"
    region, account, name = match.groups()
    return Target(account, region, name)


def find_stream(call: Call, meant: Target) -> Stream | None:
    """The stream in any status, or None."""
    if meant.anywhere:
        return call.state.find_by_name(meant.name, call.now_ms)
    if meant.region != call.region and not call.owner:
        return None
    return call.state.find(meant.account, meant.region, meant.name, call.now_ms)


def known_stream(call: Call, meant: Target) -> Stream:
    """The stream in any status. Raises ResourceNotFoundException."""
    stream = find_stream(call, meant)
    if stream is None:
        raise stream_not_found(meant.name, meant.account)
    return stream


def active_stream(call: Call, meant: Target) -> Stream:
    """The stream for a write: while CREATING or DELETING it is "not found"."""
    stream = known_stream(call, meant)
    if stream.status in {"CREATING", "DELETING"}:
        raise stream_not_found(meant.name, meant.account)
    return stream


def settled_stream(call: Call, meant: Target) -> Stream:
    """The stream for a control call. Raises ResourceInUseException while another one is under way."""
    stream = known_stream(call, meant)
    if stream.status != "ACTIVE":
        raise not_active(meant.name, meant.account, stream.status)
    return stream


def check_shard_limit(call: Call, place: tuple[str, str], more: int) -> None:
    """Raises LimitExceededException if `more` shards in this account and region would be too many."""
    current, limit = call.state.open_shards(*place, call.now_ms), call.state.shards_max
    if current + more > limit:
        raise shard_limit(place[0] or call.account, place[1] or call.region, current, limit, more)


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
