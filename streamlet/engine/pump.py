"""What does one task do for one shard? Read, batch, settle, checkpoint: one pump per held lease.

A pump is a straight line. First it completes what a dead worker had prepared. Then one task reads ahead (at most two reads),
and the pump itself batches, drives the failure machine over each batch, and moves the checkpoint: with a sink by closing
ranges, without one after settled batches. It ends when the shard ends, when the worker drains, or when the lease is lost
(its task is cancelled). It owns everything that it touches; the supervisor only cancels it or tells it to stop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from streamlet.core.batching import Batcher
from streamlet.core.failure import (
    Delivered,
    FailedFrom,
    FailureMachine,
    FailurePolicy,
    Finished,
    GiveUp,
    Invoke,
    NotDelivered,
    Throttled,
    Wait,
)
from streamlet.core.prepared import GivenUp, PreparedRange
from streamlet.core.rolling import MemoryBudget, OpenRange, Roll
from streamlet.engine.invoke import Invoker
from streamlet.engine.leases import Acquired, LeaseKeeper, Leases
from streamlet.engine.ranges import Closer, OpenRows, document_of
from streamlet.errors import ConfigurationError, SinkError, StoreError
from streamlet.hooks import BatchSettled, Event, HandlerFailed, RecordsGivenUp, ShardEnded, Trouble
from streamlet.model.position import AT_TIMESTAMP, LATEST, TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.ports import Clock, Executor, Fetch, ShardReader, Source, StartingPosition
from streamlet.spec import ConsumerSpec

__all__ = ["End", "Pump"]

FETCHES_AHEAD_MAX: Final = 2
# Without a sink the checkpoint may lag: what it has not passed is only delivered again. Once a second costs nothing.
CHECKPOINT_EVERY_S: Final = 1.0
# Inside a prepared range nothing new is given up: a record succeeds or blocks.
IDLE_READS_AT_TIP: Final = 5
REPLAY_POLICY: Final = FailurePolicy()


class End(Enum):
    """Why a pump came to its end."""

    SHARD_ENDED = "shard ended"
    DRAINED = "drained"


class _DrainedInReplay(Exception):
    """A drain came while a prepared range could not be completed. It stays prepared, for the next holder."""


class _Ahead:
    """Reads ahead of the pump: bounded, and woken by a stop as well as by news."""

    def __init__(self) -> None:
        self._fetches: deque[Fetch] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.stopping = asyncio.Event()

    async def fill(self, reader: ShardReader) -> None:
        """Read until the shard ends. Cancelled when the pump is done."""
        while True:
            while len(self._fetches) >= FETCHES_AHEAD_MAX:
                self._room.clear()
                await self._room.wait()
            fetch = await reader.read()
            self._fetches.append(fetch)
            self._news.set()
            if fetch.ended:
                return

    async def take(self, delay_s: float | None) -> Fetch | None:
        """The next read; None if `delay_s` passes or the worker drains before there is one."""
        if not self._fetches:
            self._news.clear()
            if self.stopping.is_set():
                return None
            try:
                async with asyncio.timeout(delay_s):
                    await self._news.wait()
            except TimeoutError:
                return None
            if not self._fetches:
                return None
        self._room.set()
        return self._fetches.popleft()

    def stop(self) -> None:
        """Wake whoever waits; what is read but not yet batched is left for the next holder."""
        self.stopping.set()
        self._news.set()

    async def pause(self, delay_s: float) -> bool:
        """Wait; True if the worker began to drain meanwhile."""
        try:
            async with asyncio.timeout(max(0.0, delay_s)):
                await self.stopping.wait()
        except TimeoutError:
            return False
        return True


class Pump:
    """Takes one shard from its checkpoint to its end, a drain, or the loss of its lease."""

    def __init__(
        self,
        spec: ConsumerSpec,
        acquired: Acquired,
        *,
        source: Source,
        keeper: LeaseKeeper,
        leases: Leases,
        executor: Executor,
        clock: Clock,
        emit: Callable[[Event], None],
        budget: MemoryBudget,
    ) -> None:
        self._spec = spec
        self.grip, self._lease = acquired.grip, acquired.lease
        self.shard_id = acquired.lease.key
        self._account = f"{spec.stream}/{self.shard_id}"
        self._source, self._keeper, self._leases = source, keeper, leases
        self._executor, self._clock, self._emit, self._budget = executor, clock, emit, budget
        self._invoker = Invoker(spec, executor)
        self._ahead = _Ahead()
        self._batcher = Batcher(spec.mapping.batch_size, spec.mapping.batching_window_s)
        self._behind_ms = 0
        self._pinned = False
        # Without a sink: how far everything is settled, and how far the lease row knows it.
        self._settled: Position | None = None
        self._checkpointed_at_s = 0.0
        # With a sink: the open range.
        self._rows = OpenRows()
        self._open = OpenRange(getattr(spec.sink, "roll", None) or Roll())
        self._closer = (
            None
            if spec.sink is None
            else Closer(
                stream=spec.stream,
                shard_id=self.shard_id,
                name=spec.name,
                sink=spec.sink,
                destination=spec.mapping.on_failure,
                grip=self.grip,
                keeper=keeper,
                leases=leases,
                executor=executor,
                clock=clock,
                emit=emit,
            )
        )

    def stop(self) -> None:
        """Drain: read no more, finish the batch in hand, close the open range."""
        self._ahead.stop()

    async def run(self) -> End:
        """To the end. Raises LeaseLost, StoreError, ReplayDiffers, or the UsageError of a handler that is wrong."""
        position = self._lease.checkpoint
        if self._lease.pending is not None:
            if self._lease.pending_state is None:
                raise SinkError(
                    f"{self._spec.stream} {self.shard_id} holds a prepared checkpoint that streamlet did not write; "
                    "let the application that wrote it finish, or clear pendingCheckpoint in its lease"
                )
            try:
                position = await self._complete(PreparedRange.decode(self._lease.pending_state))
            except _DrainedInReplay:
                await self._leases.call(self._keeper.release, self.grip)
                return End.DRAINED
        try:
            reader = self._source.reader(self.shard_id, self._starting(position))
            async with asyncio.TaskGroup() as tg:
                reading = tg.create_task(self._ahead.fill(reader), name=f"read {self.shard_id}")
                end = await self._process()
                reading.cancel()
        finally:
            self._budget.forget(self._account)
        if end is End.SHARD_ENDED:
            await self._leases.call(self._keeper.finish, self.grip, ())
            self._emit(ShardEnded(stream=self._spec.stream, shard_id=self.shard_id))
        else:
            await self._leases.call(self._keeper.release, self.grip)
        return end

    def _starting(self, position: Position) -> StartingPosition:
        start = self._spec.mapping.start
        if position == AT_TIMESTAMP:
            # The time is an option, not in the lease row. If the option has gone meanwhile, read more rather than less.
            return start if start.position == AT_TIMESTAMP else StartingPosition(TRIM_HORIZON)
        return StartingPosition(position)

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _process(self) -> End:
        while not self._ahead.stopping.is_set():
            now_s = self._clock.time()
            fetch = await self._ahead.take(self._delay_s(now_s))
            now_s = self._clock.time()
            ended = False
            if fetch is not None:
                self._behind_ms = fetch.millis_behind_latest
                if fetch.records:
                    await self._pin_latest(fetch.records[0])
                    self._batcher.add(fetch.records, now_s)
                ended = fetch.ended
            while not self._ahead.stopping.is_set():
                batch = self._batcher.next_batch(now_s) or (self._batcher.flush() if ended else None)
                if batch is None:
                    break
                await self._settle(batch)
                await self._checkpoint_if_due()
                now_s = self._clock.time()
            if ended and not self._ahead.stopping.is_set():
                await self._checkpoint()
                return End.SHARD_ENDED
            await self._checkpoint_if_due()
        await self._checkpoint()
        return End.DRAINED

    async def _pin_latest(self, first: Record) -> None:
        """Event 1: a worker reads from LATEST and gets records. Event 2: it dies before its first checkpoint. If the lease still
        said LATEST, its successor would begin at a later tip, and those records would be skipped. So the first record that
        LATEST brought is written down, as the position just before it, before anything is done with it."""
        if self._lease.checkpoint == LATEST and not self._pinned:
            at = first.position
            while not self._pinned:
                try:
                    await self._leases.call(self._keeper.checkpoint, self.grip, Position(at.sequence, at.sub - 1))
                    self._pinned = True
                except StoreError as error:
                    # To go on without the pin could skip what was read; to give the lease back would do so for certain.
                    self._trouble("writing down where LATEST begins", error)
                    await self._clock.sleep(0.5)

    def _delay_s(self, now_s: float) -> float | None:
        wakes = [at_s for at_s in (self._batcher.wake_at_s(), self._open.wake_at_s()) if at_s is not None]
        if self._settled is not None:
            wakes.append(self._checkpointed_at_s + CHECKPOINT_EVERY_S)
        return max(0.0, min(wakes) - now_s) if wakes else None

    async def _settle(self, records: Sequence[Record]) -> None:
        """Take one batch to where every record is settled, or to a drain: then what is settled so far counts."""
        begun_s = self._clock.monotonic()
        machine = FailureMachine([record.arrived_at_s for record in records], self._spec.mapping.policy)
        given_up = 0
        while not isinstance(step := machine.next_step(self._clock.time()), Finished):
            match step:
                case Wait(until_s=until_s):
                    if await self._wait(until_s, records, machine.settled):
                        break
                case Invoke():
                    await self._invoke(records, step, machine)
                case GiveUp():
                    given_up += await self._give_up(records, step, machine)
        self._advance(records, machine.settled)
        self._emit(
            BatchSettled(
                stream=self._spec.stream,
                shard_id=self.shard_id,
                records=machine.settled,
                given_up=given_up,
                size_bytes=sum(len(record.data) for record in records[: machine.settled]),
                duration_s=self._clock.monotonic() - begun_s,
                millis_behind_latest=self._behind_ms,
            )
        )

    async def _wait(self, until_s: float, records: Sequence[Record], settled: int) -> bool:
        """A pause before a retry. It may be long and come again and again; files and checkpoints do not wait for its end.

        True if the worker began to drain."""
        self._advance(records, settled)
        await self._checkpoint_if_due()
        wakes = [until_s]
        if (at_s := self._open.wake_at_s()) is not None:
            wakes.append(at_s)
        if self._settled is not None:
            wakes.append(self._checkpointed_at_s + CHECKPOINT_EVERY_S)
        return await self._ahead.pause(min(wakes) - self._clock.time())

    async def _invoke(self, records: Sequence[Record], step: Invoke, machine: FailureMachine) -> None:
        invocation = await self._invoker.invoke(
            records[step.start : step.stop],
            start=step.start,
            attempt=step.attempt,
            shard_id=self.shard_id,
            millis_behind_latest=self._behind_ms,
        )
        outcome = invocation.outcome
        stop = step.start if isinstance(outcome, Throttled) else step.stop
        if isinstance(outcome, FailedFrom):
            stop = outcome.index
            self._emit(
                HandlerFailed(
                    stream=self._spec.stream,
                    shard_id=self.shard_id,
                    sequence_number=records[stop].sequence_number,
                    records=step.stop - stop,
                    attempt=step.attempt,
                    error=outcome.error,
                )
            )
        now_s = self._clock.time()
        if stop > step.start and self._closer is not None:
            self._rows.took(records[step.start : stop], invocation.chunk)
            if invocation.chunk is not None:
                self._open.add(invocation.chunk.rows, invocation.chunk.size_bytes, now_s)
                self._budget.set(self._account, self._open.bytes)
        machine.feed(step.step_id, outcome, now_s)

    async def _give_up(self, records: Sequence[Record], step: GiveUp, machine: FailureMachine) -> int:
        run = records[step.start : step.stop]
        first, last = run[0].position, run[-1].position
        given_up = GivenUp(
            first.text,
            first.sub,
            last.text,
            last.sub,
            step.condition,
            step.invoke_count,
            step.function_error,
            step.error,
            self._clock.time(),
        )
        destination = self._spec.mapping.on_failure
        if self._closer is not None:
            # To prepare, "given up" settles a record; its document is sent between prepare and commit.
            self._rows.gave_up(given_up, run)
            self._open.gave_up(self._clock.time())
        elif destination is not None:
            document = document_of(given_up, run, name=self._spec.name, stream=self._spec.stream, shard_id=self.shard_id)
            try:
                await self._executor.run(destination.send, document)
            except Exception as error:  # noqa: BLE001  a destination may be the user's own; the document is tried again
                self._trouble("failure document", error)
                machine.feed(step.step_id, NotDelivered(), self._clock.time())
                return 0
        self._emit(
            RecordsGivenUp(
                stream=self._spec.stream,
                shard_id=self.shard_id,
                first=first.text,
                last=last.text,
                records=len(run),
                condition=step.condition,
                error=step.error,
                delivered_to="" if destination is None else str(destination),
            )
        )
        machine.feed(step.step_id, Delivered(), self._clock.time())
        return len(run)

    def _advance(self, records: Sequence[Record], settled: int) -> None:
        if settled and self._closer is None:
            self._settled = records[settled - 1].position

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _checkpoint_if_due(self) -> None:
        now_s = self._clock.time()
        if self._closer is not None:
            if self._open.due(now_s) or self._budget.should_roll(self._account):
                await self._roll()
        elif self._settled is not None and now_s - self._checkpointed_at_s >= CHECKPOINT_EVERY_S:
            try:
                await self._checkpoint()
            except StoreError as error:
                # Without a sink a late checkpoint only means that records may come twice after a crash.
                self._trouble("checkpoint", error)
                self._checkpointed_at_s = now_s

    async def _checkpoint(self) -> None:
        if self._closer is not None:
            await self._roll()
        elif self._settled is not None:
            await self._leases.call(self._keeper.checkpoint, self.grip, self._settled)
            self._settled = None
            self._checkpointed_at_s = self._clock.time()

    async def _roll(self) -> None:
        assert self._closer is not None
        rows, self._rows = self._rows, OpenRows()
        self._open.clear()
        self._budget.set(self._account, 0)
        await self._closer.close(rows)

    def _trouble(self, what: str, error: Exception) -> None:
        self._emit(Trouble(stream=self._spec.stream, shard_id=self.shard_id, what=what, error=str(error)))

    # ── what another worker had prepared ─────────────────────────────────────────────────────────────────────────

    async def _complete(self, prepared: PreparedRange) -> Position:
        """Read the prepared range again, run its handler again, and write the very same files. Returns where to go on."""
        if self._closer is None:
            raise ConfigurationError(
                f"{self._spec.stream} {self.shard_id} holds a range that was prepared with a sink, and {self._spec.name} has none for this stream: "
                "run the app with that sink until the range is committed"
            )
        last = prepared.last_position
        # From the range's own first record: the checkpoint may be a sentinel, and what AT_TIMESTAMP means may have changed.
        first = prepared.first_position
        reader = self._source.reader(self.shard_id, StartingPosition(Position(first.sequence, first.sub - 1)))
        rows, first_read, done, idle = OpenRows(), None, False, 0
        while not done:
            if self._ahead.stopping.is_set():
                raise _DrainedInReplay
            fetch = await reader.read()
            self._behind_ms = fetch.millis_behind_latest
            records = [record for record in fetch.records if first <= record.position <= last]
            # An empty answer is no end, but at the tip of the shard, again and again, there is nothing more to come: what is
            # missing of the range was trimmed.
            idle = 0 if fetch.records or fetch.millis_behind_latest else idle + 1
            done = fetch.ended or idle >= IDLE_READS_AT_TIP or (bool(fetch.records) and fetch.records[-1].position >= last)
            if records and first_read is None:
                first_read = records[0].position
            await self._replay(records, prepared, rows)
        await self._closer.complete(prepared, rows, first_read)
        return last

    async def _replay(self, records: Sequence[Record], prepared: PreparedRange, rows: OpenRows) -> None:
        """Records of a prepared range: those given up then are left out now; every other one succeeds or blocks, visibly."""
        kept: list[Record] = []
        for record in records:
            run = next((run for run in prepared.given_up if run.covers(record.position)), None)
            if run is None:
                kept.append(record)
            else:
                rows.add_to_run(run, record)
        size = self._spec.mapping.batch_size
        for begin in range(0, len(kept), size):
            if self._ahead.stopping.is_set():
                raise _DrainedInReplay
            batch = kept[begin : begin + size]
            machine = FailureMachine([record.arrived_at_s for record in batch], REPLAY_POLICY)
            while not isinstance(step := machine.next_step(self._clock.time()), Finished):
                match step:
                    case Wait(until_s=until_s):
                        if await self._ahead.pause(until_s - self._clock.time()):
                            raise _DrainedInReplay
                    case Invoke():
                        invocation = await self._invoker.invoke(
                            batch[step.start : step.stop], start=step.start, attempt=step.attempt, shard_id=self.shard_id
                        )
                        if invocation.chunk is not None and invocation.chunk.rows:
                            rows.chunks.append(invocation.chunk)
                        if isinstance(invocation.outcome, FailedFrom):
                            record = batch[invocation.outcome.index]
                            self._trouble(f"completing a prepared range at {record.where}", Exception(invocation.outcome.error))
                        machine.feed(step.step_id, invocation.outcome, self._clock.time())
                    case GiveUp():
                        raise AssertionError("the replay policy gives nothing up")
