"""The low-water mark: never back, never past a record that is not settled, and no further behind than it must."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.checkpoint import LowWaterMark
from streamlet.model.position import TRIM_HORIZON, Position
from streamlet.model.record import Record


def records(first: int, count: int) -> list[Record]:
    return [Record(b"", "k", str(1000 + n)) for n in range(first, first + count)]


@given(st.integers(0, 2**32), st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_the_mark_is_the_last_of_the_settled_prefix(seed: int, sizes: list[int]) -> None:
    """Batches are handed out and settled in any order, whole and in parts; the oracle is a set."""
    dice, mark = random.Random(seed), LowWaterMark()
    waiting: list[tuple[int, int]] = []
    done: set[int] = set()
    total = 0
    while sizes or waiting:
        if sizes and (not waiting or dice.random() < 0.5):
            size = sizes.pop()
            assert mark.opened(records(total, size)) == total
            waiting.append((total, total + size))
            total += size
        else:
            start, stop = waiting.pop(dice.randrange(len(waiting)))
            cut = dice.randint(start + 1, stop)
            if dice.random() < 0.5:
                mark.settled(start, cut)
            else:
                mark.settled_each(dice.sample(range(start, cut), cut - start))
            done.update(range(start, cut))
            if cut < stop:
                waiting.append((cut, stop))
        prefix = next((n for n in range(total) if n not in done), total)
        assert mark.settled_count == prefix
        assert mark.mark == (Position(1000 + prefix - 1) if prefix else TRIM_HORIZON)
        assert mark.open_count == total - len(done)
    assert mark.settled_count == mark.opened_count == total


def test_what_cannot_be_is_our_bug() -> None:
    mark = LowWaterMark()
    mark.opened(records(0, 3))
    mark.settled(0, 1)
    for start, stop in ((0, 1), (1, 4), (2, 1)):
        with pytest.raises(AssertionError):
            mark.settled(start, stop)
    with pytest.raises(AssertionError):
        mark.settled_each([0])
    with pytest.raises(AssertionError):
        mark.opened(records(1, 1))
