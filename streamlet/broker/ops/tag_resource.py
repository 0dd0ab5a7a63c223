"""TagResource: how is a stream or a consumer labelled, by its ARN?

Rules and oddities:
- Checks and texts are those of AddTagsToStream: the service's own for this call are not recorded.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource
from streamlet.broker.ops._tags import TAGS, add_tags

__all__ = ["OPERATION"]


class _Request(ResourceRequest, kw_only=True, gc=False):
    tags: dict[str, str]


def _run(call: Call, request: _Request) -> None:
    resource = find_resource(call, request.resource_arn)
    add_tags(call, resource.stream.name, resource.tags, request.tags)


OPERATION: Final = Operation("TagResource", (TAGS, RESOURCE_ARN), _Request, _run)
