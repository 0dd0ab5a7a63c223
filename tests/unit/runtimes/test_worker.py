"""What a worker puts together, it takes apart: destinations are closed, whatever else is stuck or broken."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamlet import App
from streamlet.errors import SinkError
from streamlet.ports import FailureDocument
from streamlet.runtimes.worker import WorkerOptions, supervised

OPTIONS = WorkerOptions(endpoint_url="http://127.0.0.1:1", state="memory://")


class Queue:
    """A destination with something to give back."""

    def __init__(self, *, broken: bool = False) -> None:
        self.closed, self.broken = 0, broken

    def send(self, document: FailureDocument) -> None:
        raise AssertionError("nothing is given up here")

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise SinkError("cannot be closed")


def app(*queues: Queue) -> App:
    made = App("closing")
    for number, queue in enumerate(queues):
        made.on_batch(f"stream-{number}", on_failure=queue, maximum_retry_attempts=1)(lambda batch: None)
    return made


async def test_handlers_that_outlived_the_drain_do_not_hold_up_the_end() -> None:
    """Event 1: the drain's time is over, and sync handlers still hold every thread. Event 2: the destination is to be closed on
    one of those threads. The worker would never end."""
    queue, gate, begun = Queue(), threading.Event(), threading.Semaphore(0)

    def stuck() -> None:
        begun.release()
        gate.wait(20)

    consumers = app(queue).consumers
    async with asyncio.timeout(15):
        try:
            async with supervised(consumers, OPTIONS, "closing") as supervisors:
                running = [asyncio.ensure_future(supervisors[0]._executor.run(stuck)) for _ in range(8)]
                for _ in running:
                    await asyncio.to_thread(begun.acquire)
            assert queue.closed == 1
        finally:
            gate.set()
        await asyncio.gather(*running)


async def test_each_destination_is_closed_though_another_cannot_be() -> None:
    first, broken, last = Queue(), Queue(broken=True), Queue()
    with pytest.raises(SinkError, match="cannot be closed"):
        async with supervised(app(first, broken, last).consumers, OPTIONS, "closing"):
            pass
    assert (first.closed, broken.closed, last.closed) == (1, 1, 1)


async def test_a_start_that_fails_closes_what_was_given() -> None:
    queue = Queue()
    with pytest.raises(RuntimeError, match="lifespan"):
        async with supervised(app(queue).consumers, OPTIONS, "closing"):
            raise RuntimeError("the lifespan could not begin")
    assert queue.closed == 1
