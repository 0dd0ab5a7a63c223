"""UntagResource: how does a label come off a stream or a consumer?

Rules and oddities:
- Checks and texts are those of RemoveTagsFromStream. Keys that are not there are fine; the body is empty.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource
from streamlet.broker.ops._tags import TAG_KEYS, remove_tags

__all__ = ["OPERATION"]


class _Request(ResourceRequest, kw_only=True, gc=False):
    tag_keys: list[str]


def _run(call: Call, request: _Request) -> None:
    resource = find_resource(call, request.resource_arn)
    remove_tags(call, resource.stream.name, resource.tags, request.tag_keys)


OPERATION: Final = Operation("UntagResource", (TAG_KEYS, RESOURCE_ARN), _Request, _run)
