"""What does a Lambda invocation become? An event in, the handlers' outcome out, in the form that Lambda understands.

AWS decides about retries, bisecting and destinations; the runtime only answers so that the outcome is the one that the worker
would have had:

    what came of the records                  the answer
    all done                                  {"batchItemFailures": []}
    done up to record k                       {"batchItemFailures": [k]}: AWS comes again with k and all after it
    a batch handler raised                    its exception, which AWS counts as a function error (and bisects)
    time runs short before record k           as "done up to record k"
    k is inside a KPL aggregate               the aggregate is named, and comes again as a whole (kpl/user_records)
    an idempotency store failed at the first  the store's exception
    on_window returned a state                {"state": …, "batchItemFailures": []}
    it raised RecordFailed(record k, state)   {"state": …, "batchItemFailures": [k]}
    it raised anything else                   its exception: AWS comes again with the state of before
    on_s3 raised                              its exception: AWS calls again with the whole event

**Time.** Lambda kills a function that is out of time, and with it what was done in its batch. So `on_record` begins nothing in
the last `deadline_margin_s` seconds (of the App; sinks write their files in them) and an async handler that still awaits is cancelled,
its record reported as failed. The first record is always begun. A batch handler is one call: nothing can be done in its middle;
it may ask `lambda_context().remaining_s()` itself, and raise RecordFailed.

**State.** One event loop lives as long as the execution environment: a loop per call closes the clients that a handler keeps.
Context variables of the caller (a tracer's around `lambda_handler`) and of the lifespan are both seen by handlers.

With a sink, files are written before the answer. AWS owns the position, so they are at least once: their keys follow from the
range, an equal replay overwrites them, and every row carries its sequence number so that compaction can tell doubles.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from streamlet.core.failure import FailedFrom, Outcome, Succeeded
from streamlet.engine.each import Deadline, checked, is_ours, says
from streamlet.engine.invoke import Invoker, is_async
from streamlet.errors import ConfigurationError, HandlerError, UsageError
from streamlet.model.arn import partition_of
from streamlet.model.record import Record
from streamlet.ports import Executor, Span
from streamlet.runtimes import lambda_context, lambda_events
from streamlet.spec import ConsumerSpec, LambdaApplication, ObjectSpec

__all__ = ["LambdaRuntime"]

T = TypeVar("T")
# Reference: Lambda quotas, invocation payload of a synchronous call.
RESPONSE_BYTES_MAX: Final = 6 * 1024 * 1024


class _Inline:
    """Lambda runs one invocation at a time: blocking calls block nobody. They see no loop, as on a worker's threads: a plain handler may
    call asyncio.run, and libraries that refuse to block inside a loop work. The functions are for writers of loops (see "Extending" in
    asyncio's reference)."""

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        asyncio._leave_task(loop, task)  # noqa: SLF001
        asyncio._set_running_loop(None)  # noqa: SLF001
        try:
            return function(*args)
        finally:
            asyncio._set_running_loop(loop)  # noqa: SLF001
            asyncio._enter_task(loop, task)  # noqa: SLF001


class _Threads:
    """For records side by side: blocking calls on threads, which see the context variables of their invocation."""

    def __init__(self, threads: int) -> None:
        from streamlet.clock import ThreadExecutor

        self._pool = ThreadExecutor(threads)

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        return await self._pool.run(contextvars.copy_context().run, function, *args)

    def close(self) -> None:
        self._pool.close()


class LambdaRuntime:
    """Callable as Lambda's handler. One per App and execution environment."""

    def __init__(self, app: LambdaApplication) -> None:
        self._app = app
        self._executors: list[_Threads] = []
        self._consumers = {spec.stream: spec for spec in app.consumers}
        self._invokers = {spec.stream: Invoker(spec, self._executor(spec)) for spec in app.consumers}
        self._buckets = {spec.bucket: spec for spec in app.buckets}
        self._runner = asyncio.Runner()
        self._lifespan: contextlib.AsyncExitStack | None = None
        self._lifespan_context = contextvars.Context()
        self._lifespan_variables: list[tuple[ContextVar[Any], Any]] = []
        self._at_work = threading.Lock()

    def _executor(self, spec: ConsumerSpec) -> Executor:
        if spec.concurrency == 1:
            return _Inline()
        self._executors.append(_Threads(spec.concurrency))
        return self._executors[-1]

    def __call__(self, event: Any, context: Any) -> dict[str, Any] | None:
        """Handle one event. Raises what a batch handler raised, so that Lambda counts a function error."""
        with self.alone("lambda_handler, event, context"):
            caller = contextvars.copy_context()
            if self._lifespan is None:
                self._lifespan_context = caller.copy()
                self._runner.run(self._begin(), context=self._lifespan_context)
                self._lifespan_variables = [pair for pair in self._lifespan_context.items() if pair[0] not in caller]
            for variable, value in self._lifespan_variables:
                if variable not in caller:
                    caller.run(variable.set, value)
            return self._runner.run(self._handle(event, context), context=caller)

    @contextlib.contextmanager
    def alone(self, call: str) -> Iterator[None]:
        """While nobody else is at work here. Raises UsageError inside an event loop, or while an invocation is under way."""
        if asyncio._get_running_loop() is not None:  # noqa: SLF001  answers None where there is none
            raise UsageError(f"this is inside an event loop, and the app has its own: await asyncio.to_thread(app.{call})")
        if not self._at_work.acquire(blocking=False):
            raise UsageError(
                f"an invocation of app {self._app.name!r} is under way: Lambda runs one at a time in an execution environment, so wait "
                "for it, or make an App for each thread"
            )
        try:
            yield
        finally:
            self._at_work.release()

    def close(self) -> None:
        """Leave the lifespan, close stores and the loop. Lambda itself never calls it: it freezes the process."""
        lifespan, self._lifespan = self._lifespan, None
        with contextlib.ExitStack() as stack:  # each, also if another one cannot be closed
            stack.callback(self._runner.close)
            for spec in self._consumers.values():
                if spec.idempotency is not None:
                    stack.callback(spec.idempotency.close)
            for executor in self._executors:
                stack.callback(executor.close)
            if lifespan is not None:
                self._runner.run(lifespan.aclose(), context=self._lifespan_context)

    async def _begin(self) -> None:
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(self._app.running())
        self._lifespan = stack

    async def _handle(self, event: Any, raw: Any) -> dict[str, Any] | None:
        if lambda_events.is_s3(event):
            await self._objects(event, raw)
            return None
        source = lambda_events.source_of(event)
        context = lambda_context.of(raw, source.arn, source.shard_id)
        lambda_context.CURRENT.set(context)
        spec = self._consumers.get(source.stream)
        if spec is None:
            raise ConfigurationError(
                f"app {self._app.name!r} has no handler for stream {source.stream!r} (it has {', '.join(self._consumers) or 'none'}): "
                "add one, or remove the event source mapping"
            )
        if ("window" in event) != (spec.kind == "window"):
            raise ConfigurationError(
                f"the event source mapping of {source.stream!r} has tumbling windows: its handler must be @app.on_window(...)"
                if "window" in event
                else f"@app.on_window({source.stream!r}) needs an event source mapping with TumblingWindowInSeconds, and this one has none"
            )
        records = lambda_events.records_of(event.get("Records") or [], source.stream, source.shard_id, spec.decoder)
        if spec.kind == "window":
            return await self._window(spec, event, records, source.shard_id)
        deadline = None
        if math.isfinite(context.remaining_s()):
            deadline = Deadline(context.remaining_s, self._app.deadline_margin_s)
        return await self._records(spec, records, source.shard_id, deadline)

    async def _records(self, spec: ConsumerSpec, records: list[Record], shard_id: str, deadline: Deadline | None) -> dict[str, Any]:
        invocation = await self._invokers[spec.stream].invoke(records, start=0, shard_id=shard_id, deadline=deadline)
        outcome = invocation.outcome
        if spec.sink is not None and invocation.chunk is not None and invocation.chunk.rows:
            taken = records[: outcome.index] if isinstance(outcome, FailedFrom) else records
            span = Span(spec.stream, shard_id, taken[0].position, taken[-1].position)
            for item in spec.sink.build([invocation.chunk], span, positions=True):
                spec.sink.put(item)
        if invocation.cause is not None:
            raise invocation.cause
        return _failures(records, outcome)

    async def _window(self, spec: ConsumerSpec, event: Any, records: list[Record], shard_id: str) -> dict[str, Any]:
        """One call in a tumbling window.

        A state above 1 MB passes: AWS ends the window early then, and the next call is a final one (core/windows does the same)."""
        import json  # a function without windows does not pay for it

        handed = event.get("state")
        handed = {} if handed is None else handed
        before = json.dumps(handed)  # what the handler does to it must not come back where the call made no progress
        invocation = await self._invokers[spec.stream].invoke(
            records, start=0, shard_id=shard_id, window=lambda_events.window_of(event), state=handed
        )
        if invocation.cause is not None:
            raise invocation.cause
        if invocation.state is None:
            return {"state": json.loads(before), **_failures(records, invocation.outcome)}
        if len(invocation.state) > RESPONSE_BYTES_MAX - 1024:
            name = getattr(spec.handler, "__name__", "the handler")
            raise HandlerError(
                f"{name} returned a state of {len(invocation.state):,} bytes: Lambda takes answers of up to 6 MB, and ends a window early "
                "above 1 MB of state"
            )
        return {"state": json.loads(invocation.state), **_failures(records, invocation.outcome)}

    async def _objects(self, event: Any, raw: Any) -> None:
        """In order. The first handler that raises ends it: Lambda calls again with all of them."""
        told = list(lambda_events.objects_of(event))
        handlers: list[ObjectSpec] = []
        for thing in told:
            if thing.bucket not in self._buckets:
                raise ConfigurationError(
                    f"app {self._app.name!r} has no handler for bucket {thing.bucket!r} (it has {', '.join(self._buckets) or 'none'}): "
                    "add one with @app.on_s3, or remove the bucket's notification"
                )
            handlers.append(self._buckets[thing.bucket])
        for thing, spec in zip(told, handlers, strict=True):
            lambda_context.CURRENT.set(lambda_context.of(raw, f"arn:{partition_of(thing.region)}:s3:::{thing.bucket}", ""))
            await _called(spec.handler, thing.bucket, thing)


def _failures(records: Sequence[Record], outcome: Outcome) -> dict[str, Any]:
    """What is not done of the records begins with the one that is named."""
    if isinstance(outcome, Succeeded):
        return {"batchItemFailures": []}
    failed = records[outcome.index if isinstance(outcome, FailedFrom) else 0]
    return {"batchItemFailures": [{"itemIdentifier": failed.sequence_number}]}


async def _called(handler: Callable[..., Any], where: str, *args: Any) -> Any:
    """Also of a plain function around an async one, as decorators make them. What has not run by then is no success, and what ends
    the process elsewhere is an error of this call."""
    try:
        result = handler(*args) if is_async(handler) else await _Inline().run(handler, *args)
        return checked(await result if inspect.isawaitable(result) else result, where)
    except (SystemExit, asyncio.CancelledError) as error:
        if is_ours():
            raise
        raise RuntimeError(says(error)) from error
