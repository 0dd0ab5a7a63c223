"""ListTagsForStream: how is a stream labelled, page by page?

Rules and oddities:
- Sorted by code point; ExclusiveStartTagKey is exclusive, needs not exist and may hold illegal characters.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.limits import TAGS_MAX
from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    limit: int = TAGS_MAX
    exclusive_start_tag_key: str = ""


_MEMBERS: Final = (
    Member("Limit", "integer", low=1, high=50),
    Member("ExclusiveStartTagKey", "string", low=1, high=128),
    stream_name(),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    stream = known_stream(call, target(call, request))
    keys = sorted(key for key in stream.tags if key > request.exclusive_start_tag_key)
    page = keys[: request.limit]
    return {"Tags": [{"Key": key, "Value": stream.tags[key]} for key in page], "HasMoreTags": len(keys) > len(page)}


OPERATION: Final = Operation("ListTagsForStream", _MEMBERS, _Request, _run)
