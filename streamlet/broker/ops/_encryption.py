"""What do the two encryption calls have in common? Members, forms of a key, and when they are refused."""

from __future__ import annotations

import re
from typing import Final

from streamlet.broker.errors import ApiError, invalid_argument
from streamlet.broker.ops._base import Call, StreamRequest, settled_stream, target
from streamlet.broker.schema import Member, stream_arn, stream_name
from streamlet.broker.stream import Stream

__all__ = ["MEMBERS", "EncryptionRequest", "checked_stream"]

_ID: Final = r"(?:mrk-[0-9a-f]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
_ALIAS: Final = r"alias/[a-zA-Z0-9/_-]+"
_KEY: Final = re.compile(rf"{_ID}|{_ALIAS}|arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{{12}}:(?:key/{_ID}|{_ALIAS})")


class EncryptionRequest(StreamRequest, kw_only=True, gc=False):
    """The key: its id, its ARN, an alias or an alias's ARN."""

    encryption_type: str
    key_id: str


MEMBERS: Final = (
    stream_name(),
    Member("EncryptionType", "string", required=True, enum=("NONE", "KMS")),
    Member("KeyId", "string", required=True, low=1, high=2048),
    stream_arn(),
)


def checked_stream(call: Call, request: EncryptionRequest) -> Stream:
    """The stream, when it may be switched. Whether the key exists nobody can tell here; its form is looked at."""
    meant = target(call, request)
    stream = settled_stream(call, meant)
    if request.encryption_type != "KMS":
        raise invalid_argument("EncryptionType must be KMS.")
    if not _KEY.fullmatch(request.key_id):
        raise ApiError("KMSNotFoundException", f"Invalid keyId {request.key_id}")
    return stream
