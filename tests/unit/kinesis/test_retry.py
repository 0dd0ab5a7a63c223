"""The retry table: which class, and whether asking again can help."""

from __future__ import annotations

import pytest

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
from streamlet.kinesis.retry import Failure, backoff_s, verdict


@pytest.mark.parametrize(
    ("operation", "status", "code", "kind", "again"),
    [
        ("GetRecords", 400, "ProvisionedThroughputExceededException", Throttled, True),
        ("PutRecords", 200, "ProvisionedThroughputExceededException", Throttled, True),
        ("ListShards", 400, "LimitExceededException", Throttled, True),
        ("GetRecords", 400, "KMSThrottlingException", Throttled, True),
        ("PutRecords", 429, "", Throttled, True),
        ("GetRecords", 400, "ExpiredIteratorException", IteratorExpired, False),
        ("PutRecords", 500, "InternalFailure", Unavailable, True),
        ("PutRecords", 200, "InternalFailure", Unavailable, True),
        ("GetRecords", 503, "", Unavailable, True),
        ("PutRecords", 408, "", Unavailable, True),
        ("PutRecords", 400, "ResourceNotFoundException", NotFound, False),
        ("PutRecords", 400, "UnrecognizedClientException", AccessRefused, False),
        ("PutRecords", 400, "ExpiredTokenException", AccessRefused, False),
        ("PutRecords", 403, "", AccessRefused, False),
        ("PutRecords", 400, "AccessDeniedException", AccessRefused, False),
        ("GetRecords", 400, "KMSAccessDeniedException", AccessRefused, False),
        ("GetRecords", 400, "InvalidArgumentException", IteratorRefused, False),
        ("GetShardIterator", 400, "InvalidArgumentException", IteratorRefused, False),
        ("PutRecords", 400, "InvalidArgumentException", RequestRefused, False),
        ("PutRecords", 400, "ValidationException", RequestRefused, False),
        ("PutRecords", 400, "ResourceInUseException", Unavailable, True),
        ("CreateStream", 400, "ResourceInUseException", RequestRefused, False),
        ("PutRecords", 413, "", RequestRefused, False),
    ],
)
def test_each_row(operation: str, status: int, code: str, kind: type[ServiceError], again: bool) -> None:
    found = verdict(Failure(operation, status, code, "why", url="http://x", stream="orders"))
    assert type(found.error) is kind
    assert found.again is again
    assert (found.error.code, found.error.status, found.error.operation) == (code, status, operation)
    assert operation in str(found.error)


def test_no_answer_says_what_to_do() -> None:
    """A local endpoint: start the broker. A remote one: check the network. A time-out: neither refused nor broken."""
    local = verdict(Failure("PutRecords", cause=ConnectionRefusedError("refused"), url="http://127.0.0.1:4567"))
    assert local.again
    assert type(local.error) is Unavailable
    assert "streamlet broker --port 4567" in str(local.error)
    remote = verdict(Failure("PutRecords", cause=OSError("no route"), url="https://kinesis.eu-west-1.amazonaws.com"))
    assert "check the endpoint, the region and the network" in str(remote.error)
    late = verdict(Failure("PutRecords", cause=TimeoutError(), url="https://kinesis.eu-west-1.amazonaws.com"))
    assert "in time" in str(late.error)


def test_backoff_doubles_to_its_cap_and_is_never_nothing() -> None:
    assert [backoff_s(n, 0.0, base_s=1.0, cap_s=6.0) for n in (1, 2, 3, 4, 5, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
    assert backoff_s(1, 0.5, base_s=1.0, cap_s=6.0) == 0.75
    assert backoff_s(0, 0.0, base_s=1.0) == 0.5
