"""async-kinesis as its README uses it, with its own rate limits lifted as far as its options go, and bytes left as they are."""

from __future__ import annotations

import asyncio
from typing import Any

from common import RECORD_BYTES, Meter, main, payloads  # type: ignore[import-not-found]  # it lies beside this program
from kinesis import Consumer, Producer
from kinesis.aggregators import SimpleAggregator
from kinesis.processors import Processor

UNLIMITED = 10_000_000


class Bytes(Processor, SimpleAggregator):  # type: ignore[misc]
    """Payloads are bytes on both sides."""

    def serialize(self, item: bytes) -> bytes:
        return item

    def deserialize(self, data: bytes) -> Any:
        return data


async def _consume(url: str, records: int) -> None:
    meter, got, size = Meter(records), 0, 0
    async with Consumer(
        "bench",
        endpoint_url=url,
        processor=Bytes(),
        record_limit=1_000,
        shard_fetch_rate=UNLIMITED,
        sleep_time_no_records=0.01,
        iterator_type="TRIM_HORIZON",
    ) as consumer:
        while got < records:
            async for record in consumer:
                size += len(record)
                got += 1
                if got == meter.warm:
                    meter.at(got)
                if got >= records:
                    break
        meter.end(got if size == got * RECORD_BYTES else 0)


async def _produce(url: str, records: int) -> None:
    data, meter = payloads(), Meter(records)
    async with Producer(
        "bench",
        endpoint_url=url,
        processor=Bytes(),
        put_rate_limit_per_shard=UNLIMITED,
        put_bandwidth_limit_per_shard=UNLIMITED,
    ) as producer:
        for first, last in ((0, meter.warm), (meter.warm, records)):
            for n in range(first, last):
                await producer.put(data[n % len(data)], partition_key=f"customer-{n}")
            await producer.flush()
            # It has no result per record; a failed call is retried within it.
            meter.at(last)
        meter.end(records)


main(lambda url, records: asyncio.run(_consume(url, records)), lambda url, records: asyncio.run(_produce(url, records)))
