"""Are sequence numbers laid out as the service's are?"""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamlet.broker import sequence


def test_two_numbers_printed_in_aws_docs_say_what_is_known_of_them() -> None:
    """Shard and put second of the documented examples (kinesis-api.md section 5), up to the digits that are printed."""
    made = sequence.make(1542776258, 6, 0x1234, 1545084650)
    assert str(made).startswith("49590338271490256608")
    assert sequence.parse(made) == sequence.Sequence(2, 6, 1542776258, 0x1234, 1545084650)


def test_neighbouring_shards_differ_by_a_fixed_step() -> None:
    start = [sequence.make(1_800_000_000, index, 0, 1_800_000_000) for index in range(3)]
    assert [b - a for a, b in pairwise(start)] == [2**144 + 16] * 2
    assert all(len(str(number)) == 56 for number in start)


def test_numbers_order_by_counter_then_second() -> None:
    a = sequence.make(1_800_000_000, 3, 1, 1_800_000_500)
    b = sequence.make(1_800_000_000, 3, 2, 1_800_000_000)
    assert a < b < sequence.make(1_800_000_000, 3, sequence.CLOSING_COUNTER, 0)


@pytest.mark.parametrize("number", [2**129, 2**185, 3 * 2**184, 2**185 + 7, 2**185 + 3, (3 * 2**184) - 1, 10**128])
def test_what_is_between_the_layouts_does_not_parse(number: int) -> None:
    assert sequence.parse(number) is None


def test_a_small_integer_is_of_version_0_with_a_shard_of_16_bits() -> None:
    found = sequence.parse(65536 + 5)
    assert found is not None
    assert (found.version, found.shard_index) == (0, 5)


def test_a_shard_field_of_the_upper_half_is_negative() -> None:
    found = sequence.parse(sequence.make(1_800_000_000, 2**32 - 1, 1, 1_800_000_000))
    assert found is not None
    assert found.shard_index == -1


def test_a_creation_too_far_in_the_future_or_a_counter_too_big_does_not_parse() -> None:
    assert sequence.parse(sequence.make(16_025_175_000, 0, 1, 1)) is None
    assert sequence.parse(sequence.make(1_800_000_000, 0, 2**63, 1)) is None
