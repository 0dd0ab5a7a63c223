"""DecreaseStreamRetentionPeriod: how long are records kept?

Rules and oddities:
- Order: stream -> below 24 (or above 8760) -> comparison with the current value; the same value is accepted.
- It does let go of older records at once. Answers with an empty body.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._retention import MEMBERS, RetentionRequest, set_retention

__all__ = ["OPERATION"]


def _run(call: Call, request: RetentionRequest) -> None:
    set_retention(call, request, longer=False)


OPERATION: Final = Operation("DecreaseStreamRetentionPeriod", MEMBERS, RetentionRequest, _run)
