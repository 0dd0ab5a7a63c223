"""Uses of the public face, for the type checker only (nothing here runs; `make check` reads it).

The lines with an ignore must fail to check: mypy is told to complain about an ignore that is not needed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import assert_type

from streamlet import (
    App,
    Batch,
    Consumer,
    DynamoDBIdempotency,
    EventSourceMapping,
    FileDestination,
    ParquetSink,
    Position,
    Producer,
    Record,
    RecordFailed,
    Roll,
    S3Object,
    StreamletError,
    Window,
    Worker,
    WorkerOptions,
    lambda_context,
)
from streamlet.observe.counts import EventCounts
from streamlet.ports import IdempotencyStore, LeaseStore
from streamlet.stores.sqlite import SqliteLeaseStore
from streamlet.testing import aggregate
from streamlet.testing.contracts import IdempotencyStoreContract, LeaseStoreContract
from streamlet.testing.plugin import RunWorker

app = App("typed")


@app.on_record("a", batch_size=10)
async def one(record: Record) -> None:
    assert_type(record.data, bytes)
    assert_type(record.position, Position)
    assert_type(record.arrived_at_s, float)


@app.on_batch("b", sink=ParquetSink("memory://", schema={"n": "int64"}, roll=Roll(rows_max=10)))
def many(batch: Batch) -> list[dict[str, int]]:
    for record in batch:
        assert_type(record, Record)
    return [{"n": n} for n in range(len(batch))]


@app.on_record("c", concurrency=4, idempotency=DynamoDBIdempotency("done"), idempotency_key=lambda record: record.partition_key)
async def spared(record: Record) -> None:
    if (context := lambda_context()) is not None:
        assert_type(context.remaining_s(), float)


@app.on_window("d", tumbling_window_s=60)
def window(batch: Batch, state: dict[str, int]) -> dict[str, int]:
    assert_type(batch.window, Window | None)
    if not state:
        raise RecordFailed(batch.records[0], state={"n": 1})
    return state


@app.on_s3("landing")
async def landed(thing: S3Object) -> None:
    assert_type(thing.size, int | None)


# A decorated function keeps its own type.
assert_type(many(Batch([], "b", "shard")), list[dict[str, int]])


@app.lifespan
async def lifespan(app: App) -> AsyncIterator[None]:
    yield


async def loops() -> None:
    async with Consumer("s", state=own_leases, on_failure=FileDestination("f.jsonl"), maximum_retry_attempts=1) as consumer:
        async for batch in consumer:
            assert_type(batch.batch, Batch)
            await batch.ack()
        consumer.pause()
        consumer.resume()
    async with Producer("s") as producer:
        pending = await producer.put(b"x", "key")
        assert_type((await pending).sequence_number, str)
    counts = EventCounts(time.time)
    worker = Worker(app, WorkerOptions(state="memory://", listeners=(counts,)))
    worker.pause("a")
    assert_type(await worker.run(), list[StreamletError])
    assert_type(counts.by_stream["a"]["IteratorAge"], int)


def own_leases(table: str) -> LeaseStore:
    return SqliteLeaseStore("leases.db", table=table)


class TestOwnLeases(LeaseStoreContract):
    def connect(self) -> LeaseStore:
        return own_leases("shop.orders")


class TestOwnMarkers(IdempotencyStoreContract):
    def connect(self) -> IdempotencyStore:
        return DynamoDBIdempotency("done")

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)


def test_with(run_worker: RunWorker) -> None:
    report = run_worker(app, [aggregate(1, 2, key=str), 3])
    assert_type(report.invocations[0].done, int)


Worker(app, WorkerOptions(state=own_leases))
app.run(state=own_leases)
WorkerOptions(state=SqliteLeaseStore("leases.db"))  # type: ignore[arg-type]


EventSourceMapping(batch_size="many")  # type: ignore[arg-type]
EventSourceMapping(5)  # type: ignore[call-arg]
App()  # type: ignore[call-arg]
app.deliver("s")  # type: ignore[call-arg]
Roll(10)  # type: ignore[call-arg]
Record("text", "key", "1")  # type: ignore[arg-type]
app.on_record("e", idempotency="table")  # type: ignore[arg-type]
