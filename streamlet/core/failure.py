"""What does a failed batch lead to?

How to think about it. A batch is a row of records 0 … n-1. The machine holds a stack of *pieces* of that row, leftmost on
top; a piece is a half-open interval with a count of the attempts that it has seen. Only the leftmost piece is ever worked
on, so records are settled strictly from left to right, and `settled` (the left edge of the leftmost piece) is always a
contiguous prefix: a checkpoint may move up to it and no further.

What an answer does to the leftmost piece [a, b), tried n times:

    answer                          becomes                                              source
    success                         settled                                              ESM
    throttled                       [a, b) n unchanged, after a pause                    a throttle is no attempt
    failed from k, k > a            a…k settled; [k, b) 0                                progress starts the count anew
    failed (or failed from a)
      bisecting, b - a > 1          [a, m) 0, [m, b) 0 with m = a + (b - a) // 2         splitting uses up no retry
      otherwise                     [a, b) n, after a pause
    and before every attempt
      n > maximum_retry_attempts    given up as RetryAttemptsExhausted                   N retries are N + 1 attempts
      records over age              cut out as runs, each given up as RecordAgeExceeded  age is judged per record

Giving up is itself a step that must be answered: only a delivered document settles the records, and a document that could
not be delivered is tried again, for ever, visibly.

Sources: Lambda developer guide (services-kinesis-batchfailurereporting, kinesis-on-failure-destination) and recordings on
AWS; docs/DESIGN.md lists what is not documented and was chosen here (marked CHOICE below).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from streamlet.errors import InternalError

__all__ = [
    "RECORD_AGE_EXCEEDED",
    "RETRY_ATTEMPTS_EXHAUSTED",
    "Delivered",
    "FailedFrom",
    "FailureMachine",
    "FailurePolicy",
    "Finished",
    "GiveUp",
    "Invoke",
    "NotDelivered",
    "Outcome",
    "Step",
    "Succeeded",
    "Throttled",
    "Wait",
]

RETRY_ATTEMPTS_EXHAUSTED: Final = "RetryAttemptsExhausted"
RECORD_AGE_EXCEEDED: Final = "RecordAgeExceeded"


class FailurePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The event source mapping's failure options, under its names.

    -1 means without limit. The pause before retry r (1, 2, …) is `backoff_base_s * 2**(r-1)`, at most `backoff_cap_s`.
    CHOICE: AWS documents no figures; a recording shows 8 attempts within 60 s. 1 s doubling to 12 s gives them, with 9 s to spare
    for what the calls take; doubling to 15 s would give 7, but for calls that take no time at all.
    """

    maximum_retry_attempts: int = -1
    maximum_record_age_s: float = -1
    bisect_batch_on_function_error: bool = False
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 12.0

    def pause_s(self, retry: int) -> float:
        """Seconds to wait before the given retry (counted from 1)."""
        return min(self.backoff_cap_s, self.backoff_base_s * 2.0 ** min(retry - 1, 30))


# ── steps: what the driver must do ───────────────────────────────────────────────────────────────────────────────


class Invoke(msgspec.Struct, frozen=True):
    """Call the handler with records [start, stop). Answer: Succeeded, FailedFrom or Throttled."""

    step_id: int
    start: int
    stop: int
    attempt: int


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `until_s`; then ask for the next step again."""

    until_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """Tell the destination that [start, stop) are given up. Answer: Delivered or NotDelivered."""

    step_id: int
    start: int
    stop: int
    condition: str
    invoke_count: int
    function_error: str | None
    error: str


class Finished(msgspec.Struct, frozen=True):
    """Every record of the batch is settled."""


Step = Invoke | Wait | GiveUp | Finished


# ── outcomes: what came of a step ────────────────────────────────────────────────────────────────────────────────


class Succeeded(msgspec.Struct, frozen=True):
    """The handler took every record of the step."""


class FailedFrom(msgspec.Struct, frozen=True):
    """The handler took the records before `index` and none from it on. An exception of the whole batch is `index` = start.

    `function_error` is what the failure document says: "Unhandled" for an exception, None for a partial response.
    """

    index: int
    function_error: str | None = None
    error: str = ""


class Throttled(msgspec.Struct, frozen=True):
    """The handler was not run at all. No attempt is counted."""


class Delivered(msgspec.Struct, frozen=True):
    """The destination has the document, or there is no destination."""


class NotDelivered(msgspec.Struct, frozen=True):
    """The destination did not take the document. It is tried again after a pause."""


Outcome = Succeeded | FailedFrom | Throttled | Delivered | NotDelivered


class _Piece(msgspec.Struct):
    start: int
    stop: int
    attempts: int = 0
    throttles: int = 0
    not_before_s: float = 0.0
    function_error: str | None = None
    error: str = ""
    condemned: str = ""  # the condition, once it was decided that this piece is given up
    undelivered: int = 0


class FailureMachine:
    """Takes one batch to the point where every record is settled.

    `arrivals_s` are the records' arrival times (epoch seconds). Drive it: `next_step(now_s)`, do it, `feed(step, outcome,
    now_s)`, until Finished. At most one step is outstanding; asking again returns the same step.
    """

    def __init__(self, arrivals_s: Sequence[float], policy: FailurePolicy) -> None:
        self._arrivals_s = arrivals_s
        self._policy = policy
        # Leftmost piece last, so that it is popped in O(1).
        self._pieces: list[_Piece] = [_Piece(0, len(arrivals_s))] if arrivals_s else []
        self._size = len(arrivals_s)
        self._outstanding: Invoke | GiveUp | None = None
        self._next_id = 0

    @property
    def settled(self) -> int:
        """How many records, counted from the left, are settled. Never goes back."""
        return self._pieces[-1].start if self._pieces else self._size

    def next_step(self, now_s: float) -> Step:
        """What to do now, `now_s` in epoch seconds. A Wait may be asked again at any time."""
        if self._outstanding is not None:
            return self._outstanding
        if not self._pieces:
            return Finished()
        piece = self._pieces[-1]
        if not piece.condemned:
            self._condemn(piece, now_s)
            piece = self._pieces[-1]
        if piece.not_before_s > now_s:
            # The time is that of the wall, since ages are judged by it. Set back by an hour, it must not make a pause of an hour.
            piece.not_before_s = min(piece.not_before_s, now_s + self._policy.backoff_cap_s)
            return Wait(piece.not_before_s)
        self._next_id += 1
        if piece.condemned:
            # A record too old at its first reading is reported with a count of 1 although the function was not needed
            # (recorded on AWS).
            self._outstanding = GiveUp(
                self._next_id, piece.start, piece.stop, piece.condemned, max(1, piece.attempts), piece.function_error, piece.error
            )
        else:
            self._outstanding = Invoke(self._next_id, piece.start, piece.stop, piece.attempts + 1)
        return self._outstanding

    def feed(self, step_id: int, outcome: Outcome, now_s: float) -> None:
        """What came of the outstanding step. Raises InternalError for an answer that does not fit the question."""
        step = self._outstanding
        if step is None or step.step_id != step_id:
            raise InternalError(f"an answer to step {step_id}, but {step} is outstanding")
        piece = self._pieces[-1]
        match step, outcome:
            case Invoke(), Succeeded():
                self._pieces.pop()
            case Invoke(), Throttled():
                piece.throttles += 1
                piece.not_before_s = now_s + self._policy.pause_s(piece.throttles)
            case Invoke(), FailedFrom(index=index) if piece.start <= index < piece.stop:
                self._failed(piece, outcome, now_s)
            case GiveUp(), Delivered():
                self._pieces.pop()
            case GiveUp(), NotDelivered():
                piece.undelivered += 1
                piece.not_before_s = now_s + self._policy.pause_s(piece.undelivered)
            case _:
                # The question stands: a wrong answer changes nothing.
                raise InternalError(f"{outcome} is no answer to {step}")
        self._outstanding = None

    def _failed(self, piece: _Piece, outcome: FailedFrom, now_s: float) -> None:
        piece.throttles = 0
        piece.function_error, piece.error = outcome.function_error, outcome.error
        if outcome.index > piece.start:
            # Progress: what remains is a piece that has not been tried. CHOICE: its first try follows at once, since the
            # recorded log of AWS shows it as a batch of its own, not as a retry.
            piece.start, piece.attempts = outcome.index, 0
            return
        piece.attempts += 1
        if self._policy.bisect_batch_on_function_error and piece.stop - piece.start > 1:
            # CHOICE: cut at n // 2, first half first, both counted anew. A partial response that names the first record
            # made no progress, so it is cut in the middle like any other failure.
            middle = piece.start + (piece.stop - piece.start) // 2
            right = _Piece(middle, piece.stop, function_error=piece.function_error, error=piece.error)
            left = _Piece(piece.start, middle, function_error=piece.function_error, error=piece.error)
            self._pieces[-1:] = [right, left]
            return
        piece.not_before_s = now_s + self._policy.pause_s(piece.attempts)

    def _condemn(self, piece: _Piece, now_s: float) -> None:
        """Decide whether the leftmost piece, or a run at its left edge, is given up instead of tried."""
        if 0 <= self._policy.maximum_retry_attempts < piece.attempts:
            # Before the age, which is looked at for an attempt, and there will be none: the document tells the function's error.
            piece.condemned, piece.not_before_s = RETRY_ATTEMPTS_EXHAUSTED, 0.0
        elif self._too_old(piece.start, now_s):
            stop = piece.start
            while stop < piece.stop and self._too_old(stop, now_s):
                stop += 1
            self._split(piece, stop)
            run = self._pieces[-1]
            run.condemned, run.not_before_s = RECORD_AGE_EXCEEDED, 0.0
        elif self._policy.maximum_record_age_s >= 0:
            # The leftmost record is young; an old one further right ends this piece, and is judged when its turn comes.
            old = next((index for index in range(piece.start + 1, piece.stop) if self._too_old(index, now_s)), piece.stop)
            self._split(piece, old)

    def _split(self, piece: _Piece, at: int) -> None:
        """Cut the leftmost piece in two that both remember its attempts. `at` = its end leaves it whole."""
        if at == piece.stop:
            return
        left = _Piece(piece.start, at, piece.attempts, piece.throttles, piece.not_before_s, piece.function_error, piece.error)
        piece.start = at
        self._pieces.append(left)

    def _too_old(self, index: int, now_s: float) -> bool:
        limit_s = self._policy.maximum_record_age_s
        return limit_s >= 0 and now_s - self._arrivals_s[index] > limit_s
