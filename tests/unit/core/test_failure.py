"""The failure machine, over every small world, through two drivers, against an oracle. (Broken on purpose in test_mutants.py.)"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace

from streamlet.core import failure
from streamlet.errors import InternalError
from tests.unit.core import failure_worlds as worlds

DRIVERS = pytest.mark.parametrize("driver", [worlds.by_loop, worlds.by_tasks], ids=["loop", "tasks"])


def _judge(driver: Any, some: Iterator[Any], at_least: int) -> None:
    """No complaint, and enough worlds: a generator that yields nothing would pass."""
    every = list(some)
    assert len(every) >= at_least
    bad = list(islice(worlds.complaints(failure, driver, every), 10))
    assert not bad, "\n".join(bad)


@DRIVERS
def test_every_small_world_ends_as_the_reference_says(driver: Any) -> None:
    """All sets of bad records in batches of 1 to 6 (for ever, once, twice), retries -1, 0, 1, 2, with and without bisect, raising
    and reporting: which calls at what time, what is given up with which count, everything settled once and in order."""
    _judge(driver, worlds.plain_worlds(6), 5000)


@DRIVERS
def test_throttles_and_refused_documents_change_only_the_times(driver: Any) -> None:
    """A throttle is no attempt; a document that is not delivered settles nothing and is sent again."""
    _judge(driver, worlds.troubled_worlds(5 if driver is worlds.by_loop else 4), 7000)


@DRIVERS
def test_records_that_differ(driver: Any) -> None:
    _judge(driver, worlds.mixed_worlds(4), 3000)


@DRIVERS
def test_age_is_judged_per_record_before_every_attempt(driver: Any) -> None:
    """Old at the first reading, old after some retries, old much later; in every order, among bad and good ones."""
    _judge(driver, worlds.aged_worlds(6, 4 if driver is worlds.by_loop else 3), 7000)


@DRIVERS
def test_trouble_hides_nothing(driver: Any) -> None:
    """The same calls and the same documents in a calm world and in a troubled one, when age plays no part."""
    calm = list(worlds.plain_worlds(4))
    troubled = [replace(world, throttled=frozenset(range(0, 200, 2)), refusals=3, call_s=7) for world in calm]

    def gist(run: Any) -> list[Any]:
        return [(what, *rest) for what, _, *rest in run.events if what in {"called", "given up"}]

    assert [gist(run) for run in driver(failure, calm)] == [gist(run) for run in driver(failure, troubled)]


@DRIVERS
def test_the_recorded_example(driver: Any) -> None:
    """Recorded on AWS: six records, batches of three, three retries, the last record fails. Records 1 to 5 are delivered once and
    record 6 five times (once with its batch, which made progress, then 1 + 3 alone); the document says 4, of a batch of 1."""
    batches = [worlds.World(fails=fails, retries=3, reports=True) for fails in ((0, 0, 0), (0, 0, worlds.FOR_EVER))]
    delivered = dict.fromkeys(range(1, 7), 0)
    documents = []
    for batch, run in enumerate(driver(failure, batches)):
        for what, _, start, stop, *rest in run.events:
            if what == "called":
                for index in range(start, stop):
                    delivered[3 * batch + index + 1] += 1
            else:
                documents.append((what, stop - start, *rest[:3]))
    assert delivered == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 5}
    assert documents == [("given up", 1, "RetryAttemptsExhausted", 4, None)]


def test_an_empty_batch_is_finished() -> None:
    machine = failure.FailureMachine([], failure.FailurePolicy())
    assert machine.next_step(0.0) == failure.Finished()
    assert machine.settled == 0


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


def test_age_ends_endless_retries_after_as_many_attempts_as_recorded() -> None:
    """Recorded on AWS: with a limit of 60 s, 8 invocations before RecordAgeExceeded; each took some time."""
    machine = failure.FailureMachine([0.0], failure.FailurePolicy(maximum_record_age_s=60))
    now_s = 0.0
    while not isinstance(step := machine.next_step(now_s), failure.Finished):
        if isinstance(step, failure.Wait):
            now_s = step.until_s
        elif isinstance(step, failure.Invoke):
            now_s += 0.5
            machine.feed(step.step_id, failure.FailedFrom(0, "Unhandled"), now_s)
        else:
            assert step.condition == failure.RECORD_AGE_EXCEEDED
            assert step.invoke_count == 8
            machine.feed(step.step_id, failure.Delivered(), now_s)
    assert machine.settled == 1


def test_pauses_double_up_to_the_cap() -> None:
    policy = failure.FailurePolicy(backoff_base_s=1, backoff_cap_s=12)
    assert [policy.pause_s(retry) for retry in (1, 2, 3, 4, 5, 6, 1000)] == [1, 2, 4, 8, 12, 12, 12]


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
    # It changes nothing: the question stands.
    assert machine.next_step(0.0) is step


def test_only_the_outstanding_step_can_be_answered() -> None:
    machine = failure.FailureMachine([0.0] * 3, failure.FailurePolicy())
    with pytest.raises(InternalError):
        machine.feed(1, failure.Succeeded(), 0.0)
    step = machine.next_step(0.0)
    assert isinstance(step, failure.Invoke)
    with pytest.raises(InternalError):
        machine.feed(step.step_id + 1, failure.Succeeded(), 0.0)
