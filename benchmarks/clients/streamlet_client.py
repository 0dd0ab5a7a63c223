"""streamlet as a program uses it: `Consumer` with batches that are acknowledged, `Producer` with a result per record."""

from __future__ import annotations

import asyncio

from common import RECORD_BYTES, Meter, main, payloads  # type: ignore[import-not-found]  # it lies beside this program

from streamlet import Consumer
from streamlet.producer import Producer


async def _consume(url: str, records: int) -> None:
    meter, got, size = Meter(records), 0, 0
    async with Consumer("bench", endpoint_url=url, region="us-east-1", batch_size=1_000, starting_position="TRIM_HORIZON") as consumer:
        async for batch in consumer:
            for record in batch:
                size += len(record.data)
            got += len(batch)
            await batch.ack()
            meter.at(got)
            if got >= records:
                meter.end(got if size == got * RECORD_BYTES else 0)
                break


async def _produce(url: str, records: int) -> None:
    data, meter = payloads(), Meter(records)
    async with Producer("bench", endpoint_url=url, region="us-east-1") as producer:
        done = 0
        for first, last in ((0, meter.warm), (meter.warm, records)):
            pending = [await producer.put(data[n % len(data)], f"customer-{n}") for n in range(first, last)]
            await producer.flush()
            done += len([await result for result in pending])
            meter.at(done)
        meter.end(done)


main(lambda url, records: asyncio.run(_consume(url, records)), lambda url, records: asyncio.run(_produce(url, records)))
