"""A worker from outside: paused and resumed, by its program and by signals; and what it puts together, it takes apart."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamlet import App, Batch, ConfigurationError, Record, UsageError
from streamlet.broker import Broker
from streamlet.errors import SinkError
from streamlet.hooks import BatchSettled, Draining, Event, LeaseTaken, Paused, RecordsRead, Resumed
from streamlet.ports import FailureDocument
from streamlet.producer import Producer
from streamlet.runtimes.worker import Worker, WorkerOptions, _threads, supervised
from streamlet.stores import open_store
from streamlet.testing import VirtualBroker, run_worker

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


# ── paused and resumed ───────────────────────────────────────────────────────────────────────────────────────────


class World:
    """An app with a handler of numbers per stream, and a worker over a broker."""

    def __init__(self, broker: Broker, state: str, *streams: str, **options: Any) -> None:
        self.broker = broker
        self.seen: dict[str, list[int]] = {stream: [] for stream in streams}
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.app = App("numbers")
        for stream in streams:
            self.app.on_batch(stream, **options)(self._handler(stream))
        self.options = WorkerOptions(
            endpoint_url=broker.endpoint_url, state=state, poll_interval_s=0.02, failover_s=0.5, listeners=(self._listen,)
        )
        self.worker = Worker(self.app, self.options)

    def _handler(self, stream: str) -> Callable[[Batch], Any]:
        async def handle(batch: Batch) -> None:
            self.seen[stream] += batch.values

        return handle

    def _listen(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def count(self, kind: type[Event], stream: str | None = None) -> int:
        return sum(isinstance(event, kind) and stream in {None, event.stream} for event in self.events)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def put(self, stream: str, *numbers: int) -> None:
        async with Producer(stream, endpoint_url=self.broker.endpoint_url) as producer:
            await producer.put_many([(str(n).encode(), "key") for n in numbers])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        async with asyncio.timeout(40), asyncio.TaskGroup() as tg:
            running = tg.create_task(self.worker.run())
            yield self.worker
            self.worker.stop()
        assert running.result() == []


@asynccontextmanager
async def world(*streams: str, state: str = "memory://", **options: Any) -> AsyncIterator[World]:
    async with Broker(streams=dict.fromkeys(streams, 1)) as broker:
        yield World(broker, state, *streams, **options)


async def test_one_stream_is_paused_and_the_other_goes_on() -> None:
    async with world("a", "b") as w:
        await w.put("a", 1)
        await w.put("b", 1)
        async with w.running() as worker:
            await w.until(lambda: w.seen == {"a": [1], "b": [1]})
            worker.pause("a")
            await w.until(lambda: w.count(Paused) == 1)
            await w.put("a", 2)
            await w.put("b", 2)
            await w.until(lambda: w.seen["b"] == [1, 2])
            assert w.seen["a"] == [1]
            worker.resume("a")
            await w.until(lambda: w.seen["a"] == [1, 2])
            assert (w.count(Paused, "a"), w.count(Resumed, "a"), w.count(Paused, "b")) == (1, 1, 0)


async def test_a_worker_may_be_paused_before_it_runs() -> None:
    async with world("a") as w:
        await w.put("a", 1)
        w.worker.pause()
        async with w.running() as worker:
            await w.until(lambda: w.count(Paused) == 1)
            assert w.count(LeaseTaken) == 0
            worker.resume()
            await w.until(lambda: w.seen["a"] == [1])


async def test_signals_pause_resume_and_end_a_paused_worker(tmp_path: Path) -> None:
    """SIGTERM drains at once; a second worker goes on where the pause began."""
    state = f"sqlite:///{tmp_path}/leases.db"
    async with world("a", "b", state=state) as w:
        await w.put("a", 1)
        async with w.running():
            await w.until(lambda: w.count(BatchSettled) == 1 and w.count(LeaseTaken) == 2)
            os.kill(os.getpid(), signal.SIGUSR1)
            await w.until(lambda: w.count(Paused) == 2)
            await w.put("a", 2)
            os.kill(os.getpid(), signal.SIGUSR2)
            await w.until(lambda: w.seen["a"] == [1, 2])
            os.kill(os.getpid(), signal.SIGUSR1)
            await w.until(lambda: w.count(Paused) == 4)
            await w.put("a", 3)
            os.kill(os.getpid(), signal.SIGTERM)
            await w.until(lambda: w.count(Draining) == 2)
            os.kill(os.getpid(), signal.SIGUSR1)  # too late, and no reason to die
        assert w.seen["a"] == [1, 2]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        after = World(w.broker, state, "a", "b")
        async with after.running():
            await after.until(lambda: after.seen["a"] == [3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_the_process_whatever_a_plain_handler_does(number: signal.Signals) -> None:
    """Python's own answer to the second Ctrl-C would wait for the handler's thread."""
    program = """
import sys, time
from streamlet import App
app = App("numbers")
@app.on_batch("a")
def handle(batch):
    print("begun", flush=True)
    time.sleep(600)
app.run(endpoint_url=sys.argv[1], state="memory://", listeners=[lambda event: print(type(event).__name__, flush=True)])
"""
    async with world("a") as w:
        await w.put("a", 1)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, w.broker.endpoint_url), stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(30):
                assert process.stdout is not None
                for awaited in (b"begun\n", b"Draining\n"):
                    while await process.stdout.readline() != awaited:
                        pass
                    process.send_signal(number)
                assert await process.wait() == -number
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_after_a_drain_by_ctrl_c_python_answers_the_next_one_again() -> None:
    async with world("a") as w:
        async with w.running():
            await w.until(lambda: w.count(LeaseTaken) == 1)
            os.kill(os.getpid(), signal.SIGINT)
            await w.until(lambda: w.count(Draining) == 1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


async def test_a_program_keeps_its_own_handler_of_a_signal() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        async with world("a") as w:
            async with w.running():
                await w.until(lambda: w.count(LeaseTaken) == 1)
                os.kill(os.getpid(), signal.SIGUSR1)
                await w.put("a", 1)
                await w.until(lambda: w.seen["a"] == [1])
            assert w.count(Paused) == 0
        assert caught == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_stream_that_is_not_enabled_is_left_alone_until_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLET_ENABLED", "false")
    async with world("a") as w:
        await w.put("a", 1)
        async with w.running() as worker:
            await w.until(lambda: w.count(Paused) == 1)
            assert (w.count(LeaseTaken), w.count(RecordsRead)) == (0, 0)
            worker.resume("a")
            await w.until(lambda: w.seen["a"] == [1])


def test_a_run_on_virtual_time_leaves_it_alone_too() -> None:
    seen: list[Any] = []
    app = App("numbers")
    app.on_record("a", enabled=False)(seen.append)
    app.on_record("b")(lambda record: seen.append(record.value))
    run_worker(app, {"a": [1], "b": [2]})
    assert seen == [2]


async def test_what_a_worker_cannot_do_is_said() -> None:
    with pytest.raises(ConfigurationError, match="no handlers"):
        Worker(App("empty"), OPTIONS)
    async with world("a") as w:
        with pytest.raises(UsageError, match="does not read stream 'b'; it reads a"):
            w.worker.pause("b")
        w.worker.stop()
        assert await w.worker.run() == []
        with pytest.raises(UsageError, match="once"):
            await w.worker.run()


# ── where it begins ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_start_in_the_future_is_refused() -> None:
    at_s = time.time() + 3600
    async with world("a", starting_position="AT_TIMESTAMP", starting_position_timestamp=at_s) as w:
        with pytest.raises(ConfigurationError, match=r"3,(5|6)\d\d\.\d+ s in the future"):
            await w.worker.run()


@pytest.mark.parametrize(("ahead_s", "refused"), [(-10.0, False), (0.0, False), (1.0, True)])
def test_on_virtual_time_the_future_is_the_virtual_one(ahead_s: float, refused: bool) -> None:
    seen: list[Any] = []
    broker = VirtualBroker(epoch_s=4e9)
    broker.put("a", 1)
    app = App("numbers")
    app.on_record("a", starting_position="AT_TIMESTAMP", starting_position_timestamp=broker.now_s + ahead_s)(
        lambda record: seen.append(record.value)
    )
    if refused:
        with pytest.raises(ConfigurationError, match="in the future"):
            run_worker(app, broker)
    else:
        run_worker(app, broker)
    assert seen == ([] if refused else [1])


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(record: Record) -> None:
    """A handler for a thread."""


async def awaiting(record: Record) -> None:
    """A handler for the loop."""


@pytest.mark.parametrize(
    ("handler", "options", "threads"),
    [
        (awaiting, {"concurrency": 500}, 8),
        (plain, {}, 64),
        (plain, {"concurrency": 30, "parallelization_factor": 10}, 300),
        (plain, {"concurrency": 1000, "parallelization_factor": 10}, 1000),
    ],
)
def test_there_is_a_thread_for_each_call_that_the_options_ask_for(handler: Any, options: dict[str, int], threads: int) -> None:
    app = App("numbers")
    app.on_record("a", **options)(handler)  # type: ignore[arg-type]
    assert _threads(app.consumers) == threads


async def test_twenty_plain_handlers_run_at_once() -> None:
    """Each waits for the nineteen others."""
    together, done = threading.Barrier(20), threading.Event()

    def handle(record: Record) -> None:
        together.wait(20)
        done.set()

    async with world("a") as w:
        app = App("numbers")
        app.on_record("a", concurrency=20)(handle)
        async with Producer("a", endpoint_url=w.broker.endpoint_url) as producer:
            await producer.put_many([(b"1", f"key-{n}") for n in range(20)])
        w.worker = Worker(app, w.options)
        async with w.running():
            await w.until(lambda: w.count(BatchSettled) == 1)
        assert done.is_set()


async def test_a_plain_handler_that_hangs_keeps_its_lease(tmp_path: Path) -> None:
    """Leases have a thread of their own."""
    begun, gate = threading.Event(), threading.Event()

    def handle(batch: Batch) -> None:
        begun.set()
        gate.wait(20)

    state = f"sqlite:///{tmp_path}/leases.db"
    async with world("a", state=state) as w:
        app = App("numbers")
        app.on_batch("a")(handle)
        await w.put("a", 1)
        w.worker = Worker(app, w.options)
        store = open_store(state, "numbers.a")
        async with w.running():
            try:
                assert await asyncio.to_thread(begun.wait, 20)
                store.open()
                counter = store.scan()[0].counter
                while store.scan()[0].counter < counter + 3:
                    await asyncio.sleep(0.05)
                assert w.count(BatchSettled) == 0
            finally:
                gate.set()
                store.close()
