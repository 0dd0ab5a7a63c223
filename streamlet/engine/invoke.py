"""One call of a handler: what came of it?

Shared by the worker and the Lambda runtime, so that the same exception means the same thing in both.

    what the handler did                                   outcome                          function_error
    returned                                               Succeeded
    on_record raised at record k                           FailedFrom(k)                    None (a partial response)
    on_batch raised RecordFailed(record k)                 FailedFrom(k)                    None
    on_batch raised BatchFailed(k, function_error)         FailedFrom(k)                    function_error
    on_batch raised anything else                          FailedFrom(first)                "Unhandled"
    a Consumer closed with the batch unanswered            Throttled
    its time ran out before record k                       FailedFrom(k)                    None
    its row k does not fit the sink's schema               FailedFrom(k)                    None

With a sink the rows before k are kept, so that only what failed is run again. A handler of batches that raises has returned
no rows at all: then nothing before k can count as done, and the whole batch failed. Records that run side by side, or whose
effects must not repeat, go through engine/each.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamlet.core.failure import FailedFrom, Succeeded, Throttled
from streamlet.engine.each import OUT_OF_TIME, Deadline, Each, checked, is_ours, says
from streamlet.errors import HandlerError, RowError, StreamletError
from streamlet.model.batch import Batch
from streamlet.model.record import Record
from streamlet.ports import Chunk, Executor
from streamlet.spec import ConsumerSpec

__all__ = ["BatchFailed", "Invocation", "Invoker", "NotTaken", "RecordFailed", "is_async"]


class RecordFailed(StreamletError):
    """Raise it in a batch handler to say which record failed: those before it are done, it and the rest are tried again."""

    def __init__(self, record: Record, message: str = "") -> None:
        super().__init__(message or f"{record.where} failed")
        self.record = record


class BatchFailed(StreamletError):
    """The batch was run elsewhere, where it failed: from its record `index` on, with `function_error` as the failure document says.

    In a tumbling window, `state` is what the records before it led to."""

    def __init__(self, index: int, function_error: str | None, message: str, *, state: Any = None) -> None:
        super().__init__(message)
        self.index, self.function_error, self.state = index, function_error, state


class NotTaken(StreamletError):
    """The handler did not look at the batch (its loop is closing): no attempt is counted, and the batch comes again."""


class Invocation(msgspec.Struct, frozen=True):
    """The outcome, with a sink the rows of the records that were taken (None if there are none), and what a batch handler or an
    idempotency store raised. `trouble` is what a person should know although no attempt is counted."""

    outcome: Succeeded | FailedFrom | Throttled
    chunk: Chunk | None = None
    cause: Exception | None = None
    trouble: str = ""


def is_async(function: Callable[..., Any]) -> bool:
    """Also for a callable object whose `__call__` is a coroutine function."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


class Invoker:
    """Calls one consumer's handler."""

    def __init__(self, spec: ConsumerSpec, executor: Executor) -> None:
        assert spec.kind != "window", "tumbling windows have a driver of their own"
        self._spec = spec
        self._executor = executor
        self._async = spec.handler is not None and is_async(spec.handler)
        special = spec.kind == "record" and (spec.concurrency > 1 or spec.idempotency is not None)
        self._keyed = Each(spec, executor, asynchronous=self._async) if special else None

    async def invoke(
        self,
        records: Sequence[Record],
        *,
        start: int,
        attempt: int = 1,
        shard_id: str = "",
        millis_behind_latest: int | None = None,
        deadline: Deadline | None = None,
        done: dict[int, Any] | None = None,
    ) -> Invocation:
        """Run the handler over `records`, which are [start, start + len) of their batch; indexes in the outcome count from there.

        Of a handler of records: `deadline` ends it early, and `done`, kept by the caller for as long as the batch is open,
        remembers what succeeded behind a failed record."""
        match self._spec.kind:
            case "deliver":
                invocation = await self._collect(records, None, start, None)
            case "record" if self._keyed is not None:
                ran = await self._keyed.run(records, start, deadline, done)
                invocation = await self._collect(records[: len(ran.rows)], ran.rows, start, ran.outcome)
                invocation = msgspec.structs.replace(invocation, cause=invocation.cause or ran.cause, trouble=ran.trouble)
            case "record":
                rows, failure = await self._each(records, start, deadline)
                invocation = await self._collect(records[: len(rows)], rows, start, failure)
            case "batch":
                batch = Batch(records, self._spec.stream, shard_id, attempt, millis_behind_latest)
                invocation = await self._whole(batch, start)
        if not isinstance(invocation.outcome, Succeeded):
            # A handler may have changed the values that it was given. The next attempt, like another worker's or Lambda's,
            # begins with what is in the stream.
            for record in records:
                record.forget_value()
        return invocation

    async def _each(self, records: Sequence[Record], start: int, deadline: Deadline | None) -> tuple[list[Any], FailedFrom | None]:
        handler = self._spec.handler
        assert handler is not None
        rows: list[Any] = []
        pending: Any = None
        if not self._async:
            given_up = threading.Event()
            try:
                rows, failure, pending = await self._executor.run(self._each_sync, records, start, given_up, deadline)
            finally:
                # If nobody waits any more (the lease is lost, the drain took too long), the thread stops after this record.
                given_up.set()
            if pending is None:
                return rows, failure
            # A plain function around an async one, as decorators make them: what it returned has not run yet.
            self._async = True
        limit_s = None if deadline is None else deadline.left_s()
        try:
            # Time that is used up before anything has begun gets no timer: it would cancel each first record for ever.
            async with asyncio.timeout(limit_s if limit_s is not None and limit_s > 0 else None):
                failure = await self._each_async(records, rows, pending, start, deadline)
        except TimeoutError:
            failure = FailedFrom(start + len(rows), None, OUT_OF_TIME)
        return rows, failure

    async def _each_async(
        self, records: Sequence[Record], rows: list[Any], pending: Any, start: int, deadline: Deadline | None
    ) -> FailedFrom | None:
        """Fill `rows`, which survive a cancellation. `pending` is what the handler has returned for the record after them."""
        handler = self._spec.handler
        assert handler is not None
        for record in records[len(rows) :]:
            if deadline is not None and rows and deadline.left_s() <= 0:
                return FailedFrom(start + len(rows), None, OUT_OF_TIME)
            try:
                result = handler(record) if pending is None else pending
                pending = None
                if inspect.isawaitable(result):
                    result = await result
            except asyncio.CancelledError as error:
                if is_ours():
                    raise
                return FailedFrom(start + len(rows), None, says(error))
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
                return FailedFrom(start + len(rows), None, says(error))
            rows.append(checked(result, self._spec.stream))
        return None

    def _each_sync(
        self, records: Sequence[Record], start: int, given_up: threading.Event, deadline: Deadline | None
    ) -> tuple[list[Any], FailedFrom | None, Any]:
        """On a thread. The third value is an awaitable that the handler returned for the record after `rows`."""
        handler = self._spec.handler
        assert handler is not None
        rows: list[Any] = []
        for record in records:
            if given_up.is_set():
                return rows, FailedFrom(start + len(rows), None, "not waited for"), None
            if deadline is not None and rows and deadline.left_s() <= 0:
                return rows, FailedFrom(start + len(rows), None, OUT_OF_TIME), None
            try:
                result = handler(record)
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
                return rows, FailedFrom(start + len(rows), None, says(error)), None
            if inspect.isawaitable(result):
                return rows, None, result
            rows.append(checked(result, self._spec.stream))
        return rows, None, None

    async def _whole(self, batch: Batch, start: int) -> Invocation:
        handler = self._spec.handler
        assert handler is not None
        try:
            rows = await handler(batch) if self._async else await self._executor.run(handler, batch)
            if inspect.isawaitable(rows):
                rows = await rows
        except NotTaken:
            return Invocation(Throttled())
        except asyncio.CancelledError as error:
            if is_ours():
                raise
            return Invocation(FailedFrom(start, "Unhandled", says(error)), cause=RuntimeError(says(error)))
        except RecordFailed as error:
            index = next((i for i, record in enumerate(batch.records) if record.position == error.record.position), 0)
            if self._spec.sink is not None:
                # Its rows for the records before were never returned: to call those done would lose them.
                index = 0
            return Invocation(FailedFrom(start + index, None, says(error)))
        except BatchFailed as error:
            index = 0 if self._spec.sink is not None else error.index
            return Invocation(FailedFrom(start + index, error.function_error, str(error)), cause=error)
        except SystemExit as error:
            return Invocation(FailedFrom(start, "Unhandled", says(error)), cause=RuntimeError(says(error)))
        except Exception as error:  # noqa: BLE001  whatever a handler raises is its batch's failure
            return Invocation(FailedFrom(start, "Unhandled", says(error)), cause=error)
        rows = checked(rows, self._spec.stream)
        if self._spec.sink is not None and (not isinstance(rows, list | tuple) or len(rows) != len(batch)):
            got = f"{len(rows)} items" if isinstance(rows, list | tuple) else type(rows).__name__
            raise HandlerError(
                f"{self._spec.name} returned {got} for {len(batch)} records: with a sink, return one item per record, in order "
                "(a row, a list of rows, or None to leave the record out)"
            )
        return await self._collect(batch.records, rows, start, None)

    async def _collect(
        self, records: Sequence[Record], rows: Sequence[Any] | None, start: int, failure: FailedFrom | Throttled | None
    ) -> Invocation:
        """Turn rows into the sink's own form; a row that does not fit is its record's failure, and those before it stay."""
        sink = self._spec.sink
        outcome: Succeeded | FailedFrom | Throttled = failure or Succeeded()
        if sink is None or not records:
            return Invocation(outcome)
        try:
            return Invocation(outcome, await self._executor.run(sink.collect, records, rows))
        except StreamletError as error:
            if not isinstance(error, RowError):
                raise
            bad = error.index
            outcome = FailedFrom(start + bad, None, str(error))
        except Exception as error:  # noqa: BLE001  a row may be any object of the handler's, with any defect
            return Invocation(FailedFrom(start, "Unhandled", says(error)), cause=error)
        if bad == 0:
            return Invocation(outcome)
        before = await self._executor.run(sink.collect, records[:bad], None if rows is None else rows[:bad])
        return Invocation(outcome, before)
