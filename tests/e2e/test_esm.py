"""`streamlet esm` as a person meets it: a stock function, a poison record, a queue; and one sentence for what AWS refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamlet.broker import Broker
from streamlet.cli.esm import command
from tests.unit.destinations.given_up import boto, moto_server

# Ten lines, as anybody would write them: boto3, and nothing of streamlet.
STOCK = """
import base64, json
import boto3
bucket = boto3.client("s3")
def lambda_handler(event, context):
    for record in event["Records"]:
        order = json.loads(base64.b64decode(record["kinesis"]["data"]))
        total = order["price"] * order["count"]
        bucket.put_object(Bucket="totals", Key=str(order["id"]), Body=json.dumps(total).encode())
    print("stored", len(event["Records"]))
"""
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.in_thread(streams={"orders": 1}) as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "totals.py").write_text(STOCK)
    return tmp_path


def command_line(folder: Path, broker: Broker, *arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    """What to run, and in which environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMLET_"))}
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    command = [
        *(sys.executable, "-m", "streamlet", "esm", "totals.lambda_handler", "--stream", "orders", *arguments),
        *("--endpoint-url", broker.endpoint_url, "--region", "us-east-1", "--poll-interval-s", "0.05", "--once"),
    ]
    return command, clean | credentials | environment


def esm(folder: Path, broker: Broker, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, environment = command_line(folder, broker, *arguments, **environment)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def put(broker: Broker, orders: list[dict[str, Any]]) -> list[str]:
    """Their sequence numbers."""
    with boto("kinesis", broker.endpoint_url, region="us-east-1") as client:
        return [
            client.put_record(StreamName="orders", Data=json.dumps(order).encode(), PartitionKey="key")["SequenceNumber"]
            for order in orders
        ]


def test_the_document_of_a_poison_record_has_exactly_lambdas_fields(folder: Path, broker: Broker, moto: str) -> None:
    """A stock function, bisect, an SQS destination: one record is given up, and all others are done."""
    orders = [{"id": n, "price": 2, "count": n} for n in range(8)]
    del orders[5]["price"]
    numbers = put(broker, orders)
    with boto("sqs", moto, region="us-east-1") as sqs, boto("s3", moto, region="us-east-1") as s3:
        queue = sqs.create_queue(QueueName="failed")["QueueUrl"]
        s3.create_bucket(Bucket="totals")
        ran = esm(
            folder,
            broker,
            *("--bisect-batch-on-function-error", "--maximum-retry-attempts", "1", "--memory-size", "512", "--timeout", "20"),
            *("--on-failure", f"arn:aws:sqs:us-east-1:{ACCOUNT}:failed"),
            AWS_ENDPOINT_URL_SQS=moto,
            AWS_ENDPOINT_URL_S3=moto,
        )
        assert ran.returncode == 1, ran.stderr
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket="totals")["Contents"]]
        stored = {key: json.loads(s3.get_object(Bucket="totals", Key=key)["Body"].read()) for key in keys}
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        sqs.delete_queue(QueueUrl=queue)
    assert stored == {str(n): 2 * n for n in range(8) if n != 5}
    (message,) = messages
    document = json.loads(message["Body"])
    context, batch = document["requestContext"], document["KinesisBatchInfo"]
    assert uuid.UUID(context["requestId"]).version == 4, "the last invocation's own"
    for when in (document["timestamp"], batch["approximateArrivalOfFirstRecord"], batch["approximateArrivalOfLastRecord"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", when)
    assert datetime.fromisoformat(document["timestamp"]) >= datetime.fromisoformat(batch["approximateArrivalOfLastRecord"])
    assert document == {
        "requestContext": {
            "requestId": context["requestId"],
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:totals",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 2,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": document["timestamp"],
        "KinesisBatchInfo": {
            "shardId": "shardId-000000000000",
            "startSequenceNumber": numbers[5],
            "endSequenceNumber": numbers[5],
            "approximateArrivalOfFirstRecord": batch["approximateArrivalOfFirstRecord"],
            "approximateArrivalOfLastRecord": batch["approximateArrivalOfLastRecord"],
            "batchSize": 1,
            "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
        },
    }
    told = ran.stderr
    pieces = re.findall(r"#1    ( *[\d-]+) +(ok|FAILED|GIVEN UP)", told)
    assert pieces == [
        *[("1-8", "FAILED"), ("  1-4", "ok"), ("  5-8", "FAILED"), ("    5-6", "FAILED"), ("      5", "ok")],
        *[("      6", "FAILED"), ("      6", "FAILED"), ("      6", "GIVEN UP"), ("    7-8", "ok")],
    ]
    assert "KeyError: 'price'" in told
    assert f"RetryAttemptsExhausted, to arn:aws:sqs:us-east-1:{ACCOUNT}:failed" in told
    assert "sandbox 1 │ stored 4" in told
    assert "8 invocations, 1 cold, 7 records done, 1 given up" in told
    assert "\x1b" not in told, "no colours where nobody sees them"


def test_a_stream_without_failures_ends_with_0_and_json_can_be_read(folder: Path, broker: Broker) -> None:
    (folder / "totals.py").write_text("import os\ndef lambda_handler(event, context):\n    print(os.environ['GREETING'])")
    put(broker, [{"id": 1}])
    ran = esm(folder, broker, "--log", "json", "--env", "GREETING=hi", "--function-name", "named")
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [event["line"] for event in events if event["event"] == "FunctionPrinted"] == ["hi"]
    (ended,) = [event for event in events if event["event"] == "InvocationEnded"]
    assert (ended["outcome"], len(ended["sequence_numbers"])) == ("ok", 1)
    assert events[-1]["event"] == "Drained"


def test_a_drain_that_was_interrupted_is_no_success(folder: Path, broker: Broker) -> None:
    """Ctrl-C, while a batch fails for ever."""
    (folder / "totals.py").write_text(
        "import os, signal\ndef lambda_handler(*_):\n    os.kill(os.getppid(), signal.SIGINT)\n    raise ValueError"
    )
    put(broker, [{"id": 1}])
    ran = esm(folder, broker)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-2:] == [
        "stopped before the stream was drained",
        "1 invocation, 1 cold, 0 records done, 0 given up",
    ]


def test_when_nobody_reads_any_more_it_stops_without_a_traceback(folder: Path, broker: Broker) -> None:
    (folder / "totals.py").write_text("def lambda_handler(event, context):\n    raise ValueError")
    put(broker, [{"id": 1}])
    command, environment = command_line(folder, broker, "--log", "json")
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"LeaseTaken" in process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        try:
            said = process.communicate(timeout=60)[1].decode()
        finally:
            process.kill()
    assert process.returncode == 1
    assert said.splitlines()[0] == "stopped before the stream was drained"


def test_a_stream_that_is_not_there_is_one_sentence(folder: Path) -> None:
    with Broker.in_thread() as broker:
        ran = esm(folder, broker)
    assert ran.returncode == 1
    assert "orders" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch-size", "0"], "1<=x<=10000"),
        (["--maximum-batching-window-in-seconds", "301"], "0<=x<=300"),
        (["--parallelization-factor", "11"], "1<=x<=10"),
        (["--starting-position", "AFTER"], "TRIM_HORIZON"),
        (["--starting-position", "AT_TIMESTAMP"], "needs --starting-position-timestamp"),
        (["--starting-position-timestamp", "5"], "AT_TIMESTAMP only"),
        (["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", "99999999999"], "in the future"),
        (["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", "2999-01-01"], "in the future"),
        (["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", "yesterday"], "nor ISO 8601"),
        (["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", "nan"], "seconds since 1970"),
        (["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp", "-1"], "seconds since 1970"),
        (["--maximum-retry-attempts", "-2"], "-1<=x<=10000"),
        (["--maximum-record-age-in-seconds", "59"], "60 to 604800"),
        (
            ["--maximum-retry-attempts", "1", "--on-failure", "arn:aws:lambda:us-east-1:123456789012:function:f"],
            "SQS queue, an SNS topic or an S3",
        ),
        (["--maximum-retry-attempts", "1", "--on-failure", "arn:aws:sqs:us-east-1:123456789012:f.fifo"], "FIFO"),
        (["--on-failure", "arn:aws:sqs:us-east-1:123456789012:f"], "never reached"),
        (["--function-response-types", "All"], "ReportBatchItemFailures"),
        (["--filter-criteria", "{"], "no JSON"),
        (["--filter-criteria", '{"Filters": [{"Pattern": "{\\"data\\": [1]}"}]}'], "Invalid filter pattern definition"),
        (["--filter-criteria", "@absent.json"], "absent.json"),
        (["--tumbling-window-in-seconds", "5", "--parallelization-factor", "2"], "cannot be handed on in parallel"),
        (["--dead-letter-target-arn", "arn:aws:sqs:us-east-1:123456789012:f"], "No such option"),
        (["--once", "--no-enabled"], "nothing would ever be drained"),
        (["--timeout", "901"], "1<=x<=900"),
        (["--memory-size", "127"], "128<=x<=10240"),
        (["--env", "AWS_REGION=x"], "reserves"),
        (["--env", "1A=x"], "NAME=VALUE"),
        (["--env", "AB=" + "x" * 4_096], "4,096"),
        (["--function-name", "a b"], "1 to 64"),
        (["--state", "nowhere"], "names no store"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_what_aws_refuses_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(
        command, ["totals.lambda_handler", "--stream", "orders", "--endpoint-url", "http://127.0.0.1:9", *arguments]
    )
    assert says in result.output
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("handler", "says"), [("totals", "MODULE.FUNCTION"), ("absent.handler", "no module 'absent'"), (".x", "MODULE.FUNCTION")]
)
def test_a_handler_that_is_not_there_is_told_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch, handler: str, says: str) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(command, [handler, "--stream", "orders"])
    assert (result.exit_code, says in result.output) == (2, True)


# ── asynchronous invocations ─────────────────────────────────────────────────────────────────────────────────────

PUT_EVENT = {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": "photos"}, "object": {"key": "a+b.jpg", "size": 3}}}]}


def invoke(folder: Path, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMLET_"))}
    return subprocess.run(
        [sys.executable, "-m", "streamlet", "invoke", "thumbs.lambda_handler", *arguments],
        cwd=folder,
        env=clean | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"} | environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_s3_event_that_fails_goes_to_the_dead_letter_queue(tmp_path: Path, moto: str) -> None:
    (tmp_path / "thumbs.py").write_text("def lambda_handler(event, context):\n    raise OSError('no such picture')")
    (tmp_path / "put.json").write_text(json.dumps(PUT_EVENT))
    with boto("sqs", moto, region="us-east-1") as sqs:
        queue = sqs.create_queue(QueueName="dead")["QueueUrl"]
        arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:dead"
        ran = invoke(tmp_path, "put.json", "--maximum-retry-attempts", "0", "--dead-letter-target-arn", arn, AWS_ENDPOINT_URL=moto)
        (letter,) = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"])["Messages"]
    assert ran.returncode == 1
    assert json.loads(letter["Body"]) == PUT_EVENT
    assert letter["MessageAttributes"]["ErrorMessage"]["StringValue"] == "no such picture"
    assert "put.json  GIVEN UP  RetriesExhausted after 1 attempt\n" in ran.stderr
    assert ran.stderr.endswith("1 event, 0 done, 1 given up\n")


def test_a_function_that_cannot_begin_says_why_and_nothing_of_managed_runtimes(tmp_path: Path) -> None:
    (tmp_path / "thumbs.py").write_text("handler = None")
    ran = invoke(tmp_path, "-", "--maximum-retry-attempts", "0", text="{}")
    assert ran.returncode == 1
    assert "Runtime.HandlerNotFound: Handler 'lambda_handler' missing on module 'thumbs'" in ran.stderr
    assert "LAMBDA_WARNING" not in ran.stderr


def test_events_come_from_lines_and_are_done(tmp_path: Path) -> None:
    (tmp_path / "thumbs.py").write_text("def lambda_handler(event, context):\n    print('got', event['n'])")
    ran = invoke(tmp_path, "-", text=f'{{"n": 1}}\n\n{{"n": {10**30}}}\n')
    assert ran.returncode == 0, ran.stderr
    assert {"got 1", f"got {10**30}"} <= {line.rpartition("│ ")[2] for line in ran.stderr.splitlines()}
    assert ran.stderr.endswith("2 events, 2 done, 0 given up\n")


@pytest.mark.parametrize(
    ("arguments", "environment", "region"),
    [
        ([], {}, "us-east-1"),
        ([], {"AWS_DEFAULT_REGION": "eu-west-3"}, "eu-west-3"),
        ([], {"AWS_DEFAULT_REGION": "eu-west-3", "AWS_REGION": "eu-west-1"}, "eu-west-1"),
        (["--region", "eu-north-1"], {"AWS_REGION": "eu-west-1"}, "eu-north-1"),
    ],
)
def test_a_function_is_in_the_region_of_its_user(tmp_path: Path, arguments: list[str], environment: dict[str, str], region: str) -> None:
    (tmp_path / "thumbs.py").write_text(
        "import os\ndef lambda_handler(event, context):\n    print(os.environ['AWS_REGION'], context.invoked_function_arn)"
    )
    ran = invoke(tmp_path, "-", *arguments, text="{}", **environment)
    assert f"│ {region} arn:aws:lambda:{region}:000000000000:function:thumbs\n" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (["-"], "", "there is no event"),
        (["-"], "{", "standard input, line 1: not JSON"),
        (["-"], '{"n": "' + "x" * 1_048_576 + '"}', "standard input, line 1: 1,048,585 bytes"),
        (["-", "--maximum-retry-attempts", "3"], "{}", "0<=x<=2"),
        (["-", "--maximum-event-age-in-seconds", "59"], "{}", "60<=x<=21600"),
        (["-", "--dead-letter-target-arn", "arn:aws:s3:::b"], "{}", "dead-letter queue"),
    ],
)
def test_what_invoke_refuses(tmp_path: Path, arguments: list[str], text: str, says: str) -> None:
    (tmp_path / "thumbs.py").write_text("")
    ran = invoke(tmp_path, *arguments, text=text)
    assert (ran.returncode, says in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)
