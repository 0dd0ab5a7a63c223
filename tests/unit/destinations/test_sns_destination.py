"""Failure documents to a topic: what a subscriber gets from moto's SNS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from streamlet.core.failure import RECORD_AGE_EXCEEDED
from streamlet.destinations import from_arn
from streamlet.destinations.document import failure_document
from streamlet.destinations.sns import SnsDestination
from streamlet.errors import ConfigurationError, NotFound, Unavailable
from tests.unit.destinations.given_up import boto, document, moto_server, without_configuration

ARN = "arn:aws:sns:eu-west-1:123456789012:failed"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    without_configuration(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", moto)


def test_a_subscriber_gets_lambdas_document_without_records(moto: str) -> None:
    """Key for key; twice closed, it opens anew. A document of records that were too old has no responseContext."""
    with boto("sns", moto) as sns, boto("sqs", moto) as sqs:
        arn = sns.create_topic(Name="failed")["TopicArn"]
        url = sqs.create_queue(QueueName="subscriber")["QueueUrl"]
        queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue, Attributes={"RawMessageDelivery": "true"})
        assert arn == ARN
        destination = from_arn(arn)
        assert isinstance(destination, SnsDestination)
        sent = [document(), document(1, condition=RECORD_AGE_EXCEEDED, function_error=None)]
        for one in sent:
            destination.send(one)
            destination.close()
        got = [json.loads(m["Body"]) for m in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]]
    expected = [failure_document(one, payload=False, region="eu-west-1", account_id="123456789012") for one in sent]
    assert sorted(map(json.dumps, got)) == sorted(map(json.dumps, expected))
    assert sorted("responseContext" in one for one in got) == [False, True]


def test_a_missing_topic_is_named() -> None:
    destination = SnsDestination(ARN + "-absent")
    with pytest.raises(NotFound, match=r"SnsDestination\('arn:aws:sns:eu-west-1:123456789012:failed-absent'\): does not exist; create it"):
        destination.send(document())
    destination.close()


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", "http://127.0.0.1:1")
    destination = SnsDestination(ARN)
    with pytest.raises(Unavailable, match="cannot be reached"):
        destination.send(document())
    destination.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("failed", "name a topic by its ARN"),
        (None, "name a topic by its ARN"),
        ("arn:aws:sqs:eu-west-1:123456789012:failed", "name a topic by its ARN"),
        ("arn:aws:sns:eu-west-1:123456789012:", "name a topic by its ARN"),
        ("arn:aws:sns:eu-west-1:123456789012:failed:5b1c8f0e-6a1e-5c0a-9f0e-7d2c4b8a3e10", "name a topic by its ARN"),
        ("arn:aws:sns:eu-west-1:123456789012:failed.fifo", "a FIFO topic cannot be an on-failure destination; use a standard topic"),
    ],
)
def test_what_names_no_topic_is_refused_when_built(name: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SnsDestination(name)


def test_it_is_a_value() -> None:
    assert len({SnsDestination(ARN), SnsDestination(ARN), SnsDestination(ARN + "2")}) == 2
    assert SnsDestination(ARN) != ARN
    assert repr(SnsDestination(ARN)) == f"SnsDestination({ARN!r})"
