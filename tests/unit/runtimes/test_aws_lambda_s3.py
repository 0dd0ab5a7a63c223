"""A bucket's notifications in Lambda."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from streamlet import App, ConfigurationError, HandlerError, S3Object, lambda_context
from tests.unit.runtimes.lambda_worlds import Context, event, failures


def s3_event(*keys: str, bucket: str = "landing", name: str = "ObjectCreated:Put", **object_fields: Any) -> dict[str, Any]:
    """Reference: Amazon S3 user guide, notification-content-structure."""
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": "us-east-2",
                "eventTime": "2019-09-03T19:37:27.192Z",
                "eventName": name,
                "userIdentity": {"principalId": "AWS:AIDAINPONIXQXHT3IKHL2"},
                "requestParameters": {"sourceIPAddress": "205.255.255.255"},
                "responseElements": {"x-amz-request-id": "D82B88E5F771F645"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "828aa6fc-f7b5-4305-8584-487c791949c1",
                    "bucket": {"name": bucket, "ownerIdentity": {"principalId": "A3I5XTEXAMAI3E"}, "arn": f"arn:aws:s3:::{bucket}"},
                    "object": {
                        "key": key,
                        "size": 1305107,
                        "eTag": "b21b84d653bb07b05b1e6b33684dc11b",
                        "sequencer": "0C0F6F405D6ED209E1",
                        **object_fields,
                    },
                },
            }
            for key in keys
        ]
    }


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    made.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_object_as_it_is(app: App, asynchronous: bool) -> None:
    """The key is quoted in the event, with plus for a space."""
    seen: list[Any] = []

    def take(thing: S3Object) -> None:
        seen.append(thing)
        context = lambda_context()
        assert context is not None
        assert (context.event_source_arn, context.request_id) == ("arn:aws:s3:::landing", Context.aws_request_id)

    async def later(thing: S3Object) -> None:
        take(thing)

    app.on_s3("landing")(later if asynchronous else take)
    assert app.lambda_handler(s3_event("a+b/%C3%A4%2B1.json", versionId="v1"), Context()) is None
    assert seen == [
        S3Object(
            bucket="landing",
            key="a b/ä+1.json",
            event_name="ObjectCreated:Put",
            event_time=datetime(2019, 9, 3, 19, 37, 27, 192000, tzinfo=UTC),
            size=1305107,
            etag="b21b84d653bb07b05b1e6b33684dc11b",
            version_id="v1",
            sequencer="0C0F6F405D6ED209E1",
            region="us-east-2",
        )
    ]
    assert seen[0].url == "s3://landing/a b/ä+1.json"


def test_a_deletion_has_no_size(app: App) -> None:
    seen: list[S3Object] = []
    app.on_s3("landing")(seen.append)
    gone = s3_event("x", name="ObjectRemoved:Delete")
    for field in ("size", "eTag"):
        del gone["Records"][0]["s3"]["object"][field]
    app.lambda_handler(gone, Context())
    assert (seen[0].size, seen[0].etag, seen[0].version_id) == (None, None, None)


def test_what_the_handler_raises_is_raised_and_ends_the_event(app: App) -> None:
    seen = []

    @app.on_s3("landing")
    def take(thing: S3Object) -> None:
        seen.append(thing.key)
        if thing.key == "b":
            raise ZeroDivisionError("of the handler")

    with pytest.raises(ZeroDivisionError):
        app.lambda_handler(s3_event("a", "b", "c"), Context())
    assert seen == ["a", "b"]


def test_an_unknown_bucket_says_which_there_are_and_nothing_is_run(app: App) -> None:
    seen: list[S3Object] = []
    app.on_s3("landing")(seen.append)
    both = s3_event("a")
    both["Records"] += s3_event("b", bucket="other")["Records"]
    with pytest.raises(ConfigurationError, match="no handler for bucket 'other'.*it has landing"):
        app.lambda_handler(both, Context())
    assert seen == []


def test_one_app_takes_streams_and_buckets(app: App) -> None:
    seen: list[Any] = []
    app.on_s3("landing")(lambda thing: seen.append(thing.key))
    app.on_record("orders")(lambda record: seen.append(record.value))
    app.lambda_handler(s3_event("a"), Context())
    assert app.lambda_handler(event(b"1"), Context()) == failures()
    assert seen == ["a", 1]


@pytest.mark.parametrize("field", ["eventName", "eventTime", "s3"])
def test_an_event_that_is_not_as_s3_sends_it_is_told(app: App, field: str) -> None:
    app.on_s3("landing")(lambda thing: None)
    odd = s3_event("a")
    odd["Records"][0][field] = {} if field == "s3" else "x" if field == "eventTime" else None
    if field == "eventName":
        del odd["Records"][0][field]
    with pytest.raises(HandlerError, match="not as S3 sends it"):
        app.lambda_handler(odd, Context())


@pytest.mark.parametrize("bucket", ["", "UPPER", "a", "s3://landing", 5, None])
def test_what_is_no_bucket_is_refused(app: App, bucket: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs the name of a bucket"):
        app.on_s3(bucket)


def test_a_bucket_has_one_handler_that_takes_one_object(app: App) -> None:
    app.on_s3("landing")(lambda thing: None)
    with pytest.raises(ConfigurationError, match="has a handler for bucket 'landing' already"):
        app.on_s3("landing")(lambda thing: None)
    with pytest.raises(HandlerError, match="cannot be called with one object"):
        app.on_s3("other")(lambda: None)
    with pytest.raises(HandlerError, match="it does not yield"):
        app.on_s3("other")((lambda: (yield)).__get__(1))


def test_a_handler_that_only_returns_a_generator_is_no_success(app: App) -> None:
    """Nothing of it has run: to answer Lambda with success would lose the event."""

    def work(thing: S3Object) -> Iterator[None]:
        yield

    app.on_s3("landing")(lambda thing: work(thing))
    with pytest.raises(HandlerError, match="has not run"):
        app.lambda_handler(s3_event("a.csv"), Context())
