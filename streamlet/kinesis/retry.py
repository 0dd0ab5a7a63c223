"""What does a failed call mean, and is it worth asking again?

Think of two questions, in this order. *Was it heard?* A refusal (4xx) was heard and nothing was done; a broken
connection or a 5xx leaves open whether it was applied. *Will it pass?* Load, outages and restarts pass; a missing stream,
a missing right or a malformed call do not. `verdict` answers both at once: the class says what it means (errors.py), `again`
whether the same call can succeed later. How long to wait is the caller's business; `backoff_s` is the one formula.

Sources: reference/kinesis-api.md sections 6 and 7; reference/errors.md section 7.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

from streamlet.errors import (
    AccessRefused,
    IteratorExpired,
    IteratorRefused,
    NotFound,
    RequestRefused,
    ServiceError,
    Throttled,
    Unavailable,
)

__all__ = ["PASSING", "Failure", "Verdict", "backoff_s", "is_loopback", "verdict"]

_THROTTLES: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
        "KMSThrottlingException",
    }
)
_BAD_CREDENTIALS: Final = frozenset(
    {
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "IncompleteSignatureException",
        "MissingAuthenticationTokenException",
        "ExpiredTokenException",
        "ExpiredToken",
        "RequestExpired",
    }
)
_NOT_ALLOWED: Final = frozenset(
    {
        "AccessDeniedException",
        "AccessDenied",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "KMSOptInRequired",
        "OptInRequired",
    }
)
# The classes that mean "the same call may succeed later". Which failure is which is decided in `verdict` alone.
PASSING: Final = (Throttled, Unavailable)
_DATA_PLANE: Final = frozenset({"GetRecords", "GetShardIterator", "PutRecord", "PutRecords", "SubscribeToShard"})
_MESSAGE_CHARS_MAX: Final = 500


class Failure(msgspec.Struct, frozen=True):
    """What is known about a call that failed. `status` 0: no answer came, and `cause` says why."""

    operation: str
    status: int = 0
    code: str = ""
    text: str = ""
    cause: BaseException | None = None
    url: str = ""
    stream: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What it means. `again`: the same call may succeed later."""

    error: ServiceError
    again: bool


def verdict(failure: Failure) -> Verdict:
    """The class of a failure, and whether to ask again. The only place in streamlet where this is decided."""
    code, status, operation = failure.code, failure.status, failure.operation
    text = (failure.text or "the service gave no reason")[:_MESSAGE_CHARS_MAX]
    detail = f"{operation}: {code or status}: {text}"
    if status == 0:
        # No answer. A refused connection was not applied, a broken one may have been; either way only asking again
        # finds out, and Kinesis has no request token, so a repeated put may double records.
        return _made(failure, Unavailable, _no_answer(failure))
    if code in _THROTTLES or status == 429:
        # Nothing was done (a throttled GetRecords consumed no data). The quota refills within a second.
        return _made(failure, Throttled, detail)
    if code == "ExpiredIteratorException":
        # The same iterator never comes back to life; the reader makes a new one from its last position.
        return _made(failure, IteratorExpired, detail)
    if status >= 500 or code in {"InternalFailure", "InternalFailureException", "ServiceUnavailable", "InternalServerError"}:
        # The service's trouble: it passes. Also the error code of a single PutRecords entry, in an answer with status 200.
        return _made(failure, Unavailable, detail)
    if code == "ResourceNotFoundException":
        # Waiting does not create a stream. A reader decides whether a missing shard means "trimmed away".
        hint = (
            f"create the stream {failure.stream!r} first, or check region and endpoint" if failure.stream else "check region and endpoint"
        )
        return _made(failure, NotFound, f"{detail} ({hint}; asked at {failure.url})")
    if code in _BAD_CREDENTIALS:
        # Wrong or expired keys stay so; a credential provider that can refresh has done it before the call.
        hint = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE, and this machine's clock"
        return _made(failure, AccessRefused, f"{detail} ({hint})")
    if code in _NOT_ALLOWED or status in {401, 403}:
        # A right or a KMS key is missing: a person has to act.
        return _made(failure, AccessRefused, f"{detail} (allow kinesis:{operation} on the stream, and the use of its KMS key)")
    if code == "ResourceInUseException" and operation in _DATA_PLANE:
        # The stream is being created or changed: that ends by itself.
        return _made(failure, Unavailable, detail)
    if code == "InvalidArgumentException" and operation in {"GetRecords", "GetShardIterator"}:
        # These calls carry nothing else that could be invalid: the position belongs to another shard or to another stream.
        return _made(failure, IteratorRefused, detail)
    if status == 408:
        # The request did not arrive in time.
        return _made(failure, Unavailable, detail)
    # Any other refusal is about the call itself (a bug, or a feature that the stream's mode does not have).
    return _made(failure, RequestRefused, detail)


def _made(failure: Failure, kind: type[ServiceError], message: str) -> Verdict:
    error = kind(message, code=failure.code, status=failure.status, operation=failure.operation)
    error.__cause__ = failure.cause
    return Verdict(error, issubclass(kind, PASSING))


def _no_answer(failure: Failure) -> str:
    cause = failure.cause
    parts = urlsplit(failure.url)
    if isinstance(cause, TimeoutError):
        return f"{failure.operation}: no answer from {failure.url} in time; check the endpoint, the network and the security groups"
    why = str(cause) or type(cause).__name__
    if is_loopback(parts.hostname or ""):
        return (
            f"{failure.operation}: no answer from {failure.url} ({why}); "
            f"is the broker running? Start it with: streamlet broker --port {parts.port or 80}"
        )
    return f"{failure.operation}: no answer from {failure.url} ({why}); check the endpoint, the region and the network"


def is_loopback(host: str) -> bool:
    """This machine: nothing secret leaves it."""
    return host in {"localhost", "::1"} or host.startswith("127.") or host.endswith(".localhost")


def backoff_s(failures: int, jitter: float, *, base_s: float = 0.1, cap_s: float = 5.0) -> float:
    """How long to wait after the `failures`-th failure in a row: doubled each time, capped, half of it random.

    `jitter` is in [0, 1). Half stays fixed so that a wait is never nothing; the other half spreads callers that were
    throttled together.
    """
    wait_s = min(cap_s, base_s * 2.0 ** min(max(failures, 1) - 1, 30))
    return wait_s * (0.5 + 0.5 * jitter)
