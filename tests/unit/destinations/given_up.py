"""What the tests of the AWS destinations share: a document, a machine without AWS configuration, and moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streamlet.core.failure import RETRY_ATTEMPTS_EXHAUSTED
from streamlet.model.record import Record
from streamlet.ports import FailureDocument

SHARD = "shardId-000000000006"
FIRST = 4959033827149025660855969253836157109592157598913658889
_UNSET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_S3"),
)


def document(number: int = 0, **changes: Any) -> FailureDocument:
    """Two records, given up after three tries."""
    record = Record(b"\xffpayload", "key", str(FIRST + number), 0, 1545084650.987)
    fields: dict[str, Any] = {
        "document_id": f"orders/{SHARD}/{number}",
        "request_id": f"orders/{SHARD}/{number}",
        "function_name": "orders",
        "condition": RETRY_ATTEMPTS_EXHAUSTED,
        "invoke_count": 3,
        "function_error": "Unhandled",
        "stream": "orders",
        "shard_id": SHARD,
        "timestamp_s": 1573694333.0,
        "records": [record, record],
    }
    return FailureDocument(**(fields | changes))


def without_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, region, profile or endpoint of whoever runs the tests."""
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@contextmanager
def moto_server() -> Iterator[str]:
    """Its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def boto(service: str, endpoint: str, region: str = "eu-west-1") -> Iterator[Any]:
    """A client that looks on from outside."""
    import boto3

    client = boto3.client(service, endpoint_url=endpoint, region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
    try:
        yield client
    finally:
        client.close()
