"""DescribeLimits: how much may this account have in this region, and how much has it?

Rules and oddities:
- Open shards are those of provisioned and on-demand streams alike. Shared streams count for every account.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.limits import ON_DEMAND_STREAMS_MAX
from streamlet.broker.ops._base import Call, Operation, Request

__all__ = ["OPERATION"]


def _run(call: Call, _request: Request) -> dict[str, Any]:
    streams = call.state.streams_of(*call.place, call.now_ms)
    return {
        "ShardLimit": call.state.shards_max,
        "OpenShardCount": sum(len(stream.open) for stream in streams),
        "OnDemandStreamCount": sum(stream.mode == "ON_DEMAND" for stream in streams),
        "OnDemandStreamCountLimit": ON_DEMAND_STREAMS_MAX,
    }


OPERATION: Final = Operation("DescribeLimits", (), Request, _run)
