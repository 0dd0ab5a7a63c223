"""What does a Lambda invocation become? A Kinesis event in, the handlers' outcome out, in the form the ESM understands.

AWS decides about retries, bisecting and destinations; the runtime only answers so that the outcome is the one that the worker
would have had: a partial response for a known record, the exception itself for a failed batch. One event loop lives as long as
the execution environment: a loop per call closes the clients that a handler keeps.

With a sink, files are written before the answer. AWS owns the position, so they are at least once: their keys follow from the
range, an equal replay overwrites them, and every row carries its sequence number so that compaction can tell doubles.
"""

from __future__ import annotations

import asyncio
import contextlib
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from streamlet.core.failure import FailedFrom
from streamlet.engine.invoke import Invoker
from streamlet.errors import ConfigurationError, HandlerError
from streamlet.model.record import Record
from streamlet.ports import Span
from streamlet.spec import Application, ConsumerSpec

__all__ = ["LambdaRuntime", "records_of"]

T = TypeVar("T")


class _Inline:
    """Lambda runs one invocation at a time: blocking calls block nobody."""

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        return function(*args)


class LambdaRuntime:
    """Callable as Lambda's handler. One per App and execution environment."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._consumers: dict[str, tuple[ConsumerSpec, Invoker]] = {spec.stream: (spec, Invoker(spec, _Inline())) for spec in app.consumers}
        self._runner = asyncio.Runner()
        self._lifespan: contextlib.AsyncExitStack | None = None

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """Handle one event. Raises what a batch handler raised, so that Lambda counts a function error."""
        return self._runner.run(self._handle(event))

    def close(self) -> None:
        """Leave the lifespan and close the loop. Lambda itself never calls it: it freezes the process."""
        if self._lifespan is not None:
            self._runner.run(self._lifespan.aclose())
            self._lifespan = None
        self._runner.close()

    async def _handle(self, event: Any) -> dict[str, Any]:
        if self._lifespan is None:
            stack = contextlib.AsyncExitStack()
            await stack.enter_async_context(self._app.running())
            self._lifespan = stack
        stream, shard_id = _source_of(event)
        try:
            spec, invoker = self._consumers[stream]
        except KeyError:
            raise ConfigurationError(
                f"app {self._app.name!r} has no handler for stream {stream!r} (it has {', '.join(self._consumers) or 'none'}): "
                "add one, or remove the event source mapping"
            ) from None
        records = records_of(event["Records"], stream, spec.decoder)
        invocation = await invoker.invoke(records, start=0, shard_id=shard_id)
        if spec.sink is not None and invocation.chunk is not None and invocation.chunk.rows:
            outcome = invocation.outcome
            taken = records[: outcome.index] if isinstance(outcome, FailedFrom) else records
            span = Span(stream, shard_id, taken[0].position, taken[-1].position)
            for item in spec.sink.build([invocation.chunk], span, positions=True):
                spec.sink.put(item)
        if isinstance(invocation.outcome, FailedFrom):
            if invocation.cause is not None:
                raise invocation.cause
            return {"batchItemFailures": [{"itemIdentifier": records[invocation.outcome.index].sequence_number}]}
        return {"batchItemFailures": []}


def _source_of(event: Any) -> tuple[str, str]:
    """Stream name and shard id. A batch never mixes shards or streams."""
    try:
        first = event["Records"][0]
        arn, event_id = first["eventSourceARN"], first["eventID"]
        stream = arn.split(":stream/", 1)[1].split("/", 1)[0]
        shard_id = event_id.rsplit(":", 1)[0]
    except (KeyError, IndexError, TypeError, AttributeError):
        keys = sorted(event)[:5] if isinstance(event, dict) else type(event).__name__
        raise HandlerError(f"this is no Kinesis event (got {keys}): lambda_handler answers an event source mapping on a stream") from None
    return stream, shard_id


def records_of(entries: Sequence[Mapping[str, Any]], stream: str, decoder: Callable[[bytes], Any]) -> list[Record]:
    """The records of a Kinesis event (reference: Lambda developer guide, with-kinesis, example event)."""
    out: list[Record] = []
    for entry in entries:
        kinesis = entry.get("kinesis") or {}
        try:
            number = kinesis["sequenceNumber"]
            if not number.isdigit():
                raise ValueError(f"{number!r} is no sequence number")
            out.append(
                Record(
                    a2b_base64(kinesis["data"], strict_mode=True),
                    kinesis["partitionKey"],
                    number,
                    0,
                    kinesis["approximateArrivalTimestamp"],
                    entry["eventID"].rsplit(":", 1)[0],
                    stream,
                    decoder,
                )
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise HandlerError(f"record {kinesis.get('sequenceNumber')} of the event is not as Lambda sends it: {error!r}") from None
    return out
