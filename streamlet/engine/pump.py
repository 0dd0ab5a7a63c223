"""What does one task do for one shard? Read, batch, settle, checkpoint: one pump per held lease.

First it completes what a dead worker had prepared. Then it reads ahead and hands the records out to its lanes (lane.py), which
settle them batch by batch; and it keeps what belongs to the shard as a whole: how far everything is settled, the open range,
the checkpoint. It ends when the shard ends, when the worker drains, or when the lease is lost (its task is cancelled). It owns
everything that it touches; the supervisor only cancels it or tells it to stop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from math import inf
from typing import Final
from zlib import crc32

from streamlet.core.checkpoint import LowWaterMark
from streamlet.core.failure import FailedFrom, FailureMachine, FailurePolicy, Finished, GiveUp, Invoke, Wait
from streamlet.core.prepared import GivenUp, PreparedRange
from streamlet.core.rolling import MemoryBudget, OpenRange, Roll
from streamlet.engine.gate import Gate, within
from streamlet.engine.invoke import Invoker
from streamlet.engine.lane import Lane, Numbers
from streamlet.engine.leases import Acquired, LeaseKeeper, Leases
from streamlet.engine.ranges import Closer, OpenRows, document_of
from streamlet.engine.windowed import WindowLane
from streamlet.errors import ConfigurationError, InternalError, SinkError, StoreError
from streamlet.hooks import Event, RecordsFiltered, RecordsGivenUp, RecordsRead, ShardEnded, Trouble
from streamlet.model.position import AT_TIMESTAMP, LATEST, TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.ports import Chunk, Clock, Executor, ShardReader, Source, StartingPosition
from streamlet.spec import ConsumerSpec

__all__ = ["End", "Pump"]

# What may be in hand, read and not yet passed by the mark: room for every lane's largest batch and for the read after it. A lane
# that blocks lets the others go on for as much.
READ_AHEAD_RECORDS: Final = 20_000
READ_AHEAD_BYTES: Final = 16 * 1024 * 1024
LANE_BYTES: Final = 6_000_000
# Without a sink the checkpoint may lag: what it has not passed is only delivered again. Once a second costs nothing.
CHECKPOINT_EVERY_S: Final = 1.0
IDLE_READS_AT_TIP: Final = 5
# Inside a prepared range nothing new is given up: a record succeeds or blocks.
REPLAY_POLICY: Final = FailurePolicy()


class End(Enum):
    """Why a pump came to its end."""

    SHARD_ENDED = "shard ended"
    DRAINED = "drained"


class _DrainedInReplay(Exception):
    """A drain came while a prepared range could not be completed. It stays prepared, for the next holder."""


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
        gate: Gate | None = None,
    ) -> None:
        self._spec = spec
        self.gate = gate or Gate()
        self.grip, self._lease = acquired.grip, acquired.lease
        self.shard_id = acquired.lease.key
        self._account = f"{spec.stream}/{self.shard_id}"
        self._source, self._keeper, self._leases = source, keeper, leases
        self._executor, self._clock, self._emit, self._budget = executor, clock, emit, budget
        self._invoker = Invoker(spec, executor)
        self._criteria = spec.mapping.criteria
        self._lanes = (
            [WindowLane(self, spec, self._invoker, clock)]
            if spec.kind == "window"
            else [Lane(self, spec, self._invoker, clock) for _ in range(spec.mapping.parallelization_factor)]
        )
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()  # something was settled, or a lane is done
        self._room = asyncio.Event()
        self._keeping = asyncio.Lock()
        self.behind_ms = 0
        self.read_up_to_s = 0.0
        self._pinned = False
        # How far everything is settled, and how far the lease row knows it, as a count of records.
        self._mark = LowWaterMark()
        self._written = 0
        self._written_at_s = -inf
        self._in_hand: deque[tuple[int, int]] = deque()  # per read: the number after its last record, its bytes
        self._in_hand_bytes = 0
        factor = len(self._lanes)
        self._records_max = READ_AHEAD_RECORDS + factor * spec.mapping.batch_size
        self._bytes_max = READ_AHEAD_BYTES + factor * LANE_BYTES
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
        """Drain: read no more, finish the batches in hand, close the open range."""
        self._stopping.set()
        for lane in self._lanes:
            lane.stop()

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
            await self._process(self._source.reader(self.shard_id, self._starting(position)))
        finally:
            self._budget.forget(self._account)
        if self._stopping.is_set():
            await self._leases.call(self._keeper.release, self.grip)
            return End.DRAINED
        assert self._mark.settled_count == self._mark.opened_count, "the shard has ended, and not everything is settled"
        await self._leases.call(self._keeper.finish, self.grip, ())
        self.emit(ShardEnded(stream=self._spec.stream, shard_id=self.shard_id))
        return End.SHARD_ENDED

    def _starting(self, position: Position) -> StartingPosition:
        start = self._spec.mapping.start
        if position == AT_TIMESTAMP:
            # The time is an option, not in the lease row. If the option has gone meanwhile, read more rather than less.
            return start if start.position == AT_TIMESTAMP else StartingPosition(TRIM_HORIZON)
        return StartingPosition(position)

    async def _process(self, reader: ShardReader) -> None:
        """Until the shard has ended and everything is settled, or the lanes have stopped for a drain."""
        async with asyncio.TaskGroup() as tg:
            reading = tg.create_task(self._read(reader), name=f"read {self.shard_id}")
            lanes = [tg.create_task(lane.run(), name=f"lane {n} of {self.shard_id}") for n, lane in enumerate(self._lanes)]
            for lane in lanes:
                lane.add_done_callback(lambda _: self._news.set())
            try:
                while not all(lane.done() for lane in lanes):
                    # A lane keeps up by itself between its batches; while one waits, or is long in its handler, nobody else would.
                    self._news.clear()
                    await self.keep_up()
                    wake_at_s = self._wake_at_s()
                    await within(self._news, None if wake_at_s is None else wake_at_s - self._clock.monotonic())
                    self._none_was_cancelled(lanes)
            except BaseException:
                # The group cancels the lanes now. One whose handler swallows that ends with its batch, instead of never.
                for ending in self._lanes:
                    ending.stop()
                raise
            reading.cancel()
        async with self._keeping:
            await self._keep()

    def _none_was_cancelled(self, lanes: Iterable[asyncio.Task[None]]) -> None:
        """Nobody here cancels a lane alone, and a TaskGroup passes over one in silence. What it held is not settled."""
        if any(lane.cancelled() for lane in lanes):
            raise InternalError(
                f"{self._spec.stream} {self.shard_id}: the task of a handler was cancelled from inside. A handler must not cancel the task "
                "that it runs in; a library for timeouts may do so: use asyncio.timeout"
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, reader: ShardReader) -> None:
        """Read and hand out until the shard ends. Cancelled when the lanes are done."""
        while True:
            while self.full:
                for lane in self._lanes:
                    lane.look()
                self._room.clear()
                await self._room.wait()
            await self.gate.opened()
            begun_s = self._clock.time()
            fetch = await reader.read()
            self.behind_ms = fetch.millis_behind_latest
            if fetch.records:
                self.emit(RecordsRead(stream=self._spec.stream, shard_id=self.shard_id, records=len(fetch.records)))
                await self._pin_latest(fetch.records[0])
                self._hand_out(fetch.records)
            self.read_up_to_s = begun_s - self.behind_ms / 1000
            if self._spec.kind == "window":
                self._lanes[0].look()
            if fetch.ended:
                for lane in self._lanes:
                    lane.end()
                return

    def _hand_out(self, records: Sequence[Record]) -> None:
        """Give each record its number and its lane."""
        first = self._mark.opened(records)
        size_bytes = sum([len(record.data) for record in records])
        self._in_hand.append((self._mark.opened_count, size_bytes))
        self._in_hand_bytes += size_bytes
        factor = len(self._lanes)
        if self._criteria is None and factor == 1:
            self._lanes[0].add(records, range(first, first + len(records)))
            return
        shares: list[list[Record]] = [[] for _ in self._lanes]
        numbers: list[list[int]] = [[] for _ in self._lanes]
        filtered: list[int] = []
        passes = None if self._criteria is None else self._criteria.matches
        for number, record in enumerate(records, first):
            if passes is not None and not passes(record.data):
                filtered.append(number)
                continue
            n = crc32(record.partition_key.encode()) % factor  # lane_of without the call: two fifths of this loop
            shares[n].append(record)
            numbers[n].append(number)
        for n, lane in enumerate(self._lanes):
            if shares[n]:
                lane.add(shares[n], numbers[n])
        if filtered:
            self.emit(RecordsFiltered(stream=self._spec.stream, shard_id=self.shard_id, records=len(filtered)))
            if self._closer is not None:
                # The checkpoint follows also where nothing passes: the range then closes by its age.
                self._open.add(0, 0, self._clock.monotonic())
            self.settled([filtered])

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

    # ── what the lanes ask ───────────────────────────────────────────────────────────────────────────────────────

    def took(self, records: Sequence[Record], chunk: Chunk | None) -> None:
        """With a sink: rows of the open range."""
        if self._closer is None:
            return
        self._rows.took(records, chunk)
        rows, size_bytes = (0, 0) if chunk is None else (chunk.rows, chunk.size_bytes)  # aggregates may hold nothing
        self._open.add(rows, size_bytes, self._clock.monotonic())
        self._budget.set(self._account, self._open.bytes)

    @property
    def full(self) -> bool:
        """As much is in hand as may be."""
        return self._mark.opened_count - self._mark.settled_count >= self._records_max or self._in_hand_bytes >= self._bytes_max

    def settled(self, parts: Iterable[Numbers]) -> None:
        """Move the mark over what is settled without a gap."""
        for numbers in parts:
            if isinstance(numbers, range):
                self._mark.settled(numbers.start, numbers.stop)
            else:
                self._mark.settled_each(numbers)
        while self._in_hand and self._in_hand[0][0] <= self._mark.settled_count:
            self._in_hand_bytes -= self._in_hand.popleft()[1]
        self._room.set()
        self._news.set()

    async def give_up(self, records: Sequence[Record], step: GiveUp) -> bool:
        """Tell the destination; with a sink, once the range is prepared."""
        first, last = records[0].position, records[-1].position
        run = GivenUp(
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
            self._rows.gave_up(run, records)
            self._open.gave_up(self._clock.monotonic())
        elif destination is not None:
            document = document_of(run, records, name=self._spec.name, stream=self._spec.stream, shard_id=self.shard_id)
            try:
                await self._executor.run(destination.send, document)
            except Exception as error:  # noqa: BLE001  a destination may be the user's own; the document is tried again
                self._trouble("failure document", error)
                return False
        self.emit(
            RecordsGivenUp(
                stream=self._spec.stream,
                shard_id=self.shard_id,
                first=first.text,
                last=last.text,
                records=len(records),
                condition=step.condition,
                error=step.error,
                delivered_to="" if destination is None else str(destination),
            )
        )
        return True

    async def keep_up(self) -> None:
        """Close the range or write the checkpoint, if one is due. Who comes while it happens waits for its end."""
        if not self._due():
            return
        async with self._keeping:
            if not self._due():
                return
            try:
                await self._keep()
            except StoreError as error:
                if self._closer is not None:
                    raise
                # Without a sink a late checkpoint only means that records may come twice after a crash.
                self._trouble("checkpoint", error)
                self._written_at_s = self._clock.monotonic()

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

    def _due(self) -> bool:
        now_s = self._clock.monotonic()
        if self._closer is not None:
            return self._open.due(now_s) or self._budget.should_roll(self._account)
        return self._unwritten and now_s - self._written_at_s >= CHECKPOINT_EVERY_S

    @property
    def _unwritten(self) -> bool:
        """Is there something settled that the lease may be told of?"""
        return self._mark.settled_count > self._written and all(lane.may_checkpoint for lane in self._lanes)

    def _wake_at_s(self) -> float | None:
        if self._closer is not None:
            return self._open.wake_at_s()
        return self._written_at_s + CHECKPOINT_EVERY_S if self._unwritten else None

    async def _keep(self) -> None:
        if self._closer is not None:
            rows, self._rows = self._rows, OpenRows()
            if self._mark.settled_count > self._written:
                rows.passed(self._mark.mark)
                self._written = self._mark.settled_count
            self._open.clear()
            self._budget.set(self._account, 0)
            await self._closer.close(rows)
        elif self._unwritten:
            count, position = self._mark.settled_count, self._mark.mark
            await self._leases.call(self._keeper.checkpoint, self.grip, position)
            self._written, self._written_at_s = count, self._clock.monotonic()

    def emit(self, event: Event) -> None:
        """Tell the listeners."""
        self._emit(event)

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
            await self.gate.opened()
            if self._stopping.is_set():
                raise _DrainedInReplay
            fetch = await reader.read()
            self.behind_ms = fetch.millis_behind_latest
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
            if self._criteria is not None and not self._criteria.matches(record.data):
                continue
            run = next((run for run in prepared.given_up if run.covers(record.position)), None)
            if run is None:
                kept.append(record)
            else:
                rows.add_to_run(run, record)
        size = self._spec.mapping.batch_size
        for begin in range(0, len(kept), size):
            if self._stopping.is_set():
                raise _DrainedInReplay
            batch = kept[begin : begin + size]
            machine = FailureMachine([record.arrived_at_s for record in batch], REPLAY_POLICY)
            while not isinstance(step := machine.next_step(self._clock.time()), Finished):
                match step:
                    case Wait(until_s=until_s):
                        if await within(self._stopping, until_s - self._clock.time()):
                            raise _DrainedInReplay
                    case Invoke():
                        if await self.gate.held(self._stopping):
                            raise _DrainedInReplay
                        with self.gate:
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
