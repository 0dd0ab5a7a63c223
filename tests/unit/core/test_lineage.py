"""Parents before children, through any history of splits and merges."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streamlet.core.lineage import finished_to_delete, leases_to_create, may_start
from streamlet.model.position import AT_TIMESTAMP, LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.model.shard import Shard


class Row(msgspec.Struct, frozen=True):
    checkpoint: Position = TRIM_HORIZON
    parents: tuple[str, ...] = ()


def shard(n: int, *parents: int, closed: bool = False) -> Shard:
    return Shard(str(n), 0, 0, tuple(map(str, parents)), closed)


def created(shards: list[Shard], known: dict[str, Row], initial: Position) -> dict[str, Position]:
    return {s.shard_id: start for s, start in leases_to_create(shards, known, initial)}


# The worked example of the KCL's documentation: 0+1 -> 6, 2+3 -> 7, 6+7 -> 8, 5 -> 9, 10; 4 is open all the time.
HISTORY = [shard(n, closed=n != 4) for n in range(6)] + [shard(6, 0, 1, closed=True), shard(7, 2, 3, closed=True)] + [
    shard(8, 6, 7), shard(9, 5), shard(10, 5),
]  # fmt: skip


def test_an_empty_table_gets_what_the_starting_position_asks_for() -> None:
    assert created(HISTORY, {}, LATEST) == dict.fromkeys(["4", "8", "9", "10"], LATEST)
    assert created(HISTORY, {}, TRIM_HORIZON) == dict.fromkeys(map(str, range(11)), TRIM_HORIZON)
    assert created(HISTORY, {}, AT_TIMESTAMP) == dict.fromkeys(map(str, range(11)), AT_TIMESTAMP)


def test_generations_that_came_and_went_during_a_stop_are_all_read() -> None:
    known = {"0": Row(SHARD_END), "1": Row(SHARD_END)}
    history = [
        shard(0, closed=True),
        shard(1, closed=True),
        shard(2, 0, 1, closed=True),
        shard(3, 2, closed=True),
        shard(4, 2),
        shard(5, 3),
    ]
    assert created(history, known, LATEST) == dict.fromkeys(["2", "3", "4", "5"], TRIM_HORIZON)


def test_what_ended_before_a_first_start_with_latest_stays_unread() -> None:
    known = {"4": Row(), "8": Row(), "9": Row(), "10": Row()}
    assert created(HISTORY, known, LATEST) == {}


def test_a_hole_is_filled_from_its_beginning() -> None:
    assert created([shard(4), shard(7)], {"4": Row()}, LATEST) == {"7": TRIM_HORIZON}


def test_both_parents_of_a_merge_must_be_finished() -> None:
    assert not may_start(("a", "b"), {"a": Row(SHARD_END), "b": Row()})
    assert may_start(("a", "b"), {"a": Row(SHARD_END), "b": Row(SHARD_END)})
    assert may_start(("gone",), {"a": Row()})


def test_a_finished_lease_goes_when_retention_is_past_and_its_children_have_begun() -> None:
    rows = {"p": Row(SHARD_END), "c": Row(Position(5), ("p",))}
    assert finished_to_delete([shard(1)], rows) == ["p"]
    assert finished_to_delete([Shard("p", 0, 0)], rows) == []
    assert finished_to_delete([shard(1)], rows | {"d": Row(TRIM_HORIZON, ("p",))}) == []
    assert finished_to_delete([shard(1)], {"p": Row(SHARD_END)}) == []


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_any_history_is_read_once_parents_first(seed: int, steps: int) -> None:
    """A consumer that syncs and reads at random moments, while the stream splits and merges: every shard is read exactly once,
    and never before its parents are finished."""
    dice = random.Random(seed)
    shards: dict[str, Shard] = {str(n): shard(n) for n in range(dice.randint(1, 3))}
    rows: dict[str, Row] = {}
    read: list[str] = []

    def sync() -> None:
        listed = list(shards.values())
        dice.shuffle(listed)
        for s, start in leases_to_create(listed, rows, TRIM_HORIZON):
            assert s.shard_id not in rows
            rows[s.shard_id] = Row(start, s.parents)

    def consume() -> None:
        ready = [key for key, row in rows.items() if row.checkpoint != SHARD_END and may_start(row.parents, rows)]
        if ready:
            key = dice.choice(ready)
            assert all(rows[parent].checkpoint == SHARD_END for parent in shards[key].parents if parent in rows)
            if shards[key].closed:
                assert key not in read
                read.append(key)
                rows[key] = Row(SHARD_END, rows[key].parents)

    def reshard() -> None:
        live = [s for s in shards.values() if not s.closed]
        take: list[Any] = dice.sample(live, 2) if len(live) > 1 and dice.random() < 0.5 else [dice.choice(live)]
        for s in take:
            shards[s.shard_id] = msgspec.structs.replace(s, closed=True)
        for _ in range(1 if len(take) == 2 else 2):
            new = shard(len(shards), *(int(s.shard_id) for s in take))
            shards[new.shard_id] = new

    sync()
    for _ in range(steps):
        dice.choice([sync, consume, consume, reshard])()
    while True:
        before = len(read)
        sync()
        for _ in range(len(shards)):
            consume()
        closed = {s.shard_id for s in shards.values() if s.closed}
        if set(read) == closed and len(read) == before:
            break
    assert set(rows) == set(shards)
