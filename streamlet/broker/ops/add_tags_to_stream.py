"""AddTagsToStream: how is a stream labelled?

Rules and oddities:
- Order: stream -> character set -> `%` -> count. Overwriting a key and an empty value are fine; the body is empty.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._tags import TAGS, add_tags
from streamlet.broker.schema import stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    tags: dict[str, str]


def _run(call: Call, request: _Request) -> None:
    stream = known_stream(call, target(call, request))
    add_tags(call, stream.name, stream.tags, request.tags)


OPERATION: Final = Operation("AddTagsToStream", (TAGS, stream_name(), stream_arn()), _Request, _run)
