"""Failure documents in a queue: Lambda's document without records, to moto's SQS; and what is said when they do not get there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from streamlet.destinations import from_arn
from streamlet.destinations.aws import checked_size
from streamlet.destinations.document import failure_document
from streamlet.destinations.file import FileDestination
from streamlet.destinations.sqs import SqsDestination
from streamlet.errors import AccessRefused, ConfigurationError, NotFound, RequestRefused, SinkError, StreamletError, Throttled, Unavailable
from streamlet.spec import EventSourceMapping
from tests.unit.destinations.given_up import boto, document, moto_server, without_configuration

ARN = "arn:aws:sqs:eu-west-1:123456789012:failed"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    without_configuration(monkeypatch)


class Queue:
    """Seen from outside."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name
        self.url = client.create_queue(QueueName=name)["QueueUrl"]

    def bodies(self) -> list[dict[str, Any]]:
        found = self._client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
        return [json.loads(message["Body"]) for message in found]


@pytest.fixture
def queue(moto: str, request: pytest.FixtureRequest) -> Iterator[Queue]:
    with boto("sqs", moto) as client:
        yield Queue(client, request.node.name)


def closing(destination: SqsDestination, action: Callable[[SqsDestination], None]) -> None:
    try:
        action(destination)
    finally:
        destination.close()


def test_the_body_is_lambdas_document_without_records(moto: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key for key and in AWS's order; region and account are those of the queue."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto)
    destination = SqsDestination(f"arn:aws:sqs:eu-west-1:123456789012:{queue.name}")
    closing(destination, lambda it: it.send(document()))
    (body,) = queue.bodies()
    assert json.dumps(body) == json.dumps(failure_document(document(), payload=False, region="eu-west-1", account_id="123456789012"))
    assert list(body) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
    assert body["requestContext"]["functionArn"] == "arn:aws:lambda:eu-west-1:123456789012:function:orders"
    assert body["KinesisBatchInfo"]["streamArn"] == "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
    assert body["KinesisBatchInfo"]["batchSize"] == 2


def test_a_url_of_another_host_is_its_own_endpoint(moto: str) -> None:
    """No variables, no credentials: a local queue needs none."""
    with boto("sqs", moto, region="us-east-1") as client:
        made = Queue(client, "local")
        assert made.url.startswith(moto)
        closing(SqsDestination(made.url), lambda it: it.send(document()))
        assert len(made.bodies()) == 1


def test_it_may_be_closed_and_used_again_by_any_thread(moto: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    destination = from_arn(f"arn:aws:sqs:eu-west-1:123456789012:{queue.name}")
    assert isinstance(destination, SqsDestination)
    destination.close()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(destination.send, map(document, range(3))))
    destination.close()
    assert destination._client._client is None
    destination.send(document(3))
    destination.close()
    destination.close()
    assert len({body["KinesisBatchInfo"]["startSequenceNumber"] for body in queue.bodies()}) == 4


def test_a_missing_queue_is_named(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto)
    with pytest.raises(NotFound, match=r"SqsDestination\('arn:aws:sqs:eu-west-1:123456789012:absent'\): does not exist; create it"):
        closing(SqsDestination(ARN.replace("failed", "absent")), lambda it: it.send(document()))


# ── what does not get there ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def scripted() -> Iterator[Callable[[int, str], str]]:
    """An SQS that answers everything with one status and one error."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "he said why"}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/000000000000/failed"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (
            403,
            "AccessDeniedException",
            AccessRefused,
            r"access is refused; allow sqs:SendMessage, or use other credentials \(he said why\)",
        ),
        (403, "InvalidClientTokenId", AccessRefused, "credentials are wrong or have expired"),
        (400, "QueueDoesNotExist", NotFound, "does not exist; create it"),
        (400, "RequestThrottled", Throttled, "asked too fast"),
        *[(400, code, Throttled, "asked too fast") for code in ("KmsThrottled", "KMS.ThrottlingException", "KMSThrottling")],
        *[
            (400, code, AccessRefused, r"its encryption key refuses; allow kms:GenerateDataKey and kms:Decrypt on it \(he said why\)")
            for code in ("KmsAccessDenied", "KMS.AccessDeniedException", "KMSAccessDenied")
        ],
        (503, "ServiceUnavailable", Unavailable, "the service failed"),
        (400, "InvalidMessageContents", RequestRefused, "refused it: InvalidMessageContents: he said why"),
    ],
)
def test_refusals_say_what_to_do(
    scripted: Callable[[int, str], str], status: int, code: str, kind: type[StreamletError], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        closing(SqsDestination(scripted(status, code)), lambda it: it.send(document()))
    assert "\n" not in str(caught.value)
    assert caught.value.status == status  # type: ignore[attr-defined]


def test_no_answer() -> None:
    with pytest.raises(Unavailable, match="cannot be reached.*it is tried again"):
        closing(SqsDestination("http://127.0.0.1:1/000000000000/failed"), lambda it: it.send(document()))


def test_no_credentials() -> None:
    """Found before anything is sent."""
    with pytest.raises(AccessRefused, match="there are no credentials.*set AWS_ACCESS_KEY_ID"):
        closing(SqsDestination(ARN), lambda it: it.send(document()))


def test_a_configuration_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no AWS region is set; set AWS_REGION, or give region= or an ARN"):
        closing(SqsDestination("https://queue.vpce-1.sqs.vpce.amazonaws.com/123456789012/failed"), lambda it: it.send(document()))
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(ConfigurationError, match="the AWS configuration cannot be used.*absent"):
        closing(SqsDestination(ARN), lambda it: it.send(document()))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "no url")
    with pytest.raises(ConfigurationError, match="the AWS configuration cannot be used"):
        closing(SqsDestination(ARN), lambda it: it.send(document()))


def test_a_document_has_a_bound() -> None:
    assert checked_size(b"x" * 5, 5, "q") == "xxxxx"
    with pytest.raises(SinkError, match="q: the failure document has 6 bytes, 5 are allowed; send it to S3"):
        checked_size(b"x" * 6, 5, "q")


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("failed", "name a queue by its ARN or its URL"),
        ("", "name a queue by its ARN or its URL"),
        (5, "name a queue by its ARN or its URL"),
        ("arn:aws:sns:eu-west-1:123456789012:failed", "name a queue by its ARN or its URL"),
        ("arn:aws:sqs::123456789012:failed", "name a queue by its ARN or its URL"),
        ("arn:aws:sqs:eu-west-1::failed", "name a queue by its ARN or its URL"),
        ("arn:aws:sqs:eu-west-1:123456789012:", "name a queue by its ARN or its URL"),
        ("arn:aws:sqs:eu-west-1:123456789012:a/b", "cannot be the name of a queue"),
        ("arn:aws:sqs:eu-west-1:123456789012:failed.fifo", "a FIFO queue cannot be an on-failure destination; use a standard queue"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/failed.fifo", "a FIFO queue cannot be"),
        ("https://sqs.eu-west-1.amazonaws.com/", "cannot be the name of a queue"),
        ("https:///123456789012/failed", "this is no queue's URL"),
        ("http://localhost:x/1/failed", "this is no queue's URL"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/failed?x=1", "this is no queue's URL"),
    ],
)
def test_what_names_no_queue_is_refused_when_built(name: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SqsDestination(name)


@pytest.mark.parametrize(
    ("url", "region", "account", "own_endpoint"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/failed", "eu-west-1", "123456789012", False),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/failed", "cn-north-1", "123456789012", False),
        ("https://sqs.us-gov-west-1.amazonaws.com/123456789012/failed", "us-gov-west-1", "123456789012", False),
        ("https://eu-west-1.queue.amazonaws.com/123456789012/failed", "eu-west-1", "123456789012", False),
        ("https://queue.amazonaws.com/123456789012/failed", "us-east-1", "123456789012", False),
        ("https://sqs.eu-west-1.api.aws/123456789012/failed", "eu-west-1", "123456789012", True),
        ("https://vpce-0abc-1xyz.sqs.eu-west-1.vpce.amazonaws.com/123456789012/failed", "eu-west-1", "123456789012", True),
        ("https://sqs.eusc-de-east-1.amazonaws.eu/123456789012/failed", "eusc-de-east-1", "123456789012", True),
        ("http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/failed", "eu-west-1", "000000000000", True),
        ("http://localhost:4566/queue/eu-west-1/000000000000/failed", None, "000000000000", True),
        ("http://localhost:9324/queue/failed", None, "000000000000", True),
    ],
)  # fmt: skip
def test_what_a_url_says(url: str, region: str | None, account: str, own_endpoint: bool) -> None:
    made = SqsDestination(url)
    assert (made._region, made._account, made._name) == (region, account, "failed")
    assert (made._client._endpoint_url is not None) is own_endpoint


def test_it_is_a_value() -> None:
    assert SqsDestination(ARN) == SqsDestination(ARN) == from_arn(ARN)
    assert len({SqsDestination(ARN), SqsDestination(ARN), SqsDestination(ARN + "2")}) == 2
    assert SqsDestination(ARN) != FileDestination("x")
    assert EventSourceMapping(on_failure=SqsDestination(ARN), maximum_retry_attempts=1).on_failure is not None


@pytest.mark.parametrize("arn", ["", "failed.jsonl", "arn:aws:lambda:eu-west-1:123456789012:function:f", "arn:aws:sqs:" + "x" * 400])
def test_an_arn_of_something_else(arn: str) -> None:
    with pytest.raises(ConfigurationError, match="is no on-failure destination: use the ARN of an SQS queue"):
        from_arn(arn)
