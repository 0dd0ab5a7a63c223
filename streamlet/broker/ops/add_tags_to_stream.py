"""AddTagsToStream: how is a stream labelled?

Rules and oddities:
- Order: stream -> character set -> `%` -> count. Overwriting a key and an empty value are fine; the body is empty.
- The text for more than 50 tags says 10, as the service's does.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import invalid_argument
from streamlet.broker.limits import TAGS_MAX
from streamlet.broker.ops._base import Call, Operation, StreamRequest, known_stream, target
from streamlet.broker.ops._tags import check_characters
from streamlet.broker.schema import Member, stream_arn, stream_name

__all__ = ["OPERATION"]


class _Request(StreamRequest, kw_only=True, gc=False):
    tags: dict[str, str]


_MEMBERS: Final = (
    Member("Tags", "map", required=True, low=1, high=200, key=(1, 128), element=(0, 256)),
    stream_name(),
    stream_arn(),
)


def _run(call: Call, request: _Request) -> None:
    stream = known_stream(call, target(request))
    check_characters(call, stream, [*request.tags.keys(), *request.tags.values()], "add tags to")
    tags = stream.tags | request.tags
    if len(tags) > TAGS_MAX:
        raise invalid_argument(
            f"Failed to add tags to stream {stream.name} under account {call.account} "
            "because a given stream cannot have more than 10 tags associated with it."
        )
    stream.tags = tags


OPERATION: Final = Operation("AddTagsToStream", _MEMBERS, _Request, _run)
