"""RemoveTagsFromStream: how does a label come off?

Rules and oddities:
- Order: stream -> character set -> `%`. Keys that are not there are fine; the body is empty.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._tags import check_characters
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    tag_keys: list[str]


_MEMBERS: Final = (Member("TagKeys", "list", required=True, low=1, high=50, element=(1, 128)), stream_name(), stream_arn())


def _run(call: Call, request: _Request) -> None:
    stream = known_stream(call, target(request))
    check_characters(call, stream, request.tag_keys, "remove tags from")
    for key in request.tag_keys:
        stream.tags.pop(key, None)


OPERATION: Final = Operation("RemoveTagsFromStream", _MEMBERS, _Request, _run)
