"""StopStreamEncryption: from when on are records no longer kept encrypted?

Rules and oddities:
- Records put before go on saying that they are encrypted. A stream that is not encrypted stays so: no error.
- The key must have the form of one; it needs not be the stream's.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._encryption import MEMBERS, EncryptionRequest, checked_stream

__all__ = ["OPERATION"]


def _run(call: Call, request: EncryptionRequest) -> None:
    stream = checked_stream(call, request)

    def apply(_now_ms: int) -> None:
        stream.key_id = ""

    call.state.change(stream, call.now_ms, apply)


OPERATION: Final = Operation("StopStreamEncryption", MEMBERS, EncryptionRequest, _run)
