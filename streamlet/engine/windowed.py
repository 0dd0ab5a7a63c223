"""What does a shard's lane do with tumbling windows? It calls the handler with a state, and closes windows in between.

core/windows says which records may be one batch, what state a call carries, and when a window's final call is due; this drives
it beside the failure machine. There is one lane: the windows of a shard are one chain of states.

The state is not stored. While a window is open the shard's checkpoint stays before the window's first record (`may_checkpoint`),
and whoever comes next builds the state again. A drain makes no final call, for the same reason. What a call of the handler
leads to stands in engine/invoke.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from streamlet.core.batching import PAYLOAD_BYTES_MAX, Batcher
from streamlet.core.failure import FailedFrom, FailureMachine, Invoke, Succeeded, Throttled, Wait
from streamlet.core.windows import STATE_BYTES_MAX, Idle, WindowCall, WindowMachine
from streamlet.engine.each import Done
from streamlet.engine.gate import within
from streamlet.engine.invoke import Invocation, Invoker
from streamlet.engine.lane import Lane, Shard
from streamlet.hooks import Invoked, Trouble
from streamlet.model.record import Record
from streamlet.model.window import Window
from streamlet.ports import Clock
from streamlet.spec import ConsumerSpec

__all__ = ["WindowLane"]


class WindowLane(Lane):
    """The lane of a shard with tumbling windows."""

    def __init__(self, shard: Shard, spec: ConsumerSpec, invoker: Invoker, clock: Clock) -> None:
        super().__init__(shard, spec, invoker, clock)
        self._windows = WindowMachine(spec.mapping.tumbling_window_s, spec.mapping.policy)
        # The event carries the state, too: records of 6 MB beside one of 1 MB would be refused for ever.
        mapping = spec.mapping
        self._batcher = Batcher(mapping.batch_size, mapping.batching_window_s, PAYLOAD_BYTES_MAX - STATE_BYTES_MAX)

    @property
    def may_checkpoint(self) -> bool:
        """Is no window open whose state would be lost?"""
        return self._windows.may_checkpoint

    async def _next_batch(self) -> list[Record] | None:
        while not self._stopping.is_set() and await self._close_windows():
            now_s = self._clock.time()
            self._news.clear()
            if batch := self._admitted(now_s):
                return batch
            if not len(self._batcher):
                # Everything that was read is settled: how far was that?
                if self._ended:
                    self._windows.shard_ended()
                    if not self._windows.is_closing:
                        return None
                else:
                    self._windows.read_up_to(self._shard.read_up_to_s)
            if self._windows.is_closing:
                continue
            rests_s = []
            if (at_s := self._batcher.wake_at_s()) is not None:
                rests_s.append(at_s - self._clock.monotonic())  # it may have passed since `_admitted` looked: then no rest
            if (at_s := self._ends_at_s()) is not None and at_s > now_s:
                rests_s.append(at_s - now_s)
            await within(self._news, min(rests_s, default=None))
        return None

    def _admitted(self, now_s: float) -> list[Record] | None:
        """The next batch, cut at its window's edge; None while there is none, or while a window is to be closed first."""
        # What gathers goes at the window's end: a window closes only over what is settled.
        ends_at_s = self._ends_at_s()
        at_once = self._ended or self._shard.full or (ends_at_s is not None and now_s >= ends_at_s)
        return self._batcher.next_batch(self._clock.monotonic(), self._admit) or (self._batcher.flush(self._admit) if at_once else None)

    def _admit(self, records: Sequence[Record]) -> int:
        return self._windows.admit([record.arrived_at_s for record in records])

    def _ends_at_s(self) -> float | None:
        """The end of the window that is open, or that the oldest of what gathers will open."""
        oldest = self._batcher.oldest
        return self._windows.ends_at_s if oldest is None else self._windows.end_for(oldest.arrived_at_s)

    async def _close_windows(self) -> bool:
        """Make the final call that is due, until it succeeds. False if the worker began to drain meanwhile."""
        while not isinstance(step := self._windows.next_step(self._clock.time()), Idle):
            if isinstance(step, Wait):
                if await within(self._stopping, step.until_s - self._clock.time()):
                    return False
                continue
            if await self._shard.gate.held(self._stopping):
                return False
            answer = await self._call([], step.call, 0, step.attempt)
            succeeded = isinstance(answer.outcome, Succeeded)
            if not isinstance(answer.outcome, Throttled):
                self._shard.emit(
                    Invoked(
                        stream=self._spec.stream,
                        shard_id=self._shard.shard_id,
                        records=(),
                        attempt=step.attempt,
                        done=0,
                        failed=not succeeded,
                        error=answer.outcome.error if isinstance(answer.outcome, FailedFrom) else "",
                        window=_window_of(step.call),
                    )
                )
            self._windows.feed(step.step_id, succeeded=succeeded, now_s=self._clock.time(), throttled=isinstance(answer.outcome, Throttled))
            if succeeded:
                # Now, before the next window opens: while one is open, the checkpoint stays.
                await self._shard.keep_up()
            elif isinstance(answer.outcome, FailedFrom):
                what = f"the final call of the window of {_utc(step.call.start_s):%Y-%m-%d %H:%M:%S}"
                self._shard.emit(Trouble(stream=self._spec.stream, shard_id=self._shard.shard_id, what=what, error=answer.outcome.error))
        return True

    async def _invoke(self, records: Sequence[Record], step: Invoke, machine: FailureMachine, done: Done) -> bool:
        # A state that grew too large ends its window in the middle of a batch.
        if not await self._close_windows() or await self._shard.gate.held(self._stopping):
            return False
        part = records[step.start : step.stop]
        call = self._windows.call()
        answer = await self._call(part, call, step.start, step.attempt)
        if answer.state is not None:
            self._windows.took(answer.state)
        self._feed(records, step, machine, answer.outcome, None, _window_of(call))
        return True

    async def _call(self, records: Sequence[Record], call: WindowCall, start: int, attempt: int) -> Invocation:
        with self._shard.gate:
            return await self._invoker.invoke(
                records,
                start=start,
                attempt=attempt,
                shard_id=self._shard.shard_id,
                millis_behind_latest=self._shard.behind_ms,
                window=_window_of(call),
                state=json.loads(call.state),
            )


def _window_of(call: WindowCall) -> Window:
    return Window(_utc(call.start_s), _utc(call.end_s), call.is_final, call.is_terminated_early)


def _utc(epoch_s: int) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)
