"""StartStreamEncryption: from when on are records kept encrypted?

Rules and oddities:
- Nothing is encrypted here: the stream says that it is, and so do the answers to puts and the records put from now on.
- Asynchronous: UPDATING first, if the state has a control delay. Again with another key: the key is replaced.
- The wordings for a wrong type or key are ours.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._encryption import MEMBERS, EncryptionRequest, checked_stream

__all__ = ["OPERATION"]


def _run(call: Call, request: EncryptionRequest) -> None:
    stream = checked_stream(call, request)

    def apply(_now_ms: int) -> None:
        stream.key_id = request.key_id

    call.state.change(stream, call.now_ms, apply)


OPERATION: Final = Operation("StartStreamEncryption", MEMBERS, EncryptionRequest, _run)
