"""Are signatures checked as the service does? Signed by botocore's own signers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import Credentials

from streamlet.broker import ApiError, Broker
from streamlet.broker.auth import caller
from streamlet.broker.http import Request
from streamlet.broker.signatures import Verifier, read_secrets
from streamlet.errors import ConfigurationError
from tests.unit.broker.test_http2 import Client

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
VERIFIER = Verifier({KEY: SECRET, "OTHER": "x"})


def signed(*, secret: str = SECRET, key: str = KEY, query: bool = False, service: str = "kinesis", path: str = "/", **more: str) -> Request:
    body = b"" if query else b'{"StreamName":"s"}'  # botocore's signer of queries moves a body into the query
    request = AWSRequest("POST", f"http://127.0.0.1:4567{path}", data=body, headers={"X-Amz-Target": "a  b ", **more})
    credentials = Credentials(key, secret, "session/token==")
    (SigV4QueryAuth(credentials, service, "eu-west-1", expires=600) if query else SigV4Auth(credentials, service, "eu-west-1")).add_auth(
        request
    )
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    headers = {name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in prepared.headers.items()}
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return Request("POST", target, {**headers, "host": "127.0.0.1:4567"}, body, keep_alive=True)


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def refusal(request: Request, at_ms: int | None = None) -> tuple[str, str]:
    with pytest.raises(ApiError) as caught:
        VERIFIER.check(request, at_ms or now_ms())
    return caught.value.code or "", caught.value.text


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("path", ["/", "/?b=2&a=%2F1&a=0", "/a%20b/c~d"])
def test_what_botocore_signs_is_taken(query: bool, path: str) -> None:
    VERIFIER.check(signed(query=query, path=path), now_ms())


@pytest.mark.parametrize("query", [False, True])
def test_whatever_is_changed_is_found(query: bool) -> None:
    good = signed(query=query)
    target = good.target + ("&x=1" if query else "?x=1")
    changed = [good._replace(body=b"{}"), good._replace(target=target), good._replace(headers={**good.headers, "host": "other"})]
    if not query:
        changed.append(good._replace(headers={**good.headers, "x-amz-security-token": "another"}))
    for request in (*changed, signed(query=query, secret="no")):
        code, text = refusal(request)
        assert code == "InvalidSignatureException"
        assert text.startswith("The request signature we calculated does not match the signature you provided.")
        assert SECRET not in text


def test_whoever_signs_is_also_who_calls() -> None:
    """Two credentials in one header: the account is that of the one whose signature was checked."""
    request = signed()
    header = request.headers["authorization"]
    request.headers["authorization"] = header.replace(
        "Credential=", "Credential=111122223333/20260101/us-west-2/kinesis/aws4_request, Credential="
    )
    VERIFIER.check(request, now_ms())
    assert caller(request) == caller(signed())
    assert caller(request)[0] != "111122223333"


def test_authority_is_signed_in_hosts_place_over_http_2(verifying: Broker) -> None:
    """As the JavaScript SDK does. The one that sends both, as proxies do, signs one."""
    url = verifying.endpoint_url
    place = urlsplit(url).netloc
    for name, more in ((":authority", []), ("host", [("host", place)])):
        body = b"{}"
        request = AWSRequest(
            "POST", url, data=body, headers={"X-Amz-Target": "Kinesis_20131202.ListStreams", "Content-Type": "application/x-amz-json-1.1"}
        )
        signer = SigV4Auth(Credentials(KEY, SECRET), "kinesis", "eu-west-1")
        signed_here = HTTPHeaders()
        signed_here[name] = place
        signer.headers_to_sign = lambda _, chosen=signed_here: chosen
        signer.add_auth(request)
        head = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", place), *more]
        with closing(Client(url)) as client:
            stream = client.h2.get_next_available_stream_id()
            client.bodies[stream] = bytearray()
            client.h2.send_headers(stream, head + [(key.lower(), value) for key, value in request.headers.items()])
            client.h2.send_data(stream, body, end_stream=True)
            client.flush()
            assert client.answer(stream)["StreamNames"] == ["s"]


def test_an_unknown_key() -> None:
    assert refusal(signed(key="NOBODY")) == ("UnrecognizedClientException", "The security token included in the request is invalid.")


@pytest.mark.parametrize(("query", "life_s"), [(False, 300), (True, 600)])
def test_the_clock_may_differ_by_five_minutes(query: bool, life_s: int) -> None:
    request = signed(query=query)
    now = now_ms()
    VERIFIER.check(request, now + life_s * 1000 - 5_000)
    VERIFIER.check(request, now - 295_000)
    assert refusal(request, now + life_s * 1000 + 2_000)[1].startswith("Signature expired: ")
    code, text = refusal(request, now - 305_000)
    assert code == "InvalidSignatureException"
    assert text.startswith("Signature not yet current: ")
    assert text.endswith("+ 5 min.)")


def test_scopes_and_forms_that_are_wrong() -> None:
    assert "correct service: 'kinesis'" in refusal(signed(service="s3"))[1]
    good = signed()
    header = good.headers["authorization"]

    def bent(old: str, new: str, **headers: str) -> tuple[str, str]:
        return refusal(good._replace(headers={**good.headers, "authorization": header.replace(old, new), **headers}))

    assert bent("/aws4_request", "")[0] == "IncompleteSignatureException"
    assert bent("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")[0] == "IncompleteSignatureException"
    assert "'Host'" in bent("SignedHeaders=host;", "SignedHeaders=")[1]
    assert "Date in Credential scope" in bent(f"/{good.headers['x-amz-date'][:8]}/", "/20200101/")[1]
    assert refusal(good._replace(headers={**good.headers, "x-amz-date": "yesterday"}))[0] == "IncompleteSignatureException"
    undated = {name: value for name, value in good.headers.items() if name != "x-amz-date"}
    for date in ("yesterday", "Fri, 31 Dec 9999 23:59:59 -2300"):
        assert refusal(good._replace(headers={**undated, "date": date}))[0] == "IncompleteSignatureException"
    assert bent("Signature=", "Signature=ä")[0] == "InvalidSignatureException"


@pytest.fixture
def verifying() -> Iterator[Broker]:
    with Broker.in_thread(streams={"s": 1}, verify={KEY: SECRET}) as running:
        yield running


def client_with(url: str, **more: Any) -> Any:
    return boto3.client(
        "kinesis",
        endpoint_url=url,
        region_name="eu-west-1",
        config=Config(retries={"total_max_attempts": 1}),
        **{"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, **more},
    )


def test_boto3_against_a_broker_that_verifies(verifying: Broker) -> None:
    url = verifying.endpoint_url
    good = client_with(url, aws_session_token="t/+=")
    assert good.put_record(StreamName="s", Data="ü€".encode() * 1000, PartitionKey="ü")["ShardId"]
    good.close()
    for more, code in (
        ({"aws_secret_access_key": "no"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "NOBODY"}, "UnrecognizedClientException"),
    ):
        client = client_with(url, **more)
        with pytest.raises(client.exceptions.ClientError) as caught:
            client.list_streams()
        client.close()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    # The broker's own calls need no signature, and its clock is the one that counts.
    verifying.state.ahead_s += 400
    late = client_with(url)
    with pytest.raises(late.exceptions.ClientError, match="Signature expired"):
        late.list_streams()
    late.close()
    assert verifying.call("ListStreams")["StreamNames"] == ["s"]


def test_secrets_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text(
        "[a]\naws_access_key_id=K1\naws_secret_access_key=100%\n[b]\nregion=x\n[c]\naws_access_key_id = K2\naws_secret_access_key = s2\n"
    )
    assert read_secrets(str(path), {}) == {"K1": "100%", "K2": "s2"}
    assert read_secrets(None, {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}) == {"k": "s"}
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
        read_secrets(None, {"AWS_ACCESS_KEY_ID": "k"})
    for content in ("nonsense with hunter2", "[a]\nregion=x\n", "[a]\naws_access_key_id=hunter2\n"):
        path.write_text(content)
        with pytest.raises(ConfigurationError) as caught:
            read_secrets(str(path), {})
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secrets(str(tmp_path / "none"), {})
    assert json.dumps(SECRET) not in repr(VERIFIER)
