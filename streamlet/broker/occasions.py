"""Which stream and shards is a call about? Asked only while faults are armed or control calls are counted.

A call that will be refused for what it names says less here, and never raises.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final

from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Reshard, Where
from streamlet.broker.ops._base import Call, find_stream, target
from streamlet.broker.shard import Shard
from streamlet.broker.stream import Stream
from streamlet.broker.tokens import open_iterator
from streamlet.model.shard import HASH_KEY_MAX

__all__ = ["route_of", "shards_to_reshard", "stream_of", "where_of"]

_STREAM: Final = re.compile(r":stream/([^/\s]+)")
_NUMBER: Final = re.compile(r"(?:[^-]*-)?(\d{1,12})", re.ASCII)
_SHARD_MEMBERS: Final = ("shard_id", "shard_to_split", "shard_to_merge", "adjacent_shard_to_merge")


def where_of(call: Call, operation: str, request: Any) -> Where:
    """The call as faults see it. The records of a PutRecords are routed only if a fault is for one shard."""
    iterator = getattr(request, "shard_iterator", None)
    if iterator is not None:
        try:
            token = open_iterator(iterator)
        except ApiError:
            return Where(operation)
        return Where(operation, token.stream, frozenset({token.shard_index}))
    arn = getattr(request, "stream_arn", None) or getattr(request, "consumer_arn", None) or getattr(request, "resource_arn", None)
    named = _STREAM.search(arn) if arn is not None else None
    name = named[1] if named is not None else getattr(request, "stream_name", None)
    if operation == "PutRecord" or (operation == "PutRecords" and call.faults.by_shard):
        return Where(operation, name, _shards(call, operation, request))
    found = (_NUMBER.fullmatch(getattr(request, member, None) or "") for member in _SHARD_MEMBERS)
    return Where(operation, name, frozenset(int(match[1]) for match in found if match is not None))


def stream_of(call: Call, request: Any) -> Stream | None:
    """The stream that a put is for."""
    try:
        return find_stream(call, target(call, request))
    except ApiError:
        return None


def route_of(stream: Stream, record: Any) -> int | None:
    """The number of the shard where a record, or a PutRecord's request, would go."""
    explicit = record.explicit_hash_key
    if explicit is not None and int(explicit) > HASH_KEY_MAX:
        return None
    return stream.route(record.partition_key, explicit).index


def shards_to_reshard(stream: Stream, reshard: Reshard) -> tuple[Shard, ...]:
    """The shard to split, or the two to merge, lower one first. Empty where there is none."""
    wanted = reshard.shard_index
    if reshard.action == "split":
        one = [shard for shard in stream.open if wanted in {None, shard.index} and shard.start < shard.end]
        return (max(one, key=lambda shard: shard.end - shard.start),) if one else ()
    pairs = [pair for pair in pairwise(stream.open) if wanted is None or wanted in {pair[0].index, pair[1].index}]
    return min(pairs, key=lambda pair: pair[1].end - pair[0].start) if pairs else ()


def _shards(call: Call, operation: str, request: Any) -> frozenset[int]:
    stream = stream_of(call, request)
    if stream is None:
        return frozenset()
    routes = [route_of(stream, record) for record in (request.records if operation == "PutRecords" else [request])]
    return frozenset(route for route in routes if route is not None)
