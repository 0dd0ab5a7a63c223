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

from typing import Annotated, Any, Final

import msgspec

from streamlet.broker.errors import invalid_argument
from streamlet.broker.limits import PUT_BYTES_MAX
from streamlet.broker.ops._base import Call, Encoded, Operation, Request, StreamRequest, active_stream, dry_run, target
from streamlet.broker.ops._put import check_hash_key, checked_size
from streamlet.broker.schema import HASH_KEY, NAME, STREAM_ARN, Member, are_blobs, stream_arn, stream_name
from streamlet.broker.shard import Shard

__all__ = ["OPERATION"]

_DATA_BYTES_MAX: Final = 10_485_760


class _Entry(Request, kw_only=True, gc=False):
    data: Annotated[str, msgspec.Meta(max_length=(_DATA_BYTES_MAX + 2) // 3 * 4)]
    partition_key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    explicit_hash_key: Annotated[str, msgspec.Meta(pattern=rf"\A(?:{HASH_KEY})\Z".replace(r"\d", "[0-9]"))] | None = None


class _Request(StreamRequest, kw_only=True, gc=False):
    records: Annotated[list[_Entry], msgspec.Meta(min_length=1, max_length=500)]
    stream_name: Annotated[str, msgspec.Meta(max_length=128, pattern=rf"\A{NAME}\Z")] | None = None
    stream_arn: Annotated[str, msgspec.Meta(max_length=2048, pattern=rf"\A{STREAM_ARN}\Z".replace(r"\d", "[0-9]"))] | None = None
    dry_run: bool | None = None


_MEMBERS: Final = (
    Member(
        "Records",
        "list",
        required=True,
        low=1,
        high=500,
        hidden=True,
        members=(
            Member("PartitionKey", "string", required=True, low=1, high=256),
            Member("ExplicitHashKey", "string", pattern=HASH_KEY),
            Member("Data", "blob", required=True, low=0, high=_DATA_BYTES_MAX, hidden=True),
        ),
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
    stream = active_stream(call, target(request))
    records = request.records
    for entry in records:
        if entry.explicit_hash_key is not None:
            check_hash_key(entry.explicit_hash_key)
    bytes_max = stream.record_bytes_max
    sizes = [
        checked_size(entry.data, entry.partition_key, bytes_max, f"records.{index}.member.data") for index, entry in enumerate(records, 1)
    ]
    if sum(sizes) > PUT_BYTES_MAX:
        raise invalid_argument("Records size exceeds 10 MB limit")
    if request.dry_run:
        raise dry_run()
    failing = call.faults.take_failing(len(records))
    # Group by shard, so that what a shard does once per call it does once; then tell the numbers in request order.
    route = stream.route
    groups: dict[Shard, tuple[list[int], list[tuple[str, str, int]]]] = {shard: ([], []) for shard in stream.open}
    answers = [""] * len(records)
    for index, (entry, size) in enumerate(zip(records, sizes, strict=True)):
        key = entry.partition_key
        shard = route(key, entry.explicit_hash_key)
        if index in failing:
            answers[index] = (
                '{"ErrorCode":"ProvisionedThroughputExceededException","ErrorMessage":'
                f'"Rate exceeded for shard {shard.id} in stream {stream.name} under account {call.account}."}}'
            )
            continue
        indices, group = groups[shard]
        indices.append(index)
        group.append((entry.data, key, size))
    horizon_ms = stream.horizon_ms(call.now_ms)
    for shard, (indices, group) in groups.items():
        if not group:
            continue
        shard.trim(horizon_ms)
        for index, number in zip(indices, shard.extend(group, call.now_ms), strict=True):
            answers[index] = f'{{"SequenceNumber":"{number}","ShardId":"{shard.id}"}}'
    return (f'{{"FailedRecordCount":{len(failing)},"Records":[{",".join(answers)}]}}'.encode(),)


OPERATION: Final = Operation("PutRecords", _MEMBERS, _Request, _run, _decode)
