"""Who takes what, and when a file closes."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.leasing import Plan, Sightings, plan
from streamlet.core.prepared import GivenUp, PreparedFile, PreparedRange, differences
from streamlet.core.rolling import MemoryBudget, OpenRange, Roll
from streamlet.errors import ConfigurationError, InternalError
from streamlet.model.position import LATEST, SHARD_END, TRIM_HORIZON, Position


class Row(msgspec.Struct, frozen=True):
    key: str
    owner: str | None = None
    counter: int = 0
    checkpoint: Position = TRIM_HORIZON
    checkpoint_owner: str | None = None


def decide(rows: list[Row], me: str = "me", *, still_s: float = 0.0, failover_s: float = 10.0) -> Plan:
    seen = Sightings()
    for row in rows:
        seen.see(row.key, row.counter, 0.0)
    return plan(rows, me, still_s, seen, failover_s=failover_s, random=lambda: 0.0)


def test_a_lone_worker_takes_all_that_is_free() -> None:
    assert set(decide([Row("a"), Row("b"), Row("c")]).take) == {"a", "b", "c"}


def test_a_worker_takes_only_its_share() -> None:
    rows = [Row("a", "other"), Row("b"), Row("c"), Row("d")]
    assert len(decide(rows).take) == 2


def test_a_lease_is_abandoned_when_its_counter_stands_still_by_our_own_clock() -> None:
    rows = [Row("a", "other")]
    assert decide(rows, still_s=10.0) == Plan()
    assert decide(rows, still_s=10.1) == Plan(take=("a",))
    seen = Sightings()
    seen.see("a", 1, 0.0)
    seen.see("a", 2, 9.0)
    assert seen.still_for_s("a", 12.0) == 3.0


def test_one_is_stolen_from_the_most_loaded_and_only_when_nothing_is_free() -> None:
    rows = [Row(k, "big") for k in "abc"] + [Row("d", "small")]
    assert decide(rows).steal in {("a",), ("b",), ("c",)}
    assert decide([*rows, Row("e")]) == Plan(take=("e",))
    balanced = [Row("a", "big"), Row("b", "big"), Row("c", "me"), Row("d", "me")]
    assert decide(balanced) == Plan()


def test_finished_leases_belong_to_nobody() -> None:
    assert decide([Row("a", checkpoint=SHARD_END)]) == Plan()


def test_a_thief_leaves_who_has_no_more_than_a_share() -> None:
    """One step below the share, the others at it: nobody would be better off."""
    rows = [Row(k, "one") for k in "ab"] + [Row(k, "two") for k in "cd"] + [Row("e", "me")]
    assert decide(rows) == Plan()
    # Two steps below: the shares become 2, 3, 2.
    rows = [Row(k, "one") for k in "abc"] + [Row(k, "two") for k in "def"] + [Row("g", "me")]
    assert len(decide(rows).steal) == 1


def test_what_nobody_took_for_long_is_taken_whatever_the_share() -> None:
    """Two leases of a dead owner, still for more than three fail-over times: both, and only these."""
    rows = [Row("a", "dead"), Row("b", "dead"), Row("c", "me", 1), Row("d", "me", 1), Row("e")]
    seen = Sightings()
    for row in rows:
        seen.see(row.key, row.counter, 0.0)
    for key in ("c", "d"):
        seen.see(key, 2, 30.0)

    def at(now_s: float) -> Plan:
        return plan(rows, "me", now_s, seen, failover_s=10.0, random=lambda: 0.0)

    assert at(30.0) == Plan(take=("a", "b", "e"))
    assert at(30.1) == Plan(take=("a", "b"))


def test_children_that_had_to_wait_for_their_parents_are_not_very_old() -> None:
    """A lease without an owner stood still because nobody could take it: it is shared out like any new one."""
    rows = [Row(f"child{n}") for n in range(10)] + [Row("x", "other", 1)]
    seen = Sightings()
    for row in rows:
        seen.see(row.key, row.counter, 0.0)
    seen.see("x", 2, 1000.0)
    made = plan(rows, "me", 1000.0, seen, failover_s=10.0, random=lambda: 0.5)
    assert len(made.take) == 6


def test_a_hand_over_is_left_alone_until_it_stands_still() -> None:
    for owner in ("new", None):
        rows = [Row("a", owner, checkpoint_owner="old")]
        assert decide(rows) == Plan()
        assert decide(rows, still_s=10.1) == Plan(take=("a",))


def test_a_lease_under_our_own_name_that_we_do_not_hold_expires_like_any_other() -> None:
    """An acquisition whose answer was lost: until then it counts as ours."""
    rows = [Row("a", "me"), Row("b", "other")]
    assert decide(rows) == Plan()
    assert decide(rows[:1], still_s=10.1) == Plan(take=("a",))


def test_leases_that_are_gone_are_forgotten() -> None:
    seen = Sightings()
    seen.see("a", 1, 0.0)
    seen.see("b", 1, 0.0)
    seen.keep({"b"})
    assert (seen.still_for_s("a", 9.0), seen.still_for_s("b", 9.0)) == (0.0, 9.0)


def test_the_choice_follows_from_the_dice_alone() -> None:
    """Not from the order of a scan. And workers that look at once do not all want the same."""
    rows = [Row(k) for k in "abcdef"] + [Row("x", "one", 1), Row("y", "two", 1)]
    wanted = set()
    for seed in range(20):
        made = [plan(some, "me", 0.0, Sightings(), failover_s=10, random=random.Random(seed).random) for some in (rows, rows[::-1])]
        assert made[0] == made[1]
        wanted.add(made[0].take)
    assert len(wanted) > 5


@given(st.integers(1, 12), st.integers(1, 5))
def test_workers_come_to_rest_with_fair_shares(leases: int, workers: int) -> None:
    """Each decides alone, in turn; after a while nobody wants anything, and no two differ by more than one."""
    owner: dict[str, str | None] = {f"s{n}": None for n in range(leases)}
    for _ in range(leases * 3):
        wanted = 0
        for worker in range(workers):
            rows = [Row(key, value) for key, value in owner.items()]
            made = decide(rows, f"w{worker}")
            for key in (*made.take, *made.steal):
                owner[key] = f"w{worker}"
                wanted += 1
        if not wanted:
            break
    loads = [list(owner.values()).count(f"w{n}") for n in range(workers)]
    assert max(loads) - min(loads) <= 1
    assert wanted == 0


@pytest.mark.parametrize("options", [{"bytes_max": 0}, {"rows_max": -1}, {"age_max_s": 0}, {"rows_max": True}, {"bytes_max": "1 MB"}])
def test_a_roll_that_makes_no_sense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Roll(**options)


def test_a_range_closes_on_the_first_bound() -> None:
    opened = OpenRange(Roll(bytes_max=100, rows_max=10, age_max_s=60))
    assert not opened.due(1e9)
    assert opened.wake_at_s() is None
    opened.add(5, 50, 1000)
    assert not opened.due(1059.9)
    assert opened.due(1060)
    assert opened.wake_at_s() == 1060
    opened.add(5, 0, 1001)
    assert opened.due(1001)
    opened.clear()
    opened.add(1, 100, 1002)
    assert opened.due(1002)
    opened.clear()
    opened.gave_up(1003)
    assert opened.due(1003)


def test_the_largest_range_closes_when_memory_is_short() -> None:
    budget = MemoryBudget(100)
    budget.set("a", 60)
    budget.set("b", 40)
    assert not budget.should_roll("a")
    budget.set("b", 50)
    assert (budget.should_roll("a"), budget.should_roll("b")) == (True, False)
    budget.forget("a")
    assert not budget.should_roll("b")


def test_an_idle_range_closes_by_age_from_its_first_row() -> None:
    opened = OpenRange(Roll(age_max_s=60))
    opened.add(0, 0, 1000)
    opened.add(1, 1, 1030)
    assert opened.wake_at_s() == 1060
    opened.clear()
    assert not opened.due(1e9)
    assert (opened.rows, opened.bytes) == (0, 0)
    opened.add(1, 1, 2000)
    assert not opened.due(2059)


def test_a_record_given_up_is_soon_told_but_only_once() -> None:
    opened = OpenRange(Roll())
    opened.gave_up(0)
    opened.clear()
    opened.add(1, 1, 1)
    assert not opened.due(2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 50))), st.integers(1, 60))
def test_the_budget_against_a_dictionary(turns: list[tuple[str, int | None]], bytes_max: int) -> None:
    budget, held = MemoryBudget(bytes_max), dict[str, int]()
    for shard_id, size in turns:
        if size is None:
            budget.forget(shard_id)
            held.pop(shard_id, None)
        else:
            budget.set(shard_id, size)
            held[shard_id] = size
        assert budget.held_bytes == sum(held.values())
        largest = {key for key in held if held[key] == max(held.values())} if sum(held.values()) > bytes_max else set()
        assert {key for key in "abc" if budget.should_roll(key)} == largest
        assert budget.to_roll() == min(largest, default=None)


RANGE = PreparedRange(
    first="5",
    first_sub=0,
    last="9",
    last_sub=2,
    given_up=(GivenUp("6", 0, "7", 0, "RetryAttemptsExhausted", 3, None, "why", 1.5),),
    files=(PreparedFile("k", 3, "d"),),
)


def test_a_prepared_range_survives_the_lease_row() -> None:
    assert PreparedRange.decode(RANGE.encode()) == RANGE
    assert (RANGE.first_position, RANGE.last_position) == (Position(5), Position(9, 2))
    assert [RANGE.given_up[0].covers(Position(n)) for n in (5, 6, 7, 8)] == [False, True, True, False]


@pytest.mark.parametrize("state", [b"", b"{}", b"KCL's own bytes", RANGE.encode().replace(b'"version":1', b'"version":2')])
def test_a_state_that_streamlet_did_not_write_is_refused(state: bytes) -> None:
    with pytest.raises(InternalError):
        PreparedRange.decode(state)


def test_every_difference_of_a_remade_range_is_named() -> None:
    old = [PreparedFile("a", 1, "x"), PreparedFile("b", 2, "y")]
    assert differences(old, old[::-1]) == []
    assert differences(old, [PreparedFile("a", 2, "x"), PreparedFile("c", 1, "z")]) == [
        "a had 1 rows and has 2 now",
        "b was prepared and is not made any more",
        "c was not prepared",
    ]
    assert differences(old, [old[0], PreparedFile("b", 2, "other")]) == ["b holds other records than before"]


def test_positions_sort_as_the_kcl_sorts_them() -> None:
    order = [Position.parse("AT_TIMESTAMP"), TRIM_HORIZON, LATEST, Position(0), Position(9), Position(9, 1), Position(10), SHARD_END]
    assert sorted(order[3:] + order[:3]) == order
    assert [Position.parse(position.text, position.sub) for position in order] == order
    assert not Position(10**129 - 1).is_sentinel
    for text in ("", "-1", "1e5", "TRIM", "٣"):
        with pytest.raises(ValueError, match="neither"):
            Position.parse(text)
