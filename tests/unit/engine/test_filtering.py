"""Filter criteria in the engine: what passes no filter is settled, reaches no handler, and holds no checkpoint back."""

from __future__ import annotations

from typing import Any

import pytest

from streamlet import App, EventSourceMapping
from streamlet.errors import ConfigurationError
from streamlet.hooks import BatchSettled, RangeCommitted, RangePrepared, RecordsFiltered
from streamlet.model.position import TRIM_HORIZON
from streamlet.model.record import Record
from tests.unit.engine.worlds import STREAM, Documents, Files, checkpoints, world

SHARD = "shardId-000000000000"
BIG = [{"data": {"n": [{"numeric": [">=", 90]}]}}]
NONE = [{"data": {"n": [-1]}}]


@pytest.mark.parametrize("factor", [1, 4])
async def test_only_what_passes_reaches_the_handler_and_all_of_it_is_settled(factor: int) -> None:
    seen: list[int] = []
    app = App("numbers")

    @app.on_record(STREAM, filters=BIG, parallelization_factor=factor)
    def handle(record: Record) -> None:
        seen.append(record.value["n"])

    async with world(app) as w:
        await w.put(range(100))
        async with w.worker():
            await w.until(lambda: len(seen) == 10)
        assert sorted(seen) == list(range(90, 100))
        assert sum(event.records for event in w.of(RecordsFiltered)) == 90
        # A second worker begins behind everything, the filtered records too.
        w.events.clear()
        async with w.worker():
            await w.put([95])
            await w.until(lambda: len(seen) == 11)
        assert not w.of(RecordsFiltered)


async def test_a_batch_counts_only_what_passes() -> None:
    app = App("numbers")
    sizes: list[int] = []

    @app.on_batch(STREAM, filters=[{"data": {"n": [{"numeric": ["<", 60]}]}}], batch_size=20)
    def handle(batch: Any) -> None:
        sizes.append(len(batch))

    async with world(app) as w:
        await w.put(range(100))
        async with w.worker():
            await w.until(lambda: sum(event.records for event in w.of(BatchSettled)) == 60)
    assert sizes == [20, 20, 20]


async def test_the_checkpoint_follows_where_nothing_passes() -> None:
    app = App("numbers")
    seen: list[Record] = []
    app.on_record(STREAM, filters=NONE)(seen.append)
    async with world(app) as w:
        await w.put(range(30))
        async with w.worker():
            await w.until(lambda: checkpoints(w.store).get(SHARD, TRIM_HORIZON) > TRIM_HORIZON)
    assert seen == []


async def test_a_sinks_checkpoint_follows_where_nothing_passes_and_writes_no_file() -> None:
    app, sink = App("numbers"), Files()
    app.on_record(STREAM, sink=sink, filters=NONE)(lambda record: record.value["n"])
    async with world(app) as w:
        await w.put(range(30))
        async with w.worker():
            await w.until(lambda: checkpoints(w.store).get(SHARD, TRIM_HORIZON) > TRIM_HORIZON)
        assert not w.of(RangePrepared)
        assert not sink.files
        w.events.clear()
        async with w.worker():
            await w.put([30])
            await w.until(lambda: bool(w.of(RecordsFiltered)))
        assert [event.records for event in w.of(RecordsFiltered)] == [1], "what was filtered is not read again"


async def test_a_prepared_range_is_completed_through_the_same_filters() -> None:
    """Event 1: a worker prepares a range in which some records passed no filter, and dies. Event 2: the next one makes the
    same files, which the filtered records would change if they came through."""
    app, sink, documents = App("numbers"), Files(rows_max=10), Documents()

    @app.on_record(STREAM, sink=sink, filters=[{"data": {"n": list(range(1, 40, 2))}}], batch_size=25, on_failure=documents,
                   maximum_retry_attempts=0, bisect_batch_on_function_error=True)  # fmt: skip
    def handle(record: Record) -> int:
        if record.value["n"] == 33:
            raise ValueError("poison")
        return int(record.value["n"])

    async with world(app) as w:
        await w.put(range(40))
        sink.refuse = 1000
        async with w.worker(crash=True):
            await w.until(lambda: bool(w.of(RangePrepared)))
        sink.refuse = 0
        async with w.worker():
            await w.until(lambda: sum(event.rows for event in w.of(RangeCommitted)) == 19)
        assert w.of(RangeCommitted)[0].replayed
    assert sorted(sink.rows) == [n for n in range(1, 40, 2) if n != 33]
    assert documents.values == [33]


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ("{}", "must be a list"),
        ({"data": {"n": [1]}}, "must be a list"),
        (["not JSON"], "filter 1"),
        ([{"data": {"n": 1}}], "filter 1"),
        ([{"data": {"n": [1]}}] * 6, "5"),
        ([{"partitionKey": ["a"]}], "data"),
    ],
)
def test_what_aws_refuses_is_refused_when_the_mapping_is_built(filters: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        EventSourceMapping(filters=filters)
