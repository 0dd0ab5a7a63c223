"""Do real clients get what is pushed? boto3 and aiobotocore end to end, HTTP/1.0, and clients that do not read or go away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import EventStreamError

from streamlet.broker import Broker, cbor, eventstream
from streamlet.broker.connection import Sweeper
from streamlet.broker.inline import AUTHORIZATION

SHARD = "shardId-000000000000"


def register(client: Any, name: str = "c") -> str:
    arn = client.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    made: str = client.register_stream_consumer(StreamARN=arn, ConsumerName=name)["Consumer"]["ConsumerARN"]
    return made


def subscribe(client: Any, arn: str, kind: str = "TRIM_HORIZON") -> Iterator[dict[str, Any]]:
    stream = client.subscribe_to_shard(ConsumerARN=arn, ShardId=SHARD, StartingPosition={"Type": kind})["EventStream"]
    with closing(stream):
        for event in stream:
            yield event["SubscribeToShardEvent"]


def raw_request(operation: str, version: str = "1.1", **members: Any) -> bytes:
    body = json.dumps(members).encode()
    head = (
        f"POST / HTTP/{version}\r\nHost: x\r\nX-Amz-Target: Kinesis_20131202.{operation}\r\nX-Amz-Date: 20260101T000000Z\r\n"
        f"Content-Type: application/x-amz-json-1.1\r\nAuthorization: {AUTHORIZATION}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(broker: Broker) -> socket.socket:
    parts = urlsplit(broker.endpoint_url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def arn_of(broker: Broker, name: str = "c") -> str:
    stream = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"
    made: str = broker.call("RegisterStreamConsumer", region="eu-west-1", StreamARN=stream, ConsumerName=name)["Consumer"]["ConsumerARN"]
    return made


def subscription(arn: str, version: str = "1.1") -> bytes:
    return raw_request("SubscribeToShard", version, ConsumerARN=arn, ShardId=SHARD, StartingPosition={"Type": "TRIM_HORIZON"})


def test_boto3_from_the_first_record_to_the_shards_end(broker: Broker, client: Any) -> None:
    sent = [f"ü {index}".encode() * 100 for index in range(500)]
    client.put_records(StreamName="s", Records=[{"Data": data, "PartitionKey": "ü"} for data in sent])
    got: list[bytes] = []
    children, split = None, False
    for event in subscribe(client, register(client)):
        got += [record["Data"] for record in event["Records"]]
        if len(got) == 500:
            broker.call("PutRecord", StreamName="s", Data="bGFzdA==", PartitionKey="k")
        if b"last" in got and not split:
            broker.split_shard("s", 0)
            split = True
        children = event.get("ChildShards")
    assert got == [*sent, b"last"]
    assert [child["ShardId"][-1] for child in children or []] == ["1", "2"]


def test_an_exception_within_the_stream_is_boto3s_own(broker: Broker, client: Any) -> None:
    events = subscribe(client, register(client))
    next(events)
    client.delete_stream(StreamName="s", EnforceConsumerDeletion=True)
    with pytest.raises(EventStreamError, match="ResourceNotFoundException"):
        for _ in events:
            pass


def test_a_later_subscription_takes_over(broker: Broker, client: Any, connect: Callable[[str], Any]) -> None:
    arn = register(client)
    old = subscribe(client, arn)
    next(old)
    other = connect(broker.endpoint_url)
    with closing(other):
        with pytest.raises(other.exceptions.ResourceInUseException):
            next(subscribe(other, arn))
        broker.state.ahead_s += 5
        new = subscribe(other, arn)
        assert next(new)["Records"] == []
        with pytest.raises(EventStreamError, match="Another active subscription exists"):
            for _ in old:
                pass
        new.close()  # type: ignore[attr-defined]


def test_expiry_ends_it_without_an_error(broker: Broker, client: Any) -> None:
    events = subscribe(client, register(client))
    next(events)
    broker.state.ahead_s += 300
    client.put_record(StreamName="s", Data=b"wakes it up", PartitionKey="k")
    assert [event["Records"] for event in events if event["Records"]] == []


async def test_aiobotocore() -> None:
    async with Broker(streams={"s": 1}) as broker, AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            get_session().create_client(
                "kinesis", endpoint_url=broker.endpoint_url, region_name="eu-west-1", aws_access_key_id="1", aws_secret_access_key="2"
            )
        )
        answer = await client.subscribe_to_shard(ConsumerARN=arn_of(broker), ShardId=SHARD, StartingPosition={"Type": "LATEST"})
        await client.put_record(StreamName="s", Data=b"a", PartitionKey="k")
        async for event in answer["EventStream"]:
            if event["SubscribeToShardEvent"]["Records"]:
                assert [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]] == [b"a"]
                break
        answer["EventStream"].close()


def messages(data: bytes) -> list[eventstream.Message]:
    found = []
    while (message := eventstream.decode(data)) is not None:
        found.append(message[0])
        data = data[message[1] :]
    return found


def test_http_1_0_gets_bare_bytes_up_to_the_end(broker: Broker) -> None:
    with closing(connect(broker)) as raw, raw.makefile("rb") as file:
        raw.sendall(subscription(arn_of(broker), "1.0"))
        head = b""
        while (line := file.readline()) != b"\r\n":
            head += line
        assert b"chunked" not in head
        assert b"Connection: close" in head
        broker.split_shard("s", 0)
        found = messages(file.read())
    assert found[0].headers[":event-type"] == "initial-response"
    assert json.loads(found[-1].payload)["ChildShards"]


def test_requests_behind_a_push_wait_for_its_end(broker: Broker) -> None:
    with closing(connect(broker)) as raw, raw.makefile("rb") as file:
        raw.sendall(subscription(arn_of(broker)) + raw_request("ListStreams"))
        assert file.readline().startswith(b"HTTP/1.1 200")
        while file.readline() != b"\r\n":
            pass
        broker.split_shard("s", 0)
        while size := int(file.readline(), 16):
            file.read(size + 2)
        assert file.readline() == b"\r\n"
        assert file.readline().startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_costs_one_event(broker: Broker) -> None:
    with closing(connect(broker)) as raw:
        raw.sendall(subscription(arn_of(broker)))
        for _ in range(40):
            broker.call("PutRecord", StreamName="s", Data="QUFB" * 200_000, PartitionKey="k")

        def held() -> int:
            connections: list[Any] = list(broker._connections)
            return max(int(connection._transport.get_write_buffer_size()) for connection in connections)

        assert broker._on_loop(held) < 2 * 1024 * 1024, "40 records of 800 kB were put"
        records = 0
        data = b""
        with raw.makefile("rb") as file:
            while file.readline() != b"\r\n":
                pass
            while records < 40:
                data = file.read(int(file.readline(), 16))
                file.readline()
                records += sum(len(json.loads(message.payload).get("Records", [])) for message in messages(data))


def test_a_client_that_goes_away_leaves_nothing_behind(broker: Broker, client: Any) -> None:
    arn = register(client)
    for _ in range(3):
        events = subscribe(client, arn)
        next(events)
        events.close()  # type: ignore[attr-defined]

        def watchers() -> int:
            stream = broker.state.find_by_name("s", broker.state.now_ms)
            assert stream is not None
            return sum(len(shard.watchers) for shard in stream.shards.values())

        for _ in range(1000):
            if broker._on_loop(watchers) == 0:
                break
            client.list_streams()
        assert broker._on_loop(watchers) == 0


async def test_many_subscriptions_on_one_shard() -> None:
    async with Broker(streams={"s": 1}) as broker:
        parts = urlsplit(broker.endpoint_url)
        writers = []
        readers = []
        for index in range(20):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(subscription(arn_of(broker, f"c{index}")))
            await reader.readuntil(b"\r\n\r\n")
            readers.append(reader)
            writers.append(writer)
        broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
        for reader in readers:
            await reader.readuntil(b'"Data":"YQ=="')
        for writer in writers:
            writer.close()


def test_over_cbor_events_are_cbor(broker: Broker) -> None:
    arn = arn_of(broker)
    broker.call("PutRecord", StreamName="s", Data="YWJj", PartitionKey="k")
    body = cbor.dumps({"ConsumerARN": arn, "ShardId": SHARD, "StartingPosition": {"Type": "TRIM_HORIZON"}})
    head, _, _ = subscription(arn, "1.0").partition(b"Content-Length")
    with closing(connect(broker)) as raw, raw.makefile("rb") as file:
        raw.sendall(head.replace(b"json", b"cbor") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while file.readline() != b"\r\n":
            pass
        broker.split_shard("s", 0)
        found = messages(file.read())
    assert [message.headers[":content-type"] for message in found] == ["application/x-amz-cbor-1.1"] * len(found)
    assert cbor.loads(found[0].payload) == {}
    assert b"abc" in found[1].payload, "payloads are bytes there, and not base64"
    assert cbor.loads(found[-1].payload)["ChildShards"]


# --- slow requests --------------------------------------------------------------------------------------------------------


def test_a_request_that_does_not_get_complete_is_ended_and_idle_connections_are_kept(broker: Broker, client: Any) -> None:
    client.list_streams()  # stays open, idle
    sweeper = Sweeper(broker._connections)
    with closing(connect(broker)) as silent, closing(connect(broker)) as slow, closing(connect(broker)) as half:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
        half.sendall(b"PRI * HTTP/2.0\r\n")
        silent.sendall(raw_request("ListStreams"))
        assert silent.recv(9) == b"HTTP/1.1 "
        for _ in range(4):
            slow.sendall(b"X")
            client.list_streams()
            broker._on_loop(sweeper.sweep)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        assert half.recv(100).startswith(b"HTTP/1.1 408")
        silent.recv(65_536)  # the rest of the first answer
        silent.sendall(raw_request("ListStreams"))
        assert silent.recv(65_536).startswith(b"HTTP/1.1 200")
    assert client.list_streams()["StreamNames"] == ["s"]
