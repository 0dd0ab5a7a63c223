"""Which window does a record belong to, what state does a call carry, and when is a window's last call due?

How to think about it. A shard has at most one window open at a time, and one state. The machine stands beside the failure
machine, not in it: `admit` cuts what was fetched so that a batch never crosses a window's edge, the failure machine takes that
batch to its end, and this one says what its calls carry and learns from their answers.

    event                                        what becomes of window and state
    a record, no window open                     its window opens, state {}
    a record of the same or an earlier window    goes into the open one
    a record of a later window                   not admitted; the open one is closed first
    a call made progress and returned a state    the state is replaced
    that state is above STATE_BYTES_MAX          closing, early: the final call is due before any other
    everything up to the window's end is read    closing
    the shard has ended                          closing
    the final call succeeded                     closed, state dropped: the checkpoint may move
    the final call failed                        again after a pause, for ever; the shard stands still meanwhile

The driver, for one shard:

    1. of the records that wait, take `admit(arrivals)` from the front as a batch; 0 while a window is closing
    2. before each Invoke of that batch's failure machine, and between batches: answer `next_step` until it is Idle
    3. send `call()` with each Invoke; where the answer made progress, `took(state_of(answer))`
    4. when everything that was read is settled: `read_up_to(time of the last read - millis behind)`, at the latest around
       `ends_at_s`; when the shard has ended: `shard_ended()`
    5. move the lease's checkpoint only while `may_checkpoint`

**Checkpoints.** State is not stored. While a window is open the lease keeps the position before the window's first record, and
whoever takes the shard over builds the state again from those records; so a crash costs at most one window of replay, and needs
no place for a megabyte of state. A drain leaves the window open for the same reason: it makes no final call. (The guide says
that on success of the final call the checkpoint moves and the state goes.) Records that were given up inside a window may
therefore be given up once more after a crash.

Source: Lambda developer guide, services-kinesis-windows. CHOICES where it is silent:

- A window without a call (nothing arrived, or all of it was given up unseen) has no final call. A final call has no records:
  all were handed over before.
- Windows end by reading, not by the clock alone: one that lies behind in the stream is closed when reading has passed it.
- Arrival stamps may go back a little. A record that is older than the open window counts in it; if none is open, its own window
  opens again with an empty state.
- A call that ends a window early is final, too, and carries the state that is too large. The window goes on with an empty
  state; if no call follows in it, it ends without another final call.
- A partial answer (batchItemFailures after some records) carries the state up to there, and it is kept. An answer without
  progress, or an exception, changes nothing: the retry gets the state that the failed call got.
- A state is any JSON value but null, which is what a missing one looks like in some languages. Its size is that of its UTF-8
  text, and 1 MB is 1,048,576 bytes.
- Windows with a parallelization factor above 1 are not described: one chain of states needs one lane. The options refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from streamlet.core.failure import FailurePolicy, Wait
from streamlet.errors import InternalError

__all__ = [
    "EMPTY_STATE",
    "STATE_BYTES_MAX",
    "WINDOW_S_MAX",
    "Idle",
    "InvokeFinal",
    "NoState",
    "WindowCall",
    "WindowMachine",
    "WindowStep",
    "state_of",
]

WINDOW_S_MAX: Final = 900
STATE_BYTES_MAX: Final = 1_048_576
EMPTY_STATE: Final = b"{}"


class WindowCall(msgspec.Struct, frozen=True):
    """What a call carries beside its records. `state` is JSON text."""

    start_s: int
    end_s: int
    state: bytes
    is_final: bool = False
    is_terminated_early: bool = False


class Idle(msgspec.Struct, frozen=True):
    """Nothing stands between the shard and its next batch."""


class InvokeFinal(msgspec.Struct, frozen=True):
    """Make the final call of a window, without records, before anything else. Answer with `feed`."""

    step_id: int
    call: WindowCall
    attempt: int


WindowStep = Idle | Wait | InvokeFinal


class NoState(msgspec.Struct, frozen=True):
    """The answer has no state that can be carried on: the invocation has failed, as `error` says."""

    error: str


def state_of(response: object) -> bytes | NoState:
    """The state in a handler's answer as JSON text; the answer may hold `batchItemFailures` beside it."""
    if not isinstance(response, Mapping) or response.get("state") is None:
        return NoState('with tumbling windows the answer must contain the state, as in {"state": {…}}')
    try:
        return json.dumps(response["state"], allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return NoState(f"the state is not JSON: {error}")


class WindowMachine:
    """The windows of one shard. `size_s`: 1 … 900 whole seconds; `policy` gives the pauses between tries of a final call."""

    def __init__(self, size_s: int, policy: FailurePolicy) -> None:
        assert 1 <= size_s <= WINDOW_S_MAX
        self._size_s, self._policy = size_s, policy
        self._start_s: int | None = None  # of the open window
        self._state = EMPTY_STATE
        self._called = False  # was there a call in it since it was opened, or went on after an early end?
        self._closing = self._early = False
        self._outstanding: InvokeFinal | None = None
        self._next_id = self._failed = self._pauses = 0
        self._not_before_s = 0.0

    @property
    def ends_at_s(self) -> float | None:
        """The end of the open window, when reading on is worth a look; None if none is open."""
        return None if self._start_s is None else self._start_s + self._size_s

    def end_for(self, arrival_s: float) -> float:
        """When the window ends that a record goes into: the open one, else its own. One without a call is not closed for what is later."""
        ends_at_s = self.ends_at_s
        if ends_at_s is not None and (self._called or arrival_s < ends_at_s):
            return ends_at_s
        return (arrival_s // self._size_s + 1) * self._size_s

    @property
    def is_closing(self) -> bool:
        """Is a final call due before anything else?"""
        return self._closing

    @property
    def may_checkpoint(self) -> bool:
        """Is there no state that would be lost? Then the lease may say how far everything is settled; else it stays."""
        return self._start_s is None or not self._called

    def admit(self, arrivals_s: Sequence[float]) -> int:
        """How many of the next records, by arrival in epoch seconds, may be one batch: up to the edge of the window.

        0 if there are none, or if a window must be closed first (see `next_step`)."""
        if not arrivals_s or self._closing:
            return 0
        if self._start_s is None:
            self._start_s = int(arrivals_s[0] // self._size_s) * self._size_s
        end_s = self._start_s + self._size_s
        count = next((index for index, arrival_s in enumerate(arrivals_s) if arrival_s >= end_s), len(arrivals_s))
        if count == 0:
            self._close()
            return 0 if self._closing else self.admit(arrivals_s)
        return count

    def call(self) -> WindowCall:
        """What the next call of the batch that was admitted carries. Raises InternalError if a window must be closed first."""
        if self._start_s is None or self._closing:
            raise InternalError("a call was asked for, but no window is open for it")
        self._called = True
        return WindowCall(self._start_s, self._start_s + self._size_s, self._state)

    def took(self, state: bytes) -> None:
        """A call made progress and returned this state. If it is too large, the window is closing now."""
        if not self._called or self._closing:
            raise InternalError("a state was returned, but no call was made")
        self._state = state
        if len(state) > STATE_BYTES_MAX:
            self._closing = self._early = True

    def read_up_to(self, time_s: float) -> None:
        """Everything that arrived before this moment was read, and is settled."""
        if self._start_s is not None and time_s >= self._start_s + self._size_s:
            self._close()

    def shard_ended(self) -> None:
        """Everything is read and settled, and there will be no more: windows do not go on in the children."""
        if self._start_s is not None:
            self._close()

    def next_step(self, now_s: float) -> WindowStep:
        """What must be done before anything else. Asking again gives the same step."""
        if self._outstanding is not None:
            return self._outstanding
        if not self._closing:
            return Idle()
        if self._not_before_s > now_s:
            # As in the failure machine: a clock that is set back makes no longer pause.
            self._not_before_s = min(self._not_before_s, now_s + self._policy.backoff_cap_s)
            return Wait(self._not_before_s)
        assert self._start_s is not None
        self._next_id += 1
        call = WindowCall(self._start_s, self._start_s + self._size_s, self._state, is_final=True, is_terminated_early=self._early)
        self._outstanding = InvokeFinal(self._next_id, call, self._failed + 1)
        return self._outstanding

    def feed(self, step_id: int, *, succeeded: bool, now_s: float, throttled: bool = False) -> None:
        """What came of the final call; a throttled one is no attempt. Raises InternalError for an answer to no question."""
        step = self._outstanding
        if step is None or step.step_id != step_id:
            raise InternalError(f"an answer to step {step_id}, but {step} is outstanding")
        self._outstanding = None
        if not succeeded:
            self._pauses += 1
            self._failed += not throttled
            self._not_before_s = now_s + self._policy.pause_s(self._pauses)
            return
        # After an early end the same window goes on, so that the rest of a batch has a window to be called in.
        self._reset(self._start_s if self._early else None)

    def _close(self) -> None:
        if self._called:
            self._closing = True
        else:
            self._reset(None)

    def _reset(self, start_s: int | None) -> None:
        self._start_s, self._state = start_s, EMPTY_STATE
        self._called = self._closing = self._early = False
        self._failed, self._pauses, self._not_before_s = 0, 0, 0.0
