"""What does one of a shard's parallel slots do? It batches the records of its keys, and settles one batch after the other.

A shard has `parallelization_factor` lanes. A record goes to the lane that the CRC-32 of its partition key names, so that the
records of a key stay in order; each lane forms its own batches, and retries, bisects and blocks by itself. Where the shard as a
whole stands is its pump's business: a lane tells it the numbers of the records that it has settled.

CHOICE: AWS documents that the partition key is hashed, not how (reference: Lambda developer guide, with-kinesis).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol
from zlib import crc32

from streamlet.core.batching import Batcher
from streamlet.core.failure import (
    Delivered,
    FailedFrom,
    FailureMachine,
    GiveUp,
    Invoke,
    NotDelivered,
    Outcome,
    Throttled,
    Wait,
)
from streamlet.engine.each import Done
from streamlet.engine.gate import Gate, within
from streamlet.engine.invoke import Invoker
from streamlet.hooks import BatchSettled, Event, HandlerFailed, Invoked, Trouble
from streamlet.model.record import Record
from streamlet.model.window import Window
from streamlet.ports import Chunk, Clock
from streamlet.spec import ConsumerSpec

__all__ = ["Lane", "Numbers", "Shard", "lane_of"]

Numbers = range | list[int]
"""Numbers of records, ascending: a range where they stand side by side."""


def lane_of(partition_key: str, lanes: int) -> int:
    """Which of the lanes takes a record."""
    return crc32(partition_key.encode()) % lanes


class Shard(Protocol):
    """What a lane asks of its pump."""

    shard_id: str
    gate: Gate
    behind_ms: int
    read_up_to_s: float  # everything that arrived before this moment, in epoch seconds, was read

    @property
    def full(self) -> bool:
        """Nothing more is read before something is settled. What a window gathers would hold that up."""
        ...

    def took(self, records: Sequence[Record], chunk: Chunk | None) -> None:
        """The handler took these records; with a sink, `chunk` has their rows."""
        ...

    def settled(self, parts: Iterable[Numbers]) -> None:
        """Nothing is left to do for the records with these numbers."""
        ...

    async def give_up(self, records: Sequence[Record], step: GiveUp) -> bool:
        """Send these records where those go that are given up. False: that did not work, and is to be tried again."""
        ...

    async def keep_up(self) -> None:
        """Close a range or write a checkpoint, if one is due. A lane that is faster than the files waits here."""
        ...

    def emit(self, event: Event) -> None:
        """Tell the listeners."""
        ...


class Lane:
    """One parallel slot. `run` ends when the shard has ended and everything is settled, or after `stop`."""

    def __init__(self, shard: Shard, spec: ConsumerSpec, invoker: Invoker, clock: Clock) -> None:
        self._shard, self._spec, self._invoker, self._clock = shard, spec, invoker, clock
        self._batcher = Batcher(spec.mapping.batch_size, spec.mapping.batching_window_s)
        self._numbers: deque[Numbers] = deque()  # of what waits; with one lane a whole read is one range
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = False

    @property
    def may_checkpoint(self) -> bool:
        """May the lease say how far everything is settled?"""
        return True

    def add(self, records: Sequence[Record], numbers: Numbers) -> None:
        """Records of this lane's keys, in shard order, and their numbers."""
        self._batcher.add(records)
        self._numbers.append(numbers)
        self._news.set()

    def look(self) -> None:
        """The shard is full, so that what waits for its batching window goes now; or something was read."""
        self._news.set()

    def end(self) -> None:
        """The shard has ended: nothing more is to come."""
        self._ended = True
        self._news.set()

    def stop(self) -> None:
        """Finish the batch in hand, but wait for no retry; leave the rest to the next holder."""
        self._stopping.set()
        self._news.set()

    async def run(self) -> None:
        """Settle one batch after the other."""
        while (batch := await self._next_batch()) is not None:
            await self._settle(batch)
            await self._shard.keep_up()

    async def _next_batch(self) -> list[Record] | None:
        while not self._stopping.is_set():
            now_s = self._clock.monotonic()
            self._news.clear()
            batch = self._batcher.next_batch(now_s) or (self._batcher.flush() if self._ended or self._shard.full else None)
            if batch is not None:
                return batch
            if self._ended:
                return None
            wake_at_s = self._batcher.wake_at_s()
            await within(self._news, None if wake_at_s is None else wake_at_s - now_s)
        return None

    async def _settle(self, records: Sequence[Record]) -> None:
        """Take one batch to where every record is settled, or to a drain: then what is settled so far counts."""
        begun_s = self._clock.monotonic()
        numbers = deque(_take(self._numbers, len(records)))
        machine = FailureMachine([record.arrived_at_s for record in records], self._spec.mapping.policy)
        given_up = told = 0
        done: Done = {}  # what succeeded behind a failed record, for as long as this batch is open
        while machine.settled < len(records) and not await self._shard.gate.held(self._stopping):
            now_s = self._clock.time()
            match step := machine.next_step(now_s):
                case Wait(until_s=until_s):
                    if await within(self._stopping, until_s - now_s):
                        break
                case Invoke():
                    if not await self._invoke(records, step, machine, done):
                        break
                case GiveUp():
                    sent = await self._shard.give_up(records[step.start : step.stop], step)
                    given_up += (step.stop - step.start) * sent
                    machine.feed(step.step_id, Delivered() if sent else NotDelivered(), self._clock.time())
            if machine.settled > told:
                self._shard.settled(_take(numbers, machine.settled - told))
                told = machine.settled
        self._shard.emit(
            BatchSettled(
                stream=self._spec.stream,
                shard_id=self._shard.shard_id,
                records=machine.settled,
                given_up=given_up,
                size_bytes=sum([len(record.data) for record in records[: machine.settled]]),
                duration_s=self._clock.monotonic() - begun_s,
                millis_behind_latest=self._shard.behind_ms,
            )
        )

    async def _invoke(self, records: Sequence[Record], step: Invoke, machine: FailureMachine, done: Done) -> bool:
        """Answer the step; False if the worker began to drain before anything was called."""
        with self._shard.gate:
            invocation = await self._invoker.invoke(
                records[step.start : step.stop],
                start=step.start,
                attempt=step.attempt,
                shard_id=self._shard.shard_id,
                millis_behind_latest=self._shard.behind_ms,
                done=done,
            )
        if invocation.trouble:
            self._shard.emit(Trouble(stream=self._spec.stream, shard_id=self._shard.shard_id, what="idempotency", error=invocation.trouble))
        self._feed(records, step, machine, invocation.outcome, invocation.chunk)
        return True

    def _feed(
        self,
        records: Sequence[Record],
        step: Invoke,
        machine: FailureMachine,
        outcome: Outcome,
        chunk: Chunk | None,
        window: Window | None = None,
    ) -> None:
        stop = step.start if isinstance(outcome, Throttled) else step.stop
        failed = isinstance(outcome, FailedFrom)
        if isinstance(outcome, FailedFrom):
            stop = outcome.index
        if not isinstance(outcome, Throttled):
            self._shard.emit(
                Invoked(
                    stream=self._spec.stream,
                    shard_id=self._shard.shard_id,
                    records=records[step.start : step.stop],
                    attempt=step.attempt,
                    done=stop - step.start,
                    failed=failed,
                    error=outcome.error if isinstance(outcome, FailedFrom) else "",
                    window=window,
                )
            )
        if isinstance(outcome, FailedFrom):
            self._shard.emit(
                HandlerFailed(
                    stream=self._spec.stream,
                    shard_id=self._shard.shard_id,
                    sequence_number=records[stop].sequence_number,
                    records=step.stop - stop,
                    attempt=step.attempt,
                    error=outcome.error,
                )
            )
        if stop > step.start:
            self._shard.took(records[step.start : stop], chunk)
        machine.feed(step.step_id, outcome, self._clock.time())


def _take(waiting: deque[Numbers], count: int) -> list[Numbers]:
    """Take the first `count` numbers off the front."""
    taken: list[Numbers] = []
    while count:
        numbers = waiting.popleft()
        if len(numbers) > count:
            waiting.appendleft(numbers[count:])
            numbers = numbers[:count]
        taken.append(numbers)
        count -= len(numbers)
    return taken
