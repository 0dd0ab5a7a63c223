"""Failure documents in a bucket: the records with them, under Lambda's keys, in moto's S3."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from streamlet.destinations import from_arn
from streamlet.destinations.document import failure_document
from streamlet.destinations.s3 import S3Destination, object_key
from streamlet.errors import ConfigurationError, NotFound, Unavailable
from tests.unit.destinations.given_up import SHARD, boto, document, moto_server, without_configuration

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    without_configuration(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


@pytest.fixture
def s3(moto: str) -> Iterator[Any]:
    with boto("s3", moto) as client:
        yield client


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return str(name)


def objects(s3: Any, bucket: str) -> dict[str, Any]:
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in keys}


def test_the_object_is_lambdas_document_with_the_records(s3: Any, bucket: str) -> None:
    """`payload` is a JSON object with the event's records, not an escaped text."""
    destination = from_arn(f"arn:aws:s3:::{bucket}")
    assert isinstance(destination, S3Destination)
    destination.send(document())
    destination.close()
    ((key, body),) = objects(s3, bucket).items()
    assert re.fullmatch(rf"aws/lambda/{UUID}/{SHARD}/2019/11/14/2019-11-14T01\.18\.53-{UUID}", key)
    assert json.dumps(body) == json.dumps(failure_document(document(), payload=True, region="eu-west-1"))
    assert list(body) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo", "payload"]
    assert list(body["payload"]) == ["Records"]
    assert [b64decode(record["kinesis"]["data"]) for record in body["payload"]["Records"]] == [b"\xffpayload"] * 2


def test_a_document_that_is_sent_again_replaces_itself(s3: Any, bucket: str, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, too: a look-alike's host has no names of buckets before it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.replace("127.0.0.1", "localhost"))
    destination = S3Destination(f"s3://{bucket}/")
    for one in (document(), document(), document(1)):
        destination.send(one)
    destination.close()
    assert len(objects(s3, bucket)) == 2


def test_a_key_tells_mapping_shard_time_and_records() -> None:
    """Another function, stream, shard, second or run: another key. The time is UTC, whole seconds, cut off."""
    changes: list[dict[str, Any]] = [
        {}, {"function_name": "others"}, {"stream": "others"}, {"shard_id": "shardId-000000000007"},
        {"timestamp_s": 1573694334.0}, {"document_id": "x"},
    ]  # fmt: skip
    assert len({object_key(document(**change)) for change in changes}) == len(changes)
    assert object_key(document(timestamp_s=1573694333.999)) == object_key(document())
    # A mapping is a stream and a function, and cannot be mistaken for another pair.
    assert (
        object_key(document(stream="a", function_name="b")).split("/")[2]
        != object_key(document(stream="b", function_name="a")).split("/")[2]
    )


def test_keys_are_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "/2019/11/14/2019-11-14T01.18.53-" in object_key(document())
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_missing_bucket_is_named() -> None:
    destination = S3Destination("s3://absent-bucket")
    with pytest.raises(NotFound, match=r"S3Destination\('s3://absent-bucket'\): does not exist; create it"):
        destination.send(document())
    destination.close()


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    destination = S3Destination("s3://bucket")
    with pytest.raises(Unavailable, match="cannot be reached"):
        destination.send(document())
    destination.close()


def test_without_a_region_documents_still_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 alone of the three works without a region."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    destination = S3Destination("s3://bucket")
    assert destination._client.region == "us-east-1"
    destination.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bucket", "name a bucket, as in"),
        (b"s3://bucket", "name a bucket, as in"),
        ("s3://", "name a bucket, as in"),
        ("s3://Bucket", "name a bucket, as in"),
        ("arn:aws:sqs:eu-west-1:123456789012:failed", "name a bucket, as in"),
        ("s3://bucket/prefix", "name the bucket alone"),
        ("arn:aws:s3:::bucket/prefix", "name the bucket alone"),
    ],
)
def test_what_names_no_bucket_is_refused_when_built(name: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        S3Destination(name)


def test_it_is_a_value() -> None:
    assert len({S3Destination("s3://bucket"), S3Destination("s3://bucket"), S3Destination("s3://bucket2")}) == 2
    assert S3Destination("s3://bucket") != "s3://bucket"
    assert repr(S3Destination("s3://bucket")) == "S3Destination('s3://bucket')"
