"""What the engine's tests stand on: a stream with numbered records, workers over it that can crash, destinations and files under control."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamlet import App
from streamlet.broker import Broker
from streamlet.clock import SystemClock, SystemRandom, ThreadExecutor
from streamlet.core.rolling import Roll
from streamlet.engine.supervisor import Supervisor
from streamlet.errors import SinkError
from streamlet.hooks import Event
from streamlet.kinesis.client import KinesisClient
from streamlet.ports import FailureDocument, LeaseStore, SinkObject
from streamlet.producer import Producer
from streamlet.sinks.memory import MemorySink
from streamlet.sources.polling import PollingSource
from streamlet.stores.memory import MemoryLeaseStore

STREAM = "numbers"


class Documents:
    """A destination that keeps what it is sent, and refuses the first few."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.sent: list[FailureDocument] = []

    def send(self, document: FailureDocument) -> None:
        if self.refuse:
            self.refuse -= 1
            raise SinkError("the queue is away")
        self.sent.append(document)

    @property
    def values(self) -> list[int]:
        return sorted(json.loads(record.data)["n"] for document in self.sent for record in document.records)


class Files(MemorySink):
    """The memory sink, rolling fast, with a store that can be told to fail or to wait."""

    def __init__(self, *, rows_max: int = 40, refuse: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.roll = Roll(rows_max=rows_max, age_max_s=0.2)
        self.refuse = refuse
        self.gate: threading.Event | None = None
        self.overwritten = 0

    def put_if_absent(self, item: SinkObject) -> bool:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.refuse:
            self.refuse -= 1
            raise SinkError("the bucket is away")
        return super().put_if_absent(item)


class World:
    """A stream with numbered records, and workers over it that can crash."""

    def __init__(self, broker: Broker, app: App, store: LeaseStore) -> None:
        self.broker, self.app, self.store = broker, app, store
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.failures: list[Exception] = []

    def listen(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.news.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self.news.wait()
                except TimeoutError:
                    pass

    async def put(self, numbers: Sequence[int]) -> None:
        async with Producer(STREAM, endpoint_url=self.broker.endpoint_url) as producer:
            await producer.put_many([(json.dumps({"n": n}).encode(), f"key-{n % 7}") for n in numbers])

    @asynccontextmanager
    async def worker(self, *, crash: bool = False) -> AsyncIterator[Supervisor]:
        """A worker that drains at the end of the block, or with `crash` just stops where it is."""
        clock, executor = SystemClock(), ThreadExecutor()
        async with KinesisClient("us-east-1", self.broker.endpoint_url, clock=clock) as client:
            spec = self.app.consumers[0]
            source = PollingSource(
                client, STREAM, clock=clock, random=SystemRandom(), decoder=spec.decoder, poll_interval_s=0.02, reads_per_second_max=None
            )
            supervisor = Supervisor(
                spec,
                source=source,
                store=self.store,
                worker_id=f"worker-{random.random()}",
                clock=clock,
                random=SystemRandom(),
                executor=executor,
                listeners=[self.listen],
                failover_s=0.3,
                shard_sync_s=0.3,
            )
            async with asyncio.TaskGroup() as tg:
                running = tg.create_task(supervisor.run())
                try:
                    yield supervisor
                finally:
                    if crash:
                        running.cancel()
                    else:
                        supervisor.stop()
        executor.close()
        self.failures += supervisor.failures


@asynccontextmanager
async def world(app: App, *, shards: int = 1, store: LeaseStore | None = None) -> AsyncIterator[World]:
    async with Broker(streams={STREAM: shards}) as broker:
        yield World(broker, app, store or MemoryLeaseStore())


def checkpoints(store: LeaseStore) -> dict[str, Any]:
    return {lease.key: lease.checkpoint for lease in store.scan()}
