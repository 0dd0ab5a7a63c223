"""RemoveTagsFromStream: how does a label come off?

Rules and oddities:
- Order: stream -> character set -> `%`. Keys that are not there are fine; the body is empty.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._tags import TAG_KEYS, remove_tags
from streamlet.broker.schema import stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    tag_keys: list[str]


def _run(call: Call, request: _Request) -> None:
    stream = known_stream(call, target(call, request))
    remove_tags(call, stream.name, stream.tags, request.tag_keys)


OPERATION: Final = Operation("RemoveTagsFromStream", (TAG_KEYS, stream_name(), stream_arn()), _Request, _run)
