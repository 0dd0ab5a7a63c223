"""DisableEnhancedMonitoring: which metrics per shard are switched off?

Rules and oddities:
- The answer's "current" is what was before, its "desired" what is afterwards; either may be empty.
- Descriptions show what is on. Nothing is measured: there is no CloudWatch here.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._monitoring import MEMBERS, MonitoringRequest, switch

__all__ = ["OPERATION"]


def _run(call: Call, request: MonitoringRequest) -> dict[str, Any]:
    return switch(call, request, on=False)


OPERATION: Final = Operation("DisableEnhancedMonitoring", MEMBERS, MonitoringRequest, _run)
