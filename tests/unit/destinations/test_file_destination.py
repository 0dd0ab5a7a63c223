"""Failure documents in a file: Lambda's document, one per line, on the disk when `send` returns."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest

from streamlet.core.failure import RECORD_AGE_EXCEEDED, RETRY_ATTEMPTS_EXHAUSTED
from streamlet.destinations.document import failure_document
from streamlet.destinations.file import FileDestination
from streamlet.errors import ConfigurationError, SinkError
from streamlet.model.record import Record
from streamlet.ports import FailureDocument

SHARD = "shardId-000000000006"
PARTITIONS = botocore.loaders.create_loader().load_data("partitions")["partitions"]


def document(number: int = 0, **changes: Any) -> FailureDocument:
    fields: dict[str, Any] = {
        "document_id": f"orders/{SHARD}/{number}",
        "request_id": f"orders/{SHARD}/{number}",
        "function_name": "orders",
        "condition": RETRY_ATTEMPTS_EXHAUSTED,
        "invoke_count": 2,
        "function_error": "Unhandled",
        "stream": "orders",
        "shard_id": SHARD,
        "timestamp_s": 1573694333.0,
        "records": [
            Record(
                b"\xff\x00first", "key-1", "4959033827149025660855969253836157109592157598913658889", 0, 1545084650.987, SHARD, "orders"
            ),
            Record(b"second", "ключ", "4959033827149025660855969253836157109592157598913658890", 2, 1545084711.1667, SHARD, "orders"),
        ],
    }
    return FailureDocument(**(fields | changes))


def test_the_document_is_lambdas() -> None:
    """Lambda developer guide, kinesis-on-failure-destination: every key, in this order."""
    made = failure_document(document(), payload=False, region="eu-central-1", account_id="123456789012")
    request_id = made["requestContext"].pop("requestId")
    assert uuid.UUID(request_id).version == 5
    assert json.dumps(made) == json.dumps(
        {
            "requestContext": {
                "functionArn": "arn:aws:lambda:eu-central-1:123456789012:function:orders",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 2,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": "2019-11-14T01:18:53.000Z",
            "KinesisBatchInfo": {
                "shardId": SHARD,
                "startSequenceNumber": "4959033827149025660855969253836157109592157598913658889",
                "endSequenceNumber": "4959033827149025660855969253836157109592157598913658890",
                "approximateArrivalOfFirstRecord": "2018-12-17T22:10:50.987Z",
                "approximateArrivalOfLastRecord": "2018-12-17T22:11:51.167Z",
                "batchSize": 2,
                "streamArn": "arn:aws:kinesis:eu-central-1:123456789012:stream/orders",
            },
        }
    )


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        *((region, partition["id"]) for partition in PARTITIONS for region in partition["regions"] if "global" not in region),
        ("local", "aws"),
    ],
)
def test_arns_name_the_partition_of_their_region(region: str, partition: str) -> None:
    made = failure_document(document(), payload=True, region=region, account_id="123456789012")
    assert made["requestContext"]["functionArn"] == f"arn:{partition}:lambda:{region}:123456789012:function:orders"
    assert made["KinesisBatchInfo"]["streamArn"] == f"arn:{partition}:kinesis:{region}:123456789012:stream/orders"
    record = made["payload"]["Records"][0]
    assert record["eventSourceARN"] == made["KinesisBatchInfo"]["streamArn"]
    assert record["invokeIdentityArn"] == f"arn:{partition}:iam::123456789012:role/streamlet"


def test_the_payload_is_the_event() -> None:
    """As Lambda hands it to a function; only a record from inside an aggregate says more, since it could not be found without."""
    first, second = failure_document(document(), payload=True)["payload"]["Records"]
    assert b64decode(first["kinesis"].pop("data")) == b"\xff\x00first"
    assert first == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "key-1",
            "sequenceNumber": "4959033827149025660855969253836157109592157598913658889",
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{SHARD}:4959033827149025660855969253836157109592157598913658889",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::000000000000:role/streamlet",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
    }
    assert second["kinesis"]["subSequenceNumber"] == 2
    assert second["kinesis"]["approximateArrivalTimestamp"] == 1545084711.167


def test_the_response_context() -> None:
    """Null for a partial response; the whole object is missing for records that were too old to be tried."""
    assert failure_document(document(function_error=None), payload=False)["responseContext"]["functionError"] is None
    assert "responseContext" not in failure_document(document(condition=RECORD_AGE_EXCEEDED), payload=False)


def test_a_document_sent_again_can_be_recognised() -> None:
    """The request id follows from the document's id, unless there was a real request."""

    def request_id(**changes: Any) -> str:
        return str(failure_document(document(**changes), payload=False)["requestContext"]["requestId"])

    assert request_id() == request_id(timestamp_s=1.0)
    assert request_id() != request_id(document_id="another")
    real = "e4b46cbf-b738-xmpl-8880-a18cdf61200e".replace("xmpl", "4a1b")
    assert request_id(request_id=real) == real


def test_lines_are_appended(tmp_path: Path) -> None:
    """Into a directory that is made on the way."""
    path = tmp_path / "a" / "b" / "failed.jsonl"
    FileDestination(path).send(document(1))
    FileDestination(str(path)).send(document(2))
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [failure_document(document(n), payload=True) for n in (1, 2)]


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A crash in the middle of a line: that one was never delivered, and the next one stands by itself."""
    path = tmp_path / "failed.jsonl"
    FileDestination(path).send(document(1))
    with path.open("ab") as file:
        file.write(b'{"requestContext": {"requ')
    FileDestination(path).send(document(2))
    FileDestination(path).send(document(3))
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert [json.loads(lines[n]) for n in (0, 2, 3)] == [failure_document(document(n), payload=True) for n in (1, 2, 3)]


def test_many_writers_do_not_mix(tmp_path: Path) -> None:
    """Lines of 100 kB from eight threads, each with a descriptor of its own, as processes have."""
    path = tmp_path / "failed.jsonl"
    big = [Record(b"x" * 75_000, "k", "1")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(FileDestination(path).send, [document(n, records=big) for n in range(40)]))
    ids = {json.loads(line)["requestContext"]["requestId"] for line in path.read_text().splitlines()}
    assert len(ids) == 40


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk's end. What was there stays, and what comes later is whole."""
    program = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_file_destination import document
from streamlet.destinations.file import FileDestination
from streamlet.errors import SinkError
from streamlet.model.record import Record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
destination = FileDestination(sys.argv[1])
destination.send(document(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    destination.send(document(2, records=[Record(b"x" * 50_000, "k", "1")]))
except SinkError as error:
    print(error)
destination.send(document(3))
"""
    path = tmp_path / "failed.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"failure documents cannot be written to {path}: the disk is full")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [failure_document(document(n), payload=True) for n in (1, 3)]


def test_troubles_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkError, match="it is a directory; name a file in it"):
        FileDestination(tmp_path).send(document())
    with pytest.raises(SinkError, match="part of its path is a file"):
        FileDestination(tmp_path / "file" / "x" / "y").send(document())
    for nothing in ("", None, 5):
        with pytest.raises(ConfigurationError, match="name a file"):
            FileDestination(nothing)  # type: ignore[arg-type]
