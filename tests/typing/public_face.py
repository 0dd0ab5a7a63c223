"""Uses of the public face, for the type checker only (nothing here runs; `make check` reads it).

The lines with an ignore must fail to check: mypy is told to complain about an ignore that is not needed.
"""

from __future__ import annotations

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
    Roll,
    S3Object,
    Window,
    lambda_context,
)

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
    async with Consumer("s", on_failure=FileDestination("f.jsonl"), maximum_retry_attempts=1) as consumer:
        async for batch in consumer:
            assert_type(batch.batch, Batch)
            await batch.ack()
    async with Producer("s") as producer:
        pending = await producer.put(b"x", "key")
        assert_type((await pending).sequence_number, str)


EventSourceMapping(batch_size="many")  # type: ignore[arg-type]
EventSourceMapping(5)  # type: ignore[call-arg]
App()  # type: ignore[call-arg]
app.deliver("s")  # type: ignore[call-arg]
Roll(10)  # type: ignore[call-arg]
Record("text", "key", "1")  # type: ignore[arg-type]
app.on_record("e", idempotency="table")  # type: ignore[arg-type]
