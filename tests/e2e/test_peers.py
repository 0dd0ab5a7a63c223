"""`streamlet esm` and `streamlet run` against the other local brokers: what works against ours works against those, too.

Only against those that are installed (`make bench` does that): nothing is downloaded here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.environments import CACHE, Unavailable  # noqa: E402
from benchmarks.peers import PEERS, Server  # noqa: E402
from tests.unit.destinations.given_up import boto  # noqa: E402

pytestmark = pytest.mark.slow
RECORDS = 1_100  # more than a first read asks for
FUNCTION = """
import base64, json
def lambda_handler(event, context):
    values = [int(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
    if 700 in values:
        raise ValueError("700")
"""
APP = """
from streamlet import App
app = App("peers")
@app.on_batch("orders", batch_size=1000)
def handle(batch):
    print("done", len(batch), flush=True)
"""


@pytest.fixture(scope="module", params=[name for name in PEERS if not name.startswith("streamlet")])
def peer(request: pytest.FixtureRequest) -> Iterator[Server]:
    """With a stream of one shard, and the numbers from 0 to 1,099 in it."""
    if not (CACHE / f"{request.param}.installed").exists():
        pytest.skip(f"{request.param} is not installed: make bench")
    try:
        with PEERS[request.param].start() as server:
            with boto("kinesis", server.endpoint_url, region="us-east-1") as client:
                client.create_stream(StreamName="orders", ShardCount=1)
                give_up = time.monotonic() + 30
                while client.describe_stream_summary(StreamName="orders")["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
                    assert time.monotonic() < give_up
                    time.sleep(0.05)
                for first in range(0, RECORDS, 100):
                    entries = [{"Data": str(n).encode(), "PartitionKey": "key"} for n in range(first, first + 100)]
                    assert client.put_records(StreamName="orders", Records=entries)["FailedRecordCount"] == 0
            yield server
    except Unavailable as error:
        pytest.skip(f"{request.param} does not run here: {error.reason}")


def arguments(server: Server, *command: str) -> tuple[list[str], dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMLET_"))}
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    options = ["--endpoint-url", server.endpoint_url, "--region", "us-east-1", "--poll-interval-s", "0.2", "--state", "memory://"]
    return [sys.executable, "-m", "streamlet", *command, *options], clean | credentials


def test_a_function_drains_it_and_a_poison_record_is_bisected_to(peer: Server, tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(FUNCTION)
    command, environment = arguments(
        *(peer, "esm", "function.lambda_handler", "--stream", "orders", "--once", "--log", "json", "--timeout", "60"),
        *("--batch-size", "500", "--bisect-batch-on-function-error", "--maximum-retry-attempts", "0"),
    )
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    done = [len(event["sequence_numbers"]) for event in events if event["event"] == "InvocationEnded" and event["outcome"] == "ok"]
    assert sum(done) == RECORDS - 1
    assert [event["records"] for event in events if event["event"] == "RecordsGivenUp"] == [1]
    assert "given up" in ran.stderr


def test_a_worker_reads_it_and_drains_when_told_to(peer: Server, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(APP)
    command, environment = arguments(peer, "run", "orders:app")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        deadline = threading.Timer(60, process.kill)
        deadline.start()
        try:
            while seen < RECORDS:
                line = process.stdout.readline()
                assert line, process.stderr and process.stderr.read()
                seen += int(line.split()[1])
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            deadline.cancel()
            process.kill()
    assert (seen, process.returncode) == (RECORDS, 0)
    assert said.endswith("orders: drained\n")
