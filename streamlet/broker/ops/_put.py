"""What must hold of a record before it is stored? Shared by PutRecord and PutRecords."""

from __future__ import annotations

from streamlet.broker.errors import ApiError, invalid_argument, validation
from streamlet.broker.schema import blob_size
from streamlet.model.shard import HASH_KEY_MAX

__all__ = ["check_hash_key", "checked_size", "too_large"]


def check_hash_key(raw: str | None) -> None:
    """Raises InvalidArgumentException for a hash key beyond the ring; its form was checked with the constraints."""
    if raw is not None and int(raw) > HASH_KEY_MAX:
        raise invalid_argument(f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {raw}")


def checked_size(data: str, key: str, bytes_max: int, path: str) -> int:
    """Bytes of data and partition key together. Raises ValidationException where the stream takes less."""
    size = blob_size(data) + (len(key) if key.isascii() else len(key.encode()))
    if size > bytes_max:
        raise too_large(path, bytes_max)
    return size


def too_large(path: str, bytes_max: int) -> ApiError:
    """The record does not fit. The limit is the stream's own, so this cannot be seen before the stream is known."""
    return validation([f"Value at '{path}' failed to satisfy constraint: Member must have length less than or equal to {bytes_max}"])
