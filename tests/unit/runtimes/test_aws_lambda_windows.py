"""Tumbling windows in Lambda: what the handler gets, and what AWS gets back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from streamlet import App, Batch, ConfigurationError, HandlerError, Window
from streamlet.core.windows import state_of
from tests.unit.runtimes.lambda_worlds import SHARD, Context, event, failures, window_event


@pytest.fixture
def app() -> Iterator[App]:
    made = App("shop")
    yield made
    made.close()


def summing(app: App, *, asynchronous: bool = False) -> list[tuple[list[Any], Any, Window | None]]:
    seen: list[tuple[list[Any], Any, Window | None]] = []

    def add(batch: Batch, state: Any) -> Any:
        seen.append((batch.values, dict(state), batch.window))
        assert batch.shard_id == SHARD
        return {"sum": state.get("sum", 0) + sum(batch.values)}

    async def later(batch: Batch, state: Any) -> Any:
        return add(batch, state)

    app.on_window("orders", tumbling_window_s=120)(later if asynchronous else add)
    return seen


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_window_from_its_first_call_to_its_last(app: App, asynchronous: bool) -> None:
    seen = summing(app, asynchronous=asynchronous)
    first = app.lambda_handler(window_event(b"1", b"2", state={}), Context())
    assert first == {"state": {"sum": 3}, **failures()}
    second = app.lambda_handler(window_event(b"3", state=first["state"]), Context())
    last = app.lambda_handler(window_event(state=second["state"], is_final=True), Context())
    assert last == {"state": {"sum": 6}, **failures()}
    start, end = datetime(2020, 12, 9, 7, 4, tzinfo=UTC), datetime(2020, 12, 9, 7, 6, tzinfo=UTC)
    assert seen == [
        ([1, 2], {}, Window(start, end)),
        ([3], {"sum": 3}, Window(start, end)),
        ([], {"sum": 6}, Window(start, end, is_final=True)),
    ]
    for answer in (first, second, last):
        assert isinstance(state_of(answer), bytes), "the worker's own rule takes it, too"


def test_a_window_that_aws_ended_early_says_so(app: App) -> None:
    seen = summing(app)
    app.lambda_handler(window_event(state={"sum": 1}, is_final=True, early=True), Context())
    assert seen[0][2] is not None
    assert seen[0][2].is_terminated_early


def test_what_the_handler_raises_fails_the_call(app: App) -> None:
    """AWS comes again with the state of before: a partial answer would need the state up to the record."""

    @app.on_window("orders", tumbling_window_s=60)
    def handle(batch: Batch, state: Any) -> Any:
        raise ZeroDivisionError("of the handler")

    with pytest.raises(ZeroDivisionError):
        app.lambda_handler(window_event(b"1", state={}), Context())


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (None, "returned no state"),
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, "not JSON"),
        ({"n": float("nan")}, "not JSON"),
        ({"s": {1, 2}}, "not JSON"),
        ({"big": "x" * 6_300_000}, "answers of up to 6 MB"),
    ],
    ids=["none", "datetime", "nan", "set", "too big"],
)
def test_a_state_that_cannot_be_carried_on_is_told(app: App, state: Any, text: str) -> None:
    app.on_window("orders", tumbling_window_s=60)(lambda batch, s: state)
    with pytest.raises(HandlerError, match=text):
        app.lambda_handler(window_event(b"1", state={}), Context())


def test_a_state_above_one_megabyte_is_left_to_aws(app: App) -> None:
    """Which ends the window early: the next call is a final one, as core/windows has it. To fail would block the shard for ever."""
    big = {"big": "x" * 1_100_000}
    app.on_window("orders", tumbling_window_s=60)(lambda batch, state: big)
    answer = app.lambda_handler(window_event(b"1", state={}), Context())
    assert len(json.dumps(answer["state"])) > 1_048_576


def test_the_last_call_need_not_return_a_state(app: App) -> None:
    """Nobody reads it, but an answer without one would be a failure."""
    app.on_window("orders", tumbling_window_s=60)(lambda batch, state: None)
    assert app.lambda_handler(window_event(state={"n": 1}, is_final=True), Context()) == {"state": {}, **failures()}


def test_handler_and_mapping_must_agree_about_windows(app: App) -> None:
    app.on_window("orders", tumbling_window_s=60)(lambda batch, state: state)
    app.on_batch("refunds")(lambda batch: None)
    with pytest.raises(ConfigurationError, match="needs an event source mapping with TumblingWindowInSeconds"):
        app.lambda_handler(event(b"1"), Context())
    with pytest.raises(ConfigurationError, match="its handler must be @app.on_window"):
        app.lambda_handler(window_event(b"1", state={}, stream="refunds"), Context())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs tumbling_window_s=, 1 to 900"),
        ({"tumbling_window_s": 901}, "from 0 to 900"),
        ({"tumbling_window_s": 1.5}, "from 0 to 900"),
        ({"tumbling_window_s": 60, "parallelization_factor": 2}, "cannot be handed on in parallel"),
    ],
)
def test_windows_that_cannot_be_are_refused_when_the_app_is_built(app: App, options: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        app.on_window("orders", **options)(lambda batch, state: state)


def test_a_handler_takes_batch_and_state(app: App) -> None:
    with pytest.raises(HandlerError, match=r"write def <lambda>\(batch, state\)"):
        app.on_window("orders", tumbling_window_s=60)(lambda batch: None)


@pytest.mark.parametrize("state", [0, [], "", False, {}])
def test_a_state_that_is_falsy_comes_back_as_it_was(app: App, state: Any) -> None:
    """As it does in a worker."""
    seen: list[Any] = []

    def keep(batch: Batch, handed: Any) -> Any:
        seen.append(handed)
        return state

    app.on_window("orders", tumbling_window_s=120)(keep)
    answer = app.lambda_handler(window_event(b"1", state={}), Context())
    app.lambda_handler(window_event(b"2", state=answer["state"]), Context())
    assert seen == [{}, state]
    assert type(seen[1]) is type(state)
