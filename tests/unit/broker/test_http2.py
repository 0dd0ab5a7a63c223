"""Is HTTP/2 spoken right? The client's side is h2 itself, on a plain socket with prior knowledge."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from streamlet.broker import Broker, eventstream, http2
from streamlet.broker.faults import Latency
from streamlet.broker.inline import AUTHORIZATION

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Client:
    """An HTTP/2 client that collects the bodies of its streams. `greedy`: windows are opened as bytes come."""

    def __init__(self, url: str, *, greedy: bool = True, window: int = 65_535) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.greedy = greedy
        self.bodies: dict[int, bytearray] = {}
        self.status: dict[int, int] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goodbye: int | None = None
        self.pinged = False
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, operation: str, length: int | None = None) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":path", "/"),
            (":scheme", "http"),
            (":authority", "x"),
            ("x-amz-target", f"Kinesis_20131202.{operation}"),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-date", "20260101T000000Z"),
            ("authorization", AUTHORIZATION),
        ]
        self.h2.send_headers(stream, head + ([("content-length", str(length))] if length is not None else []))
        self.bodies[stream] = bytearray()
        return stream

    def ask(self, operation: str, **members: Any) -> int:
        stream = self.begin(operation)
        body = json.dumps(members).encode()
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room:
                piece, body = body[:room], body[room:]
                self.h2.send_data(stream, piece, end_stream=not body)
                self.flush()
            else:
                self.receive()
        return stream

    def receive(self) -> bool:
        """Act on what comes next. False at the connection's end."""
        data = self.socket.recv(65_536)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.status[event.stream_id] = next(int(value) for name, value in event.headers if str(name) == ":status")
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                if self.greedy:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.pinged = True
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = int(event.error_code or 0)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goodbye = int(event.error_code or 0)
        with suppress(OSError):
            self.flush()
        return True

    def answer(self, stream: int) -> dict[str, Any]:
        while stream not in self.ended:
            assert self.receive(), "the connection ended"
        found: dict[str, Any] = json.loads(bytes(self.bodies[stream]) or b"{}")
        return found

    def events(self, stream: int, count: int) -> list[eventstream.Message]:
        """The first messages of a pushed body."""
        found: list[eventstream.Message] = []
        while True:
            found, data = [], bytes(self.bodies[stream])
            while (message := eventstream.decode(data)) is not None:
                found.append(message[0])
                data = data[message[1] :]
            if len(found) >= count:
                return found
            assert self.receive(), "the connection ended"

    def ping(self) -> None:
        """Wait until all that was sent has been acted on."""
        self.h2.ping(b"12345678")
        self.flush()
        while not self.pinged:
            assert self.receive(), "the connection ended"

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    with closing(Client(broker.endpoint_url)) as made:
        yield made


def consumer(client: Client, name: str = "c") -> str:
    summary = client.answer(client.ask("DescribeStreamSummary", StreamName="s"))["StreamDescriptionSummary"]
    made = client.answer(client.ask("RegisterStreamConsumer", StreamARN=summary["StreamARN"], ConsumerName=name))
    arn: str = made["Consumer"]["ConsumerARN"]
    return arn


def subscribe(client: Client, arn: str, kind: str = "LATEST") -> int:
    return client.ask("SubscribeToShard", ConsumerARN=arn, ShardId="shardId-000000000000", StartingPosition={"Type": kind})


def served(broker: Broker) -> bool:
    with closing(Client(broker.endpoint_url)) as other:
        return bool(other.answer(other.ask("ListStreams"))["StreamNames"] == ["s"])


def test_many_streams_at_once(client: Client) -> None:
    streams = [client.ask("PutRecord", StreamName="s", Data="", PartitionKey=str(index)) for index in range(200)]
    numbers = {client.answer(stream)["SequenceNumber"] for stream in streams}
    assert len(numbers) == 200
    bad = client.ask("GetRecords", ShardIterator="x")
    assert client.answer(bad)["__type"] == "InvalidArgumentException"
    assert client.status[bad] == 400


def test_bodies_both_ways_under_flow_control(client: Client) -> None:
    record = {"Data": "QUFB" * 333_000, "PartitionKey": "k"}
    put = client.answer(client.ask("PutRecords", StreamName="s", Records=[record] * 3))
    assert put["FailedRecordCount"] == 0
    iterator = client.answer(
        client.ask("GetShardIterator", StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
    )
    reads = [client.ask("GetRecords", ShardIterator=iterator["ShardIterator"]) for _ in range(3)]
    for read in reads:
        assert [found["Data"] for found in client.answer(read)["Records"]] == [record["Data"]] * 3


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_big_is_refused_alone(client: Client, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "BODY_BYTES_MAX", 300_000)  # as it is, a client in Python would need ten seconds
    stream = client.begin("PutRecord", 300_001 if told else None)
    client.flush()
    while stream not in client.resets and stream not in client.ended:
        room = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
        if room and not told:
            client.h2.send_data(stream, b"x" * room)
            client.flush()
        else:
            assert client.receive()
    assert client.status[stream] == 413
    assert client.answer(client.ask("ListStreams"))["StreamNames"] == ["s"]


def test_a_subscription_beside_other_calls_up_to_the_shards_end(client: Client) -> None:
    stream = subscribe(client, consumer(client))
    first = client.events(stream, 2)
    assert first[0].headers[":event-type"] == "initial-response"
    assert json.loads(first[1].payload)["Records"] == []
    client.answer(client.ask("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k"))
    seen = 2
    while not json.loads(client.events(stream, seen + 1)[seen].payload)["Records"]:
        seen += 1
    client.answer(client.ask("SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey="9"))
    while stream not in client.ended:
        assert client.receive()
    last = json.loads(client.events(stream, 1)[-1].payload)
    assert [child["ShardId"][-1] for child in last["ChildShards"]] == ["1", "2"]
    assert "ContinuationSequenceNumber" not in last


def test_a_reset_ends_a_subscription(broker: Broker, client: Client) -> None:
    arn = consumer(client)
    stream = subscribe(client, arn)
    client.events(stream, 2)
    client.h2.reset_stream(stream)
    client.flush()
    again = subscribe(client, arn)  # otherwise another one would be active
    assert client.events(again, 1)[0].headers[":event-type"] == "initial-response"


def test_a_subscriber_that_does_not_read_costs_one_event_and_misses_nothing(broker: Broker, client: Client) -> None:
    client.greedy = False
    stream = subscribe(client, consumer(client))
    client.events(stream, 1)
    with closing(Client(broker.endpoint_url)) as other:
        for _ in range(20):
            other.answer(other.ask("PutRecord", StreamName="s", Data="QUFB" * 50_000, PartitionKey="k"))
        held = [found.out_bytes for found in streams_of(broker)]
        assert max(held) < 2 * 1024 * 1024, "20 records of 200 kB were put"
    client.greedy = True
    unread = len(client.bodies[stream])
    client.h2.acknowledge_received_data(unread, stream)
    client.flush()
    records = 0
    seen = 0
    while records < 20:
        for message in client.events(stream, seen + 1)[seen:]:
            records += len(json.loads(message.payload).get("Records", []))
            seen += 1
    assert records == 20


def test_a_subscription_goes_on_after_another_streams_answer_held_up_the_client(broker: Broker) -> None:
    """One transport for all: when it is full everything pauses, and when it is read everything goes on, also what has nothing to send."""
    with closing(Client(broker.endpoint_url, window=2**30)) as client:
        client.h2.increment_flow_control_window(2**30)
        stream = subscribe(client, consumer(client))
        client.events(stream, 2)
        push = next(found.push for found in streams_of(broker) if found.push is not None)
        seen_paused = threading.Event()
        tell = push.paused

        def paused() -> None:
            seen_paused.set()
            tell()

        push.paused = paused
        for _ in range(16):
            broker.call("PutRecord", StreamName="s", Data="A" * 1024 * 1024, PartitionKey="k")
        iterator = broker.call("GetShardIterator", StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
        reads = [client.ask("GetRecords", **iterator) for _ in range(3)]
        for read in reads:
            client.answer(read)
        assert seen_paused.is_set(), "the client's answers did not fill the transport"
        seen = len(client.events(stream, 2))
        broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
        client.socket.settimeout(5)
        client.events(stream, seen + 1)


def streams_of(broker: Broker) -> list[Any]:
    return [stream for connection in broker._connections for stream in getattr(connection, "_streams", {}).values()]


def test_answers_that_are_late_are_bounded_like_those_that_are_not_taken(
    broker: Broker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer is in memory from when it is made: with enough of it there, the next request waits, and comes to its turn."""
    monkeypatch.setattr(http2, "ANSWERS_BYTES_MAX", 1)
    broker.faults.add(Latency(delay_s=3600, times=1))
    late, *others = [client.ask("ListStreams") for _ in range(3)]
    client.ping()
    assert client.ended == set()
    broker.faults.add(Latency(delay_s=0.001, times="always"))
    client.h2.reset_stream(late)
    client.flush()
    for stream in others:
        assert client.answer(stream)["StreamNames"] == ["s"]
    assert [connection._answers_bytes for connection in broker._connections if isinstance(connection, http2.Http2Connection)] == [0]


def test_go_away_on_stop() -> None:
    with Broker.in_thread(streams={"s": 1}) as broker:
        client = Client(broker.endpoint_url)
        client.events(subscribe(client, consumer(client)), 1)
    with closing(client):
        with suppress(ConnectionResetError):
            while client.receive():
                pass
        assert client.goodbye == 0


def test_a_clients_go_away_does_not_break_off_what_is_under_way(broker: Broker, client: Client) -> None:
    """As node does: GOAWAY first, then the rest of a stream, with windows opened in between."""
    arn = consumer(client)
    stream = subscribe(client, arn)
    client.events(stream, 2)
    client.socket.sendall(b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\0")
    broker.call("PutRecord", StreamName="s", Data="YQ==", PartitionKey="k")
    client.socket.sendall(b"\0\0\4\x08\0\0\0\0\0" + (1000).to_bytes(4, "big"))
    seen = len(client.events(stream, 2))
    assert client.events(stream, seen + 1)[seen].headers[":event-type"] == "SubscribeToShardEvent"


@pytest.mark.parametrize("cut", range(1, len(PREFACE)))
def test_the_preface_may_come_in_pieces(broker: Broker, cut: int) -> None:
    parts = urlsplit(broker.endpoint_url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.sendall(PREFACE[:cut])
        raw.sendall(PREFACE[cut:] + b"\0\0\0\4\0\0\0\0\0")
        assert raw.recv(9)[3] == 4  # SETTINGS


@pytest.mark.parametrize(
    "frames",
    [
        b"\0\0\5\6\0\0\0\0\0hello",  # PING of 5 bytes
        b"\xff\xff\xff\0\0\0\0\0\1",  # a frame of 16 MiB
        b"\0\0\1\0\0\0\0\0\1x",  # DATA on a stream that is not open
        b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",  # a window opened by 0
        b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",  # HPACK that is none
        b"\0\0\1\1\4\0\0\0\1\x82",  # a head without path
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_frames_end_the_connection_with_a_reason(broker: Broker, frames: bytes, caplog: pytest.LogCaptureFixture) -> None:
    parts = urlsplit(broker.endpoint_url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as raw:
        raw.sendall(PREFACE + b"\0\0\0\4\0\0\0\0\0" + frames)
        data = b""
        while piece := raw.recv(65_536):
            data += piece
    kinds = []
    while data:
        kinds.append(data[3])
        data = data[9 + int.from_bytes(data[:3], "big") :]
    assert kinds[-1] == 7, "GOAWAY comes last"
    assert served(broker)
    assert caplog.records == []


def test_a_header_that_is_not_utf_8_is_a_header(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """As over HTTP/1.1, where any byte is a character."""
    parts = urlsplit(broker.endpoint_url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as raw:
        raw.sendall(PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x0b\1\5\0\0\0\1\x82\x84\x86\1\1x\0\1a\1\xff")
        data = b""
        while b"AccessDenied" not in data:
            piece = raw.recv(65_536)
            assert piece, "the connection ended"
            data += piece
    assert served(broker)
    assert caplog.records == []


def test_random_bytes_and_bent_frames_break_nothing(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(20)
    parts = urlsplit(broker.endpoint_url)
    kinds = [b"\0", b"\1", b"\2", b"\3", b"\4", b"\5", b"\6", b"\7", b"\x08", b"\x09", b"\x0a", b"\x55"]
    for _ in range(200):
        frames = PREFACE + b"\0\0\0\4\0\0\0\0\0"
        for _ in range(rng.randrange(1, 8)):
            payload = rng.randbytes(rng.choice([0, 1, 4, 5, 6, 8, 12, 40]))
            stream = rng.choice([0, 0, 1, 1, 2, 3, 2**31 - 1])
            frames += len(payload).to_bytes(3, "big") + rng.choice(kinds) + bytes([rng.randrange(64)]) + stream.to_bytes(4, "big") + payload
        with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as raw, suppress(ConnectionError):
            raw.sendall(frames)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65_536):
                pass
    assert served(broker)
    assert caplog.records == []
