"""UpdateMaxRecordSize: how large may a record be?

Rules and oddities:
- By ARN only, though the model calls it optional. Records that are there already stay.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamlet.broker.errors import null_member
from streamlet.broker.ops._base import Call, Operation, Request, arn_target, settled_stream
from streamlet.broker.schema import Member, stream_arn

__all__ = ["OPERATION"]


class _Request(Request, kw_only=True, gc=False):
    stream_arn: str | None = None
    # Spelled out: the wire writes "KiB".
    record_kib_max: int = msgspec.field(name="MaxRecordSizeInKiB")


_MEMBERS: Final = (stream_arn(), Member("MaxRecordSizeInKiB", "integer", required=True, low=1024, high=10240))


def _run(call: Call, request: _Request) -> None:
    if request.stream_arn is None:
        raise null_member("streamARN")
    meant = arn_target(request.stream_arn)
    stream = settled_stream(call, meant)

    def apply(_now_ms: int) -> None:
        stream.record_bytes_max = request.record_kib_max * 1024

    call.state.change(stream, call.now_ms, apply)


OPERATION: Final = Operation("UpdateMaxRecordSize", _MEMBERS, _Request, _run)
