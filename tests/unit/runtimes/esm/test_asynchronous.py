"""Asynchronous invocations: retries on the clock, an age, dead letters and documents, with real functions and moto's services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from streamlet.clock import SystemClock, ThreadExecutor
from streamlet.core.failure import Throttled
from streamlet.errors import ConfigurationError
from streamlet.runtimes.esm.asynchronous import EVENT_BYTES_MAX, Asynchronous, Attempt, DeadLetters, FailureRecords, InvokeOptions, Target
from streamlet.runtimes.esm.host import Host
from streamlet.runtimes.esm.sandbox import Answer, FunctionError, SandboxSettings
from tests.unit.destinations.given_up import boto, moto_server, without_configuration

T = TypeVar("T")
FUNCTION = r"""
import os

def lambda_handler(event, context):
    with open("attempts", "a") as file:
        file.write(context.aws_request_id + chr(10))
    with open("attempts") as file:
        attempt = len(file.readlines())
    if attempt <= event["failures"]:
        raise ValueError(f"attempt {attempt}")
    return attempt

def odd(event, context):
    raise ValueError("\x1b[31m \0 \uffff é\t\N{GRINNING FACE}")

def slow(event, context):
    import time
    time.sleep(0.3)
"""
ARN = "arn:aws:{}:eu-west-1:123456789012:{}"


class Jumping:
    """A clock whose waits take no time, and are written down."""

    def __init__(self) -> None:
        self.now_s = 1_573_694_333.25
        self.waits: list[float] = []

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        self.now_s += delay_s
        await asyncio.sleep(0.001)


class World:
    def __init__(self, host: Host, executor: ThreadExecutor) -> None:
        self.host, self.clock, self.attempts, self._executor = host, Jumping(), list[Attempt](), executor

    def asynchronous(self, **options: Any) -> Asynchronous:
        return Asynchronous(self.host, InvokeOptions(**options), clock=self.clock, executor=self._executor, on_attempt=self.attempts.append)


@pytest.fixture
def hosted(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "function.py").write_text(FUNCTION)

    @asynccontextmanager
    async def make(handler: str = "lambda_handler", concurrency: int | None = None) -> AsyncIterator[World]:
        settings = SandboxSettings(
            handler=f"function.{handler}",
            function_name="thumbs",
            folder=tmp_path,
            region="eu-west-1",
            account_id="123456789012",
            timeout_s=20,
        )
        executor = ThreadExecutor(1)
        async with Host(settings, clock=SystemClock(), concurrency=concurrency, on_line=lambda *_: None) as host:
            yield World(host, executor)
        executor.close()

    return make


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def targets(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Target], Target]]:
    """Closes them."""
    without_configuration(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    with ExitStack() as stack:

        def closing(target: Target) -> Target:
            stack.callback(target.close)
            return target

        yield closing


async def test_two_retries_after_one_and_two_minutes_under_one_request_id(hosted: Any, tmp_path: Path) -> None:
    async with hosted() as world:
        ended = await world.asynchronous().invoke(b'{"failures": 2}')
    assert (ended.outcome, ended.invoke_count, ended.condition) == (Answer(3), 3, "")
    assert world.clock.waits == [60.0, 120.0]
    assert set((tmp_path / "attempts").read_text().splitlines()) == {ended.request_id}
    assert [(attempt.number, attempt.wait_s) for attempt in world.attempts] == [(1, 60.0), (2, 120.0), (3, None)]


async def test_used_up_retries_are_told_with_event_and_error(hosted: Any, moto: str, targets: Any) -> None:
    with boto("sqs", moto) as sqs:
        queues = {name: sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("dead", "failed")}
        dead, failed = targets(DeadLetters(ARN.format("sqs", "dead"))), targets(FailureRecords(ARN.format("sqs", "failed")))
        async with hosted() as world:
            ended = await world.asynchronous(dead_letters=dead, on_failure=failed).invoke(b'{"failures": 9}')
        (letter,) = sqs.receive_message(QueueUrl=queues["dead"], MessageAttributeNames=["All"])["Messages"]
        (record,) = sqs.receive_message(QueueUrl=queues["failed"])["Messages"]
    assert (ended.condition, ended.invoke_count, ended.undelivered) == ("RetriesExhausted", 3, ())
    assert json.loads(letter["Body"]) == {"failures": 9}
    attributes = {name: (value["DataType"], value["StringValue"]) for name, value in letter["MessageAttributes"].items()}
    assert attributes == {
        "RequestID": ("String", ended.request_id),
        "ErrorCode": ("Number", "200"),
        "ErrorMessage": ("String", "attempt 3"),
    }
    document = json.loads(record["Body"])
    stack = document["responsePayload"].pop("stackTrace")
    assert any("function.py" in line for line in stack)
    assert document == {
        "version": "1.0",
        "timestamp": "2019-11-14T01:21:53.250Z",
        "requestContext": {
            "requestId": ended.request_id,
            "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:thumbs:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": {"failures": 9},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "attempt 3", "errorType": "ValueError", "requestId": ended.request_id},
    }


async def test_topics_and_buckets_take_them_too(hosted: Any, moto: str, targets: Any) -> None:
    with boto("sns", moto) as sns, boto("sqs", moto) as sqs, boto("s3", moto) as s3:
        topic = sns.create_topic(Name="dead")["TopicArn"]
        queue = sqs.create_queue(QueueName="heard")["QueueUrl"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=ARN.format("sqs", "heard"))
        s3.create_bucket(Bucket="failed", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        dead, failed = targets(DeadLetters(topic)), targets(FailureRecords("arn:aws:s3:::failed"))
        async with hosted() as world:
            await world.asynchronous(maximum_retry_attempts=0, dead_letters=dead, on_failure=failed).invoke(b'{"failures": 9}')
        (heard,) = sqs.receive_message(QueueUrl=queue)["Messages"]
        (item,) = s3.list_objects_v2(Bucket="failed")["Contents"]
        kept = json.loads(s3.get_object(Bucket="failed", Key=item["Key"])["Body"].read())
    envelope = json.loads(heard["Body"])
    assert json.loads(envelope["Message"]) == {"failures": 9}
    assert envelope["MessageAttributes"]["ErrorMessage"]["Value"] == "attempt 1"
    assert item["Key"].startswith("aws/lambda/async/thumbs/2019/11/14/2019-11-14T01.18.53-")
    assert kept["requestContext"]["approximateInvokeCount"] == 1


async def test_an_event_that_is_too_old_is_not_tried_again(hosted: Any) -> None:
    async with hosted() as world:
        ended = await world.asynchronous(maximum_event_age_s=100).invoke(b'{"failures": 9}')
    assert (ended.condition, ended.invoke_count) == ("EventAgeExceeded", 2)


async def test_a_throttle_waits_longer_and_longer_and_counts_for_nothing(hosted: Any) -> None:
    async with hosted("slow", concurrency=1) as world, asyncio.TaskGroup() as tg:
        busy = tg.create_task(world.host.invoke(b"{}"))
        await asyncio.sleep(0)
        ended = await world.asynchronous(maximum_event_age_s=21_600).invoke(b"{}")
        await busy
    throttled = [attempt.wait_s for attempt in world.attempts if isinstance(attempt.invoked, Throttled)]
    assert throttled[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    # Either it got the sandbox in time, or, on a clock that jumps, it grew too old; no throttle was an attempt.
    assert (ended.condition, ended.invoke_count) in {("", 1), ("EventAgeExceeded", 0)}


async def test_without_any_concurrency_events_go_to_the_dead_letters_at_once(hosted: Any, moto: str, targets: Any) -> None:
    with boto("sqs", moto) as sqs:
        queue = sqs.create_queue(QueueName="never")["QueueUrl"]
        dead = targets(DeadLetters(ARN.format("sqs", "never")))
        async with hosted(concurrency=0) as world:
            ended = await world.asynchronous(dead_letters=dead).invoke(b"{}")
        (letter,) = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"])["Messages"]
    assert (ended.condition, ended.invoke_count, world.attempts) == ("ZeroReservedConcurrency", 0, [])
    assert letter["MessageAttributes"]["ErrorCode"]["StringValue"] == "429"


async def test_no_error_message_keeps_an_event_from_the_dead_letters(hosted: Any, moto: str, targets: Any) -> None:
    """SQS refuses control characters; so would we lose what fails with a message out of a terminal, or out of a binary file."""
    with boto("sqs", moto) as sqs:
        queue = sqs.create_queue(QueueName="odd")["QueueUrl"]
        dead = targets(DeadLetters(ARN.format("sqs", "odd")))
        async with hosted("odd") as world:
            ended = await world.asynchronous(maximum_retry_attempts=0, dead_letters=dead).invoke(b"{}")
        (letter,) = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"])["Messages"]
    assert isinstance(ended.outcome, FunctionError)
    assert ended.outcome.message == "\x1b[31m \0 \uffff é\t\N{GRINNING FACE}"
    assert letter["MessageAttributes"]["ErrorMessage"]["StringValue"] == "\ufffd[31m \ufffd \ufffd é\t\N{GRINNING FACE}"


async def test_what_a_target_does_not_take_is_told(hosted: Any, targets: Any) -> None:
    async with hosted() as world:
        missing = targets(DeadLetters(ARN.format("sqs", "missing")))
        ended = await world.asynchronous(maximum_retry_attempts=0, dead_letters=missing).invoke(b'{"failures": 9}')
    (why,) = ended.undelivered
    assert "missing" in why


async def test_an_event_above_a_megabyte_is_refused(hosted: Any) -> None:
    async with hosted() as world:
        with pytest.raises(ConfigurationError, match="1,048,576"):
            await world.asynchronous().invoke(b" " * (EVENT_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: InvokeOptions(maximum_retry_attempts=3), "0, 1 or 2"),
        (lambda: InvokeOptions(maximum_event_age_s=59), "60 to 21,600"),
        (lambda: DeadLetters("arn:aws:s3:::bucket"), "SQS queue or an SNS topic"),
        (lambda: FailureRecords(ARN.format("lambda", "function:f")), "S3 bucket"),
        (lambda: DeadLetters(ARN.format("sqs", "a.fifo")), "FIFO"),
    ],
)
def test_what_lambda_refuses_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()
