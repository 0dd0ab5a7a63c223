"""CreateStream: how does a stream come to be?

Rules and oddities:
- Order: the name exists -> shard limit. Answers with an empty body.
- Without ShardCount the stream gets 4 shards, whatever its mode (recorded on AWS in 2022).
- ACTIVE at once, unless the state has a control delay; then CREATING, with no shards to be seen.
- Shards get equal slices of 2**128; slice i starts at floor(2**128 / n) * i.
- WarmThroughputMiBps and RecordDistributionStrategy AUTO are for ON_DEMAND only. At most 5 streams are CREATING.
- ShardCount with ON_DEMAND is taken: what the service says to it is not recorded.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamlet.broker.errors import ApiError
from streamlet.broker.limits import ON_DEMAND_SHARDS, RECORD_BYTES_DEFAULT, STREAMS_CREATING_MAX
from streamlet.broker.ops._base import Call, Operation, Request, check_shard_limit
from streamlet.broker.ops._mode import STRATEGIES, ModeDetails, check_distribution, check_on_demand_limit, check_warm, mode_details
from streamlet.broker.ops._tags import add_tags
from streamlet.broker.schema import Member, stream_name

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    stream_name: str
    shard_count: int | None = None
    stream_mode_details: ModeDetails | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    # Spelled out: the wire writes "MiB" and "KiB".
    warm_mibps: int | None = msgspec.field(default=None, name="WarmThroughputMiBps")
    record_distribution_strategy: str = "USER_PARTITION_KEY"
    record_kib_max: int | None = msgspec.field(default=None, name="MaxRecordSizeInKiB")


_MEMBERS: Final = (
    Member("ShardCount", "integer", low=1),
    stream_name(required=True),
    mode_details(),
    Member("Tags", "map", low=1, high=200, key=(1, 128), element=(0, 256)),
    Member("WarmThroughputMiBps", "integer", low=0),
    Member("MaxRecordSizeInKiB", "integer", low=1024, high=10240),
    Member("RecordDistributionStrategy", "string", enum=STRATEGIES),
)


def _run(call: Call, request: _Request) -> None:
    state, name = call.state, request.stream_name
    if state.find(*call.place, name, call.now_ms) is not None:
        raise ApiError("ResourceInUseException", f"Stream {name} under account {call.account} already exists.")
    shards = request.shard_count or ON_DEMAND_SHARDS
    mode = request.stream_mode_details.stream_mode if request.stream_mode_details is not None else "PROVISIONED"
    check_distribution(mode, request.record_distribution_strategy)
    if request.warm_mibps is not None:
        check_warm(call, mode, request.warm_mibps)
    if mode == "ON_DEMAND":
        check_on_demand_limit(call, call.place)
    creating = sum(stream.status == "CREATING" for stream in state.streams_of(*call.place, call.now_ms))
    if creating >= STREAMS_CREATING_MAX:
        raise ApiError("LimitExceededException", f"The account {call.account} has {creating} streams in CREATING status, the limit.")
    tags: dict[str, str] = {}
    add_tags(call, name, tags, request.tags)
    check_shard_limit(call, call.place, shards)
    record_bytes_max = request.record_kib_max * 1024 if request.record_kib_max else RECORD_BYTES_DEFAULT
    stream = state.create(*call.place, name, shards, call.now_ms, record_bytes_max=record_bytes_max)
    stream.tags.update(tags)
    stream.mode, stream.distribution = mode, request.record_distribution_strategy
    stream.warm_mibps = stream.warm_target_mibps = request.warm_mibps


OPERATION: Final = Operation("CreateStream", _MEMBERS, _Request, _run)
