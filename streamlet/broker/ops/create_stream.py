"""CreateStream: how does a stream come to be?

Rules and oddities:
- Order: the name exists -> shard limit. Answers with an empty body.
- Without ShardCount the stream gets 4 shards, whatever its mode (recorded on AWS in 2022).
- ACTIVE at once, unless the state has a control delay; then CREATING, with no shards to be seen.
- Shards get equal slices of 2**128; slice i starts at floor(2**128 / n) * i.
- WarmThroughputMiBps and RecordDistributionStrategy are read and have no effect.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamlet.broker.errors import ApiError, shard_limit
from streamlet.broker.limits import ON_DEMAND_SHARDS, RECORD_BYTES_DEFAULT
from streamlet.broker.ops._base import Call, Operation, Request
from streamlet.broker.schema import Member, stream_name

__all__ = ["OPERATION"]


class _Mode(Request, kw_only=True, gc=False):
    stream_mode: str


class _Request(Request, kw_only=True, gc=False):
    stream_name: str
    shard_count: int | None = None
    stream_mode_details: _Mode | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    # Spelled out: the wire writes "KiB".
    record_kib_max: int | None = msgspec.field(default=None, name="MaxRecordSizeInKiB")


_MEMBERS: Final = (
    Member("ShardCount", "integer", low=1),
    stream_name(required=True),
    Member("StreamModeDetails", "structure", members=(Member("StreamMode", "string", required=True, enum=("PROVISIONED", "ON_DEMAND")),)),
    Member("Tags", "map", low=1, high=200, key=(1, 128), element=(0, 256)),
    Member("WarmThroughputMiBps", "integer", low=0),
    Member("MaxRecordSizeInKiB", "integer", low=1024, high=10240),
    Member("RecordDistributionStrategy", "string", enum=("AUTO", "USER_PARTITION_KEY")),
)


def _run(call: Call, request: _Request) -> None:
    state, name = call.state, request.stream_name
    if state.find(name, call.now_ms) is not None:
        raise ApiError("ResourceInUseException", f"Stream {name} under account {call.account} already exists.")
    shards = request.shard_count or ON_DEMAND_SHARDS
    if state.open_shards + shards > state.shards_max:
        raise shard_limit(call.account, call.region, state.open_shards, state.shards_max, shards)
    record_bytes_max = request.record_kib_max * 1024 if request.record_kib_max else RECORD_BYTES_DEFAULT
    stream = state.create(name, shards, call.now_ms, record_bytes_max=record_bytes_max)
    stream.tags.update(request.tags)
    if request.stream_mode_details is not None:
        stream.mode = request.stream_mode_details.stream_mode


OPERATION: Final = Operation("CreateStream", _MEMBERS, _Request, _run)
