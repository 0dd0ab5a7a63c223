"""What a response says about its batch: the tables of the developer guide, as recorded on AWS."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.failure import FailedFrom, Succeeded
from streamlet.core.responses import outcome_of

NUMBERS = ["49590338271490256608559692538361571095921575989136588898", "49590338271490256608559692538361571095921575989136588899", "495"]


def failures(*identifiers: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


@pytest.mark.parametrize(
    "response", [[], None, {}, "", {"batchItemFailures": []}, {"batchItemFailures": None}, {"statusCode": 200}, "done", 3, True, [1]]
)
def test_these_are_a_success(response: Any) -> None:
    assert outcome_of(response, NUMBERS) == Succeeded()


@pytest.mark.parametrize(
    "response",
    [
        failures(""),
        failures(None),
        {"batchItemFailures": [{"foo": NUMBERS[0]}]},
        failures(123),
        failures("123"),
        failures("no number"),
        failures("٤٩٥"),  # digits, but not those of a sequence number
        failures("9" * 5000),
        failures(NUMBERS[1], "123"),
        failures(int(NUMBERS[2])),
        {"batchItemFailures": "all of them"},
        {"batchItemFailures": {"itemIdentifier": NUMBERS[1]}},
        {"batchItemFailures": [NUMBERS[1]]},
        {"batchItemFailures": [None]},
        {"batchItemFailures": [[]]},
        {"batchItemFailures": 0},
        {"batchItemFailures": False},
    ],
)
def test_these_fail_the_whole_batch_without_a_function_error(response: Any) -> None:
    outcome = outcome_of(response, NUMBERS, start=7)
    assert isinstance(outcome, FailedFrom)
    assert (outcome.index, outcome.function_error) == (7, None)
    assert outcome.error


@pytest.mark.parametrize(("identifiers", "place"), [((0,), 0), ((1,), 1), ((2,), 2), ((2, 1), 1), ((1, 2), 1), ((2, 0, 1), 0), ((1, 1), 1)])
def test_the_batch_failed_from_the_lowest_place_on(identifiers: tuple[int, ...], place: int) -> None:
    outcome = outcome_of(failures(*(NUMBERS[i] for i in identifiers)), NUMBERS, start=100)
    assert isinstance(outcome, FailedFrom)
    assert outcome.index == 100 + place
    assert NUMBERS[place] in outcome.error


def test_without_the_feature_nothing_is_read() -> None:
    assert outcome_of(failures(NUMBERS[0]), NUMBERS, reports_failures=False) == Succeeded()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NUMBERS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["batchItemFailures", "itemIdentifier", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_is_answered_has_an_outcome_within_the_batch(response: Any) -> None:
    outcome = outcome_of(response, NUMBERS, start=5)
    assert isinstance(outcome, Succeeded) or 5 <= outcome.index < 8
