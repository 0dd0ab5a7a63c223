"""Do the clients that people have work against the broker, unmodified? Each runs one scenario:

create (wait until ACTIVE), put, iterate with every type, fan out (register, subscribe, receive to the shard's end), reshard (split, merge,
UpdateShardCount) and read through the lineage, clean up.

The AWS CLI has no subscribe-to-shard (a command that answers with an event stream has no place in it), so its fan-out ends with the
consumer's description and listing. The JavaScript lane needs node, npm and a package index; where one is missing it is skipped and says so.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from streamlet.broker import Broker

ROOT = Path(__file__).parents[3]
JAVASCRIPT = Path(__file__).parent / "javascript"
CACHE = ROOT / "var" / "clients" / "javascript"
TOP = str(2**128 - 1)
QUARTER = str(2**126)
WHERE = {"region_name": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}


@pytest.fixture
def url() -> Iterator[str]:
    with Broker.in_thread() as broker:
        yield broker.endpoint_url


def shard(number: int) -> str:
    return f"shardId-{number:012d}"


# ── boto3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(client: Any, number: int, kind: str = "TRIM_HORIZON", **more: Any) -> tuple[list[bytes], list[str]]:
    """Payloads up to the tip or the end, and the children."""
    token = client.get_shard_iterator(StreamName="s", ShardId=shard(number), ShardIteratorType=kind, **more)["ShardIterator"]
    found: list[bytes] = []
    while True:
        page = client.get_records(ShardIterator=token)
        found += [record["Data"] for record in page["Records"]]
        token = page.get("NextShardIterator")
        if token is None or not page["Records"]:
            return found, [child["ShardId"] for child in page.get("ChildShards", [])]


def test_boto3(url: str) -> None:
    client = boto3.client("kinesis", endpoint_url=url, **WHERE)
    client.create_stream(StreamName="s", ShardCount=2)
    client.get_waiter("stream_exists").wait(StreamName="s")
    latest = client.get_shard_iterator(StreamName="s", ShardId=shard(0), ShardIteratorType="LATEST")["ShardIterator"]
    one = client.put_record(StreamName="s", Data=b"one", PartitionKey="k", ExplicitHashKey="0")
    records = [
        {"Data": b"two", "PartitionKey": "k", "ExplicitHashKey": "1"},
        {"Data": b"three", "PartitionKey": "k", "ExplicitHashKey": TOP},
    ]
    assert client.put_records(StreamName="s", Records=records)["FailedRecordCount"] == 0
    assert read(client, 0) == ([b"one", b"two"], [])
    assert read(client, 1)[0] == [b"three"]
    assert [record["Data"] for record in client.get_records(ShardIterator=latest)["Records"]] == [b"one", b"two"]
    assert read(client, 0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=one["SequenceNumber"])[0] == [b"one", b"two"]
    assert read(client, 0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=one["SequenceNumber"])[0] == [b"two"]
    assert read(client, 0, "AT_TIMESTAMP", Timestamp=0)[0] == [b"one", b"two"]

    arn = client.describe_stream(StreamName="s")["StreamDescription"]["StreamARN"]
    consumer = client.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"]
    while client.describe_stream_consumer(ConsumerARN=consumer)["ConsumerDescription"]["ConsumerStatus"] != "ACTIVE":
        pass
    answer = client.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard(0), StartingPosition={"Type": "TRIM_HORIZON"})
    pushed: list[bytes] = []
    children: list[str] = []
    resharded = False
    for event in answer["EventStream"]:
        pushed += [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]]
        children = [child["ShardId"] for child in event["SubscribeToShardEvent"].get("ChildShards", [])]
        if len(pushed) == 2 and not resharded:
            resharded = True
            client.put_record(StreamName="s", Data=b"four", PartitionKey="k", ExplicitHashKey="0")
            client.split_shard(StreamName="s", ShardToSplit=shard(0), NewStartingHashKey=QUARTER)
    answer["EventStream"].close()
    assert (pushed, children) == ([b"one", b"two", b"four"], [shard(2), shard(3)])

    assert read(client, 0) == ([b"one", b"two", b"four"], [shard(2), shard(3)])
    client.put_record(StreamName="s", Data=b"five", PartitionKey="k", ExplicitHashKey="0")
    client.merge_shards(StreamName="s", ShardToMerge=shard(2), AdjacentShardToMerge=shard(3))
    client.get_waiter("stream_exists").wait(StreamName="s")
    assert read(client, 2) == ([b"five"], [shard(4)])
    client.update_shard_count(StreamName="s", TargetShardCount=4, ScalingType="UNIFORM_SCALING")
    client.get_waiter("stream_exists").wait(StreamName="s")
    assert len(client.list_shards(StreamName="s", ShardFilter={"Type": "AT_LATEST"})["Shards"]) == 4
    assert len(read(client, 4)[1]) == 2
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_stream(StreamName="no-such")

    client.deregister_stream_consumer(ConsumerARN=consumer)
    client.delete_stream(StreamName="s")
    client.get_waiter("stream_not_exists").wait(StreamName="s")
    client.close()


# ── aiobotocore ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_aiobotocore(url: str) -> None:
    from aiobotocore.session import get_session

    async with get_session().create_client("kinesis", endpoint_url=url, **WHERE) as client:

        async def values(number: int, kind: str = "TRIM_HORIZON", **more: Any) -> tuple[list[bytes], list[str]]:
            answer = await client.get_shard_iterator(StreamName="s", ShardId=shard(number), ShardIteratorType=kind, **more)
            token, found = answer["ShardIterator"], []
            while True:
                page = await client.get_records(ShardIterator=token)
                found += [record["Data"] for record in page["Records"]]
                token = page.get("NextShardIterator")
                if token is None or not page["Records"]:
                    return found, [child["ShardId"] for child in page.get("ChildShards", [])]

        await client.create_stream(StreamName="s", ShardCount=2)
        await client.get_waiter("stream_exists").wait(StreamName="s")
        answer = await client.get_shard_iterator(StreamName="s", ShardId=shard(0), ShardIteratorType="LATEST")
        many = [{"Data": f"{n}".encode(), "PartitionKey": "k", "ExplicitHashKey": "0"} for n in range(3)]
        put = await client.put_records(StreamName="s", Records=many)
        await client.put_record(StreamName="s", Data=b"top", PartitionKey="k", ExplicitHashKey=TOP)
        assert put["FailedRecordCount"] == 0
        page = await client.get_records(ShardIterator=answer["ShardIterator"])
        assert [record["Data"] for record in page["Records"]] == [b"0", b"1", b"2"]
        number = put["Records"][1]["SequenceNumber"]
        assert await values(0) == ([b"0", b"1", b"2"], [])
        assert (await values(1))[0] == [b"top"]
        assert (await values(0, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number))[0] == [b"1", b"2"]
        assert (await values(0, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number))[0] == [b"2"]
        assert (await values(0, "AT_TIMESTAMP", Timestamp=0))[0] == [b"0", b"1", b"2"]

        arn = (await client.describe_stream(StreamName="s"))["StreamDescription"]["StreamARN"]
        consumer = (await client.register_stream_consumer(StreamARN=arn, ConsumerName="c"))["Consumer"]["ConsumerARN"]
        while (await client.describe_stream_consumer(ConsumerARN=consumer))["ConsumerDescription"]["ConsumerStatus"] != "ACTIVE":
            await asyncio.sleep(0)
        pushed: list[bytes] = []
        children: list[str] = []
        resharded = False
        async with asyncio.timeout(30):
            answer = await client.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard(0), StartingPosition={"Type": "TRIM_HORIZON"})
            async for event in answer["EventStream"]:
                pushed += [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]]
                children = [child["ShardId"] for child in event["SubscribeToShardEvent"].get("ChildShards", [])]
                if len(pushed) == 3 and not resharded:
                    resharded = True
                    await client.split_shard(StreamName="s", ShardToSplit=shard(0), NewStartingHashKey=QUARTER)
            answer["EventStream"].close()
        assert (pushed, children) == ([b"0", b"1", b"2"], [shard(2), shard(3)])

        assert await values(0) == ([b"0", b"1", b"2"], [shard(2), shard(3)])
        await client.merge_shards(StreamName="s", ShardToMerge=shard(2), AdjacentShardToMerge=shard(3))
        await client.get_waiter("stream_exists").wait(StreamName="s")
        assert (await values(2))[1] == [shard(4)]
        await client.update_shard_count(StreamName="s", TargetShardCount=4, ScalingType="UNIFORM_SCALING")
        await client.get_waiter("stream_exists").wait(StreamName="s")
        assert len((await client.list_shards(StreamName="s", ShardFilter={"Type": "AT_LATEST"}))["Shards"]) == 4
        await client.deregister_stream_consumer(ConsumerARN=consumer)
        await client.delete_stream(StreamName="s")
        await client.get_waiter("stream_not_exists").wait(StreamName="s")


# ── AWS CLI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


# The program `aws` with its words from lines, and its exit code and output as lines: one start instead of thirty.
AWS = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = create_clidriver().main(json.loads(line))
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.mark.slow
def test_aws_cli(url: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_ENDPOINT_URL_KINESIS": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_PAGER": "",
        "HOME": str(tmp_path),
    }

    with subprocess.Popen(
        [sys.executable, "-c", AWS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        deadline = threading.Timer(120, program.kill)
        deadline.start()
        try:
            _aws_cli(program)
        finally:
            deadline.cancel()
            program.kill()


def _aws_cli(program: subprocess.Popen[str]) -> None:
    def aws(*arguments: str) -> Any:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(["kinesis", *arguments, "--output", "json"]) + "\n")
        program.stdin.flush()
        answer = program.stdout.readline()
        assert answer, "the AWS CLI ended, or took too long; it is part of the test extra: pip install 'streamlet[test]'"
        code, out, err = json.loads(answer)
        assert code == 0, (arguments, err)
        return json.loads(out) if out.strip() else None

    def values(number: int, kind: str = "TRIM_HORIZON", *more: str) -> tuple[list[bytes], list[str]]:
        where = ("--stream-name", "s", "--shard-id", shard(number), "--shard-iterator-type", kind)
        page = aws("get-records", "--shard-iterator", aws("get-shard-iterator", *where, *more)["ShardIterator"])
        return [base64.b64decode(record["Data"]) for record in page["Records"]], [child["ShardId"] for child in page.get("ChildShards", [])]

    stream = ("--stream-name", "s")
    aws("create-stream", *stream, "--shard-count", "2")
    aws("wait", "stream-exists", *stream)
    one = aws("put-record", *stream, "--data", "one", "--partition-key", "k", "--explicit-hash-key", "0")
    two = "Data=two,PartitionKey=k,ExplicitHashKey=0"  # version 1 takes blobs as they are, version 2 as base64
    assert aws("put-records", *stream, "--records", two)["FailedRecordCount"] == 0
    number = ("--starting-sequence-number", one["SequenceNumber"])
    assert values(0) == ([b"one", b"two"], [])
    assert values(0, "LATEST")[0] == []
    assert values(0, "AT_SEQUENCE_NUMBER", *number)[0] == [b"one", b"two"]
    assert values(0, "AFTER_SEQUENCE_NUMBER", *number)[0] == [b"two"]
    assert values(0, "AT_TIMESTAMP", "--timestamp", "2020-01-01T00:00:00Z")[0] == [b"one", b"two"]
    aws("split-shard", *stream, "--shard-to-split", shard(0), "--new-starting-hash-key", QUARTER)
    assert values(0) == ([b"one", b"two"], [shard(2), shard(3)])
    aws("merge-shards", *stream, "--shard-to-merge", shard(2), "--adjacent-shard-to-merge", shard(3))
    assert values(2)[1] == [shard(4)]
    aws("update-shard-count", *stream, "--target-shard-count", "4", "--scaling-type", "UNIFORM_SCALING")
    assert len(aws("list-shards", *stream, "--shard-filter", "Type=AT_LATEST")["Shards"]) == 4
    arn = aws("describe-stream-summary", *stream)["StreamDescriptionSummary"]["StreamARN"]
    consumer = aws("register-stream-consumer", "--stream-arn", arn, "--consumer-name", "c")["Consumer"]["ConsumerARN"]
    described = aws("describe-stream-consumer", "--consumer-arn", consumer)["ConsumerDescription"]
    assert (described["ConsumerName"], described["StreamARN"]) == ("c", arn)
    assert [found["ConsumerARN"] for found in aws("list-stream-consumers", "--stream-arn", arn)["Consumers"]] == [consumer]
    aws("deregister-stream-consumer", "--consumer-arn", consumer)
    aws("delete-stream", *stream)
    aws("wait", "stream-not-exists", *stream)


# ── JavaScript ───────────────────────────────────────────────────────────────────────────────────────────────────────


def modules() -> Path:
    """The SDK in the pinned versions of package-lock.json, installed once; skips with the reason where that cannot be."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(f"the JavaScript SDK is not asked: {'node' if node is None else 'npm'} is not on PATH")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE.parent / "javascript.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = (JAVASCRIPT / "package-lock.json").read_text()
        stamp = CACHE / "installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(JAVASCRIPT / name, CACHE / name)
            done = subprocess.run(
                [npm, "ci", "--no-audit", "--no-fund"], cwd=CACHE, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode != 0:
                said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[0]
                pytest.skip(f"the JavaScript SDK is not asked: npm could not install it ({said})")
            stamp.write_text(wanted)
        shutil.copy(JAVASCRIPT / "scenario.mjs", CACHE / "scenario.mjs")
    return CACHE


@pytest.mark.javascript
def test_javascript_sdk(url: str) -> None:
    """The SDK v3 speaks HTTP/2 with prior knowledge to an http:// endpoint."""
    folder = modules()
    done = subprocess.run(["node", "scenario.mjs", url], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["ok"]
    assert seen["handler"] == "NodeHttp2Handler"
