"""The low-water mark: never back, never past a record that is not settled, and no further behind than it must."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.checkpoint import LowWaterMark
from streamlet.model.position import TRIM_HORIZON, Position
from streamlet.model.record import Record


class At(msgspec.Struct, frozen=True):
    position: Position


def at(*sequences: int) -> list[At]:
    return [At(Position(sequence)) for sequence in sequences]


def test_the_mark_waits_for_the_slowest() -> None:
    mark = LowWaterMark(Position(5))
    assert mark.mark == Position(5)
    assert mark.opened(at(10, 11, 12)) == 0
    assert mark.opened(at(20, 21)) == 3
    mark.settled(3, 5)
    assert (mark.mark, mark.settled_count, mark.open_count) == (Position(5), 0, 3)
    mark.settled(0, 1)
    assert (mark.mark, mark.settled_count, mark.open_count) == (Position(10), 1, 2)
    mark.settled(1, 3)
    assert (mark.mark, mark.settled_count, mark.open_count) == (Position(21), 5, 0)


def test_a_slot_settles_records_that_do_not_stand_side_by_side() -> None:
    mark = LowWaterMark()
    mark.opened(at(1, 2, 3, 4, 5))
    mark.settled_each([1, 3])
    assert mark.mark == TRIM_HORIZON
    mark.settled_each([0, 2])
    assert mark.mark == Position(4)


def test_records_know_where_they_are() -> None:
    """Of a KPL aggregate, too, the mark can name a record in the middle."""
    mark = LowWaterMark()
    mark.opened([Record(b"", "key", "7", 0), Record(b"", "key", "7", 1), Record(b"", "key", "8")])
    mark.settled(0, 2)
    assert mark.mark == Position(7, 1)


def test_nothing_to_do_does_nothing() -> None:
    mark = LowWaterMark()
    assert mark.opened([]) == 0
    mark.settled(0, 0)
    mark.settled_each([])
    assert (mark.mark, mark.opened_count) == (TRIM_HORIZON, 0)


def test_what_can_not_be_is_our_bug() -> None:
    def fresh() -> LowWaterMark:
        mark = LowWaterMark(Position(1))
        mark.opened(at(2, 3, 4, 5))
        mark.settled(0, 1)
        mark.settled(2, 3)
        return mark

    for start, stop in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 5), (4, 5), (-1, 0), (3, 2)):
        with pytest.raises(AssertionError):
            fresh().settled(start, stop)
    for number in (-1, 0, 2, 4):
        with pytest.raises(AssertionError):
            fresh().settled_each([number])
    for sequence in (1, 4, 5):
        with pytest.raises(AssertionError, match="handed out after"):
            fresh().opened(at(sequence))
    fresh().opened(at(6))


@given(st.data())
def test_against_a_set(data: st.DataObject) -> None:
    """Chunks of any size, settled in any order, in ranges and one by one; what is in flight is all that is remembered."""
    mark = LowWaterMark(Position(100))
    opened: list[At] = []
    settled: set[int] = set()
    before = 0
    for _ in range(data.draw(st.integers(1, 30))):
        unsettled = [number for number in range(len(opened)) if number not in settled]
        match data.draw(st.sampled_from(["open", "range", "each"])) if unsettled else "open":
            case "open":
                chunk = at(*range(101 + len(opened), 101 + len(opened) + data.draw(st.integers(0, 9))))
                assert mark.opened(chunk) == len(opened)
                opened += chunk
            case "range":
                start = stop = data.draw(st.sampled_from(unsettled))
                while stop in unsettled and stop - start < data.draw(st.integers(1, 9)):
                    stop += 1
                mark.settled(start, stop)
                settled.update(range(start, stop))
            case _:
                some = data.draw(st.sets(st.sampled_from(unsettled)))
                mark.settled_each(some)
                settled |= some
        prefix = next((number for number in range(len(opened)) if number not in settled), len(opened))
        assert mark.settled_count == prefix >= before
        assert mark.mark == (opened[prefix - 1].position if prefix else Position(100))
        assert (mark.opened_count, mark.open_count) == (len(opened), len(opened) - len(settled))
        assert len(mark._flags) <= 2 * (len(opened) - prefix) + 1
        assert len(mark._chunks) <= max(1, len(opened) - prefix + 1)
        before = prefix


def test_what_has_passed_is_not_remembered() -> None:
    """Always one batch behind, a thousand times: memory follows what is in flight."""
    mark = LowWaterMark()
    for turn in range(1000):
        mark.opened(at(*range(turn * 10, turn * 10 + 3)))
        mark.settled(mark.settled_count, mark.opened_count - 3)
        assert len(mark._flags) <= 12
        assert len(mark._chunks) <= 3
    assert mark.settled_count == 2997


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
