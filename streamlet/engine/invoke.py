"""One call of a handler: what came of it?

Shared by the worker and the Lambda runtime, so that the same exception means the same thing in both.

    what the handler did                                   outcome                          function_error
    returned                                               Succeeded
    on_record raised at record k                           FailedFrom(k)                    None (a partial response)
    on_batch raised RecordFailed(record k)                 FailedFrom(k)                    None
    on_window raised RecordFailed(record k, state=…)       FailedFrom(k), with the state    None
    either raised BatchFailed(k, function_error)           FailedFrom(k)                    function_error
    either raised anything else                            FailedFrom(first)                "Unhandled"
    on_window returned no state, or none that is JSON      FailedFrom(first)                "Unhandled"
    a Consumer closed with the batch unanswered            Throttled
    its time ran out before record k                       FailedFrom(k)                    None
    its row k does not fit the sink's schema               FailedFrom(k)                    None

With a sink the rows before k are kept, so that only what failed is run again. A handler of batches that raises has returned
no rows at all: then nothing before k can count as done, and the whole batch failed. Records that run side by side, or whose
effects must not repeat, go through engine/each.

Handlers see the user records of KPL aggregates; outcomes count records of the stream (kpl/user_records).

**Windows.** A state that comes with a failure is what the records before k led to. Where k is not the first user record of its
aggregate there is no such state for the records of the stream, since the aggregate comes again as a whole: then the call failed from
its first record on, with the state that it was given. So it does where RecordFailed brings no state.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamlet.core.failure import FailedFrom, Succeeded, Throttled
from streamlet.engine.each import OUT_OF_TIME, Deadline, Done, Each, Ran, checked, is_ours, place, says
from streamlet.errors import HandlerError, RowError, StreamletError
from streamlet.kpl.user_records import UserRecords, holds_aggregates, taken_apart
from streamlet.model.batch import Batch
from streamlet.model.record import Record
from streamlet.model.window import Window
from streamlet.ports import Chunk, Executor
from streamlet.spec import ConsumerSpec

__all__ = ["BatchFailed", "Invocation", "Invoker", "NotTaken", "RecordFailed", "is_async"]


class RecordFailed(StreamletError):
    """Raise it in a handler of batches to say which record failed: those before it are done, it and the rest are tried again.

    In a tumbling window give `state`, too, which is what the records before it led to: the next call gets it. Without one the whole
    call has failed, and so it has where the record is not the first of its KPL aggregate, which comes again as a whole."""

    def __init__(self, record: Record, message: str = "", *, state: Any = None) -> None:
        super().__init__(message or f"{record.where} failed")
        self.record, self.state = record, state


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
    idempotency store raised. `trouble` is what a person should know although no attempt is counted. `state`, JSON text, is what the
    next call in the tumbling window gets; None: what this one got."""

    outcome: Succeeded | FailedFrom | Throttled
    chunk: Chunk | None = None
    cause: Exception | None = None
    trouble: str = ""
    state: bytes | None = None


def is_async(function: Callable[..., Any]) -> bool:
    """Also for a callable object whose `__call__` is a coroutine function."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


class Invoker:
    """Calls one consumer's handler."""

    def __init__(self, spec: ConsumerSpec, executor: Executor) -> None:
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
        done: Done | None = None,
        window: Window | None = None,
        state: Any = None,
    ) -> Invocation:
        """Run the handler over `records`, which are [start, start + len) of their batch; indexes in the outcome count from there.

        Of a handler of records: `deadline` ends it early, and `done`, kept by the caller for as long as the batch is open,
        remembers what succeeded behind a failed record. Of a handler of windows: `window` and `state` are what this call is for."""
        apart = None
        if self._spec.deaggregate and holds_aggregates(records):
            apart = await self._executor.run(taken_apart, records)
        users = records if apart is None else apart.records
        if records and not users:
            return Invocation(Succeeded())  # aggregates that hold nothing
        carried = None
        match self._spec.kind:
            case "deliver":
                ran = Ran(None)
            case "record" if self._keyed is not None:
                ran = await self._keyed.run(users, deadline, done)
            case "record":
                ran = await self._each(users, deadline)
            case "batch":
                ran = await self._whole(Batch(users, self._spec.stream, shard_id, attempt, millis_behind_latest))
            case "window":
                batch = Batch(users, self._spec.stream, shard_id, attempt, millis_behind_latest, window)
                ran, carried = await self._in_window(batch, state, apart)
        invocation = await self._collect(users, ran, apart)
        outcome = invocation.outcome
        if isinstance(outcome, FailedFrom):
            index = outcome.index
            if done:
                done.pop(place(users[index]), None)  # its row does not fit: it is made again
            if apart is not None and (index or outcome.function_error is None):
                index = apart.holder(index)
            if not index:
                carried = None
            outcome = FailedFrom(start + index, outcome.function_error, outcome.error)
            invocation = msgspec.structs.replace(invocation, outcome=outcome)
        if not isinstance(outcome, Succeeded):
            # A handler may have changed the values that it was given. The next attempt, like another worker's or Lambda's,
            # begins with what is in the stream.
            for record in records:
                record.forget_value()
        return invocation if carried is None else msgspec.structs.replace(invocation, state=carried)

    # ── a handler of records ─────────────────────────────────────────────────────────────────────────────────────

    async def _each(self, records: Sequence[Record], deadline: Deadline | None) -> Ran:
        handler = self._spec.handler
        assert handler is not None
        rows: list[Any] = []
        pending: Any = None
        if not self._async:
            given_up = threading.Event()
            try:
                rows, failure, pending = await self._executor.run(self._each_sync, records, given_up, deadline)
            finally:
                # If nobody waits any more (the lease is lost, the drain took too long), the thread stops after this record.
                given_up.set()
            if pending is None:
                return Ran(rows, failure)
            # A plain function around an async one, as decorators make them: what it returned has not run yet.
            self._async = True
        limit_s = None if deadline is None else deadline.left_s()
        try:
            # Time that is used up before anything has begun gets no timer: it would cancel each first record for ever.
            async with asyncio.timeout(limit_s if limit_s is not None and limit_s > 0 else None):
                failure = await self._each_async(records, rows, pending, deadline)
        except TimeoutError:
            failure = FailedFrom(len(rows), None, OUT_OF_TIME)
        return Ran(rows, failure)

    async def _each_async(self, records: Sequence[Record], rows: list[Any], pending: Any, deadline: Deadline | None) -> FailedFrom | None:
        """Fill `rows`, which survive a cancellation. `pending` is what the handler has returned for the record after them."""
        handler = self._spec.handler
        assert handler is not None
        for record in records[len(rows) :]:
            if deadline is not None and rows and deadline.left_s() <= 0:
                return FailedFrom(len(rows), None, OUT_OF_TIME)
            try:
                result = handler(record) if pending is None else pending
                pending = None
                if result is not None and inspect.isawaitable(result):  # to ask costs more than all else here
                    result = await result
            except asyncio.CancelledError as error:
                if is_ours():
                    raise
                return FailedFrom(len(rows), None, says(error))
            except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
                return FailedFrom(len(rows), None, says(error))
            rows.append(checked(result, self._spec.stream))
        return None

    def _each_sync(
        self, records: Sequence[Record], given_up: threading.Event, deadline: Deadline | None
    ) -> tuple[list[Any], FailedFrom | None, Any]:
        """On a thread. The third value is an awaitable that the handler returned for the record after `rows`."""
        handler = self._spec.handler
        assert handler is not None
        rows: list[Any] = []
        for record in records:
            if given_up.is_set():
                return rows, FailedFrom(len(rows), None, "not waited for"), None
            if deadline is not None and rows and deadline.left_s() <= 0:
                return rows, FailedFrom(len(rows), None, OUT_OF_TIME), None
            try:
                result = handler(record)
            except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
                return rows, FailedFrom(len(rows), None, says(error)), None
            if result is not None and inspect.isawaitable(result):
                return rows, None, result
            rows.append(checked(result, self._spec.stream))
        return rows, None, None

    # ── a handler of batches, or of windows ──────────────────────────────────────────────────────────────────────

    async def _called(self, *args: Any) -> tuple[Any, Ran | None]:
        """What the handler returned; or what came of it, if it did not. Lets RecordFailed and BatchFailed out."""
        handler = self._spec.handler
        assert handler is not None
        try:
            result = await handler(*args) if self._async else await self._executor.run(handler, *args)
            if inspect.isawaitable(result):
                result = await result
        except (RecordFailed, BatchFailed):
            raise
        except NotTaken:
            return None, Ran(None, Throttled())
        except asyncio.CancelledError as error:
            if is_ours():
                raise
            return None, _unhandled(RuntimeError(says(error)), says(error))
        except SystemExit as error:
            return None, _unhandled(RuntimeError(says(error)), says(error))
        except Exception as error:  # noqa: BLE001  whatever a handler raises is its batch's failure
            return None, _unhandled(error)
        return checked(result, self._spec.stream), None

    async def _whole(self, batch: Batch) -> Ran:
        with_sink = self._spec.sink is not None
        try:
            rows, failed = await self._called(batch)
        except RecordFailed as error:
            # With a sink, the rows for the records before were never returned: to call those done would lose them.
            return Ran(None, FailedFrom(0 if with_sink else _index_of(error.record, batch) or 0, None, says(error)))
        except BatchFailed as error:
            return Ran(None, FailedFrom(0 if with_sink else error.index, error.function_error, str(error)), error)
        if failed is not None:
            return failed
        if isinstance(rows, dict) and rows.get("batchItemFailures"):
            raise HandlerError(
                f"the handler of {self._spec.stream!r} returned batchItemFailures: raise RecordFailed(record) for the first that failed"
            )
        if with_sink and (not isinstance(rows, list | tuple) or len(rows) != len(batch)):
            got = f"{len(rows)} items" if isinstance(rows, list | tuple) else type(rows).__name__
            raise HandlerError(
                f"{self._spec.name} returned {got} for {len(batch)} records: with a sink, return one item per record, in order "
                "(a row, a list of rows, or None to leave the record out)"
            )
        return Ran(rows)

    async def _in_window(self, batch: Batch, state: Any, apart: UserRecords | None) -> tuple[Ran, bytes | None]:
        """What came of it, and the state that it led to."""
        from streamlet.core.windows import NoState, state_of  # a function without windows does not pay for it

        assert batch.window is not None
        try:
            result, failed = await self._called(batch, state)
        except RecordFailed as error:
            index = _index_of(error.record, batch)
            if index is None or error.state is None:
                hint = "" if index is None else " (without state=, which is what the records before it led to: so the whole call failed)"
                return _unhandled(error, f"{says(error)}{hint}"), None
            failed = Ran(None, FailedFrom(index, None, says(error)))
            if apart is not None and apart.whole(index) < index:
                return Ran(None, FailedFrom(0, None, says(error))), None
            result = error.state
        except BatchFailed as error:
            failed = Ran(None, FailedFrom(error.index, error.function_error, str(error)), error)
            carried = state_of({"state": error.state})
            return failed, None if isinstance(carried, NoState) else carried
        else:
            if failed is not None:
                return failed, None
            if result is None and batch.window.is_final:
                result = {}  # nobody reads it
        name = getattr(self._spec.handler, "__name__", "the handler")
        if result is None:
            text = f"{name} returned no state: return what its next call in the window shall get, at least {{}}"
            return _unhandled(HandlerError(text)), None
        carried = state_of({"state": result})
        if isinstance(carried, NoState):
            text = f"{name}: {carried.error}; use dicts with text keys, lists, text and numbers"
            return _unhandled(HandlerError(text)), None
        return failed or Ran(None), carried

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _collect(self, users: Sequence[Record], ran: Ran, apart: UserRecords | None) -> Invocation:
        """Turn rows into the sink's own form; a row that does not fit is its record's failure, and those before it stay."""
        sink, outcome = self._spec.sink, ran.outcome or Succeeded()

        def kept(outcome: Succeeded | FailedFrom | Throttled) -> int:
            """How many of the user records are in records of the stream that are done?"""
            if isinstance(outcome, FailedFrom):
                return outcome.index if apart is None else apart.whole(outcome.index)
            return 0 if isinstance(outcome, Throttled) else len(users)

        def collect(count: int) -> Chunk:
            assert sink is not None
            return sink.collect(users[:count], None if ran.rows is None else ran.rows[:count])

        chunk = None
        if sink is not None and (count := kept(outcome)):
            try:
                chunk = await self._executor.run(collect, count)
            except RowError as error:
                outcome = FailedFrom(error.index, None, str(error))
                if count := kept(outcome):
                    chunk = await self._executor.run(collect, count)
            except StreamletError:
                raise
            except Exception as error:  # noqa: BLE001  a row may be any object of the handler's, with any defect
                return Invocation(FailedFrom(0, "Unhandled", says(error)), cause=error)
        return Invocation(outcome, chunk, ran.cause, ran.trouble)


def _unhandled(error: Exception, text: str = "") -> Ran:
    return Ran(None, FailedFrom(0, "Unhandled", text or says(error)), error)


def _index_of(record: Record, batch: Batch) -> int | None:
    """Where in the batch it is; None if it is not."""
    return next((index for index, other in enumerate(batch.records) if other.position == record.position), None)
