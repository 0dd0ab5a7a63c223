"""ListStreams: which streams are there?

Rules and oddities:
- Names sorted; ExclusiveStartStreamName is exclusive and needs not exist.
- StreamSummaries stand beside StreamNames; NextToken only when there are more.
- Streams that are being made or deleted are listed too.
- The caller's own streams of this region and the shared ones; the broker's owner sees those of all.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.limits import LIST_STREAMS_DEFAULT
from streamlet.broker.ops._base import Call, Operation, Request, arn
from streamlet.broker.schema import NAME, Member
from streamlet.broker.tokens import PageToken, open_page, seal_page

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    limit: int = LIST_STREAMS_DEFAULT
    exclusive_start_stream_name: str = ""
    next_token: str | None = None


_MEMBERS: Final = (
    Member("Limit", "integer", low=1, high=10_000),
    Member("ExclusiveStartStreamName", "string", low=1, high=128, pattern=NAME),
    Member("NextToken", "string", low=1, high=1_048_576),
)


def _run(call: Call, request: _Request) -> dict[str, Any]:
    after = request.exclusive_start_stream_name
    if request.next_token is not None:
        after = open_page(request.next_token, "ListStreams", call.now_ms).after
    every = call.state.all_streams(call.now_ms) if call.owner else call.state.streams_of(call.account, call.region, call.now_ms)
    streams = sorted((stream for stream in every if stream.name > after), key=lambda stream: stream.name)
    page = streams[: min(request.limit, LIST_STREAMS_DEFAULT)]
    answer: dict[str, Any] = {
        "HasMoreStreams": len(streams) > len(page),
        "StreamNames": [stream.name for stream in page],
        "StreamSummaries": [
            {
                "StreamName": stream.name,
                "StreamARN": arn(call, stream),
                "StreamStatus": stream.status,
                "StreamModeDetails": {"StreamMode": stream.mode},
                "StreamCreationTimestamp": stream.created_ms // 1000,
            }
            for stream in page
        ],
    }
    if answer["HasMoreStreams"]:
        answer["NextToken"] = seal_page(PageToken("ListStreams", call.now_ms, page[-1].name))
    return answer


OPERATION: Final = Operation("ListStreams", _MEMBERS, _Request, _run)
