"""Tumbling windows: rules one by one, and worlds of failing handlers, deaths and skewed stamps against what must hold."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlet.core.failure import Delivered, FailedFrom, FailureMachine, FailurePolicy, Finished, GiveUp, Invoke, Succeeded, Wait
from streamlet.core.windows import (
    EMPTY_STATE,
    STATE_BYTES_MAX,
    Idle,
    InvokeFinal,
    NoState,
    WindowCall,
    WindowMachine,
    state_of,
)
from streamlet.errors import InternalError

POLICY = FailurePolicy()


def machine(size_s: int = 60) -> WindowMachine:
    return WindowMachine(size_s, POLICY)


def final(windows: WindowMachine, now_s: float = 0.0) -> InvokeFinal:
    step = windows.next_step(now_s)
    assert isinstance(step, InvokeFinal)
    return step


def test_a_window_is_aligned_and_a_batch_never_crosses_its_edge() -> None:
    windows = machine()
    assert windows.admit([125.0, 179.999, 180.0, 181.0]) == 2
    assert windows.call() == WindowCall(120, 180, EMPTY_STATE)
    windows.took(b'{"n":2}')
    assert windows.call().state == b'{"n":2}'
    assert windows.ends_at_s == 180
    assert windows.admit([180.0, 181.0]) == 0
    step = final(windows)
    assert step.call == WindowCall(120, 180, b'{"n":2}', is_final=True)
    assert windows.next_step(99.0) is step
    windows.feed(step.step_id, succeeded=True, now_s=0.0)
    assert windows.next_step(0.0) == Idle()
    assert windows.admit([180.0, 181.0]) == 2
    assert windows.call() == WindowCall(180, 240, EMPTY_STATE)


@pytest.mark.parametrize(
    ("arrival_s", "size_s", "start_s"), [(0.0, 1, 0), (0.999, 1, 0), (899.9, 900, 0), (900.0, 900, 900), (1e9 + 0.5, 7, 999999994)]
)
def test_edges(arrival_s: float, size_s: int, start_s: int) -> None:
    """The start belongs to a window, the end does not."""
    windows = machine(size_s)
    assert windows.admit([arrival_s]) == 1
    assert windows.call().start_s == start_s


def test_reading_past_the_end_closes_a_window() -> None:
    """Not the clock: a window that lies behind in the stream stays open until reading has passed it."""
    windows = machine()
    windows.read_up_to(1000.0)
    assert windows.admit([10.0]) == 1
    windows.call()
    windows.took(b"1")
    windows.read_up_to(59.999)
    assert windows.next_step(5000.0) == Idle()
    windows.read_up_to(60.0)
    assert windows.admit([20.0]) == 0  # not before the final call
    assert final(windows).call == WindowCall(0, 60, b"1", is_final=True)


def test_the_end_of_the_shard_closes_a_window() -> None:
    windows = machine()
    windows.shard_ended()
    assert windows.next_step(0.0) == Idle()
    windows.admit([10.0])
    windows.call()
    windows.took(b"[]")
    windows.shard_ended()
    assert final(windows).call == WindowCall(0, 60, b"[]", is_final=True)


def test_a_final_call_that_fails_stops_the_shard_until_it_succeeds() -> None:
    windows = machine()
    windows.admit([10.0])
    windows.call()
    windows.took(b"1")
    windows.read_up_to(60.0)
    now_s, pauses = 100.0, []
    for attempt in range(1, 7):
        step = final(windows, now_s)
        assert (step.attempt, step.call.state) == (attempt, b"1")
        windows.feed(step.step_id, succeeded=False, now_s=now_s)
        assert windows.admit([70.0]) == 0
        assert not windows.may_checkpoint
        wait = windows.next_step(now_s)
        assert isinstance(wait, Wait)
        pauses.append(wait.until_s - now_s)
        now_s = wait.until_s
    assert pauses == [1.0, 2.0, 4.0, 8.0, 12.0, 12.0]
    windows.feed(final(windows, now_s).step_id, succeeded=True, now_s=now_s)
    assert windows.may_checkpoint
    assert windows.admit([70.0]) == 1
    windows.call()
    windows.read_up_to(120.0)
    assert final(windows, 0.0).attempt == 1  # the pause was the other window's


def test_a_state_that_is_too_large_ends_the_window_early_and_it_goes_on_empty() -> None:
    windows = machine()
    windows.admit([10.0, 11.0])
    windows.call()
    windows.took(b"x" * STATE_BYTES_MAX)
    assert windows.next_step(0.0) == Idle()
    windows.call()
    windows.took(b"y" * (STATE_BYTES_MAX + 1))
    step = final(windows)
    assert step.call == WindowCall(0, 60, b"y" * (STATE_BYTES_MAX + 1), is_final=True, is_terminated_early=True)
    with pytest.raises(InternalError):
        windows.call()
    windows.feed(step.step_id, succeeded=True, now_s=0.0)
    assert windows.may_checkpoint
    assert windows.call() == WindowCall(0, 60, EMPTY_STATE)  # for the rest of the same batch
    windows.read_up_to(60.0)
    assert final(windows).call == WindowCall(0, 60, EMPTY_STATE, is_final=True)


def test_a_window_that_saw_no_call_since_has_no_final_call() -> None:
    windows = machine()
    windows.admit([10.0])  # given up unseen
    windows.read_up_to(60.0)
    assert windows.next_step(0.0) == Idle()
    assert windows.ends_at_s is None
    windows.admit([10.0])
    assert windows.may_checkpoint
    assert windows.admit([70.0]) == 1  # closed in passing
    assert windows.call().start_s == 60
    windows.took(b"z" * (STATE_BYTES_MAX + 1))
    windows.feed(final(windows).step_id, succeeded=True, now_s=0.0)
    windows.shard_ended()
    assert windows.next_step(0.0) == Idle()


def test_a_window_without_a_call_ends_for_what_is_its_own_alone() -> None:
    """Else what arrives behind it would be handed on at once, instead of waiting for its batching window."""
    windows = machine()
    windows.admit([10.0])  # given up unseen
    assert windows.end_for(50.0) == 60
    assert windows.end_for(60.0) == 120
    windows.call()
    assert windows.end_for(60.0) == 60


def test_an_older_stamp_counts_in_the_open_window_else_in_its_own() -> None:
    windows = machine()
    assert windows.admit([61.0, 59.9, 62.0]) == 3
    windows.call()
    assert windows.admit([58.0]) == 1
    windows.took(b"1")
    windows.read_up_to(120.0)
    windows.feed(final(windows).step_id, succeeded=True, now_s=0.0)
    assert windows.admit([119.0]) == 1
    assert windows.call() == WindowCall(60, 120, EMPTY_STATE)


def test_a_retry_gets_the_state_of_the_call_that_failed() -> None:
    windows = machine()
    windows.admit([1.0, 2.0])
    windows.call()
    windows.took(b"1")
    assert [windows.call().state, windows.call().state] == [b"1", b"1"]


def test_answers_to_no_question() -> None:
    windows = machine()
    for wrong in (lambda: windows.call(), lambda: windows.took(b"1"), lambda: windows.feed(1, succeeded=True, now_s=0.0)):
        with pytest.raises(InternalError):
            wrong()
    windows.admit([1.0])
    with pytest.raises(InternalError, match="no call was made"):
        windows.took(b"1")
    windows.call()
    windows.shard_ended()
    with pytest.raises(InternalError):
        windows.took(b"1")
    step = final(windows)
    with pytest.raises(InternalError, match="is outstanding"):
        windows.feed(step.step_id + 1, succeeded=True, now_s=0.0)
    windows.feed(step.step_id, succeeded=True, now_s=0.0)
    with pytest.raises(InternalError):
        windows.feed(step.step_id, succeeded=True, now_s=0.0)


def test_nothing_is_admitted_of_nothing() -> None:
    windows = machine()
    assert windows.admit([]) == 0
    assert windows.ends_at_s is None


# ── answers, events ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("response", "state"),
    [
        ({"state": {}}, b"{}"),
        ({"state": {"k": "é", "n": [1, 2.5, None, True]}}, '{"k":"é","n":[1,2.5,null,true]}'.encode()),
        ({"state": {"k": 1}, "batchItemFailures": []}, b'{"k":1}'),
        ({"state": 0}, b"0"),
        ({"state": ""}, b'""'),
        ({"state": []}, b"[]"),
        ({"state": False}, b"false"),
    ],
)
def test_a_state_in_an_answer(response: Any, state: bytes) -> None:
    assert state_of(response) == state


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (None, "must contain the state"),
        ({}, "must contain the state"),
        ("", "must contain the state"),
        ([], "must contain the state"),
        ({"State": {}}, "must contain the state"),
        ({"batchItemFailures": []}, "must contain the state"),
        ({"state": None}, "must contain the state"),
        ({"state": float("nan")}, "not JSON"),
        ({"state": {"x": float("inf")}}, "not JSON"),
        ({"state": {1, 2}}, "not JSON"),
        ({"state": b"x"}, "not JSON"),
        ({"state": {(1, 2): 3}}, "not JSON"),
        ({"state": "\ud800"}, "not JSON"),
        ({"state": LOOP}, "not JSON"),
        ({"state": DEEP}, "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_no_state_in_an_answer_is_a_failed_invocation(response: Any, error: str) -> None:
    found = state_of(response)
    assert isinstance(found, NoState)
    assert error in found.error


# ── worlds ───────────────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """One shard, read and driven as the module's numbered list says. The state is the list of the records that it covers."""

    def __init__(self, seed: int, stamps: list[float], size_s: int, state_items_max: int, *, deaths: bool) -> None:
        self.random = random.Random(seed)
        self.stamps, self.size_s, self.state_items_max, self.deaths = stamps, size_s, state_items_max, deaths
        self.now_s = 0.0
        self.checkpoint = 0
        self.finals: list[tuple[int, int, tuple[int, ...], bool]] = []  # of the calls that succeeded
        self.given_up: set[int] = set()

    def run(self) -> None:
        for life in range(50):
            if self.live(mortal=self.deaths and life < 40):
                return
        raise AssertionError("the shard never came to its end")

    def live(self, *, mortal: bool) -> bool:
        policy = FailurePolicy(maximum_retry_attempts=2, bisect_batch_on_function_error=self.random.random() < 0.5)
        windows = WindowMachine(self.size_s, policy)
        at = self.checkpoint
        while at < len(self.stamps):
            until = min(len(self.stamps), at + self.random.randint(1, 6))
            while at < until:
                self.close(windows)
                count = windows.admit(self.stamps[at:until])
                if count == 0:
                    assert not isinstance(windows.next_step(self.now_s), Idle)
                    continue
                if not self.settle(windows, at, count, policy, mortal=mortal):
                    return False
                at += count
                self.commit(windows, at)
            if self.random.random() < 0.3 and at < len(self.stamps):
                windows.read_up_to(self.stamps[at])
                self.close(windows)
                self.commit(windows, at)
            if mortal and self.random.random() < 0.05:
                return False
        windows.shard_ended()
        self.close(windows)
        assert windows.may_checkpoint
        self.commit(windows, at)
        assert self.checkpoint == len(self.stamps)
        return True

    def commit(self, windows: WindowMachine, settled: int) -> None:
        if windows.may_checkpoint:
            self.checkpoint = settled

    def close(self, windows: WindowMachine) -> None:
        while not isinstance(step := windows.next_step(self.now_s), Idle):
            if isinstance(step, Wait):
                self.now_s = step.until_s
                continue
            good = self.random.random() < 0.7
            if good:
                call = step.call
                self.finals.append((call.start_s, call.end_s, tuple(json.loads(call.state).get("seen", [])), call.is_terminated_early))
            windows.feed(step.step_id, succeeded=good, now_s=self.now_s)

    def settle(self, windows: WindowMachine, at: int, count: int, policy: FailurePolicy, *, mortal: bool) -> bool:
        failures = FailureMachine(self.stamps[at : at + count], policy)
        while not isinstance(step := failures.next_step(self.now_s), Finished):
            match step:
                case Wait(until_s=until_s):
                    self.now_s = until_s
                case GiveUp():
                    self.given_up |= set(range(at + step.start, at + step.stop))
                    failures.feed(step.step_id, Delivered(), self.now_s)
                case Invoke():
                    self.close(windows)
                    call = windows.call()
                    assert not call.is_final
                    outcome = self.handle(step)
                    stop = step.stop if isinstance(outcome, Succeeded) else outcome.index
                    if mortal and self.random.random() < 0.05:
                        return False
                    if stop > step.start:
                        seen = json.loads(call.state).get("seen", []) + list(range(at + step.start, at + stop))
                        self.check(call, seen)
                        state = {"seen": seen, "fill": "x" * (STATE_BYTES_MAX if len(seen) > self.state_items_max else 0)}
                        encoded = state_of({"state": state})
                        assert isinstance(encoded, bytes)
                        windows.took(encoded)
                    failures.feed(step.step_id, outcome, self.now_s)
        return True

    def handle(self, step: Invoke) -> Succeeded | FailedFrom:
        if self.random.random() < 0.6:
            return Succeeded()
        return FailedFrom(self.random.randrange(step.start, step.stop))

    def check(self, call: WindowCall, seen: list[int]) -> None:
        assert call.end_s - call.start_s == self.size_s
        assert call.start_s % self.size_s == 0
        assert seen == sorted(set(seen)), "each record once in a state, in order"


@settings(max_examples=150)
@given(
    st.integers(0, 2**32),
    st.lists(st.floats(0, 9), min_size=1, max_size=25),
    st.integers(1, 7),
    st.sampled_from([3, 10_000]),
    st.booleans(),
)
def test_every_record_is_in_the_final_call_of_its_window(
    seed: int, gaps: list[float], size_s: int, state_items_max: int, deaths: bool
) -> None:
    stamps = [1000.0 + sum(gaps[: index + 1]) for index in range(len(gaps))]
    world = World(seed, stamps, size_s, state_items_max, deaths=deaths)
    world.run()
    finished = [index for _, _, seen, _ in world.finals for index in seen]
    assert set(finished) | world.given_up == set(range(len(stamps))), "no record is lost"
    for start_s, end_s, seen, early in world.finals:
        assert all(start_s <= stamps[index] < end_s for index in seen), "and each counts in its own window"
        assert early == (len(seen) > state_items_max)
    if not deaths:
        assert len(finished) == len(set(finished)), "once"
        assert finished == sorted(finished)
        assert not set(finished) & world.given_up
        starts = [start_s for start_s, _, _, early in world.finals if not early]
        assert starts == sorted(set(starts)), "one regular final call per window, in order"


@settings(max_examples=80)
@given(st.integers(0, 2**32), st.lists(st.floats(-3, 6), min_size=1, max_size=25), st.integers(1, 7), st.booleans())
def test_no_record_is_lost_under_skewed_stamps(seed: int, gaps: list[float], size_s: int, deaths: bool) -> None:
    stamps = [1000.0 + sum(gaps[: index + 1]) for index in range(len(gaps))]
    world = World(seed, stamps, size_s, 10_000, deaths=deaths)
    world.run()
    finished = [index for _, _, seen, _ in world.finals for index in seen]
    assert set(finished) | world.given_up == set(range(len(stamps)))
    assert all(stamps[index] < end_s for _, end_s, seen, _ in world.finals for index in seen)
    if not deaths:
        assert finished == sorted(set(finished))
