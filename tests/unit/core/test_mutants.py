"""Would the tests notice? The failure machine, broken on purpose in many ways, each of which must be found."""
# ruff: noqa: E501  a row of the table is a line

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import ModuleType

from streamlet.core import failure
from streamlet.errors import InternalError
from tests.unit.core import failure_worlds as worlds

SOURCE = Path(failure.__file__).read_text()


_numbers = count()

# What stands in the source, what stands there in the mutant, and what that breaks.
MUTANTS = [
    ("piece.start, piece.attempts = outcome.index, 0", "piece.start = outcome.index", "progress does not start the count anew"),
    ("piece.start, piece.attempts = outcome.index, 0", "piece.start, piece.attempts = outcome.index + 1, 0", "progress skips a record"),
    ("if outcome.index > piece.start:", "if outcome.index >= piece.start:", "no progress counts as progress"),
    ("piece.attempts += 1\n", "piece.attempts += 2\n", "attempts count double"),
    ("piece.attempts += 1\n", "pass\n", "attempts do not count"),
    ("piece.stop - piece.start > 1:", "piece.stop - piece.start > 2:", "a pair is not bisected"),
    ("(piece.stop - piece.start) // 2", "(piece.stop - piece.start + 1) // 2", "the cut is elsewhere"),
    ("self._pieces[-1:] = [right, left]", "self._pieces[-1:] = [left, right]", "right half first"),
    ("self._pieces[-1:] = [right, left]", "self._pieces[-1:] = [left]", "the right half is dropped"),
    ("self._pieces[-1:] = [right, left]", "self._pieces[-1:] = [right]", "the left half is dropped"),
    ("right = _Piece(middle, piece.stop,", "right = _Piece(middle + 1, piece.stop,", "a record between the halves is dropped"),
    ("left = _Piece(piece.start, middle,", "left = _Piece(piece.start, middle, piece.attempts,", "halves inherit the count"),
    ("self._policy.bisect_batch_on_function_error and", "", "always bisects"),
    ("self._policy.bisect_batch_on_function_error and", "False and", "never bisects"),
    ("maximum_retry_attempts < piece.attempts:", "maximum_retry_attempts <= piece.attempts:", "one attempt too few"),
    ("maximum_retry_attempts < piece.attempts:", "maximum_retry_attempts < piece.attempts - 1:", "one attempt too many"),
    ("if 0 <= self._policy.max", "if 0 < self._policy.max", "0 retries means for ever"),
    ("piece.condemned, piece.not_before_s = RETRY_ATTEMPTS_EXHAUSTED, 0.0", "self._pieces.pop()", "given up silently"),
    ("piece.condemned, piece.not_before_s = RETRY_ATTEMPTS_EXHAUSTED", "piece.condemned, piece.not_before_s = RECORD_AGE_EXCEEDED", "wrong condition"),
    ("max(1, piece.attempts)", "piece.attempts", "an old record counts 0"),
    ("max(1, piece.attempts)", "max(1, piece.attempts - 1)", "the count is off"),
    ("piece.attempts + 1)", "piece.attempts)", "the attempt is off"),
    ("return limit_s >= 0 and now_s", "return False and now_s", "nothing is ever too old"),
    ("now_s - self._arrivals_s[index]", "now_s - self._arrivals_s[0]", "one record's age for all"),
    ("stop += 1", "stop = piece.stop", "the young are given up with the old"),
    ("for index in range(piece.start + 1, piece.stop) if", "for index in () if", "old records in the middle are tried"),
    ("piece.undelivered += 1\n", "self._pieces.pop(); return\n", "an undelivered document settles"),
    ("case Invoke(), Throttled():\n", "case Invoke(), Throttled():\n                piece.attempts += 1\n", "a throttle is an attempt"),
    ("case Invoke(), Throttled():\n", "case Invoke(), Throttled():\n                self._pieces.pop(); return\n", "a throttle settles"),
    ("return self._pieces[-1].start if", "return self._pieces[-1].stop if", "settled runs ahead"),
    ("return self._pieces[-1].start if", "return self._pieces[0].start if", "settled jumps over a piece"),
    ("if piece.not_before_s > now_s:", "if False:", "no pause"),
    ("piece.function_error, piece.error = outcome.function_error, outcome.error", "pass", "the error is forgotten"),
    ("if self._outstanding is not None:\n            return self._outstanding", "pass", "a step is handed out twice"),
    ("index=index) if piece.start <= index < piece.stop:", "index=index):", "an index outside is taken"),
    ("now_s + self._policy.pause_s(piece.attempts)", "now_s + self._policy.pause_s(1)", "pauses do not grow"),
    ("self._policy.pause_s(piece.throttles)", "0", "throttles are not backed off"),
    ("piece.start, piece.attempts = outcome.index, 0\n            return", "piece.start, piece.attempts = outcome.index, 0", "progress, and a retry, too"),
    ("piece.start, piece.attempts = outcome.index, 0", "self._split(piece, outcome.index); self._pieces.pop()", "progress keeps the count"),
    ("if outcome.index > piece.start:", "if outcome.index > piece.start + 1:", "progress by one is none"),
    ("piece.throttles = 0\n", "pass\n", "the throttles' back-off is never set back"),
    ("piece.throttles += 1\n", "pass\n", "throttles are not counted"),
    ("piece.undelivered += 1\n", "pass\n", "refusals are not counted"),
    ("self._policy.pause_s(piece.undelivered)", "0", "a refused document is sent again at once"),
    ("left = _Piece(piece.start, middle,", "left = _Piece(piece.start, middle, not_before_s=now_s + 1,", "bisected, and a pause, too"),
    ("right = _Piece(middle, piece.stop, function_error=piece.function_error, error=piece.error)", "right = _Piece(middle, piece.stop)", "the right half forgets the error"),
    ("limit_s >= 0 and now_s", "limit_s > 0 and now_s", "an age limit of 0 is none"),
    ("self._arrivals_s[index] > limit_s", "self._arrivals_s[index] >= limit_s", "too old at the limit itself"),
    ("elif self._policy.maximum_record_age_s >= 0:", "elif self._policy.maximum_record_age_s > 0:", "with a limit of 0 the old in the middle are tried"),
    ("if self._too_old(piece.start, now_s):", "if all(self._too_old(i, now_s) for i in range(piece.start, piece.stop)):", "old only when all are"),
    ("if self._too_old(piece.start, now_s):", "if piece.attempts and self._too_old(piece.start, now_s):", "an old record is tried once"),
    ("run.condemned, run.not_before_s = RECORD_AGE_EXCEEDED, 0.0", "run.condemned = RECORD_AGE_EXCEEDED", "an old record waits for its retry"),
    ("run.condemned, run.not_before_s = RECORD_AGE_EXCEEDED, 0.0", "self._pieces.pop()", "the old are dropped silently"),
    ("piece.condemned, piece.not_before_s = RETRY_ATTEMPTS_EXHAUSTED, 0.0", "piece.condemned = RETRY_ATTEMPTS_EXHAUSTED", "giving up waits for a retry that is not to come"),
    ("left = _Piece(piece.start, at, piece.attempts, piece.throttles,", "left = _Piece(piece.start, at, 0, piece.throttles,", "a cut by age forgets the attempts"),
    ("left = _Piece(piece.start, at, piece.attempts, piece.throttles,", "left = _Piece(piece.start, at, piece.attempts, 0,", "a cut by age forgets the throttles"),
    ("piece.throttles, piece.not_before_s, piece.function_error", "piece.throttles, 0.0, piece.function_error", "a cut by age forgets the pause"),
    ("piece.not_before_s, piece.function_error, piece.error)\n        piece.start = at", "piece.not_before_s)\n        piece.start = at", "a cut by age forgets the error"),
    ("        piece.start = at\n        self._pieces.append(left)", "        piece.start, piece.attempts = at, 0\n        self._pieces.append(left)", "a cut by age starts the rest anew"),
    ("        piece.start = at\n        self._pieces.append(left)", "        self._pieces.append(left)", "a cut by age leaves the left part in the rest"),
    ("        piece.start = at\n        self._pieces.append(left)", "        piece.start = at\n        self._pieces.insert(0, left)", "a cut by age puts the left part last"),
    ("        if at == piece.stop:\n            return\n", "", "a cut at the end leaves an empty piece"),
    ("if not piece.condemned:", "if True:", "judged again after the judgement"),
    ("            piece = self._pieces[-1]\n        if piece.not", "        if piece.not", "after a cut the wrong piece is taken"),
    ("self._next_id += 1\n", "pass\n", "every step has the same id"),
    ("if step is None or step.step_id != step_id:", "if step is None:", "an answer to an old question is taken"),
    ("        self._outstanding = None\n\n    def _failed", "\n    def _failed", "the question never ends"),
    ("2.0 ** min(retry - 1, 30)", "2.0 ** min(retry, 30)", "pauses begin too long"),
    ("min(self.backoff_cap_s, self.backoff_base_s", "max(self.backoff_cap_s, self.backoff_base_s", "pauses are not capped"),
    ("if arrivals_s else []", "", "an empty batch is called"),
    ("case GiveUp(), Delivered():\n                self._pieces.pop()", "case GiveUp(), Delivered():\n                self._pieces.pop(0)", "the wrong piece is settled"),
]  # fmt: skip


def _mutant(old: str, new: str) -> ModuleType:
    module = ModuleType(f"mutant_{next(_numbers)}")
    exec(compile(SOURCE.replace(old, new, 1), module.__name__, "exec"), module.__dict__)
    return module


def _is_found(module: ModuleType) -> bool:
    """Does one of the fast checks complain, the fastest first, or the machine itself fall over?"""
    try:
        if not (_refuses_what_does_not_fit(module) and _minds_the_limits(module)):
            return True
        return any(next(worlds.complaints(module, driver, worlds.quick_worlds()), None) for driver in (worlds.by_loop, worlds.by_tasks))
    except Exception:
        return True


def _refuses_what_does_not_fit(module: ModuleType) -> bool:
    machine = module.FailureMachine([0.0] * 3, module.FailurePolicy())
    step = machine.next_step(0.0)
    for step_id, outcome in (
        (step.step_id, module.FailedFrom(3)),
        (step.step_id, module.Delivered()),
        (step.step_id + 1, module.Succeeded()),
    ):
        try:
            machine.feed(step_id, outcome, 0.0)
        except InternalError:
            continue
        return False
    return machine.next_step(0.0) is step


def _minds_the_limits(module: ModuleType) -> bool:
    """Nothing to do for an empty batch; a limit of 0 s is one; exactly at the limit a record is not too old."""
    empty = module.FailureMachine([], module.FailurePolicy())
    strict = module.FailureMachine([0.0], module.FailurePolicy(maximum_record_age_s=0))
    strictly = module.FailureMachine([5.0, 4.0], module.FailurePolicy(maximum_record_age_s=0))
    at_limit = module.FailureMachine([0.0], module.FailurePolicy(maximum_record_age_s=60))
    return (
        isinstance(empty.next_step(0.0), module.Finished)
        and isinstance(strict.next_step(1.0), module.GiveUp)
        and strictly.next_step(5.0).stop == 1
        and isinstance(at_limit.next_step(60.0), module.Invoke)
    )


def test_the_machine_itself_passes() -> None:
    """Otherwise every mutant would be found, for the wrong reason."""
    assert not _is_found(_mutant("", ""))


def test_every_mutant_is_found() -> None:
    outdated = [why for old, new, why in MUTANTS if old not in SOURCE or SOURCE.replace(old, new, 1) == SOURCE]
    assert not outdated, f"these change nothing, bring them up to date: {outdated}"
    survivors = [why for old, new, why in MUTANTS if not _is_found(_mutant(old, new))]
    assert not survivors, "nobody notices when " + "; when ".join(survivors)
    assert len(MUTANTS) >= 25
