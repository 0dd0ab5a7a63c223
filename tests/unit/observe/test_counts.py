"""AWS's event counts, from what a worker tells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamlet import App, Batch, FileDestination, Record
from streamlet.hooks import Invoked
from streamlet.observe.counts import NAMES, EventCounts
from streamlet.testing import run_worker


def counted(app: App, given: Any) -> dict[str, dict[str, int]]:
    counts = EventCounts(lambda: 0.0)
    for event in run_worker(app, given).events:
        counts(event)
    return counts.by_stream


@pytest.mark.parametrize("destination", [False, True])
def test_every_record_is_counted_for_what_became_of_it(destination: bool) -> None:
    """Ten records, three of which pass no filter; one of the seven fails three times, and is given up."""
    app = App("shop")
    on_failure = FileDestination("unused.jsonl") if destination else None

    @app.on_record("orders", filters=[{"data": {"take": [True]}}], maximum_retry_attempts=1, on_failure=on_failure)
    def handle(record: Record) -> None:
        if record.value["n"] == 9:
            raise ValueError("nine")

    counts = counted(app, [{"n": n, "take": n > 2} for n in range(10)])
    given_up = ("DroppedEventCount", "OnFailureDestinationDeliveredEventCount")
    assert counts == {
        "orders": dict.fromkeys(NAMES, 0)
        | {
            "PolledEventCount": 10,
            "FilteredOutEventCount": 3,
            "InvokedEventCount": 7 + 2,  # the partial success, and two attempts of what was left
            "FailedInvokeEventCount": 3,
            given_up[destination]: 1,
        }
    }


def test_streams_are_counted_apart_and_a_batch_that_raises_failed_as_a_whole() -> None:
    app = App("shop")
    app.on_record("orders")(lambda record: None)

    @app.on_batch("users", maximum_retry_attempts=1)
    async def handle(batch: Batch) -> None:
        await asyncio.sleep(1)
        raise ValueError("down")

    counts = counted(app, {"orders": [1, 2], "users": [1, 2, 3]})
    assert {stream: [numbers[name] for name in NAMES[:5]] for stream, numbers in counts.items()} == {
        "orders": [2, 0, 2, 0, 0],
        "users": [3, 0, 6, 6, 3],
    }


def test_the_iterator_age_is_that_of_the_last_record_when_its_call_ends() -> None:
    records = [Record(b"1", "k", str(n), 0, 1000.0 + n, "shard", "s") for n in range(3)]
    counts = EventCounts(lambda: 1010.5)
    counts(Invoked(stream="s", records=records, attempt=1, done=3))
    assert counts.by_stream["s"]["IteratorAge"] == 8500
    counts(Invoked(stream="s", records=(), attempt=1, done=0))  # the final call of a tumbling window
    assert counts.by_stream["s"]["IteratorAge"] == 8500


def test_a_clock_behind_the_services_makes_no_negative_age() -> None:
    counts = EventCounts(lambda: 0.0)
    counts(Invoked(stream="s", records=[Record(b"1", "k", "1", 0, 5.0, "shard", "s")], attempt=1, done=1))
    assert counts.by_stream["s"]["IteratorAge"] == 0
