"""GetResourcePolicy: which policy does a stream or a consumer carry? Without one: a text that holds an empty object."""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource

__all__ = ["OPERATION"]


def _run(call: Call, request: ResourceRequest) -> dict[str, Any]:
    return {"Policy": find_resource(call, request.resource_arn).holder.policy or "{}"}


OPERATION: Final = Operation("GetResourcePolicy", (RESOURCE_ARN,), ResourceRequest, _run)
