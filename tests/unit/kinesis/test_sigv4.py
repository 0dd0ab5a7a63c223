"""Signatures are those of botocore's own signer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from streamlet.kinesis.sigv4 import Credentials, Signer

TARGET = "Kinesis_20131202.PutRecords"


def botocores(monkeypatch: pytest.MonkeyPatch, url: str, body: bytes, credentials: Credentials, now_s: float) -> Any:
    moment = datetime.fromtimestamp(now_s, UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET})
    signer = SigV4Auth(BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token), "kinesis", "eu-west-1")
    signer.add_auth(request)
    return request.headers


@pytest.mark.parametrize("token", [None, "a-session-token=="])
@pytest.mark.parametrize(
    "url",
    [
        "https://kinesis.eu-west-1.amazonaws.com",
        "https://kinesis.eu-west-1.amazonaws.com/",
        "http://127.0.0.1:4567",
        "http://localhost:80",
        "http://[::1]:4567",
        "http://localhost:4566/some/path",
    ],
)
def test_the_signature_is_botocores(monkeypatch: pytest.MonkeyPatch, url: str, token: str | None) -> None:
    """For several bodies, moments and secrets with one signer, so that its caches are looked at, too."""
    signer = Signer(url, "eu-west-1")
    for now_s in (1_700_000_000.25, 1_700_000_000.75, 1_700_000_001.0, 1_700_100_000.0):
        for access, secret in (("AKIDEXAMPLE", "secret"), ("AKIDOTHER", "other")):
            credentials = Credentials(access, secret, token)
            for body in (b"", b'{"StreamName":"s"}', bytes(range(256))):
                ours = signer.headers(TARGET, body, credentials, now_s)
                theirs = botocores(monkeypatch, url, body, credentials, now_s)
                assert ours["Authorization"] == theirs["Authorization"]
                assert ours["X-Amz-Date"] == theirs["X-Amz-Date"]
                assert ours.get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token")


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(Credentials("AKIDEXAMPLE", "hidden-secret", "hidden-token"))
