"""Records across shards: the order, the pages, the search, and that one request does a bounded amount of work."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker.console.browse import SHARDS_MAX, Query, browse, record_at
from streamlet.broker.inline import InlineBroker
from streamlet.broker.stream import Stream


def stream_of(world: InlineBroker) -> Stream:
    return next(stream for stream in world.state.all_streams(world.state.now_ms) if stream.name == "s")


def put(world: InlineBroker, value: bytes, key: str) -> None:
    world.ask("PutRecord", StreamName="s", Data=base64.b64encode(value).decode(), PartitionKey=key)


def made(shards: int) -> InlineBroker:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=shards)
    return world


def pages(world: InlineBroker, **query: Any) -> list[list[dict[str, Any]]]:
    """All pages from the first to the last."""
    found, cursor = [], None
    while True:
        answer = browse(stream_of(world), Query("s", cursor=cursor, **query), world.state.now_ms)
        found.append(answer["records"])
        # Over the wire and back.
        cursor = json.loads(json.dumps(answer["cursor"]))
        if cursor is None:
            return found
        cursor = tuple((shard, position) for shard, position in cursor)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 500])), max_size=120),
    st.integers(1, 5),
    st.integers(1, 40),
    st.booleans(),
)
def test_all_pages_together_are_all_records_once_in_order(puts: list[tuple[int, int]], shards: int, limit: int, newest: bool) -> None:
    """Newest first or oldest first, whatever the page's size, with many records in one millisecond."""
    world = made(shards)
    for number, (key, pause_ms) in enumerate(puts):
        world.now_s += pause_ms / 1000
        put(world, b"%d" % number, f"key{key}")
    found = [row for page in pages(world, limit=limit, from_ms=None if newest else 0) for row in page]
    assert sorted(int(row["preview"]) for row in found) == list(range(len(puts)))
    assert [row["at_ms"] for row in found] == sorted((row["at_ms"] for row in found), reverse=newest)
    by_shard: dict[int, list[int]] = {}
    for row in found:
        by_shard.setdefault(row["shard"], []).append(row["position"])
    assert all(places == sorted(places, reverse=newest) for places in by_shard.values())


def test_records_that_come_while_somebody_turns_pages_move_nothing() -> None:
    """The second page goes on where the first ended."""
    world = made(2)
    for n in range(60):
        put(world, b"%d" % n, f"{n % 2}")
    first = browse(stream_of(world), Query("s", limit=10), world.state.now_ms)
    for n in range(60, 90):
        put(world, b"%d" % n, f"{n % 2}")
    second = browse(stream_of(world), Query("s", limit=10, cursor=tuple(map(tuple, first["cursor"]))), world.state.now_ms)
    seen = [int(row["preview"]) for row in first["records"] + second["records"]]
    assert len(set(seen)) == 20
    assert max(seen) == 59


def test_from_a_time_on() -> None:
    """The first record at or after it, across shards."""
    world = made(3)
    begin_ms = world.state.now_ms
    for n in range(30):
        put(world, b"%d" % n, f"key{n}")
        world.now_s += 1
    found = pages(world, from_ms=begin_ms + 10_000, limit=100)[0]
    assert [int(row["preview"]) for row in found] == list(range(10, 30))


def test_search_looks_into_keys_and_payloads_in_either_case() -> None:
    """Bytes of any kind; letters of ASCII match in either case."""
    world = made(2)
    put(world, b'{"name": "Ada"}', "k1")
    put(world, b"nothing", "customer-ADA")
    put(world, b"\xff\x00aDa\x00", "k2")
    put(world, b"none", "k3")
    assert sorted(row["key"] for row in pages(world, search="ada", limit=100)[0]) == ["customer-ADA", "k1", "k2"]
    assert pages(world, search="Ω", limit=100)[0] == []


def test_a_search_stops_and_says_where_it_was() -> None:
    """A few thousand records at a time; going on finds what lies beyond."""
    world = made(1)
    put(world, b"needle", "k")
    for _ in range(20):
        world.put(*["hay"] * 500)
    answer = browse(stream_of(world), Query("s", search="needle"), world.state.now_ms)
    assert answer["records"] == []
    assert answer["cursor"]
    assert 1000 <= answer["scanned"] <= 4100
    assert [row["preview"] for page in pages(world, search="needle") for row in page] == ["needle"]


def test_large_records_stop_it_earlier() -> None:
    """By bytes, too, and never without a step."""
    world = made(2)
    for n in range(24):
        put(world, b"x" * 1_000_000, f"{n % 5}")
    answer = browse(stream_of(world), Query("s", search="needle"), world.state.now_ms)
    assert 1 <= answer["scanned"] < 24
    assert sum(len(page) for page in pages(world)) == 24


def test_of_many_shards_the_newest_that_hold_records_are_merged() -> None:
    """What is left out is told; a shard that is named is looked at."""
    world = made(SHARDS_MAX + 20)
    width = 2**128 // (SHARDS_MAX + 20)
    for n in range(SHARDS_MAX + 10):
        world.ask("PutRecord", StreamName="s", Data="eA==", PartitionKey="k", ExplicitHashKey=str(width * n))
    answer = browse(stream_of(world), Query("s", limit=100), world.state.now_ms)
    assert answer["shards_left_out"] == 10
    assert len(answer["records"]) == SHARDS_MAX
    one = browse(stream_of(world), Query("s", shards=(3, 3, 999)), world.state.now_ms)
    assert [row["shard"] for row in one["records"]] == [3]


def test_a_reshard_leaves_records_in_parents() -> None:
    """Closed shards are part of the merge."""
    world = made(1)
    put(world, b"before", "k")
    world.now_s += 1
    world.ask("SplitShard", StreamName="s", ShardToSplit="0", NewStartingHashKey=str(2**127))
    put(world, b"after", "k")
    assert [row["preview"] for row in pages(world)[0]] == ["after", "before"]


def test_expired_records_are_not_shown() -> None:
    """By the stream's retention."""
    world = made(1)
    put(world, b"old", "k")
    world.now_s += 25 * 3600
    assert pages(world) == [[]]
    put(world, b"new", "k")
    assert [row["preview"] for row in pages(world)[0]] == ["new"]
    shard = stream_of(world).shards[0]
    assert record_at(shard, 1, world.state.now_ms) is None
    assert record_at(shard, 3, world.state.now_ms) is None
    found = record_at(shard, 2, world.state.now_ms)
    assert found is not None
    assert found[1] == b"new"


@pytest.mark.parametrize("cursor", [((0, -5),), ((0, 2**70),), ((77, 1),), ((-1, 1),), ()])
def test_a_cursor_that_was_not_ours(cursor: tuple[tuple[int, int], ...]) -> None:
    """Any numbers: an answer, and no more than there is."""
    world = made(1)
    world.put("a", "b")
    for from_ms in (None, 0):
        assert len(browse(stream_of(world), Query("s", cursor=cursor, from_ms=from_ms), world.state.now_ms)["records"]) <= 2


def test_a_record_without_a_partition_key() -> None:
    """Streams that distribute records by themselves have them."""
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", StreamModeDetails={"StreamMode": "ON_DEMAND"}, RecordDistributionStrategy="AUTO")
    world.ask("PutRecord", StreamName="s", Data="eA==")
    (row,) = pages(world, search="x")[0]
    assert (row["key"], row["preview"]) == ("", "x")
