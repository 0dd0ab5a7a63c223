"""`streamlet put` from a pipe: lines go as they come, and Ctrl-C says how many went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamlet.broker import Broker
from tests.unit.destinations.given_up import boto


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.in_thread(streams={"orders": 1}) as broker:
        yield broker


@contextmanager
def put(broker: Broker, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "streamlet", "put", "orders", *arguments, "--key", "n", "--endpoint-url", broker.endpoint_url]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMLET_"))}
    with subprocess.Popen(command, env=clean, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = threading.Timer(60, process.kill)
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()


def records(broker: Broker, count: int) -> list[bytes]:
    """What is in the stream, as soon as there are so many; less if the process that puts has ended before."""
    with boto("kinesis", broker.endpoint_url, region="us-east-1") as client:
        iterator = client.get_shard_iterator(StreamName="orders", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
        wake = threading.Event()
        found: list[bytes] = []
        for _ in range(1_000):
            answer = client.get_records(ShardIterator=iterator["ShardIterator"])
            found = [record["Data"] for record in answer["Records"]]
            if len(found) >= count:
                break
            wake.wait(0.02)
    return found


def test_lines_of_a_pipe_go_as_they_come_and_ctrl_c_is_heard(broker: Broker) -> None:
    """Two lines and a half; nobody closes the pipe."""
    with put(broker) as process:
        assert process.stdin is not None
        for line in (b'{"n": 1}\n', b'{"n": 2}\n'):
            process.stdin.write(line)
            process.stdin.flush()
            assert records(broker, line[6] - 48)[-1:] == [line.strip()]
        process.stdin.write(b'{"n": 3')
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in {b"1 record put into orders, before it was stopped\n", b"2 records put into orders, before it was stopped\n"}
    assert records(broker, 2) == [b'{"n": 1}', b'{"n": 2}']


def test_lines_have_their_numbers_wherever_they_are_cut(broker: Broker, tmp_path: Path) -> None:
    """More than is read at once, a line that is no JSON near the end, and no line end after the last."""
    lines = [b'{"n": %d, "filler": "%s"}' % (n, b"x" * 1_000) for n in range(2_500)]
    lines[2_400] = b"{"
    (tmp_path / "orders.jsonl").write_bytes(b"\n\n" + b"\n".join(lines))
    with put(broker, str(tmp_path / "orders.jsonl")) as process:
        _, said = process.communicate(timeout=60)
    first, last = said.decode().splitlines()
    assert "orders.jsonl, line 2403: not JSON" in first
    assert last == "2,499 records put into orders, 1 line left out"
    assert process.returncode == 1
    assert records(broker, 2_499) == [line for line in lines if line != b"{"]
