"""Does the broker keep what it has acknowledged when it is killed, again and again, under load?

Writers put records with names of their own, while the stream is resharded. At the k-th acknowledged call, with k drawn from
a seed, the process is killed with SIGKILL and started again on the same directory. Then every record must be there that
was ever acknowledged: once, under its sequence number, in its shard. One that was not acknowledged may be there, once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLS = 50
SEED = 20_261
_HEAD = (
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-amz-json-1.1\r\nX-Amz-Target: Kinesis_20131202.{}\r\n"
    "X-Amz-Date: 20260101T000000Z\r\nAuthorization: AWS4-HMAC-SHA256 "
    "Credential=AKIAEXAMPLE/20260101/eu-west-1/kinesis/aws4_request, SignedHeaders=host, Signature=00\r\nContent-Length: {}\r\n\r\n"
)


class Refused(Exception):
    """The broker answered with another status than 200."""


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, operation: str, **members: Any) -> dict[str, Any]:
        """Raises OSError or EOFError when the connection breaks."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        assert self._reader is not None
        body = json.dumps(members).encode()
        self._writer.write(_HEAD.format(operation, len(body)).encode() + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        content = await self._reader.readexactly(length)
        if b" 200 " not in head[:20]:
            raise Refused(content.decode())
        answer: dict[str, Any] = json.loads(content) if content else {}
        return answer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def start(folder: Path, *options: str, file_bytes_max: int | None = None) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "streamlet", "broker", "--port", "0", "--shards", "s:2", "--no-console", "--data-dir", str(folder)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if file_bytes_max is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline().strip()
    assert line.startswith("listening on "), process.stderr.read()
    return process, int(line.rpartition(":")[2])


def stop(process: subprocess.Popen[str], *, kill: bool) -> str:
    """What it wrote to stderr."""
    if kill:
        process.kill()
    else:
        process.terminate()
    _, said = process.communicate(timeout=30)
    assert kill or process.returncode == 0, said
    return said


async def records(client: Client) -> dict[str, list[tuple[int, str]]]:
    """Sequence number and payload of all records, by shard."""
    found: dict[str, list[tuple[int, str]]] = {}
    for shard in (await client.call("ListShards", StreamName="s"))["Shards"]:
        name = shard["ShardId"]
        first = await client.call("GetShardIterator", StreamName="s", ShardId=name, ShardIteratorType="TRIM_HORIZON")
        iterator: str | None = first["ShardIterator"]
        found[name] = []
        while iterator is not None:
            answer = await client.call("GetRecords", ShardIterator=iterator)
            found[name] += [(int(one["SequenceNumber"]), base64.b64decode(one["Data"]).decode()) for one in answer["Records"]]
            if not answer["MillisBehindLatest"]:
                break
            iterator = answer.get("NextShardIterator")
    return found


class Load:
    """Writers of one round, until the broker has been killed."""

    def __init__(
        self,
        port: int,
        number: int,
        acknowledged: dict[str, tuple[str, int]],
        attempted: set[str],
        *,
        answers: int,
        kill: Callable[[], None],
    ) -> None:
        """At the so-and-so-many-th answer `kill` is called."""
        self._port = port
        self._number = number
        self._acknowledged = acknowledged
        self._attempted = attempted
        self._kill = kill
        self._left, self._half = answers, answers // 2
        self._halfway = asyncio.Event()

    async def run(self) -> None:
        writers = [self._singles(n) for n in range(5)] + [self._batches(n) for n in range(3)] + [self._reshards()]
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(self._until_killed(writer))

    async def _until_killed(self, writer: Any) -> None:
        try:
            await writer
        except (OSError, EOFError):
            return

    def _said(self, name: str, shard: str, number: str) -> None:
        self._acknowledged[name] = (shard, int(number))

    def _counted(self) -> None:
        self._left -= 1
        if self._left <= self._half:
            self._halfway.set()
        if self._left == 0:
            self._kill()

    def _name(self, writer: str, n: int) -> str:
        name = f"{self._number}/{writer}/{n}"
        self._attempted.add(name)
        return name

    async def _singles(self, writer: int) -> None:
        client = Client(self._port)
        try:
            for n in range(10_000):
                name = self._name(f"one{writer}", n)
                data = base64.b64encode(name.encode()).decode()
                answer = await client.call("PutRecord", StreamName="s", Data=data, PartitionKey=f"k{writer}")
                self._said(name, answer["ShardId"], answer["SequenceNumber"])
                self._counted()
        finally:
            client.close()

    async def _batches(self, writer: int) -> None:
        client = Client(self._port)
        try:
            for n in range(0, 10_000, 40):
                names = [self._name(f"many{writer}", place) for place in range(n, n + 40)]
                entries = [
                    {"Data": base64.b64encode(name.encode()).decode(), "PartitionKey": f"k{place}"} for place, name in enumerate(names)
                ]
                answer = await client.call("PutRecords", StreamName="s", Records=entries)
                for name, one in zip(names, answer["Records"], strict=True):
                    self._said(name, one["ShardId"], one["SequenceNumber"])
                self._counted()
        finally:
            client.close()

    async def _reshards(self) -> None:
        client = Client(self._port)
        try:
            await self._halfway.wait()
            count = (4, 2)[self._number % 2]
            await client.call("UpdateShardCount", StreamName="s", TargetShardCount=count, ScalingType="UNIFORM_SCALING")
            self._counted()
        except Refused:
            pass  # a kill came in between: there are as many already
        finally:
            client.close()


def check(found: dict[str, list[tuple[int, str]]], acknowledged: dict[str, tuple[str, int]], attempted: set[str]) -> None:
    places: dict[str, tuple[str, int]] = {}
    for shard, rows in found.items():
        numbers = [number for number, _ in rows]
        assert numbers == sorted(set(numbers)), f"{shard}: numbers do not increase"
        for number, name in rows:
            assert name not in places, f"{name} is there twice"
            assert name in attempted, f"{name} was never put"
            places[name] = (shard, number)
    missing = [name for name in acknowledged if name not in places]
    assert not missing, f"{len(missing)} acknowledged records are lost, such as {missing[:3]}"
    moved = [name for name, place in acknowledged.items() if places[name] != place]
    assert not moved, f"{len(moved)} records are not where the answer said, such as {moved[:3]}"
    # In order: what one writer put after the answer to another of its records comes behind it in the shard.
    newest: dict[tuple[str, str], int] = {}
    for name, (shard, number) in acknowledged.items():  # in the order of the answers
        writer = shard, name.rpartition("/")[0]
        assert number > newest.get(writer, 0), f"{name} lies before one that was put earlier"
        newest[writer] = number


@pytest.mark.slow
def test_every_acknowledged_record_survives_fifty_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    acknowledged: dict[str, tuple[str, int]] = {}
    attempted: set[str] = set()
    said = ""

    async def one_round(number: int, port: int, process: subprocess.Popen[str]) -> None:
        client = Client(port)
        check(await records(client), acknowledged, attempted)
        client.close()
        if number < KILLS:
            await Load(port, number, acknowledged, attempted, answers=chance.randrange(1, 300), kill=process.kill).run()

    for number in range(KILLS + 1):
        process, port = start(tmp_path, "--memory-bytes-max", str(chance.choice([0, 100_000, 2**28])))
        try:
            asyncio.run(one_round(number, port, process))
        finally:
            said += stop(process, kill=number < KILLS)
    assert len(acknowledged) > 10_000, "the load was too small to prove anything"
    assert "Traceback" not in said


def test_a_full_disk_is_answered_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write fails with an error of the system."""
    acknowledged: list[int] = []

    async def put_until_refused(client: Client, data: str) -> None:
        for _ in range(100):
            answer = await client.call("PutRecord", StreamName="s", Data=data, PartitionKey="k")
            acknowledged.append(int(answer["SequenceNumber"]))

    async def fill(port: int) -> None:
        client, data = Client(port), base64.b64encode(b"x" * 5000).decode()
        with pytest.raises(Refused, match="InternalFailure"):
            await put_until_refused(client, data)
        for operation, members in (("PutRecord", {"Data": data, "PartitionKey": "k"}), ("DeleteStream", {})):
            with pytest.raises(Refused, match="InternalFailure"):
                await client.call(operation, StreamName="s", **members)
        await read(port)
        client.close()

    async def read(port: int) -> None:
        client = Client(port)
        found = [number for rows in (await records(client)).values() for number, _ in rows]
        client.close()
        assert found == acknowledged

    process, port = start(tmp_path, file_bytes_max=100_000)
    try:
        asyncio.run(fill(port))
    finally:
        said = stop(process, kill=False)
    assert "File too large. No more writes are taken; what was acknowledged is safe" in said
    assert len(acknowledged) > 5
    process, port = start(tmp_path)
    try:
        asyncio.run(read(port))
    finally:
        said = stop(process, kill=False)
    assert "bytes dropped" in said


def test_a_second_broker_on_the_same_directory_says_who_is_there(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    try:
        command = [sys.executable, "-m", "streamlet", "broker", "--port", "0", "--data-dir", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 2
        assert f"in use by another broker (process {process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        stop(process, kill=False)
