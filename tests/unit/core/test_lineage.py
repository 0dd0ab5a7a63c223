"""Parents before children, through any history of splits and merges."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
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


def test_a_child_without_a_lease_keeps_its_parents_lease_alive() -> None:
    """It is known for a descendant only by that lease. Were the lease deleted, a closed child would count as of the past."""
    rows = {"1": Row(SHARD_END), "2": Row(Position(5), ("1",))}
    listed = [shard(2, 1), shard(3, 1, closed=True)]
    assert finished_to_delete(listed, rows) == []
    assert created(listed, rows, LATEST) == {"3": TRIM_HORIZON}
    assert finished_to_delete(listed, rows | {"3": Row(Position(6), ("1",))}) == ["1"]


def test_a_lineage_may_be_long() -> None:
    """More generations than Python has stack; youngest first, as a service might list them."""
    chain = [shard(0, closed=True), *(shard(n, n - 1, closed=n < 4999) for n in range(1, 5000))]
    made = leases_to_create(chain[::-1], {"0": Row(SHARD_END)}, LATEST)
    assert [s.shard_id for s, _ in made] == [str(n) for n in range(1, 5000)]


class _Stream:
    """A stream and its consumers' lease table. Shard ids count up; retention takes the oldest closed shards."""

    def __init__(self, initial: Position) -> None:
        self.initial = initial
        self.shards: dict[str, Shard] = {"0": shard(0), "1": shard(1)}
        self.expired: set[str] = set()
        self.rows: dict[str, Row] = {}
        self.born: dict[str, Position] = {}  # every lease that was ever created, and where it began
        self.read: list[str] = []
        self.asked: set[str] | None = None  # shards that a LATEST consumer must read: open at the first start, or younger

    @property
    def listed(self) -> list[Shard]:
        return [s for key, s in self.shards.items() if key not in self.expired]

    def reshard(self, numbers: list[int]) -> None:
        live = [s for s in self.shards.values() if not s.closed]
        take = list({number % len(live): live[number % len(live)] for number in numbers}.values())
        for s in take:
            self.shards[s.shard_id] = msgspec.structs.replace(s, closed=True)
        for _ in range(3 - len(take)):
            new = shard(len(self.shards), *(int(s.shard_id) for s in take))
            self.shards[new.shard_id] = new
            if self.asked is not None:
                self.asked.add(new.shard_id)

    def expire(self) -> None:
        oldest = next((s for s in self.listed if s.closed and not any(p in self.shards.keys() - self.expired for p in s.parents)), None)
        if oldest is not None:
            self.expired.add(oldest.shard_id)

    def sync(self, crash_after: int | None) -> None:
        """`crash_after` leases were created, the worker dies."""
        if self.asked is None:
            self.asked = {s.shard_id for s in self.listed if not s.closed or self.initial != LATEST}
            if self.initial == LATEST:
                crash_after = None  # for LATEST a first start must be one step, see ports.LeaseStore.create_all
        made = leases_to_create(self.listed, self.rows, self.initial)
        order = [s.shard_id for s, _ in made]
        for s, start in made[:crash_after]:
            assert s.shard_id not in self.born, "two leases for one shard"
            assert start in {self.initial, TRIM_HORIZON}
            assert all(order.index(parent) < order.index(s.shard_id) for parent in s.parents if parent in order)
            self.rows[s.shard_id] = Row(start, s.parents)
            self.born[s.shard_id] = start
        if crash_after is None:
            assert leases_to_create(self.listed, self.rows, self.initial) == [], "not a fixpoint"
            for key in finished_to_delete(self.listed, self.rows):
                assert key in self.expired
                del self.rows[key]

    def consume(self, number: int) -> bool:
        ready = [key for key, row in self.rows.items() if row.checkpoint != SHARD_END and may_start(row.parents, self.rows)]
        if not ready:
            return False
        key = ready[number % len(ready)]
        for parent in self.shards[key].parents:
            excused = parent in self.expired or parent not in (self.asked or ()) or _is_cut_off(self, self.shards[parent])
            assert parent in self.read or excused, f"{key} before its parent {parent}"
        if self.shards[key].closed:
            self.read.append(key)
            self.rows[key] = msgspec.structs.replace(self.rows[key], checkpoint=SHARD_END)
        else:
            self.rows[key] = msgspec.structs.replace(self.rows[key], checkpoint=Position(7))
        return self.shards[key].closed


_turn = st.one_of(
    st.tuples(st.just("reshard"), st.lists(st.integers(0, 9), min_size=1, max_size=2)),
    st.tuples(st.just("sync"), st.none() | st.integers(0, 2)),
    st.tuples(st.just("consume"), st.integers(0, 9)),
    st.tuples(st.just("expire")),
)


@pytest.mark.parametrize("initial", [TRIM_HORIZON, LATEST, AT_TIMESTAMP], ids=str)
@given(turns=st.lists(_turn, max_size=40))
def test_through_any_history_every_record_has_one_lease(initial: Position, turns: list[Any]) -> None:
    """Splits and merges, retention, long stops, and workers that die half way through creating leases: parents are read before
    their children, no shard ever gets a second lease, and every shard that was asked for is read, unless retention took it."""
    stream = _Stream(initial)
    for what, *args in turns:
        getattr(stream, what)(*args)
    while True:
        before = len(stream.born), len(stream.read)
        stream.sync(None)
        for number in range(len(stream.shards) + 1):
            stream.consume(number)
        if before == (len(stream.born), len(stream.read)):
            break
    assert len(set(stream.read)) == len(stream.read)
    for s in stream.listed:
        if s.shard_id in (stream.asked or ()) and not _is_cut_off(stream, s):
            assert s.shard_id in stream.born, f"{s} has no lease"
            assert s.shard_id in stream.read or not s.closed
    if initial == LATEST:
        assert stream.born.keys() <= (stream.asked or set())


def _is_cut_off(stream: _Stream, s: Shard) -> bool:
    """With LATEST, and after a stop longer than the retention: a closed shard whose ancestors expired unread cannot be told from one that
    closed before the first start (a known limit)."""
    return stream.initial == LATEST and s.closed and any(p in stream.expired or _is_cut_off(stream, stream.shards[p]) for p in s.parents)
