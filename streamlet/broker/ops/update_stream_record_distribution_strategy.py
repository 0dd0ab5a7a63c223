"""UpdateStreamRecordDistributionStrategy: who picks a record's shard?

Rules and oddities:
- AUTO is for on-demand streams only; then a partition key may be missing, and neither it nor an ExplicitHashKey picks
  the shard: shards take turns. A key that was given is still stored.
- In effect at once, without UPDATING.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation, Request, arn_target, settled_stream
from streamlet.broker.ops._mode import STRATEGIES, check_distribution
from streamlet.broker.schema import Member, stream_arn

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    stream_arn: str
    record_distribution_strategy: str


_MEMBERS: Final = (stream_arn(required=True), Member("RecordDistributionStrategy", "string", required=True, enum=STRATEGIES))


def _run(call: Call, request: _Request) -> None:
    meant = arn_target(request.stream_arn)
    stream = settled_stream(call, meant)
    check_distribution(stream.mode, request.record_distribution_strategy)
    stream.distribution = request.record_distribution_strategy


OPERATION: Final = Operation("UpdateStreamRecordDistributionStrategy", _MEMBERS, _Request, _run)
