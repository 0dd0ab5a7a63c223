"""What becomes of an asynchronous invocation, as S3 and SNS make them? It is retried, and then told of.

    what came of an attempt          what follows
    an answer                        done
    a function error                 again after 1 minute, then after 2; with the retries used up: RetriesExhausted
    throttled                        again after 1 s, doubling to 5 min; no attempt is counted
    before an attempt, older than
      maximum_event_age_s            EventAgeExceeded
    reserved concurrency 0           at once: ZeroReservedConcurrency

An event that is given up goes to the on-failure destination as a document, and to the dead-letter queue as it came, with the error
as message attributes. All attempts have one request id. (reference: Lambda developer guide, invocation-async)

CHOICES: without an attempt there is no response in the document. An event that is too old, or that nothing may run, says 429 as
its ErrorCode, one whose function failed 200. A target that does not take it is told of, and not tried again beyond the client's own
retries: as on Lambda, the event is then lost (DeadLetterErrors, DestinationDeliveryFailures).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
import orjson

from streamlet.core.failure import Throttled
from streamlet.destinations.aws import AwsClient, parse_arn
from streamlet.destinations.document import iso_ms
from streamlet.errors import ConfigurationError, StreamletError
from streamlet.ports import Clock, Executor
from streamlet.runtimes.esm.host import Host, new_request_id
from streamlet.runtimes.esm.sandbox import Answer, FunctionError, Invoked

__all__ = ["EVENT_BYTES_MAX", "Asynchronous", "Attempt", "DeadLetters", "Ended", "FailureRecords", "InvokeOptions", "Target"]

EVENT_BYTES_MAX: Final = 1_048_576
RETRY_S: Final = (60.0, 120.0)
THROTTLED_FIRST_S: Final = 1.0
THROTTLED_CAP_S: Final = 300.0
MESSAGE_CHARS_MAX: Final = 1_024
# SQS refuses messages with other characters in them (API reference, SendMessage).
_NOT_SENT: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

RETRIES_EXHAUSTED: Final = "RetriesExhausted"
EVENT_AGE_EXCEEDED: Final = "EventAgeExceeded"
ZERO_RESERVED_CONCURRENCY: Final = "ZeroReservedConcurrency"


class GivenUp(msgspec.Struct, frozen=True):
    """An event that is not tried any more. `error` is the last attempt's, None if there was none."""

    request_id: str
    function_arn: str
    condition: str
    invoke_count: int
    event: bytes
    error: FunctionError | None
    at_s: float


class Target(Protocol):
    """Who is told of it. Blocking; called on the executor."""

    def send(self, given_up: GivenUp) -> None:
        """Deliver before returning. Raises ServiceError, SinkError or ConfigurationError."""
        ...

    def close(self) -> None:
        """Give back what is open. Idempotent."""
        ...


class InvokeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Lambda's EventInvokeConfig and DeadLetterConfig, under its names: retries 0-2, age 60-21,600 seconds."""

    maximum_retry_attempts: int = 2
    maximum_event_age_s: float = 21_600
    on_failure: Target | None = None
    dead_letters: Target | None = None

    def __post_init__(self) -> None:
        if self.maximum_retry_attempts not in {0, 1, 2}:
            raise ConfigurationError(f"maximum_retry_attempts={self.maximum_retry_attempts!r}: must be 0, 1 or 2")
        if not 60 <= self.maximum_event_age_s <= 21_600:
            raise ConfigurationError(f"maximum_event_age_s={self.maximum_event_age_s!r}: must be from 60 to 21,600 seconds")


class Attempt(msgspec.Struct, frozen=True):
    """One attempt, and how long it is until the next; None if there is none."""

    request_id: str
    number: int
    invoked: Invoked | Throttled
    wait_s: float | None


class Ended(msgspec.Struct, frozen=True):
    """What came of an event. `condition` is empty for a success; `undelivered` has what did not take it, and why."""

    request_id: str
    condition: str
    invoke_count: int
    outcome: Answer | FunctionError | None
    undelivered: tuple[str, ...] = ()


class Asynchronous:
    """Takes events to their ends, through a host."""

    def __init__(
        self, host: Host, options: InvokeOptions, *, clock: Clock, executor: Executor, on_attempt: Callable[[Attempt], None]
    ) -> None:
        self._host, self._options, self._clock, self._executor, self._on_attempt = host, options, clock, executor, on_attempt

    async def invoke(self, event: bytes) -> Ended:
        """Run until success, or until it is given up and told. `event` is JSON. Raises ConfigurationError above 1 MB."""
        if len(event) > EVENT_BYTES_MAX:
            raise ConfigurationError(f"the event has {len(event):,} bytes, an asynchronous invocation takes {EVENT_BYTES_MAX:,}")
        request_id, accepted_s = new_request_id(), self._clock.time()
        attempts = throttles = 0
        error: FunctionError | None = None
        while True:
            if self._host.reserved_concurrency == 0:
                return await self._give_up(request_id, ZERO_RESERVED_CONCURRENCY, attempts, event, error)
            if self._clock.time() - accepted_s > self._options.maximum_event_age_s:
                return await self._give_up(request_id, EVENT_AGE_EXCEEDED, attempts, event, error)
            invoked = await self._host.invoke(event, request_id=request_id)
            if isinstance(invoked, Throttled):
                wait_s = min(THROTTLED_CAP_S, THROTTLED_FIRST_S * 2.0 ** min(throttles, 30))
                throttles += 1
                self._on_attempt(Attempt(request_id, attempts + 1, invoked, wait_s))
                await self._clock.sleep(wait_s)
                continue
            attempts += 1
            if isinstance(invoked.outcome, Answer):
                self._on_attempt(Attempt(request_id, attempts, invoked, None))
                return Ended(request_id, "", attempts, invoked.outcome)
            error = invoked.outcome
            last = attempts > self._options.maximum_retry_attempts
            self._on_attempt(Attempt(request_id, attempts, invoked, None if last else RETRY_S[attempts - 1]))
            if last:
                return await self._give_up(request_id, RETRIES_EXHAUSTED, attempts, event, error)
            await self._clock.sleep(RETRY_S[attempts - 1])

    async def _give_up(self, request_id: str, condition: str, attempts: int, event: bytes, error: FunctionError | None) -> Ended:
        given_up = GivenUp(request_id, self._host.settings.function_arn, condition, attempts, event, error, self._clock.time())
        undelivered = []
        for target in (self._options.on_failure, self._options.dead_letters):
            if target is not None:
                try:
                    await self._executor.run(target.send, given_up)
                except StreamletError as refused:
                    undelivered.append(str(refused))
        return Ended(request_id, condition, attempts, error, tuple(undelivered))


# ── who is told ──────────────────────────────────────────────────────────────────────────────────────────────────


class _Sender:
    """A queue, a topic or a bucket, by its ARN."""

    services: tuple[str, ...] = ("sqs", "sns")
    what = "target"

    def __init__(self, arn: str) -> None:
        parsed = parse_arn(arn)
        if parsed is None or parsed.service not in self.services:
            kinds = {"sqs": "an SQS queue", "sns": "an SNS topic", "s3": "an S3 bucket"}
            raise ConfigurationError(f"{arn!r} cannot be a {self.what}: use the ARN of {' or '.join(kinds[one] for one in self.services)}")
        if parsed.resource.endswith(".fifo"):
            raise ConfigurationError(f"{arn!r} cannot be a {self.what}: FIFO is not supported, use a standard queue or topic")
        self.target = arn
        self._arn = parsed
        right = {"sqs": "sqs:SendMessage", "sns": "sns:Publish", "s3": "s3:PutObject"}[parsed.service]
        self._client = AwsClient(parsed.service, arn, right, region=parsed.region or None, endpoint_url=None)

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self._client.close()

    def _send(self, body: str, attributes: dict[str, Any]) -> None:
        if self._arn.service == "sqs":
            # Made instead of asked for: GetQueueUrl is a right of its own.
            url = f"{self._client.endpoint_url.rstrip('/')}/{self._arn.account}/{self._arn.resource}"
            self._client.call("send_message", QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
        else:
            self._client.call("publish", TopicArn=self.target, Message=body, MessageAttributes=attributes)


class DeadLetters(_Sender):
    """DeadLetterConfig.TargetArn: the event itself, with RequestID, ErrorCode and ErrorMessage as attributes."""

    what = "dead-letter queue"

    def send(self, given_up: GivenUp) -> None:
        """One message."""
        error = given_up.error
        # Nothing that an exception says may keep the event from being delivered.
        message = _NOT_SENT.sub("\N{REPLACEMENT CHARACTER}", error.message if error is not None else given_up.condition)[:MESSAGE_CHARS_MAX]
        attributes = {
            "RequestID": {"DataType": "String", "StringValue": given_up.request_id},
            "ErrorCode": {"DataType": "Number", "StringValue": "200" if given_up.condition == RETRIES_EXHAUSTED else "429"},
            "ErrorMessage": {"DataType": "String", "StringValue": message or given_up.condition},
        }
        self._send(given_up.event.decode(), attributes)


class FailureRecords(_Sender):
    """DestinationConfig.OnFailure of an asynchronous invocation: a document with the event and the function's error in it."""

    services = ("sqs", "sns", "s3")
    what = "destination of failed events"

    def send(self, given_up: GivenUp) -> None:
        """One message, or one object."""
        body = orjson.dumps(failure_record(given_up))
        if self._arn.service != "s3":
            self._send(body.decode(), {})
            return
        at = datetime.fromtimestamp(given_up.at_s, UTC)
        name = given_up.function_arn.rpartition(":")[2]
        unique = uuid.uuid5(uuid.UUID(given_up.request_id), given_up.condition)
        key = f"aws/lambda/async/{name}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{unique}"
        self._client.call("put_object", Bucket=self._arn.resource, Key=key, Body=body, ContentType="application/json")


def failure_record(given_up: GivenUp) -> dict[str, Any]:
    """The document. (reference: Lambda developer guide, invocation-async-retain-records)"""
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": iso_ms(given_up.at_s),
        "requestContext": {
            "requestId": given_up.request_id,
            "functionArn": f"{given_up.function_arn}:$LATEST",
            "condition": given_up.condition,
            "approximateInvokeCount": given_up.invoke_count,
        },
        "requestPayload": orjson.Fragment(given_up.event),
    }
    if given_up.error is not None:
        record["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
        record["responsePayload"] = given_up.error.payload
    return record
