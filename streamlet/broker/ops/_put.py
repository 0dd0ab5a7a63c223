"""What must hold of a record before it is stored? Shared by PutRecord and PutRecords."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Final

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, validation
from streamlet.broker.ops._base import StreamRequest
from streamlet.broker.schema import HASH_KEY, ITEMS_MAX, NAME, STREAM_ARN, STREAM_ID, Member, blob_size
from streamlet.model.shard import HASH_KEY_MAX

__all__ = [
    "ENCRYPTED",
    "RECORD_MEMBERS",
    "Data",
    "HashKey",
    "PartitionKey",
    "PutRequest",
    "check_hash_key",
    "record_size",
    "too_large",
    "whole",
]

DATA_BYTES_MAX: Final = 10_485_760


def whole(pattern: str) -> str:
    """A pattern for typed decodes: all of the text, and ASCII digits only."""
    return rf"\A(?:{pattern})\Z".replace(r"\d", "[0-9]")


# Types with the model's limits, for typed decodes.
Data = Annotated[str, msgspec.Meta(max_length=(DATA_BYTES_MAX + 2) // 3 * 4)]
PartitionKey = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
HashKey = Annotated[str, msgspec.Meta(pattern=whole(HASH_KEY))]
_Name = Annotated[str, msgspec.Meta(max_length=128, pattern=whole(NAME))]
_Arn = Annotated[str, msgspec.Meta(max_length=2048, pattern=whole(STREAM_ARN))]
_StreamId = Annotated[str, msgspec.Meta(max_length=24, pattern=whole(STREAM_ID))]

RECORD_MEMBERS: Final = (
    Member("PartitionKey", "string", low=1, high=256),
    Member("ExplicitHashKey", "string", pattern=HASH_KEY),
    Member("Data", "blob", required=True, low=0, high=DATA_BYTES_MAX, hidden=True),
)

ENCRYPTED: Final = ',"EncryptionType":"KMS"'
"""What an encrypted stream adds to each record that it keeps, and to the answer of PutRecords, as JSON."""


class PutRequest(StreamRequest, kw_only=True, gc=False):
    """What both operations take beside their records."""

    stream_name: _Name | None = None
    stream_arn: _Arn | None = None
    stream_id: _StreamId | None = None
    dry_run: bool | None = None


def check_hash_key(raw: str | None) -> None:
    """Raises InvalidArgumentException for a hash key beyond the ring; its form was checked with the constraints."""
    if raw is not None and int(raw) > HASH_KEY_MAX:
        raise invalid_argument(f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {raw}")


def record_size(data: str, key: str) -> int:
    """Bytes of data and partition key together."""
    return blob_size(data) + (len(key) if key.isascii() else len(key.encode()))


def too_large(paths: Iterable[str], bytes_max: int) -> ApiError:
    """Records do not fit. The limit is the stream's own, so this cannot be seen before the stream is known."""
    limit = f"failed to satisfy constraint: Member must have length less than or equal to {bytes_max}"
    return validation([f"Value at '{path}' {limit}" for path in islice(paths, ITEMS_MAX)])
