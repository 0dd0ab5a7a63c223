"""Packing: order per key under any pattern of failures, nothing lost, every bound kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlet.core.packing import CALL_RECORDS_MAX, Entry, Failed, Pack, Packer, hash_key_of
from streamlet.errors import RecordTooLarge, RequestRefused, Throttled, Unavailable

AGAIN = Failed(Throttled("slow down"), again=True)
NEVER = Failed(RequestRefused("no"), again=False)
LOST = Failed(Unavailable("reset"), again=True)


def entry(key: str, data: bytes = b"", hash_key: str | None = None) -> Entry:
    return Entry(data, key, hash_key, len(data) + len(key))


def packer(**options: object) -> Packer:
    return Packer(**{"backoff_s": float, "linger_s": 0.0, **options})  # type: ignore[arg-type]


class Service:
    """Takes what is not failed, in order of arrival, as a shard does."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    def take(self, pack: Pack, failing: frozenset[int]) -> None:
        self.log += [(e.partition_key, int(e.data)) for i, e in enumerate(pack.entries) if i not in failing]


def assert_in_order(log: list[tuple[str, int]]) -> None:
    """Per key, a record never comes for the first time after a later one (copies of a record are allowed)."""
    newest: dict[str, int] = {}
    for key, number in log:
        assert number >= newest.get(key, -1), f"{key}: {number} came after {newest[key]}"
        newest[key] = number


def assert_one_per_key(packs: list[Pack]) -> None:
    keys = Counter(e.partition_key for pack in packs for e in pack.entries)
    assert not keys or max(keys.values()) == 1, keys


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_order_holds_and_nothing_is_lost_whatever_fails(data: st.DataObject) -> None:
    """Adds, overlapping calls, partial failures, lost answers (applied or not), in any order."""
    keys = data.draw(st.lists(st.sampled_from("abcde"), max_size=40), label="keys")
    size = data.draw(st.integers(1, 4), label="call size")
    machine, service, now_s = packer(call_records_max=size), Service(), 0.0
    waiting, settled = list(enumerate(keys)), list[int]()
    flying: list[Pack] = []
    for _ in range(600):
        action = data.draw(st.sampled_from(["add", "call", "answer", "lose", "tick"])) if waiting or flying else "tick"
        if action == "add" and waiting:
            number, key = waiting.pop(0)
            machine.add(entry(key, b"%d" % number), now_s)
        elif action == "call" and len(flying) < 3:
            if (pack := machine.next_call(now_s)) is not None:
                assert len(pack.entries) <= size
                flying.append(pack)
                assert_one_per_key(flying)
        elif action in {"answer", "lose"} and flying:
            pack = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            if action == "answer":
                failing = data.draw(st.frozensets(st.integers(0, len(pack.entries) - 1)))
                service.take(pack, failing)
                assert machine.feed(pack, dict.fromkeys(failing, AGAIN), now_s) == []
                settled += [int(e.data) for i, e in enumerate(pack.entries) if i not in failing]
            else:
                if data.draw(st.booleans()):
                    service.take(pack, frozenset())
                assert machine.feed_lost(pack, LOST, now_s) == []
        else:
            now_s += 1.0
        if not waiting and not flying:
            break
    # Then the service recovers.
    while waiting:
        number, key = waiting.pop(0)
        machine.add(entry(key, b"%d" % number), now_s)
    for _ in range(2000):
        for pack in flying:
            service.take(pack, frozenset())
            machine.feed(pack, {}, now_s)
            settled += [int(e.data) for e in pack.entries]
        flying = []
        pack_or_none = machine.next_call(now_s)
        if pack_or_none is not None:
            flying.append(pack_or_none)
        elif machine.due_at_s() is None:
            break
        now_s += 1.0
    assert_in_order(service.log)
    assert sorted(settled) == list(range(len(keys)))
    assert machine.take_all() == []


def test_every_failure_pattern_of_a_small_world() -> None:
    """Exhaustive: six records of three keys, calls of two, one in flight; each record fails or not in each of its first two sends."""
    records = [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)]
    for pattern in product([False, True], repeat=12):
        machine, service, now_s, sends = packer(call_records_max=2), Service(), 0.0, Counter[int]()
        for key, number in records:
            machine.add(entry(key, b"%d" % number), now_s)
        while machine.due_at_s() is not None:
            pack = machine.next_call(now_s)
            if pack is None:
                now_s += 0.5
                continue
            failing = set()
            for index, e in enumerate(pack.entries):
                number = int(e.data)
                if sends[number] < 2 and pattern[number * 2 + sends[number]]:
                    failing.add(index)
                sends[number] += 1
            service.take(pack, frozenset(failing))
            machine.feed(pack, dict.fromkeys(failing, AGAIN), now_s)
        assert_in_order(service.log)
        assert sorted(number for _, number in service.log) == list(range(6))


def test_without_order_records_of_a_key_share_a_call() -> None:
    machine = packer(keep_order=False)
    for number in range(600):
        machine.add(entry("k", b"%d" % number), 0.0)
    first = machine.next_call(0.0)
    assert first is not None
    assert len(first.entries) == CALL_RECORDS_MAX
    second = machine.next_call(0.0)
    assert second is not None
    assert len(second.entries) == 100
    machine.feed(first, {0: AGAIN}, 0.0)
    machine.feed(second, {}, 0.0)
    again = machine.next_call(1.0)
    assert again is not None
    assert [e.data for e in again.entries] == [b"0"]


def test_a_call_stays_within_its_bytes() -> None:
    """Data and keys count; a record that does not fit opens the next call."""
    machine = packer(call_bytes_max=100, record_bytes_max=60)
    for key in "abc":
        machine.add(entry(key, b"x" * 39), 0.0)
    sizes = [pack.size_bytes for pack in calls(machine, 0.0)]
    assert sizes == [80, 40]


def calls(machine: Packer, now_s: float) -> Iterator[Pack]:
    while (pack := machine.next_call(now_s)) is not None:
        yield pack


def test_a_record_that_is_too_large_is_refused_and_changes_nothing() -> None:
    machine = packer(record_bytes_max=10)
    machine.add(entry("k", b"x" * 9), 0.0)
    with pytest.raises(RecordTooLarge, match="11 bytes"):
        machine.add(entry("k", b"x" * 10), 0.0)
    pack = machine.next_call(0.0)
    assert pack is not None
    machine.feed(pack, {}, 0.0)
    assert machine.due_at_s() is None
    assert machine.take_all() == []


def test_records_linger_until_full_or_late_or_hurried() -> None:
    machine = packer(linger_s=5.0, call_records_max=2)
    machine.add(entry("a"), 10.0)
    assert machine.next_call(14.9) is None
    assert machine.due_at_s() == 15.0
    machine.hurry = True
    assert machine.due_at_s() == 0.0
    machine.hurry = False
    assert machine.next_call(15.0) is not None
    machine.add(entry("b"), 20.0)
    full = [machine.is_full]
    machine.add(entry("c"), 20.0)
    assert [*full, machine.is_full] == [False, True]
    assert machine.next_call(20.0) is not None


def test_a_throttled_shard_backs_off_alone() -> None:
    """Records of its half of the hash space are held, also new ones; the other half goes on."""
    half = 2**127
    machine = packer(shard_ends=[half - 1, 2**128 - 1])
    machine.add(entry("low-1", hash_key="0"), 0.0)
    machine.add(entry("high-1", hash_key=str(half)), 0.0)
    pack = machine.next_call(0.0)
    assert pack is not None
    machine.feed(pack, {0: AGAIN}, 0.0)
    machine.add(entry("low-2", hash_key=str(half - 1)), 0.0)
    machine.add(entry("high-2", hash_key=str(2**128 - 1)), 0.0)
    now = machine.next_call(0.5)
    assert now is not None
    assert [e.partition_key for e in now.entries] == ["high-2"]
    assert machine.next_call(0.99) is None
    assert machine.due_at_s() == 1.0
    later = machine.next_call(1.0)
    assert later is not None
    assert [e.partition_key for e in later.entries] == ["low-1", "low-2"]


def test_overlapping_refusals_lengthen_the_wait_once_and_success_resets_it() -> None:
    machine = packer(call_records_max=1, shard_ends=[2**128 - 1])
    for key in "abcd":
        machine.add(entry(key), 0.0)
    for pack in list(calls(machine, 0.0)):
        machine.feed(pack, {0: AGAIN}, 0.0)
    assert machine.due_at_s() == 1.0
    packs = list(calls(machine, 1.0))
    machine.feed(packs[0], {0: AGAIN}, 1.0)
    assert machine.due_at_s() == 3.0
    for pack in packs[1:]:
        machine.feed(pack, {}, 1.0)
    [last] = calls(machine, 3.0)
    machine.feed(last, {0: AGAIN}, 3.0)
    assert machine.due_at_s() == 4.0


def test_a_lost_call_stops_everything_for_a_growing_while() -> None:
    machine = packer()
    machine.add(entry("a"), 0.0)
    for now_s, next_s in ((0.0, 1.0), (1.0, 3.0), (3.0, 6.0)):
        [pack] = calls(machine, now_s)
        assert machine.feed_lost(pack, LOST, now_s) == []
        machine.add(entry(f"new-{now_s}"), now_s)
        assert machine.due_at_s() == next_s
        assert machine.next_call(next_s - 0.01) is None
    [pack] = calls(machine, 6.0)
    assert [e.partition_key for e in pack.entries] == ["a", "new-0.0", "new-1.0", "new-3.0"]


def test_what_will_not_pass_fails_at_once_and_frees_its_key() -> None:
    machine = packer()
    machine.add(entry("a", b"0"), 0.0)
    machine.add(entry("a", b"1"), 0.0)
    [pack] = calls(machine, 0.0)
    assert [(e.data, failed) for e, failed in machine.feed(pack, {0: NEVER}, 0.0)] == [(b"0", NEVER)]
    [pack] = calls(machine, 0.0)
    assert [(e.data, failed) for e, failed in machine.feed_lost(pack, NEVER, 0.0)] == [(b"1", NEVER)]
    assert machine.due_at_s() is None


def test_a_record_is_given_up_after_its_time_wherever_it_is() -> None:
    """In a lost call, and while it waited behind its key."""
    machine = packer(record_ttl_s=10.0)
    machine.add(entry("k", b"0"), 0.0)
    machine.add(entry("k", b"1"), 0.0)
    machine.add(entry("j", b"2"), 0.0)
    [pack] = calls(machine, 0.0)
    gone = machine.feed_lost(pack, LOST, 10.0)
    assert [e.data for e, _ in gone] == [b"0", b"2"]
    assert machine.next_call(20.0) is None
    assert [e.data for e in machine.take_expired()] == [b"1"]
    assert machine.take_all() == []
    assert machine.due_at_s() is None


def test_a_throttled_record_is_given_up_after_its_time() -> None:
    machine = packer(record_ttl_s=10.0)
    machine.add(entry("k"), 0.0)
    [pack] = calls(machine, 0.0)
    assert machine.feed(pack, {0: AGAIN}, 9.0) == []
    assert machine.due_at_s() == 10.0
    assert machine.next_call(10.0) is None
    assert len(machine.take_expired()) == 1


def test_hash_keys_are_the_services() -> None:
    """MD5 of the key, big-endian; an explicit one replaces it (reference/kinesis-api.md, 5)."""
    assert hash_key_of(entry("a")) == 0x0CC175B9C0F1B6A831C399E269772661
    assert hash_key_of(entry("a", hash_key="17")) == 17
