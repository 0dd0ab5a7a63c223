"""Does a shard keep its books? Sizes, totals and positions across trims, without requests around them."""

from __future__ import annotations

import pytest

from streamlet.broker.limits import READ_BYTES_MAX
from streamlet.broker.shard import Shard

HALF = READ_BYTES_MAX // 2


def shard_with(*sizes: int) -> Shard:
    """Records of made-up sizes, one per millisecond from 1000 on."""
    shard = Shard(0, 0, 2**128 - 1, creation_s=0, created_ms=0)
    for place, size in enumerate(sizes):
        shard.append("", "k", size, 1000 + place)
    return shard


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ((HALF, HALF, 1), [2, 1]),
        ((HALF, HALF + 1), [1, 1]),
        ((READ_BYTES_MAX, 0, 1), [2, 1]),
        ((1, READ_BYTES_MAX), [1, 1]),
        ((READ_BYTES_MAX + 5, 1), [1, 1]),  # larger than an answer may be: alone, but not stuck
    ],
)
def test_how_many_fit_into_an_answer(sizes: tuple[int, ...], counts: list[int]) -> None:
    shard = shard_with(*sizes)
    position, found = 0, []
    while position < shard.tip:
        read = shard.read(position, 10_000, READ_BYTES_MAX, 2000)
        found.append(len(read.fragments))
        position = read.position
    assert found == counts


def test_totals_stay_right_when_the_beginning_is_dropped() -> None:
    """Dropped records count neither for nor against what an answer may hold."""
    shard = shard_with(*[HALF] * 10_000)
    shard.trim(1000 + 9_997)
    assert shard.trimmed == 9_997
    assert 9_997 - 128 < shard.dropped <= 9_997  # by whole blocks
    assert len(shard.read(0, 10, READ_BYTES_MAX, 99_999).fragments) == 2
    shard.append("", "k", HALF, 99_999)
    assert shard.read(10_000, 10, READ_BYTES_MAX, 99_999).position == 10_002
    shard.trim(10**9)
    assert (shard.trimmed, shard.tip) == (10_001, 10_002)
    shard.append("", "k", HALF, 10**9)
    assert len(shard.read(0, 10, READ_BYTES_MAX, 10**9).fragments) == 1


def test_a_read_inside_the_trimmed_part_begins_behind_it() -> None:
    shard = shard_with(*[1] * 10)
    shard.trim(1003)
    assert (shard.trimmed, shard.dropped) == (3, 0)
    read = shard.read(2, 2, READ_BYTES_MAX, 2000)
    assert (len(read.fragments), read.position, read.behind_ms) == (2, 6, 2000 - 1004)


def test_a_closed_shard_ends_where_its_records_end() -> None:
    shard = shard_with(1, 1)
    shard.close(2, 2000)
    assert not shard.read(1, 1, READ_BYTES_MAX, 3000).at_end
    assert shard.read(2, 1, READ_BYTES_MAX, 3000).at_end
    assert shard.read(3, 1, READ_BYTES_MAX, 3000).at_end
