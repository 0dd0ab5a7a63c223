"""DeleteResourcePolicy: how does a policy go away? Without one it is refused, also a second time; the body is empty."""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import ApiError
from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource

__all__ = ["OPERATION"]


def _run(call: Call, request: ResourceRequest) -> None:
    holder = find_resource(call, request.resource_arn).holder
    if not holder.policy:
        raise ApiError("ResourceNotFoundException", f"No resource policy found for resource ARN {request.resource_arn}.")
    holder.policy = ""


OPERATION: Final = Operation("DeleteResourcePolicy", (RESOURCE_ARN,), ResourceRequest, _run)
