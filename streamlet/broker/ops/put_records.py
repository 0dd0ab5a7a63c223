"""PutRecords: how are up to 500 records stored at once?

Rules and oddities:
- Order: stream and status -> hash keys (one bad key fails the whole request) -> record sizes -> total of 10 MiB.
- Each shard's records are numbered in request order. A record that fails by a fault leaves no trace and no gap.
- The answer keeps request order; FailedRecordCount counts entries with an ErrorCode; HTTP 200 even if all failed.
- The hot operation. Its typed decode takes what every SDK sends: payloads stay base64 text, checked in one pass over
  their bytes. Anything it does not like goes to the careful path (schema.py), which finds the words.
- The text for too large a total said 5 MB when the limit was 5 MB; the figure of today is not recorded.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any, Final

import msgspec

from streamlet.broker.errors import invalid_argument, null_member
from streamlet.broker.faults import DuplicatePut, RecordError, Where
from streamlet.broker.limits import PUT_BYTES_MAX
from streamlet.broker.ops._base import Call, Encoded, Operation, Request, active_stream, dry_run, target
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
)
from streamlet.broker.quotas import throttle_text
from streamlet.broker.schema import ITEMS_MAX, Member, are_blobs, stream_arn, stream_name
from streamlet.broker.shard import Shard
from streamlet.broker.stream import Stream

__all__ = ["OPERATION"]


class _Entry(Request, kw_only=True, gc=False):
    data: Data
    partition_key: PartitionKey = ""
    explicit_hash_key: HashKey | None = None


class _Request(PutRequest, kw_only=True, gc=False):
    records: Annotated[list[_Entry], msgspec.Meta(min_length=1, max_length=500)]


_MEMBERS: Final = (
    Member(
        "Records",
        "list",
        required=True,
        low=1,
        high=500,
        hidden=True,
        members=RECORD_MEMBERS,
    ),
    stream_name(),
    stream_arn(),
    Member("DryRun", "boolean"),
)
_decoder: Final = msgspec.json.Decoder(_Request)


def _decode(body: bytes) -> _Request | None:
    request = _decoder.decode(body)
    return request if are_blobs([entry.data for entry in request.records]) else None


def _run(call: Call, request: _Request) -> Encoded | dict[str, Any]:
    stream = active_stream(call, target(call, request))
    records = request.records
    own_keys = stream.distribution != "AUTO"
    hashes = []
    for entry in records:
        if not entry.partition_key and own_keys:
            keyless = [f"records.{index}.member.partitionKey" for index, entry in enumerate(records, 1) if not entry.partition_key]
            raise null_member(*keyless[:ITEMS_MAX])
        if entry.explicit_hash_key is not None:
            hashes.append(entry.explicit_hash_key)
    for raw in hashes:
        check_hash_key(raw)
    sizes = [record_size(entry.data, entry.partition_key) for entry in records]
    bytes_max = stream.record_bytes_max
    if max(sizes) > bytes_max:
        raise too_large((f"records.{index}.member.data" for index, size in enumerate(sizes, 1) if size > bytes_max), bytes_max)
    if sum(sizes) > PUT_BYTES_MAX:
        raise invalid_argument("Records size exceeds 10 MB limit")
    if request.dry_run:
        raise dry_run()
    route = stream.route if own_keys else stream.next_in_turn
    shards = [route(entry.partition_key, entry.explicit_hash_key) for entry in records]
    failing = _failing(call, stream, shards, sizes) if call.faults.active or call.state.quotas is not None else {}
    # Group by shard, so that what a shard does once per call it does once; then tell the numbers in request order.
    groups: defaultdict[Shard, tuple[list[int], list[tuple[str, str, int]]]] = defaultdict(lambda: ([], []))
    answers = [""] * len(records)
    for index, (entry, shard, size) in enumerate(zip(records, shards, sizes, strict=True)):
        if index in failing:
            code = failing[index]
            rate = code == "ProvisionedThroughputExceededException"
            text = throttle_text("PutRecords", call.account, stream.name, shard.index) if rate else "Internal Service Failure"
            answers[index] = f'{{"ErrorCode":"{code}","ErrorMessage":"{text}"}}'
            continue
        indices, group = groups[shard]
        indices.append(index)
        group.append((entry.data, entry.partition_key, size))
    tail = ENCRYPTED if stream.key_id else ""
    horizon_ms = stream.horizon_ms(call.now_ms)
    filled = frozenset(shard.index for shard in groups) if call.faults.active else frozenset()
    twice = bool(filled) and call.faults.take(DuplicatePut, Where("PutRecords", stream.name, filled)) is not None
    for shard, (indices, group) in groups.items():
        shard.trim(horizon_ms)
        for index, number in zip(indices, shard.extend(group, call.now_ms, tail), strict=True):
            answers[index] = f'{{"SequenceNumber":"{number}","ShardId":"{shard.id}"}}'
        if twice:
            shard.extend(group, call.now_ms, tail)
    return (f'{{"FailedRecordCount":{len(failing)},"Records":[{",".join(answers)}]{tail}}}'.encode(),)


def _failing(call: Call, stream: Stream, shards: list[Shard], sizes: list[int]) -> dict[int, RecordError]:
    """The records that are not taken in, by index: those that a fault has chosen, and those that come too fast."""
    routes = [shard.index for shard in shards]
    failing = call.faults.take_failing(stream.name, routes) if call.faults.active else {}
    if call.state.quotas is not None:
        left = [index for index in range(len(routes)) if index not in failing]
        refused = call.state.quotas.refused(stream, [routes[index] for index in left], [sizes[index] for index in left], call.now_ms)
        failing |= {left[place]: "ProvisionedThroughputExceededException" for place in refused}
    return failing


OPERATION: Final = Operation("PutRecords", _MEMBERS, _Request, _run, _decode)
