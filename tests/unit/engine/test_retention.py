"""A record that retention removes while its handler fails: AWS does not say what becomes of it (reference: sections 3 and 13)."""

from __future__ import annotations

from typing import Any

import pytest

from streamlet import App, Record
from streamlet.testing import NotDrained, VirtualBroker, run_worker

DAY_S = 24 * 3600.0


def app(seen: list[Any], down: list[bool]) -> App:
    """The first record fails while there is something in `down`."""
    made = App("shop")

    @made.on_record("orders", batch_size=1)
    def handle(record: Record) -> None:
        if record.value == 1 and down:
            down.pop()
            raise ValueError("down")
        seen.append(record.value)

    return made


def gone(broker: VirtualBroker) -> bool:
    shard = broker.call("ListShards", StreamName="orders")["Shards"][0]["ShardId"]
    iterator = broker.call("GetShardIterator", StreamName="orders", ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    return b'"Data":"MQ=="' not in b"".join(broker.call("GetRecords", ShardIterator=iterator))


def test_a_worker_that_has_read_it_goes_on_trying_it_from_memory() -> None:
    """Event 1: it is read, and its handler fails. Event 2: a day passes in the stream. Event 3: the handler works again."""
    seen: list[Any] = []
    broker = VirtualBroker()
    broker.put("orders", 1, 2)
    assert not gone(broker)
    trimmed: list[bool] = []

    def a_day_passes() -> None:
        broker.advance(DAY_S + 60)
        trimmed.append(gone(broker))
        broker.put("orders", 3)

    broker.at(5, a_day_passes)
    report = run_worker(app(seen, [True] * 5), broker)
    assert trimmed == [True], "the stream does not hold it any more"
    assert report.elapsed_s > 10, "it failed until long after that"
    assert seen == [1, 2, 3]
    assert not report.given_up


def test_a_worker_that_begins_after_that_never_sees_it_and_goes_on_with_what_is_there() -> None:
    seen: list[Any] = []
    broker = VirtualBroker()
    broker.put("orders", 1, 2)
    with pytest.raises(NotDrained):
        run_worker(app(seen, [True] * 1000), broker, time_max_s=60)
    broker.advance(DAY_S + 60)
    broker.put("orders", 3)
    assert gone(broker)
    report = run_worker(app(seen, []), broker)
    assert seen == [3]
    assert not report.given_up, "nobody is told: AWS documents no notice"
    assert not report.troubles
