"""ListShards: which shards has a stream, or had at a time?

Rules and oddities:
- Order: NextToken rules -> stream. A token stands for stream, filter and start, and lives 300 s.
- At most 1000 shards a page; NextToken only when there are more.
- ExclusiveStartShardId is exclusive and compared as text.
- Without a filter: FROM_TRIM_HORIZON, every shard that still has (or may have) records within the retention.
- A shard is open from its creation up to, not including, the moment of its reshard: at any time either parent or child.
- A ShardFilter timestamp before the trim horizon counts as the trim horizon; one in the future lists the open shards.
- The wordings for a ShardFilter that lacks what its type needs are ours: the service's are not known.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamlet.broker.errors import invalid_argument, stream_not_found
from streamlet.broker.limits import LIST_SHARDS_MAX
from streamlet.broker.ops._base import Call, Operation, Request, StreamRequest, known_stream, target
from streamlet.broker.ops._describe import milliseconds, shard_shape, visible_shards
from streamlet.broker.schema import Member, shard_id, stream_arn, stream_name
from streamlet.broker.shard import Shard
from streamlet.broker.stream import Stream
from streamlet.broker.tokens import PageToken, open_page, seal_page

__all__ = ["OPERATION"]

_FILTERS: Final = ("AFTER_SHARD_ID", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST", "AT_TIMESTAMP", "FROM_TIMESTAMP")


class _Filter(Request, kw_only=True, gc=False):
    type: str
    shard_id: str | None = None
    timestamp: float | None = None


class _Request(StreamRequest, kw_only=True, gc=False):
    next_token: str | None = None
    exclusive_start_shard_id: str | None = None
    max_results: int = LIST_SHARDS_MAX
    stream_creation_timestamp: float | None = None
    shard_filter: _Filter | None = None


_MEMBERS: Final = (
    Member("MaxResults", "integer", low=1, high=10_000),
    shard_id("ExclusiveStartShardId"),
    stream_name()._replace(unless=""),  # NextToken may stand for it, and both missing is refused in other words
    Member("NextToken", "string", low=1, high=1_048_576),
    Member("StreamCreationTimestamp", "timestamp"),
    Member(
        "ShardFilter",
        "structure",
        members=(Member("Type", "string", required=True, enum=_FILTERS), shard_id("ShardId"), Member("Timestamp", "timestamp")),
    ),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    token = _first_page(call, request) if request.next_token is None else _next_page(call, request, request.next_token)
    stream = call.state.find(token.account, token.region, token.stream, call.now_ms)
    if stream is None or token.identity != stream.identity:
        raise stream_not_found(token.stream, token.account or call.account)
    shards = [shard for shard in _filtered(stream, token, call.now_ms) if shard.id > token.after]
    page = shards[: min(request.max_results, LIST_SHARDS_MAX)]
    answer: dict[str, Any] = {"Shards": [shard_shape(shard) for shard in page]}
    if len(shards) > len(page):
        answer["NextToken"] = seal_page(msgspec.structs.replace(token, created_ms=call.now_ms, after=page[-1].id))
    return answer


def _next_page(call: Call, request: _Request, text: str) -> PageToken:
    exclusive = {
        "StreamName": request.stream_name,
        "StreamARN": request.stream_arn,
        "ExclusiveStartShardId": request.exclusive_start_shard_id,
        "ShardFilter": request.shard_filter,
        "StreamCreationTimestamp": request.stream_creation_timestamp,
    }
    for name, value in exclusive.items():
        if value is not None:
            raise invalid_argument(f"NextToken and {name} cannot be provided together.")
    token = open_page(text, "ListShards", call.now_ms)
    if not call.owner and token.region not in {"", call.region}:
        raise invalid_argument("Invalid NextToken.")
    return token


def _first_page(call: Call, request: _Request) -> PageToken:
    if request.stream_name is None and request.stream_arn is None:
        raise invalid_argument("Either NextToken or StreamName should be provided.")
    meant = target(call, request)
    stream = known_stream(call, meant)
    created = request.stream_creation_timestamp
    if created is not None and int(created) != stream.created_ms // 1000:
        # It tells a stream from an earlier one of the same name; whole seconds are what descriptions say.
        raise stream_not_found(meant.name, meant.account)
    kind, value = _filter(request.shard_filter)
    return PageToken(
        "ListShards",
        call.now_ms,
        after=request.exclusive_start_shard_id or "",
        stream=stream.name,
        account=stream.account,
        region=stream.region,
        identity=stream.identity,
        filter_type=kind,
        filter_value=value,
    )


def _filter(shard_filter: _Filter | None) -> tuple[str, str]:
    if shard_filter is None:
        return "FROM_TRIM_HORIZON", ""
    kind = shard_filter.type
    if kind == "AFTER_SHARD_ID":
        if shard_filter.shard_id is None:
            raise invalid_argument("ShardId must be provided when ShardFilter type is AFTER_SHARD_ID.")
        return kind, shard_filter.shard_id
    if kind.endswith("_TIMESTAMP"):
        if shard_filter.timestamp is None:
            raise invalid_argument(f"Timestamp must be provided when ShardFilter type is {kind}.")
        return kind, str(milliseconds(shard_filter.timestamp))
    return kind, ""


def _filtered(stream: Stream, token: PageToken, now_ms: int) -> list[Shard]:
    shards = visible_shards(stream, now_ms)
    kind = token.filter_type
    if kind == "AT_LATEST":
        return [shard for shard in shards if shard.is_open]
    if kind == "AFTER_SHARD_ID":
        return [shard for shard in shards if shard.id > token.filter_value]
    if kind == "FROM_TRIM_HORIZON":
        return shards
    moment = max(stream.horizon_ms(now_ms), stream.created_ms)
    if kind.endswith("_TIMESTAMP"):
        moment = max(moment, int(token.filter_value))
    if kind == "FROM_TIMESTAMP":
        return [shard for shard in shards if shard.closed_ms is None or shard.closed_ms >= moment]
    assert kind in {"AT_TIMESTAMP", "AT_TRIM_HORIZON"}, "the type was checked with the other constraints"
    return [shard for shard in shards if shard.created_ms <= moment and (shard.closed_ms is None or shard.closed_ms > moment)]


OPERATION: Final = Operation("ListShards", _MEMBERS, _Request, _run)
