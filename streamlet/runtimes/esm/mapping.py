"""What does the engine see of a hosted function? A handler of batches, which says how each one ended.

A batch becomes the event that Lambda would be sent, and what came of the invocation becomes an outcome:

    what came of it                               the batch                            function_error
    an answer                                     as core/responses reads it           None
    in a tumbling window, one without a state     failed as a whole, a final call too  None
    a function error (sandbox.py lists them)      failed as a whole                    "Unhandled"
    an event above the 6 MB of an invocation      failed as a whole; it was not run    None
    no sandbox is free                            throttled: no attempt                -

Failure documents name the function and the stream by their whole ARNs, and the last invocation of their records, whatever the
destination would say by itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import orjson

from streamlet.clock import SystemClock
from streamlet.core.failure import FailedFrom, Throttled
from streamlet.core.responses import outcome_of
from streamlet.core.windows import NoState, state_of
from streamlet.destinations.aws import parse_arn
from streamlet.destinations.document import event_record, window_fields
from streamlet.engine.invoke import BatchFailed, NotTaken
from streamlet.engine.lane import lane_of
from streamlet.errors import ConfigurationError
from streamlet.hooks import Event, Listener
from streamlet.kinesis.client import KinesisClient
from streamlet.model.batch import Batch
from streamlet.ports import Clock, Destination, FailureDocument
from streamlet.runtimes.esm.host import Host
from streamlet.runtimes.esm.sandbox import FunctionError, SandboxSettings
from streamlet.spec import ConsumerSpec, EventSourceMapping

__all__ = ["Function", "FunctionPrinted", "HostedFunction", "InvocationEnded", "MappingOptions"]


class InvocationEnded(Event, frozen=True, kw_only=True):
    """One invocation. `lane` is the parallel slot of the shard; `outcome` is ok, partial, failed or throttled, and what failed
    begins at record `failed_from` (counted from 0) of the `sequence_numbers`. `init_s` is None for a warm start."""

    lane: int
    sequence_numbers: tuple[str, ...]  # none in the final call of a tumbling window
    attempt: int
    outcome: str
    failed_from: int = 0
    error_type: str = ""
    error: str = ""
    request_id: str = ""
    sandbox: int = 0
    init_s: float | None = None
    duration_s: float = 0.0
    memory_bytes: int = 0


class FunctionPrinted(Event, frozen=True, kw_only=True):
    """A line that the function wrote to stdout or stderr; `request_id` is "" outside of invocations."""

    sandbox: int
    request_id: str
    line: str


class MappingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is mapped to what. `reports_failures` is FunctionResponseTypes=["ReportBatchItemFailures"]; `concurrency` the
    function's reserved concurrency."""

    stream: str
    mapping: EventSourceMapping
    function: SandboxSettings
    reports_failures: bool = False
    concurrency: int | None = None
    endpoint_url: str | None = None
    region: str | None = None
    listeners: tuple[Listener, ...] = ()


class Function:
    """A hosted function as the one consumer of an application: for `runtimes.worker.run_worker`."""

    def __init__(self, options: MappingOptions) -> None:
        self._options = options
        self.name = options.function.function_name
        self._hosted = HostedFunction(options)
        on_failure = options.mapping.on_failure
        mapping = options.mapping
        if on_failure is not None:
            mapping = msgspec.structs.replace(mapping, on_failure=_Named(on_failure, self._hosted))
        self.consumers = (
            ConsumerSpec(
                name=self.name,
                stream=options.stream,
                kind="window" if mapping.tumbling_window_s else "batch",
                handler=self._hosted.in_window if mapping.tumbling_window_s else self._hosted,
                decoder=bytes,
                mapping=mapping,
                deaggregate=False,  # AWS hands them on, and the function takes them apart
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The sandboxes, for as long as the engine runs. Raises as the first call to the stream does."""
        options = self._options
        async with AsyncExitStack() as stack:
            async with KinesisClient(options.region, options.endpoint_url, clock=SystemClock()) as client:
                summary = await client.describe_stream_summary(options.stream)
                region = client.region
            await stack.enter_async_context(self._hosted.open(summary.stream_arn, region))
            yield


class HostedFunction:
    """The handler."""

    def __init__(self, options: MappingOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self.stream_arn = ""
        self.function_arn = options.function.function_arn
        # The request that failed last, by shard and record: what a failure document names. What ends otherwise is taken out. Of each
        # record, since a piece of a batch may be given up for its age before it was invoked by itself.
        self._failed: dict[tuple[str, str], str] = {}

    @asynccontextmanager
    async def open(self, stream_arn: str, region: str) -> AsyncIterator[None]:
        """`stream_arn` tells region and account, for the event and for the function's own ARN."""
        options = self._options
        arn = parse_arn(stream_arn)
        if arn is None:
            raise ConfigurationError(f"{options.stream}: the service names it {stream_arn!r}, which is no ARN of a stream")
        self.stream_arn, self._region, self._account = stream_arn, arn.region or region, arn.account
        settings = msgspec.structs.replace(options.function, region=self._region, account_id=arn.account, partition=arn.partition)
        self.function_arn = settings.function_arn
        async with Host(settings, clock=self._clock, concurrency=options.concurrency, on_line=self._printed) as self.host:
            yield

    async def __call__(self, batch: Batch) -> None:
        """Invoke the function. Raises BatchFailed or NotTaken, which the engine understands."""
        await self._invoke(batch, None)

    async def in_window(self, batch: Batch, state: Any) -> Any:
        """Invoke the function in a tumbling window, and return the state that it answered; None if there is none."""
        answer = await self._invoke(batch, state)
        return answer.get("state") if isinstance(answer, dict) else None

    async def _invoke(self, batch: Batch, state: Any) -> Any:
        numbers = tuple([record.sequence_number for record in batch.records])
        invoked = await self.host.invoke(self._event(batch, state))
        factor = self._options.mapping.parallelization_factor
        lane = lane_of(batch.records[0].partition_key, factor) if batch.records else 0
        ended = InvocationEnded(
            stream=self._options.stream,
            shard_id=batch.shard_id,
            lane=lane,
            sequence_numbers=numbers,
            attempt=batch.attempt,
            outcome="throttled",
        )
        if isinstance(invoked, Throttled):
            self._tell(ended)
            raise NotTaken("no sandbox is free")
        ended = msgspec.structs.replace(
            ended,
            outcome="ok",
            request_id=invoked.request_id,
            sandbox=invoked.sandbox,
            init_s=invoked.init_s,
            duration_s=invoked.duration_s,
            memory_bytes=invoked.memory_bytes,
        )
        carried = None
        match invoked.outcome:
            case FunctionError(kind=kind, message=message):
                function_error = None if kind == "RequestEntityTooLarge" else "Unhandled"
                failed = FailedFrom(0, function_error, f"{kind}: {message}" if kind else message)
                ended = msgspec.structs.replace(ended, outcome="failed", error_type=kind, error=message)
            case answer:
                outcome = outcome_of(answer.value, numbers, reports_failures=self._options.reports_failures and bool(numbers))
                if batch.window is not None and isinstance(stateless := state_of(answer.value), NoState):
                    # Whatever else it says: what it calls done would be missing in the state of the next call.
                    outcome = FailedFrom(0, None, stateless.error)
                if not isinstance(outcome, FailedFrom):
                    self._done(batch.shard_id, numbers)
                    self._tell(ended)
                    return answer.value
                failed = outcome
                carried = answer.value.get("state") if isinstance(answer.value, dict) else None
                what = "partial" if failed.index else "failed"
                ended = msgspec.structs.replace(ended, outcome=what, failed_from=failed.index, error=failed.error)
        self._done(batch.shard_id, numbers[: failed.index])
        if self._options.mapping.on_failure is not None:
            self._failed.update(dict.fromkeys([(batch.shard_id, number) for number in numbers[failed.index :]], invoked.request_id))
        self._tell(ended)
        raise BatchFailed(failed.index, failed.function_error, failed.error, state=carried)

    def last_request(self, document: FailureDocument) -> str:
        """The invocation whose failure the document tells of; "" if its records were never tried."""
        request_id = self._failed.get((document.shard_id, document.records[0].sequence_number), "")
        self._done(document.shard_id, [record.sequence_number for record in document.records])
        return request_id

    def _done(self, shard_id: str, numbers: Sequence[str]) -> None:
        if self._failed:
            for number in numbers:
                self._failed.pop((shard_id, number), None)

    def _event(self, batch: Batch, state: Any) -> bytes:
        records = [
            event_record(record, self.stream_arn, batch.shard_id, region=self._region, account_id=self._account) for record in batch.records
        ]
        event: dict[str, Any] = {"Records": records}
        if (window := batch.window) is not None:
            # Python's own JSON takes whatever an answer could hold, integers above 64 bits for instance.
            carried = orjson.Fragment(json.dumps(state, ensure_ascii=False, separators=(",", ":")))
            event |= window_fields(window, carried, batch.shard_id, self.stream_arn)
        return orjson.dumps(event)

    def _printed(self, sandbox: int, request_id: str, line: str) -> None:
        self._tell(FunctionPrinted(stream=self._options.stream, sandbox=sandbox, request_id=request_id, line=line))

    def _tell(self, event: Event) -> None:
        for listener in self._options.listeners:
            listener(event)


class _Named:
    """A destination whose documents carry the real names."""

    def __init__(self, destination: Destination, function: HostedFunction) -> None:
        self._destination, self._function = destination, function
        self._requests: dict[str, str] = {}  # of documents that were not taken yet

    def send(self, document: FailureDocument) -> None:
        """As the destination does."""
        request_id = self._requests.setdefault(document.document_id, self._function.last_request(document))
        self._destination.send(
            msgspec.structs.replace(
                document,
                function_name=self._function.function_arn,
                stream=self._function.stream_arn,
                request_id=request_id or document.request_id,
            )
        )
        del self._requests[document.document_id]

    def close(self) -> None:
        """As the destination does, if it does."""
        close: Callable[[], Any] | None = getattr(self._destination, "close", None)
        if close is not None:
            close()

    def __str__(self) -> str:
        return str(getattr(self._destination, "target", self._destination))
