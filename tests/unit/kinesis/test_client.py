"""The client against a real broker over real sockets, and against a transport that says what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from streamlet.broker import Broker
from streamlet.errors import (
    AccessRefused,
    ConfigurationError,
    InternalError,
    IteratorExpired,
    IteratorRefused,
    NotFound,
    RequestRefused,
    Throttled,
    Unavailable,
)
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.sigv4 import Credentials
from streamlet.kinesis.wire import PutEntry


class StepClock:
    """Sleeping moves it, and nothing else does."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0
        self.slept_s: list[float] = []

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own AWS settings stay out of the tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_KINESIS", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def test_put_and_read_back() -> None:
    """Bytes, keys and sequence numbers survive the way there and back."""
    async with Broker(streams={"s": 1}) as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=StepClock()) as client:
        put = await client.put_records("s", [PutEntry(bytes(range(256)), "ключ"), PutEntry(b"", "k", "5")])
        assert [entry.error_code for entry in put.records] == [None, None]
        iterator = await client.get_shard_iterator("s", "shardId-000000000000", "TRIM_HORIZON")
        answer = await client.get_records(iterator, 10)
        assert [(r.data, r.partition_key) for r in answer.records] == [(bytes(range(256)), "ключ"), (b"", "k")]
        assert [r.sequence_number for r in answer.records] == [entry.sequence_number for entry in put.records]
        assert answer.next_shard_iterator
        assert answer.millis_behind_latest == 0


async def test_a_large_body_goes_without_a_warning() -> None:
    """aiohttp warns about bodies over 1 MiB, and the suite makes warnings errors."""
    async with Broker(streams={"s": 1}) as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=StepClock()) as client:
        answer = await client.put_records("s", [PutEntry(b"x" * 1_000_000, "k")] * 3)
        assert answer.failed_record_count == 0


async def test_shards_come_page_by_page_with_their_parents() -> None:
    async with Broker(streams={"s": 3}) as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=StepClock()) as client:
        broker.split_shard("s", 0)
        broker.merge_shards("s", 1, 2)
        shards = await client.list_shards("s")
        assert [(s.closed, len(s.parents)) for s in shards] == [(True, 0)] * 3 + [(False, 1), (False, 1), (False, 2)]
        assert shards[0].starting_hash_key == 0
        assert max(s.ending_hash_key for s in shards) == 2**128 - 1


async def test_create_and_describe() -> None:
    async with Broker() as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=StepClock()) as client:
        await client.create_stream("new", 2)
        summary = await client.describe_stream_summary("new")
        assert (summary.stream_status, summary.open_shard_count) == ("ACTIVE", 2)
        with pytest.raises(RequestRefused) as refused:
            await client.create_stream("new", 2)
        assert refused.value.code == "ResourceInUseException"
        assert (await client.call("ListStreams", {}))["StreamNames"] == ["new"]
        assert await client.call("DeleteStream", {"StreamName": "new"}) is None


async def test_refusals_have_their_class() -> None:
    async with Broker(streams={"s": 1}) as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=StepClock()) as client:
        with pytest.raises(NotFound, match="create the stream 'missing' first"):
            await client.describe_stream_summary("missing")
        with pytest.raises(IteratorRefused):
            await client.get_records("rubbish", 1)
        with pytest.raises(IteratorRefused):
            await client.get_shard_iterator("s", "shardId-000000000000", "AT_SEQUENCE_NUMBER", sequence_number="9" * 60)
        iterator = await client.get_shard_iterator("s", "shardId-000000000000", "LATEST")
        broker.faults.expire_iterators()
        with pytest.raises(IteratorExpired):
            await client.get_records(iterator, 1)
        broker.faults.throttle("PutRecords")
        with pytest.raises(Throttled):
            await client.put_records("s", [PutEntry(b"", "k")])


async def test_reads_are_repeated_a_few_times_and_puts_are_not() -> None:
    """A control read bridges two dropped connections; PutRecords and GetRecords are the caller's to repeat."""
    clock = StepClock()
    async with Broker(streams={"s": 1}) as broker, KinesisClient(endpoint_url=broker.endpoint_url, clock=clock) as client:
        broker.faults.reset_before("ListShards", 2)
        assert len(await client.list_shards("s")) == 1
        assert clock.slept_s == pytest.approx([0.075, 0.15])
        broker.faults.reset_before("ListShards", 3)
        with pytest.raises(Unavailable):
            await client.list_shards("s")
        broker.faults.reset_before("PutRecords")
        with pytest.raises(Unavailable):
            await client.put_records("s", [PutEntry(b"", "k")])


async def test_nobody_there_says_how_to_start_the_broker() -> None:
    async with Broker() as broker:
        url = broker.endpoint_url
    async with KinesisClient(endpoint_url=url, clock=StepClock()) as client:
        with pytest.raises(Unavailable, match="is the broker running"):
            await client.list_shards("s")


class Says:
    """A transport with one answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self.answer = (status, body)
        self.headers: list[Mapping[str, str]] = []
        self.closed = False

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        self.headers.append(headers)
        return self.answer

    async def close(self) -> None:
        self.closed = True


async def test_an_answer_that_is_not_kinesis() -> None:
    """A web server on the port, an error page of a proxy, a cut body."""
    page = Says(200, b"<html>It works!</html>")
    async with KinesisClient(endpoint_url="http://127.0.0.1:1", clock=StepClock(), transport=page) as client:
        with pytest.raises(Unavailable, match="another service"):
            await client.get_records("i", 1)
    assert not page.closed
    gateway = Says(502, b"<html>Bad gateway</html>")
    async with KinesisClient(endpoint_url="http://127.0.0.1:1", clock=StepClock(), transport=gateway) as client:
        with pytest.raises(Unavailable, match="Bad gateway"):
            await client.get_records("i", 1)
    short = Says(200, b'{"Records":[],"FailedRecordCount":0}')
    async with KinesisClient(endpoint_url="http://127.0.0.1:1", clock=StepClock(), transport=short) as client:
        with pytest.raises(Unavailable, match="1 records were sent and 0 results"):
            await client.put_records("s", [PutEntry(b"", "k")])
    spelled = Says(400, b'{"__type":"com.amazon.coral#AccessDeniedException","Message":"not you"}')
    async with KinesisClient(endpoint_url="http://127.0.0.1:1", clock=StepClock(), transport=spelled) as client:
        with pytest.raises(AccessRefused, match=r"not you.*allow kinesis:GetRecords"):
            await client.get_records("i", 1)


async def test_region_endpoint_and_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    says = Says(200, b'{"Records":[]}')
    async with KinesisClient(clock=StepClock(), transport=says) as client:
        assert client.endpoint_url == "https://kinesis.eu-central-1.amazonaws.com"
        await client.get_records("i", 1)
    assert "Credential=AKIDENV/20231114/eu-central-1/kinesis/aws4_request" in says.headers[0]["Authorization"]
    assert says.headers[0]["X-Amz-Security-Token"] == "token"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    async with KinesisClient(clock=StepClock(), transport=says) as client:
        assert client.endpoint_url == "http://localhost:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "http://localhost:2")
    async with KinesisClient(clock=StepClock(), transport=says) as client:
        assert client.endpoint_url == "http://localhost:2"
    async with KinesisClient(
        "us-west-2", "http://localhost:3", clock=StepClock(), transport=says, credentials=Credentials("a", "b")
    ) as client:
        assert (client.endpoint_url, client.region) == ("http://localhost:3", "us-west-2")


async def test_what_is_missing_is_named() -> None:
    """No region, no credentials, a bad URL, an unknown profile, a client that was not opened."""
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        await KinesisClient(clock=StepClock()).__aenter__()
    with pytest.raises(AccessRefused, match="AWS_PROFILE"):
        await KinesisClient("eu-west-1", clock=StepClock()).__aenter__()
    for url in ("localhost:4567", "ftp://x", "http://", "http://x:99999"):
        with pytest.raises(ConfigurationError, match="endpoint_url"):
            await KinesisClient("eu-west-1", url, clock=StepClock()).__aenter__()
    with pytest.raises(InternalError, match="async with"):
        await KinesisClient(clock=StepClock()).get_records("i", 1)


async def test_an_unknown_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody"):
        await KinesisClient("eu-west-1", clock=StepClock()).__aenter__()
