"""What does a long-lived worker put together? Sources, lease stores and one supervisor per consumer, until a signal.

SIGTERM and SIGINT drain (see engine/supervisor.py for the numbered list); a second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streamlet.clock import SystemClock, SystemRandom, ThreadExecutor
from streamlet.core.rolling import MemoryBudget
from streamlet.engine.supervisor import SINK_MEMORY_BYTES_MAX, Supervisor
from streamlet.errors import ConfigurationError, ServiceError, StreamletError
from streamlet.hooks import Listener, Trouble
from streamlet.kinesis.client import KinesisClient
from streamlet.ports import Source
from streamlet.sources.polling import PollingSource
from streamlet.spec import Application, ConsumerSpec
from streamlet.stores import open_store

__all__ = ["WorkerOptions", "is_loopback", "new_worker_id", "run_worker", "run_worker_blocking", "supervised"]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker runs.

    `endpoint_url` None means AWS (or AWS_ENDPOINT_URL_KINESIS). `state` is where leases and checkpoints are kept:
    `sqlite:///file.db` (one machine) or `memory://` (gone at exit); None means a SQLite file named after the app, and is
    refused unless the endpoint is on this machine. `failover_s`: how long a dead worker's shards stand still before another
    takes them.
    """

    endpoint_url: str | None = None
    region: str | None = None
    state: str | None = None
    failover_s: float = 10.0
    poll_interval_s: float = 1.0
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        if isinstance(self.failover_s, bool) or not isinstance(self.failover_s, int | float) or not self.failover_s > 0:
            raise ConfigurationError(f"failover_s={self.failover_s!r}: must be a number of seconds above 0")
        if not isinstance(self.poll_interval_s, int | float) or not 0 < self.poll_interval_s <= 60:
            raise ConfigurationError(f"poll_interval_s={self.poll_interval_s!r}: must be above 0 and at most 60 seconds")

    @property
    def endpoint(self) -> str | None:
        """The endpoint in force: the option, or what the environment says."""
        return self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_KINESIS") or os.environ.get("AWS_ENDPOINT_URL")

    def state_url(self, app_name: str) -> str:
        """The store in force. Raises ConfigurationError where private state would process everything once per container."""
        if self.state:
            return self.state
        if is_loopback(self.endpoint):
            return f"sqlite:///{app_name}.streamlet.db"
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


@contextlib.asynccontextmanager
async def supervised(
    consumers: Sequence[ConsumerSpec], options: WorkerOptions, name: str, *, through: Callable[[Source], Source] | None = None
) -> AsyncIterator[list[Supervisor]]:
    """Supervisors for the consumers, ready to run, around one client and one executor. `through` may wrap their sources, to look on."""
    # Before anything is opened: a worker that would keep private state must not even begin.
    state_url = options.state_url(name)
    clock, executor = SystemClock(), ThreadExecutor()
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
                        store=open_store(state_url, f"{name}.{spec.stream}"),
                        worker_id=new_worker_id(),
                        clock=clock,
                        random=SystemRandom(),
                        executor=executor,
                        listeners=options.listeners,
                        failover_s=options.failover_s,
                        budget=budget,
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


async def run_worker(
    app: Application, options: WorkerOptions, *, stop: asyncio.Event | None = None, through: Callable[[Source], Source] | None = None
) -> list[StreamletError]:
    """Run every consumer of the app until a signal, or until `stop` is set. Returns what stopped single shards."""
    if not app.consumers:
        raise ConfigurationError(
            f"app {app.name!r} has no handlers; register one with @app.on_record or @app.on_batch (@app.on_s3 is for Lambda)"
        )
    stopping = stop or asyncio.Event()
    with _signals_set(stopping):
        async with supervised(app.consumers, options, app.name, through=through) as supervisors, app.running():
            ends: list[Exception] = []
            async with asyncio.TaskGroup() as tg:
                running = [tg.create_task(_run(supervisor, stopping, ends), name="supervisor") for supervisor in supervisors]
                watching = tg.create_task(_stop_all(stopping, supervisors), name="stop")
                await asyncio.wait(running)
                watching.cancel()
            if ends:
                raise ends[0]
    return [error for supervisor in supervisors for error in supervisor.failures]


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
def _signals_set(stopping: asyncio.Event) -> Any:
    """First signal: drain. Second: the default handler is back, and ends the process."""
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []

    def drain() -> None:
        stopping.set()
        for number in caught:
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            # Only the main thread may; elsewhere whoever owns the process decides about signals.
            loop.add_signal_handler(number, drain)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
