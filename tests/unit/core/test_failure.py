"""The failure machine, over every small world; then broken in many ways, each of which must be noticed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from streamlet.core import failure
from streamlet.errors import InternalError

SOURCE = Path(failure.__file__)


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


worlds = _load(Path(__file__).with_name("failure_worlds.py"), "failure_worlds")


@pytest.mark.parametrize("driver", ["by_loop", "by_messages"])
def test_every_small_world_ends_as_the_reference_says(driver: str) -> None:
    """All poison sets of batches of 1 to 6, with 0 to 2 retries, with and without bisect, raising and reporting, healing and not."""
    bad, count = [], 0
    for world in worlds.all_worlds(6 if driver == "by_loop" else 5):
        count += 1
        bad += worlds.complaints(failure, world, getattr(worlds, driver))
    assert not bad, "\n".join(bad[:10])
    assert count > 1000


def test_age_is_judged_per_record() -> None:
    bad = [c for n, old, reports in worlds.old_worlds(6) for c in worlds.age_complaints(failure, n, old, reports=reports)]
    assert not bad, "\n".join(bad[:10])


def test_the_recorded_example() -> None:
    """Recorded on AWS: six records in batches of three, three retries, the last record fails. It is delivered five times (once
    with its batch, which made progress, then 1 + 3 alone), and the document says 4."""
    world = worlds.World(3, frozenset({2}), 3, bisect=False, reports=True)
    run = worlds.by_loop(failure, world)
    assert run.calls == [(0, 3), (2, 3), (2, 3), (2, 3), (2, 3)]
    assert run.docs == [(2, 3, "RetryAttemptsExhausted", 4, None)]


def test_without_limits_nothing_is_ever_given_up() -> None:
    machine = failure.FailureMachine([0.0] * 4, failure.FailurePolicy())
    now_s = 0.0
    for _ in range(500):
        step = machine.next_step(now_s)
        assert not isinstance(step, failure.GiveUp | failure.Finished)
        if isinstance(step, failure.Wait):
            now_s = step.until_s
        else:
            machine.feed(step.step_id, failure.FailedFrom(step.start), now_s)
    assert machine.settled == 0


def test_age_ends_endless_retries_after_about_as_many_attempts_as_recorded() -> None:
    """Recorded on AWS: with a limit of 60 s, 8 invocations before RecordAgeExceeded."""
    machine = failure.FailureMachine([0.0], failure.FailurePolicy(maximum_record_age_s=60))
    now_s = 0.0
    while not isinstance(step := machine.next_step(now_s), failure.Finished):
        if isinstance(step, failure.Wait):
            now_s = step.until_s
        elif isinstance(step, failure.Invoke):
            machine.feed(step.step_id, failure.FailedFrom(0, "Unhandled"), now_s)
        else:
            assert step.condition == failure.RECORD_AGE_EXCEEDED
            assert 7 <= step.invoke_count <= 9
            machine.feed(step.step_id, failure.Delivered(), now_s)
    assert machine.settled == 1


def test_pauses_double_up_to_the_cap() -> None:
    policy = failure.FailurePolicy(backoff_base_s=1, backoff_cap_s=15)
    assert [policy.pause_s(retry) for retry in (1, 2, 3, 4, 5, 6, 1000)] == [1, 2, 4, 8, 15, 15, 15]


def test_a_wait_is_as_long_as_the_policy_says() -> None:
    machine = failure.FailureMachine([0.0], failure.FailurePolicy())
    for retry, pause_s in enumerate((1, 2, 4), 1):
        now_s = retry * 100.0
        step = machine.next_step(now_s)
        assert isinstance(step, failure.Invoke)
        assert step.attempt == retry
        machine.feed(step.step_id, failure.FailedFrom(0), now_s)
        assert machine.next_step(now_s) == failure.Wait(now_s + pause_s)
    # A throttle is no attempt, and has a back-off of its own.
    step = machine.next_step(1000.0)
    assert isinstance(step, failure.Invoke)
    machine.feed(step.step_id, failure.Throttled(), 1000.0)
    assert machine.next_step(1000.0) == failure.Wait(1001.0)
    again = machine.next_step(1001.0)
    assert isinstance(again, failure.Invoke)
    assert again.attempt == step.attempt


@pytest.mark.parametrize(
    "outcome", [failure.Delivered(), failure.NotDelivered(), failure.FailedFrom(-1), failure.FailedFrom(3), failure.FailedFrom(99)]
)
def test_an_answer_that_does_not_fit_is_our_bug(outcome: failure.Outcome) -> None:
    machine = failure.FailureMachine([0.0] * 3, failure.FailurePolicy())
    step = machine.next_step(0.0)
    assert isinstance(step, failure.Invoke)
    with pytest.raises(InternalError):
        machine.feed(step.step_id, outcome, 0.0)


def test_only_the_outstanding_step_can_be_answered() -> None:
    machine = failure.FailureMachine([0.0] * 3, failure.FailurePolicy())
    with pytest.raises(InternalError):
        machine.feed(1, failure.Succeeded(), 0.0)
    step = machine.next_step(0.0)
    assert isinstance(step, failure.Invoke)
    with pytest.raises(InternalError):
        machine.feed(step.step_id + 1, failure.Succeeded(), 0.0)


# ── mutants ──────────────────────────────────────────────────────────────────────────────────────────────────────

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
    ("elif 0 <= self._policy.max", "elif 0 < self._policy.max", "0 retries means for ever"),
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
]  # fmt: skip


def _alive(module: ModuleType) -> bool:
    """Does the machine pass a fast part of the checks?"""
    try:
        for world in worlds.all_worlds(4):
            if worlds.complaints(module, world, worlds.by_loop):
                return False
        for n, old, reports in worlds.old_worlds(4):
            if worlds.age_complaints(module, n, old, reports=reports):
                return False
        for world in worlds.all_worlds(2):
            if worlds.complaints(module, world, worlds.by_messages):
                return False
        return _pauses(module) == _pauses(failure) and _refuses(module)
    except Exception:
        return False


def _pauses(module: ModuleType) -> list[float]:
    machine, waits, now_s = module.FailureMachine([0.0], module.FailurePolicy()), [], 0.0
    for turn in range(8):
        step = machine.next_step(now_s)
        while isinstance(step, module.Wait):
            waits.append(step.until_s - now_s)
            now_s = step.until_s
            step = machine.next_step(now_s)
        machine.feed(step.step_id, module.Throttled() if turn % 4 == 3 else module.FailedFrom(0), now_s)
    return waits


def _refuses(module: ModuleType) -> bool:
    machine = module.FailureMachine([0.0] * 3, module.FailurePolicy())
    step = machine.next_step(0.0)
    try:
        machine.feed(step.step_id, module.FailedFrom(7), 0.0)
    except InternalError:
        return True
    return False


def test_the_machine_itself_is_alive() -> None:
    assert _alive(failure)


@pytest.mark.parametrize(("old", "new", "why"), MUTANTS, ids=[why for _, _, why in MUTANTS])
def test_a_mutant_dies(tmp_path: Path, old: str, new: str, why: str) -> None:
    source = SOURCE.read_text()
    assert source.count(old) >= 1, f"the mutation {why!r} finds nothing to change: bring it up to date"
    path = tmp_path / "mutant.py"
    path.write_text(source.replace(old, new, 1))
    assert not _alive(_load(path, "mutant")), f"nobody notices: {why}"
