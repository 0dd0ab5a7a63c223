"""What does a long-lived worker put together? Sources, lease stores and one supervisor per consumer, until a signal.

SIGTERM and SIGINT drain (see engine/supervisor.py for the numbered list); a second signal ends the process at once. SIGUSR1 pauses
every consumer, SIGUSR2 resumes them; both are left alone where the program has a handler of its own.

    a pause meets                         what happens
    a call of the handler                 it is finished, and what it did counts: the checkpoint follows
    a failed batch between two attempts   it stays there with its count; records grow older meanwhile
    a batching window                     when it is over, what it gathered waits for the end of the pause
    a tumbling window                     its state is kept in memory; no final call is made
    a read, a shard without records       the read is finished, and its records wait; no further one begins
    an open range of a sink               it is closed by its age, as ever
    the leases                            they are renewed, and none is taken: see engine/supervisor.py
    SIGTERM                               drains: nothing is in hand, so that it ends at once

In a fleet each worker is paused by itself. What all shall leave alone is a matter of the mapping: STREAMLET_ENABLED=false.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec

from streamlet.clock import SystemClock, SystemRandom, ThreadExecutor
from streamlet.core.rolling import MemoryBudget
from streamlet.engine.gate import Gate
from streamlet.engine.invoke import is_async
from streamlet.engine.supervisor import SINK_MEMORY_BYTES_MAX, Supervisor
from streamlet.errors import ConfigurationError, ServiceError, StreamletError, UsageError
from streamlet.hooks import Listener, Trouble
from streamlet.kinesis.client import KinesisClient
from streamlet.ports import LeaseStore, Source
from streamlet.sources.polling import PollingSource
from streamlet.spec import Application, ConsumerSpec
from streamlet.stores import open_store

__all__ = ["Worker", "WorkerOptions", "is_loopback", "new_worker_id", "run_worker", "run_worker_blocking", "supervised"]

# Threads are made when they are needed. Files and documents take few; a plain handler takes one per call that runs.
THREADS: Final = 8
HANDLER_THREADS: Final = 64
HANDLER_THREADS_MAX: Final = 1000


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker runs.

    `endpoint_url` None means AWS (or AWS_ENDPOINT_URL_KINESIS). `state` is where leases and checkpoints are kept:
    `sqlite:///file.db` (one machine), `memory://` (gone at exit), or a function that makes a `streamlet.ports.LeaseStore` of your own,
    not yet opened, for a table's name (APP.STREAM: each stream of each app needs a table for itself). None means a SQLite file named
    after the app, and is refused unless the endpoint is on this machine. `failover_s`: how long a dead worker's shards stand still
    before another takes them.
    """

    endpoint_url: str | None = None
    region: str | None = None
    state: str | Callable[[str], LeaseStore] | None = None
    failover_s: float = 10.0
    poll_interval_s: float = 1.0
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        if isinstance(self.failover_s, bool) or not isinstance(self.failover_s, int | float) or not self.failover_s > 0:
            raise ConfigurationError(f"failover_s={self.failover_s!r}: must be a number of seconds above 0")
        if not isinstance(self.poll_interval_s, int | float) or not 0 < self.poll_interval_s <= 60:
            raise ConfigurationError(f"poll_interval_s={self.poll_interval_s!r}: must be above 0 and at most 60 seconds")
        if not (self.state is None or isinstance(self.state, str) or callable(self.state)):
            raise ConfigurationError(
                f"state={self.state!r}: must be a URL, or a function that makes a store: state=lambda table: MyStore(table)"
            )

    @property
    def endpoint(self) -> str | None:
        """The endpoint in force: the option, or what the environment says."""
        return self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_KINESIS") or os.environ.get("AWS_ENDPOINT_URL")

    def stores(self, app_name: str) -> Callable[[str], LeaseStore]:
        """What makes the store of a table. Raises ConfigurationError where private state would process everything once per container."""
        if callable(self.state):
            return self.state
        if self.state:
            return partial(open_store, self.state)
        if is_loopback(self.endpoint):
            return partial(open_store, f"sqlite:///{app_name}.streamlet.db")
        raise ConfigurationError(
            "where shall leases and checkpoints be kept? Against a real endpoint this must be said, since two workers with private state "
            "would both process everything: --state sqlite:///FILE if all workers run on this machine"
        )


def is_loopback(endpoint_url: str | None) -> bool:
    """Is the endpoint on this machine?"""
    host = urlsplit(endpoint_url or "").hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def new_worker_id() -> str:
    """New for every process start: after a crash nobody comes back under an old name (the protocol relies on it)."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _teller(stream: str, listeners: Sequence[Listener]) -> Callable[[ServiceError], None]:
    """Trouble of reading as an event: it is waited out, but not in silence. The same sentence is told once in a while."""
    told: dict[str, int] = {}

    def tell(error: ServiceError) -> None:
        text = str(error)
        count = told[text] = told.pop(text, 0) + 1
        if len(told) > 100:
            told.pop(next(iter(told)))
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
            for listener in listeners:
                listener(Trouble(stream=stream, what="reading", error=text))

    return tell


def _threads(consumers: Sequence[ConsumerSpec]) -> int:
    """How many threads there may be: room for all that one shard's options let run at once, and for many shards."""
    plain = [spec for spec in consumers if spec.handler is not None and not is_async(spec.handler)]
    if not plain:
        return THREADS
    return min(HANDLER_THREADS_MAX, max(HANDLER_THREADS, *(spec.concurrency * spec.mapping.parallelization_factor for spec in plain)))


@contextlib.asynccontextmanager
async def supervised(
    consumers: Sequence[ConsumerSpec],
    options: WorkerOptions,
    name: str,
    *,
    through: Callable[[Source], Source] | None = None,
    gates: Mapping[str, Gate] | None = None,
) -> AsyncIterator[list[Supervisor]]:
    """Supervisors for the consumers, ready to run, around one client and one executor. `through` may wrap their sources, to look on;
    `gates`, by stream, pause them."""
    # Before anything is opened: a worker that would keep private state must not even begin.
    make_store = options.stores(name)
    clock, executor = SystemClock(), ThreadExecutor(_threads(consumers))
    try:
        async with KinesisClient(options.region, options.endpoint_url, clock=clock) as client:
            made = []
            budget = MemoryBudget(SINK_MEMORY_BYTES_MAX)
            for spec in consumers:
                source = PollingSource(
                    client,
                    spec.stream,
                    clock=clock,
                    random=SystemRandom(),
                    decoder=spec.decoder,
                    poll_interval_s=options.poll_interval_s,
                    on_trouble=_teller(spec.stream, options.listeners),
                )
                made.append(
                    Supervisor(
                        spec,
                        source=source if through is None else through(source),
                        store=make_store(f"{name}.{spec.stream}"),
                        worker_id=new_worker_id(),
                        clock=clock,
                        random=SystemRandom(),
                        executor=executor,
                        listeners=options.listeners,
                        failover_s=options.failover_s,
                        budget=budget,
                        gate=(gates or {}).get(spec.stream),
                    )
                )
            yield made
    finally:
        executor.close()
        await _close(consumers)


async def _close(consumers: Sequence[ConsumerSpec]) -> None:
    """Close what the consumers were given: each, also if another one cannot be closed."""
    # On a thread of its own: handlers that outlived the drain may hold every other one, and are not waited for.
    executor = ThreadExecutor(1)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(executor.close)
        for spec in consumers:
            for closed in (spec.mapping.on_failure, spec.idempotency):
                close = getattr(closed, "close", None)
                if close is not None:
                    stack.push_async_callback(executor.run, close)


class Worker:
    """A worker in the hands of its program.

        worker = Worker(app, WorkerOptions(endpoint_url="http://127.0.0.1:4567"))
        async with asyncio.TaskGroup() as tg:
            running = tg.create_task(worker.run())
            ...
            worker.pause("orders")
            ...
            worker.resume()
            worker.stop()

    Its methods belong to the event loop in which it runs; from another thread: `loop.call_soon_threadsafe(worker.pause)`. It runs
    once. `through` may wrap the sources, to look on; `stop` is an event that stops it, beside the method.

    Raises ConfigurationError if the app has no handlers of streams.
    """

    def __init__(
        self,
        app: Application,
        options: WorkerOptions,
        *,
        stop: asyncio.Event | None = None,
        through: Callable[[Source], Source] | None = None,
    ) -> None:
        if not app.consumers:
            raise ConfigurationError(
                f"app {app.name!r} has no handlers; register one with @app.on_record or @app.on_batch (@app.on_s3 is for Lambda)"
            )
        self._app, self._options, self._through = app, options, through
        self._stopping = stop or asyncio.Event()
        self._gates = {spec.stream: Gate(shut=not spec.mapping.enabled) for spec in app.consumers}
        self._begun = False

    def stop(self) -> None:
        """Begin to drain, also when paused. A second call changes nothing."""
        self._stopping.set()

    def pause(self, stream: str | None = None) -> None:
        """Finish the calls in hand, and then leave the stream alone, or every one; the position is kept (top of this module).

        It returns at once: listeners are told `Paused` when no handler runs any more. With LATEST, a shard of which nothing was
        read before begins at the tip that it finds when it is resumed. A second call changes nothing. Raises UsageError for a
        stream that the app does not read."""
        for gate in self._gates_of(stream):
            gate.close()

    def resume(self, stream: str | None = None) -> None:
        """Go on with the next record, or the next attempt. Does nothing where nothing is paused. Raises UsageError as `pause`."""
        for gate in self._gates_of(stream):
            gate.open()

    def _gates_of(self, stream: str | None) -> Iterable[Gate]:
        if stream is None:
            return self._gates.values()
        if stream not in self._gates:
            raise UsageError(f"app {self._app.name!r} does not read stream {stream!r}; it reads {', '.join(self._gates)}")
        return (self._gates[stream],)

    async def run(self) -> list[StreamletError]:
        """Run every consumer until a signal or `stop`. Returns what stopped single shards; raises what `Supervisor.run` does."""
        if self._begun:
            raise UsageError("a Worker runs once: make another one")
        self._begun = True
        app, stopping = self._app, self._stopping
        with _signals_set(self):
            async with (
                supervised(app.consumers, self._options, app.name, through=self._through, gates=self._gates) as supervisors,
                app.running(),
            ):
                ends: list[Exception] = []
                async with asyncio.TaskGroup() as tg:
                    running = [tg.create_task(_run(supervisor, stopping, ends), name="supervisor") for supervisor in supervisors]
                    watching = tg.create_task(_stop_all(stopping, supervisors), name="stop")
                    await asyncio.wait(running)
                    watching.cancel()
                if ends:
                    raise ends[0]
        return [error for supervisor in supervisors for error in supervisor.failures]


async def run_worker(
    app: Application, options: WorkerOptions, *, stop: asyncio.Event | None = None, through: Callable[[Source], Source] | None = None
) -> list[StreamletError]:
    """`Worker(...).run()`, in one call."""
    return await Worker(app, options, stop=stop, through=through).run()


def run_worker_blocking(app: Application, options: WorkerOptions) -> list[StreamletError]:
    """`run_worker` with an event loop of its own."""
    return asyncio.run(run_worker(app, options))


async def _run(supervisor: Supervisor, stopping: asyncio.Event, ends: list[Exception]) -> None:
    """What ends one consumer drains the others, too, instead of cutting them off."""
    try:
        await supervisor.run()
    except Exception as error:  # noqa: BLE001  raised again when the others have drained
        ends.append(error)
        stopping.set()


async def _stop_all(stopping: asyncio.Event, supervisors: Sequence[Supervisor]) -> None:
    await stopping.wait()
    for supervisor in supervisors:
        supervisor.stop()


@contextlib.contextmanager
def _signals_set(worker: Worker) -> Iterator[None]:
    """First signal: drain. Second: the system's own handling is back, and ends the process. And SIGUSR1 and SIGUSR2, where there are such."""
    loop = asyncio.get_running_loop()
    ending = (signal.SIGTERM, signal.SIGINT)
    caught: list[signal.Signals] = []

    def drain() -> None:
        worker.stop()
        for number in ending:
            loop.remove_signal_handler(number)
        # Python's own answer to Ctrl-C is an exception; the process would then wait for the threads of plain handlers.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def catch(number: signal.Signals, act: Callable[[], None]) -> None:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            # Only the main thread may; elsewhere whoever owns the process decides about signals.
            loop.add_signal_handler(number, act)
            caught.append(number)

    for number in ending:
        catch(number, drain)
    for name, act in (("SIGUSR1", worker.pause), ("SIGUSR2", worker.resume)):
        user = getattr(signal, name, None)
        if user is not None and signal.getsignal(user) is signal.SIG_DFL:
            catch(user, act)
    try:
        yield
    finally:
        for number in caught:
            if not loop.remove_signal_handler(number) and number == signal.SIGINT:
                signal.signal(number, signal.default_int_handler)
