"""How does a batch go through a handler of single records where keys run side by side, or effects must not repeat?

The plain way (one record after the other, up to the first that fails) is in engine/invoke. This is for `concurrency=` and
`idempotency=`:

    which record is next       the earliest whose key is neither under way nor has failed: what is done stays near to a prefix
    a record fails             its key stops there, all others go on to the end of the batch; with a concurrency of 1, all stop
    the deadline comes         nothing new begins (but for a first record, or there would never be progress), and what still
                               awaits is cancelled; what has not run counts as failed. A plain handler on a thread cannot be
                               cancelled: it ends unseen, and its record comes again
    the outcome                the lowest record that is not done; what is done after it, and before it in its KPL aggregate, is
                               remembered in `done` and left out when the batch comes again. The lane keeps `done` until the
                               batch is settled, so a crash, or another worker, runs those records again: at least once

With a store, a record's effect is spared where its marker says that it is done:

    the marker says            the handler      the record
    nothing, or it is too old  runs             done, or failed, by what the handler did
    done                       does not run     done
    in progress                does not run     blocks, without an attempt being counted, until the marker is done or too old
    (the store fails)          does not run     blocks in the same way, visibly

A handler that raised has its marker removed, so that the retry runs. A store that fails after the handler has run leaves
the record done here; a later replay may run it once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final

import msgspec

from streamlet.core.failure import FailedFrom, Throttled
from streamlet.errors import HandlerError, StreamletError
from streamlet.model.record import Record
from streamlet.ports import Executor, IdempotencyStore
from streamlet.spec import ConsumerSpec

__all__ = ["OUT_OF_TIME", "Deadline", "Done", "Each", "Ran", "checked", "is_ours", "place", "says"]

OUT_OF_TIME: Final = "the invocation's time runs out"
Done = dict[tuple[str, int], Any]
"""Rows of records that are done although one before them is not, by sequence and sub-sequence number."""


class Deadline(msgspec.Struct, frozen=True):
    """When the process stops: `remaining_s()` from now. Nothing new begins in the last `margin_s` seconds."""

    remaining_s: Callable[[], float]
    margin_s: float

    def left_s(self) -> float:
        """Seconds in which something may still begin; may be negative."""
        return self.remaining_s() - self.margin_s


class Ran(msgspec.Struct, frozen=True):
    """What came of a call: rows of the first records (None: their payloads are the rows), and why it ends there; indexes count from
    the first record of the call. `cause` is an exception that stands for the whole call, `trouble` is for people."""

    rows: Sequence[Any] | None
    outcome: FailedFrom | Throttled | None = None
    cause: Exception | None = None
    trouble: str = ""


class _Ended(msgspec.Struct):
    """What came of one record."""

    row: Any = None
    error: str = ""  # "": it is done
    ran: bool = True
    cause: Exception | None = None  # the store's
    pending: Any = None  # an awaitable that a plain function returned; the marker, if any, is still to be settled
    token: str = ""
    fatal: HandlerError | None = None
    trouble: str = ""


def is_ours() -> bool:
    """Is it this task that was cancelled? A handler may also let out the cancellation of something that it awaited; were that
    taken for ours, the shard would fall silent."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def says(error: BaseException) -> str:
    """An exception in words, never none: an empty text would read as "nothing failed"."""
    return (str(error) if isinstance(error, StreamletError) else "") or f"{type(error).__name__}: {error}"


def checked(result: Any, stream: str) -> Any:
    """What a handler returned, if it has run at all: to settle records for a generator would skip them."""
    if result is not None and (inspect.isgenerator(result) or inspect.isasyncgen(result)):
        raise HandlerError(f"the handler of {stream!r} returned a generator, which has not run: return a list, or nothing")
    return result


class Each:
    """Runs one consumer's handler of records, `spec.concurrency` at once."""

    def __init__(self, spec: ConsumerSpec, executor: Executor, *, asynchronous: bool) -> None:
        assert spec.handler is not None
        self._spec, self._handler, self._executor = spec, spec.handler, executor
        self._store: IdempotencyStore | None = spec.idempotency
        self._async = asynchronous

    async def run(self, records: Sequence[Record], deadline: Deadline | None, done: Done | None) -> Ran:
        """Run what is not in `done`, and add to it what cannot be reported."""
        rows = {index: done[place(record)] for index, record in enumerate(records) if place(record) in done} if done else {}
        ended: dict[int, _Ended] = {}
        waiting: dict[str, deque[int]] = {}
        for index, record in enumerate(records):
            if index not in rows:
                waiting.setdefault(record.partition_key, deque()).append(index)
        ready = [indexes.popleft() for indexes in waiting.values()]
        heapify(ready)
        fatal: list[HandlerError] = []
        begun = False

        async def work() -> None:
            nonlocal begun
            while ready and not fatal:
                if begun and deadline is not None and deadline.left_s() <= 0:
                    return
                begun = True
                index = heappop(ready)
                came = ended[index] = await self._one(records[index], deadline)
                if came.fatal is not None:
                    fatal.append(came.fatal)
                elif came.error and self._spec.concurrency == 1:
                    ready.clear()  # one after the other is the order of the shard, whatever the keys
                elif not came.error:
                    rows[index] = came.row
                    if following := waiting[records[index].partition_key]:
                        heappush(ready, following.popleft())

        limit_s = None if deadline is None else deadline.left_s()
        try:
            # A budget that is used up before anything has begun gets no timer: it would cancel each first record for ever.
            async with asyncio.timeout(limit_s if limit_s is not None and limit_s > 0 else None):
                if self._spec.concurrency == 1 or len(waiting) <= 1:
                    await work()
                else:
                    async with asyncio.TaskGroup() as tg:
                        for _ in range(min(self._spec.concurrency, len(waiting))):
                            tg.create_task(work())
        except TimeoutError:
            pass  # what has no row has not run
        if fatal:
            raise fatal[0]
        return self._told(rows, ended, records, done)

    def _told(self, rows: dict[int, Any], ended: dict[int, _Ended], records: Sequence[Record], done: Done | None) -> Ran:
        trouble = next((came.trouble for came in ended.values() if came.trouble), "")
        lowest = next((index for index in range(len(records)) if index not in rows), None)
        if lowest is None:
            return Ran([rows[index] for index in range(len(records))], trouble=trouble)
        if done is not None:
            again = records[lowest].sequence_number
            done.update((place(records[at]), row) for at, row in rows.items() if at > lowest or records[at].sequence_number == again)
        came = ended.get(lowest, _Ended(error=OUT_OF_TIME))
        prefix = [rows[index] for index in range(lowest)]
        if not came.ran and records[lowest].sequence_number == records[0].sequence_number:
            # Nothing of the stream is done: user records before it in its aggregate are no progress, and no attempt is counted.
            return Ran(prefix, Throttled(), came.cause, trouble or came.error)
        return Ran(prefix, FailedFrom(lowest, None, came.error), None, trouble or (came.error if not came.ran else ""))

    # ── one record ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _one(self, record: Record, deadline: Deadline | None) -> _Ended:
        if self._store is None:
            came = await self._executor.run(self._called, record) if not self._async else self._called(record)
            return await self._awaited(came) if came.pending is not None else came
        try:
            key = self._key(record)
        except Exception as error:  # noqa: BLE001  a key made from the record fails where the record is bad
            return _Ended(error=says(error))
        for_s = None if deadline is None else deadline.remaining_s()
        came = await self._asked(record, key, for_s)
        if came.error or not came.token:
            return came
        token = came.token
        if came.pending is None:
            came = self._called(record)
        try:
            if came.pending is not None:
                came = await self._awaited(came)
            return await self._executor.run(self._settled, came, key, token)
        except asyncio.CancelledError:
            # Either the handler was cancelled, or it has ended and no thread was free to write that down: done stays done.
            await self._executor.run(self._settled, came if came.pending is None else _Ended(error="cancelled"), key, token)
            raise

    def _called(self, record: Record) -> _Ended:
        try:
            result = self._handler(record)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
            return _Ended(error=says(error))
        if inspect.isawaitable(result):
            # A plain function around an async one, as decorators make them: what it returned has not run yet.
            self._async = True
            return _Ended(pending=result)
        return self._returned(result)

    async def _awaited(self, came: _Ended) -> _Ended:
        try:
            return self._returned(await came.pending)
        except asyncio.CancelledError as error:
            if is_ours():
                raise
            return _Ended(error=says(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a handler raises is that record's failure
            return _Ended(error=says(error))

    def _returned(self, result: Any) -> _Ended:
        try:
            return _Ended(row=checked(result, self._spec.stream))
        except HandlerError as error:
            return _Ended(fatal=error)

    # ── its marker ───────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self, record: Record) -> str:
        spec = self._spec
        if spec.idempotency_key is None:
            return f"{spec.name}/{spec.stream}/{record.shard_id}/{record.sequence_number}/{record.sub_sequence_number}"
        made = spec.idempotency_key(record)
        if not isinstance(made, str) or not made:
            raise HandlerError(f"idempotency_key of {spec.stream!r} returned {made!r}: it must return text, and not an empty one")
        made.encode()  # half a surrogate pair is no text for any store
        return f"{spec.name}/{spec.stream}#{made}"

    async def _asked(self, record: Record, key: str, for_s: float | None) -> _Ended:
        """Ask for the marker on a thread; a plain handler runs there, too. If whoever waits is cancelled meanwhile, nobody knows a
        token that comes: the marker is released, by the one of the two who finds the answer in `answers`."""
        gone = False
        answers: list[_Ended] = []

        def let_go() -> None:
            with contextlib.suppress(IndexError):
                came = answers.pop()
                if inspect.iscoroutine(came.pending):
                    came.pending.close()
                if came.token:
                    self._settled(_Ended(error="cancelled"), key, came.token)

        def ask() -> _Ended:
            came = self._begun(key, for_s) if self._async else self._guarded(record, key, for_s)
            answers.append(came)
            if gone:
                let_go()
            return came

        try:
            return await self._executor.run(ask)
        except asyncio.CancelledError:
            gone = True
            await self._executor.run(let_go)
            raise

    def _begun(self, key: str, for_s: float | None) -> _Ended:
        assert self._store is not None
        try:
            marker = self._store.begin(key, for_s=for_s)
        except Exception as error:  # noqa: BLE001  the record waits until the store answers
            return _Ended(error=f"the idempotency store failed: {says(error)}", ran=False, cause=error)
        if marker.state == "busy":
            return _Ended(error=f"{key} is in progress elsewhere, or was when its process died", ran=False)
        return _Ended(token=marker.token if marker.state == "mine" else "")

    def _guarded(self, record: Record, key: str, for_s: float | None) -> _Ended:
        """All of it on one thread, for a plain handler."""
        came = self._begun(key, for_s)
        if came.error or not came.token:
            return came
        token = came.token
        came = self._called(record)
        if came.pending is not None:
            came.token = token
            return came
        came = self._settled(came, key, token)
        came.token = ""
        return came

    def _settled(self, came: _Ended, key: str, token: str) -> _Ended:
        assert self._store is not None
        try:
            if came.error or came.fatal is not None:
                self._store.release(key, token)
            else:
                self._store.finish(key)
        except Exception as error:  # noqa: BLE001  the handler has run; what it did stands
            came.trouble = f"the idempotency store did not take that {key} has ended, and a replay may run it again: {says(error)}"
        return came


def place(record: Record) -> tuple[str, int]:
    """Its key in `Done`."""
    return record.sequence_number, record.sub_sequence_number
