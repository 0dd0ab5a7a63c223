"""Can a lease store of one's own be used? Worker, Consumer and App.run take a function that makes one."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import pytest

from streamlet import App, ConfigurationError, Consumer, Worker, WorkerOptions
from streamlet.broker import Broker
from streamlet.model.position import TRIM_HORIZON
from streamlet.ports import LeaseStore
from streamlet.stores.memory import MemoryLeaseStore


class Tables:
    """A database in memory: it makes a store for each table's name, and keeps it."""

    def __init__(self) -> None:
        self.made: dict[str, MemoryLeaseStore] = {}

    def __call__(self, table: str) -> LeaseStore:
        return self.made.setdefault(table, MemoryLeaseStore())


async def test_a_worker_keeps_its_checkpoints_in_a_store_of_ones_own() -> None:
    tables, app, seen = Tables(), App("shop"), list[Any]()
    async with Broker() as broker:
        for stream in ("orders", "refunds"):
            broker.create_stream(stream)
            broker.call("PutRecord", StreamName=stream, Data=b64encode(stream.encode()).decode(), PartitionKey="key")
        options = WorkerOptions(endpoint_url=broker.endpoint_url, state=tables, poll_interval_s=0.02)

        def handle(record: Any) -> None:
            seen.append(record.data)
            if len(seen) == 2:
                worker.stop()

        app.on_record("orders")(handle)
        app.on_record("refunds")(handle)
        worker = Worker(app, options)
        async with asyncio.timeout(30):
            assert await worker.run() == []
    assert sorted(seen) == [b"orders", b"refunds"]
    assert sorted(tables.made) == ["shop.orders", "shop.refunds"]
    for store in tables.made.values():
        [lease] = store.scan()
        assert lease.checkpoint > TRIM_HORIZON


async def test_a_consumer_goes_on_where_its_store_says() -> None:
    tables = Tables()
    async with Broker() as broker, asyncio.timeout(30):
        broker.create_stream("orders")
        for data in (b"1", b"2"):
            broker.call("PutRecord", StreamName="orders", Data=b64encode(data).decode(), PartitionKey="key")
            async with Consumer("orders", name="mine", endpoint_url=broker.endpoint_url, state=tables, poll_interval_s=0.02) as consumer:
                async for batch in consumer:
                    assert [record.data for record in batch] == [data]
                    await batch.ack()
                    break
    assert list(tables.made) == ["mine.orders"]


@pytest.mark.parametrize("state", [MemoryLeaseStore(), 5, b"memory://"])
def test_what_makes_no_store_is_refused(state: Any) -> None:
    """A store, too: an app with two streams would mix up their shards in one table."""
    with pytest.raises(ConfigurationError, match="lambda table: MyStore"):
        WorkerOptions(state=state)
