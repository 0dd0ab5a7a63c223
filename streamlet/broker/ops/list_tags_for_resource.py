"""ListTagsForResource: how is a stream or a consumer labelled? All of it at once, sorted by code point."""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource

__all__ = ["OPERATION"]


def _run(call: Call, request: ResourceRequest) -> dict[str, Any]:
    tags = find_resource(call, request.resource_arn).tags
    return {"Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]}


OPERATION: Final = Operation("ListTagsForResource", (RESOURCE_ARN,), ResourceRequest, _run)
