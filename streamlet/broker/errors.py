"""How does the broker refuse a call? One exception with the service's own code and text, and the texts used more than once.

The texts are the service's, byte for byte (reference/errors.md, sections 6 and 7); clients and people match on them.
"""

from __future__ import annotations

from typing import Final

from streamlet.errors import ServiceError

__all__ = [
    "ApiError",
    "already_resharded",
    "invalid_argument",
    "not_active",
    "null_member",
    "shard_limit",
    "shard_not_found",
    "shard_not_there",
    "stream_not_found",
    "validation",
]

_LIMITS_PAGE: Final = "http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html"


class ApiError(ServiceError):
    """A refusal as the service words it. `key` is the body's member for the text; an empty text leaves the member out."""

    def __init__(self, code: str, text: str = "", *, status: int = 400, key: str = "message") -> None:
        super().__init__(text, code=code, status=status)
        self.text = text
        self.key = key


def invalid_argument(text: str) -> ApiError:
    """A value that is well-formed but does not fit (step 12)."""
    return ApiError("InvalidArgumentException", text)


def validation(items: list[str]) -> ApiError:
    """One or more constraints that failed (step 11)."""
    plural = "error" if len(items) == 1 else "errors"
    return ApiError("ValidationException", f"{len(items)} validation {plural} detected: {'; '.join(items)}")


def null_member(*paths: str) -> ApiError:
    """Members that are missing although the model calls them optional, such as the stream's name without an ARN."""
    return validation([f"Value null at '{path}' failed to satisfy constraint: Member must not be null" for path in paths])


def stream_not_found(name: str, account: str) -> ApiError:
    """The stream is missing, or (for writes) not there yet."""
    return ApiError("ResourceNotFoundException", f"Stream {name} under account {account} not found.")


def shard_not_found(shard: str, name: str, account: str) -> ApiError:
    """The shard's id is not understood, or a reshard names a shard that the stream has not."""
    return ApiError("ResourceNotFoundException", f"Could not find shard {shard} in stream {name} under account {account}.")


def shard_not_there(shard: str, name: str, account: str) -> ApiError:
    """A read names a shard that is not there. The service ends this text without a full stop."""
    return ApiError("ResourceNotFoundException", f"Shard {shard} in stream {name} under account {account} does not exist")


def not_active(name: str, account: str, status: str) -> ApiError:
    """A control call while another one is under way."""
    return ApiError("ResourceInUseException", f"Stream {name} under account {account} not ACTIVE, instead in state {status}")


def already_resharded(shard: str, name: str, account: str) -> ApiError:
    """A closed shard cannot be split or merged again."""
    return invalid_argument(
        f"Shard {shard} in stream {name} under account {account} has already been merged or split, "
        "and thus is not eligible for merging or splitting."
    )


def shard_limit(account: str, region: str, current: int, limit: int, more: int) -> ApiError:
    """The account's shards would be more than it may have."""
    return ApiError(
        "LimitExceededException",
        f"This request would exceed the shard limit for the account {account} in {region}. "
        f"Current shard count for the account: {current}. Limit: {limit}. "
        f"Number of additional shards that would have resulted from this request: {more}. "
        f"Refer to the AWS Service Limits page ({_LIMITS_PAGE}) for current limits and how to request higher limits.",
    )
