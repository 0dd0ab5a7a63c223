"""Does the server keep its connections right? Raw sockets against a running broker, and its start and stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from streamlet.broker import ApiError, Broker, serve
from streamlet.broker.inline import AUTHORIZATION
from streamlet.broker.limits import BODY_BYTES_MAX
from streamlet.cli.broker import command


def request(operation: str, body: Any, *more: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        "POST / HTTP/1.1",
        "Host: x",
        f"X-Amz-Target: Kinesis_20131202.{operation}",
        "Content-Type: application/x-amz-json-1.1",
        "X-Amz-Date: 20260101T000000Z",
        f"Authorization: {AUTHORIZATION}",
        f"Content-Length: {len(content)}",
        *more,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


class Raw:
    """A socket that reads one answer at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode().partition(":")
            headers[name] = value.strip()
        return status, headers, self.file.read(int(headers.get("Content-Length", "0")))

    def at_end(self) -> bool:
        return self.file.read(1) == b""

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def raw(broker: Broker) -> Iterator[Raw]:
    with closing(Raw(broker.endpoint_url)) as made:
        yield made


def test_headers_of_an_answer(raw: Raw) -> None:
    raw.send(request("ListStreams", {}))
    status, headers, body = raw.answer()
    assert (status, json.loads(body)["StreamNames"]) == (200, ["s"])
    assert headers.keys() == {"x-amzn-RequestId", "x-amz-id-2", "Content-Type", "Content-Length", "Date"}
    assert headers["Content-Type"] == "application/x-amz-json-1.1"
    assert (len(headers["x-amzn-RequestId"]), len(headers["x-amz-id-2"])) == (36, 96)
    raw.send(request("DeleteStream", {"StreamName": "s"}))
    assert raw.answer()[2] == b""


def test_pipelined_requests_are_answered_in_order(raw: Raw) -> None:
    raw.send(b"".join(request("PutRecord", {"StreamName": "s", "Data": "", "PartitionKey": "k"}) for _ in range(50)))
    numbers = [int(json.loads(raw.answer()[2])["SequenceNumber"]) for _ in range(50)]
    assert numbers == sorted(set(numbers))


def test_a_client_that_does_not_read_is_neither_lost_nor_stored(broker: Broker, raw: Raw) -> None:
    """100 pipelined reads of a megabyte: more than sockets take, so the broker stops, serves others, and goes on later."""
    broker.call("PutRecord", StreamName="s", Data="AAAA" * 250_000, PartitionKey="k")
    iterator = broker.call("GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    raw.send(request("GetRecords", {"ShardIterator": iterator}) * 100)
    with closing(Raw(broker.endpoint_url)) as other:
        other.send(request("ListStreams", {}))
        assert other.answer()[0] == 200
    answered = broker.call("GetRecords", ShardIterator=iterator) and broker.state.next_serial()
    assert answered < 60, "every answer takes a serial number for its iterator"
    for _ in range(100):
        status, _, body = raw.answer()
        assert (status, body[-3:]) == (200, b"}]}")


def test_chunked_and_expected_bodies(raw: Raw) -> None:
    head = request("ListStreams", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked\r\nExpect: 100-continue")
    raw.send(head)
    assert raw.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert raw.file.readline() == b"\r\n"
    raw.send(b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
    assert raw.answer()[0] == 200


def test_the_connection_is_kept_or_closed_as_asked(raw: Raw) -> None:
    raw.send(request("ListStreams", {}))
    assert raw.answer()[0] == 200
    raw.send(request("ListStreams", {}, "Connection: close"))
    _, headers, _ = raw.answer()
    assert headers["Connection"] == "close"
    assert raw.at_end()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"A" * 70_000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
    ],
)
def test_garbage_is_refused_and_the_next_client_is_served(broker: Broker, raw: Raw, data: bytes, status: int) -> None:
    raw.send(data)
    found, headers, body = raw.answer()
    assert (found, body, headers["Connection"]) == (status, b"", "close")
    with closing(Raw(broker.endpoint_url)) as other:
        other.send(request("ListStreams", {}))
        assert other.answer()[0] == 200


def test_head_has_no_body(raw: Raw) -> None:
    raw.send(b"HEAD / HTTP/1.1\r\n\r\n")
    assert raw.file.readline().startswith(b"HTTP/1.1 403")
    while (line := raw.file.readline()) != b"\r\n":
        assert line
    raw.send(request("ListStreams", {}))
    assert raw.answer()[0] == 200


async def test_in_the_loop_of_a_test(connect: Callable[[str], Any]) -> None:
    async with Broker(streams={"orders": 4}) as broker:
        with closing(await asyncio.to_thread(connect, broker.endpoint_url)) as client:
            assert (await asyncio.to_thread(client.list_streams))["StreamNames"] == ["orders"]
        assert broker.split_shard("orders", 0) == ("shardId-000000000004", "shardId-000000000005")
        assert broker.merge_shards("orders", 4, 5) == "shardId-000000000006"
        with pytest.raises(ApiError) as caught:
            broker.split_shard("orders", 0)
        assert caught.value.code == "InvalidArgumentException"
        broker.delete_stream("orders")
        await broker.aclose()
        await broker.aclose()
    await broker.aclose()


async def test_closing_drops_open_connections() -> None:
    async with Broker() as broker:
        parts = urlsplit(broker.endpoint_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request("ListStreams", {}))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    with suppress(ConnectionResetError):  # an orderly end is as good
        while await reader.read(1000):
            pass
    assert reader.at_eof() or reader.exception() is not None
    writer.close()


def test_a_broker_that_is_not_running_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = Broker().endpoint_url


def test_a_taken_port_is_an_error_where_it_is_started(broker: Broker) -> None:
    port = urlsplit(broker.endpoint_url).port
    with pytest.raises(OSError, match="in use"), Broker.in_thread(port=port):
        pass


async def test_serve_tells_its_url_and_stops_when_told() -> None:
    stop = asyncio.Event()
    urls: list[str] = []

    def ready(url: str) -> None:
        urls.append(url)
        stop.set()

    await serve("127.0.0.1", 0, {"a": 1}, ready, stop)
    assert urls[0].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_program(number: signal.Signals) -> None:
    program = [sys.executable, "-W", "error", "-m", "streamlet", "broker", "--port", "0", "--shards", "orders:3"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        with closing(Raw(line.split()[-1])) as raw:  # stays open over the end of the broker
            raw.send(request("ListShards", {"StreamName": "orders"}))
            assert len(json.loads(raw.answer()[2])["Shards"]) == 3
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shards", "orders"], "write NAME:N"),
        (["--shards", "orders:0"], "write NAME:N"),
        (["--shards", "orders:\u00b2"], "write NAME:N"),
        (["--shards", "orders:" + "9" * 5000], "write NAME:N"),
        (["--shards", "no!:1"], "--shards: 1 validation error detected"),
        (["--shards", "orders:999999"], "--shards: This request would exceed the shard limit"),
        (["--port", "99999"], "0<=x<=65535"),
        (["--host", ""], "host is an address or a name"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid: "),
        (["--memory-bytes-max", "1000"], "--memory-bytes-max goes with --data-dir"),
        (["--subscription-s", "inf"], "subscription_s is above 0 and below"),
        (["--control-delay-ms", "-1"], "--control-delay-ms"),
        (["--tls-cert", "/none"], "give both"),
        (["--credentials-file", "/none"], "--credentials-file /none: No such file"),
    ],
)
def test_a_bad_command_line(arguments: list[str], says: str) -> None:
    """One sentence that names what was wrong, and exit code 2."""
    result = CliRunner().invoke(command, ["--port", "0", *arguments])
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "Traceback" not in result.output
