"""DescribeAccountSettings: what has this account agreed to in this region?"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation, Request
from streamlet.broker.ops._settings import settings_shape

__all__ = ["OPERATION"]


def _run(call: Call, _request: Request) -> dict[str, Any]:
    return settings_shape(call)


OPERATION: Final = Operation("DescribeAccountSettings", (), Request, _run)
