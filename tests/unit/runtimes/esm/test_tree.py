"""Invocations as a tree: where a piece stands, what a line says, when a batch is told to be settled."""

from __future__ import annotations

from typing import Any

import pytest

from streamlet.hooks import Draining, RecordsGivenUp
from streamlet.runtimes.esm.mapping import FunctionPrinted, InvocationEnded
from streamlet.runtimes.esm.tree import ERROR_CHARS_MAX, Tree

SHARD = "shardId-000000000012"


class Told:
    def __init__(self, **options: Any) -> None:
        self.tree = Tree(**options)
        self.lines: list[str] = []
        self.kinds: list[str] = []
        self.now_s = 100.0

    def ran(self, start: int, stop: int, outcome: str, *, first: int = 0, **fields: Any) -> None:
        """Records start … stop - 1 of the batch that begins at sequence number `first`."""
        numbers = tuple(str(first + n) for n in range(start, stop))
        told: dict[str, Any] = {"shard_id": SHARD, "lane": 0, "attempt": 1, "duration_s": 0.012, "memory_bytes": 41 * 1_048_576} | fields
        self.event(InvocationEnded(stream="s", sequence_numbers=numbers, outcome=outcome, **told))

    def gave_up(self, first: int, count: int, target: str = "arn:q") -> None:
        self.event(
            RecordsGivenUp(
                stream="s",
                shard_id=SHARD,
                first=str(first),
                last=str(first + count - 1),
                records=count,
                condition="RetryAttemptsExhausted",
                error="no amount",
                delivered_to=target,
            )
        )

    def event(self, event: Any) -> None:
        self.now_s += 1
        for line in self.tree.feed(event, self.now_s, "14:03:07"):
            self.lines.append(line.text)
            self.kinds.append(line.kind)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_batch_that_succeeds_is_one_line(told: Told) -> None:
    told.ran(0, 8, "ok")
    told.ran(0, 3, "ok", first=8)
    assert told.lines == [
        "14:03:07  12   #1    1-8               ok           12 ms    41 MB",
        "14:03:07  12   #2    1-3               ok           12 ms    41 MB",
    ]


def test_a_bisect_can_be_followed(told: Told) -> None:
    told.ran(0, 4, "failed", error_type="ValueError", error="no\n amount", init_s=0.3, sandbox=2)
    told.ran(0, 2, "ok")
    told.ran(2, 4, "failed")
    told.ran(2, 3, "failed")
    told.ran(2, 3, "failed", attempt=2)
    told.gave_up(2, 1)
    told.ran(3, 4, "ok")
    assert [line[10:] for line in told.lines] == [
        "12   #1    1-4               FAILED       12 ms    41 MB  cold start 300 ms in sandbox 2  ValueError: no amount",
        "12   #1      1-2             ok           12 ms    41 MB",
        "12   #1      3-4             FAILED       12 ms    41 MB",
        "12   #1        3             FAILED       12 ms    41 MB",
        "12   #1        3             FAILED       12 ms    41 MB  attempt 2",
        "12   #1        3             GIVEN UP  RetryAttemptsExhausted, to arn:q",
        "12   #1        4             ok           12 ms    41 MB",
        "12   #1    settled after 6 invocations in 6.01 s: 3 done, 1 given up",
    ]
    assert told.kinds == ["bad", "ok", "bad", "bad", "bad", "bad", "ok", "dim"]
    assert told.tree.summary() == "6 invocations, 1 cold, 3 records done, 1 given up"


def test_a_partial_response_says_what_is_left(told: Told) -> None:
    told.ran(0, 4, "partial", failed_from=1)
    told.ran(1, 4, "ok")
    assert [line[10:] for line in told.lines] == [
        "12   #1    1-4               PARTIAL      12 ms    41 MB  record 2 and what follows it failed",
        "12   #1      2-4             ok           12 ms    41 MB",
        "12   #1    settled after 2 invocations in 1.01 s: 4 done, 0 given up",
    ]


def test_a_throttle_is_told_apart(told: Told) -> None:
    told.ran(0, 2, "throttled")
    told.ran(0, 2, "ok")
    assert "no attempt" in told.lines[0]
    assert len(told.lines) == 2
    assert told.tree.summary() == "1 invocation, 0 cold, 1 throttled, 2 records done, 0 given up"


def test_slots_have_batches_of_their_own() -> None:
    told = Told(lanes=True)
    told.ran(0, 2, "failed", lane=1)
    told.ran(0, 2, "failed", first=10, lane=2)
    told.ran(0, 1, "ok", lane=1)
    told.ran(0, 2, "ok", first=10, lane=2)
    assert [line[10:22].split() for line in told.lines if "settled" not in line] == [[f"12/{n}", f"#{n}"] for n in (1, 2, 1, 2)]


def test_records_too_old_to_be_tried_stand_alone(told: Told) -> None:
    told.gave_up(7, 2, target="")
    assert told.lines == [
        "14:03:07  12   2 records GIVEN UP  RetryAttemptsExhausted, DROPPED, there is no --on-failure; sequence numbers 7 to 8"
    ]


def test_what_a_function_prints_stands_beside_it(told: Told) -> None:
    told.event(FunctionPrinted(stream="s", sandbox=3, request_id="r", line="hello"))
    told.event(Draining(stream="s"))
    told.ran(0, 1, "failed", error="x" * 1_000)
    assert told.lines[0] == "14:03:07  sandbox 3 │ hello"
    assert told.lines[1].endswith("x" * ERROR_CHARS_MAX + "…")


def test_numbers_with_leading_zeros_are_numbers(told: Told) -> None:
    """As some brokers write them; events of the engine have none."""
    fields: dict[str, Any] = {"shard_id": SHARD, "lane": 0, "attempt": 1, "duration_s": 0.012, "memory_bytes": 1}
    told.event(InvocationEnded(stream="s", sequence_numbers=("007",), outcome="failed", error="no amount", **fields))
    told.gave_up(7, 1, target="")
    assert told.lines[1].endswith("GIVEN UP  RetryAttemptsExhausted, DROPPED, there is no --on-failure; sequence number 7")
    assert told.tree.summary() == "1 invocation, 0 cold, 0 records done, 1 given up"
    assert "#1 " in told.lines[1], "it is the batch's"


def test_an_error_cannot_move_the_cursor(told: Told) -> None:
    told.ran(0, 1, "failed", error_type="ValueError", error="\x1b[2J\x07 gone\nand more")
    assert told.lines[0].isprintable()
    assert told.lines[0].endswith("[2J\N{REPLACEMENT CHARACTER} gone and more")
