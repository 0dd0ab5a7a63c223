"""UpdateAccountSettings: does the account commit itself to a minimum of throughput (On-demand Advantage)?

Rules and oddities:
- A commitment lasts for 24 h at least: switched off before, it ends by itself then; switched on again, it goes on.
- It unlocks warm throughput. The setting that is there already: no error.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation, Request
from streamlet.broker.ops._settings import settings_shape
from streamlet.broker.schema import Member

__all__ = ["OPERATION"]


class _Commitment(Request, kw_only=True, gc=False):
    status: str


class _Request(Request, kw_only=True, gc=False):
    minimum_throughput_billing_commitment: _Commitment


_MEMBERS: Final = (
    Member(
        "MinimumThroughputBillingCommitment",
        "structure",
        required=True,
        members=(Member("Status", "string", required=True, enum=("ENABLED", "DISABLED")),),
    ),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    settings = call.state.settings(call.place)
    if request.minimum_throughput_billing_commitment.status == "ENABLED":
        settings.enable(call.now_ms)
    else:
        settings.disable(call.now_ms)
    return settings_shape(call)


OPERATION: Final = Operation("UpdateAccountSettings", _MEMBERS, _Request, _run)
