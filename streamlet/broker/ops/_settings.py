"""How are an account's settings shown?"""

from __future__ import annotations

from typing import Any

from streamlet.broker.ops._base import Call
from streamlet.broker.ops._describe import seconds

__all__ = ["settings_shape"]


def settings_shape(call: Call) -> dict[str, Any]:
    """The answer of both account calls. An end that was not reached yet is only told by the earliest one."""
    settings = call.state.settings(call.place)
    shape: dict[str, Any] = {"Status": settings.status(call.now_ms)}
    ended_ms = settings.ended_ms if settings.ended_ms is not None and settings.ended_ms <= call.now_ms else None
    for member, at_ms in (("StartedAt", settings.started_ms), ("EndedAt", ended_ms), ("EarliestAllowedEndAt", settings.earliest_end_ms)):
        if at_ms is not None:
            shape[member] = seconds(at_ms)
    return {"MinimumThroughputBillingCommitment": shape}
