"""Who starts, watches and stops the pumps? One supervisor per consumer, with the one TaskGroup that every task is born in.

It turns lease events into pumps (a lease taken: start one; a lease gone: cancel its pump), keeps the lease table in step with
the stream's shards, and drains. A drain is a numbered list, and each step follows from the one before:

    1  stop taking leases            or a shard that is given back would come straight back
    2  tell the pumps to stop        they read no more, and finish the batch in hand (a waiting retry is left to the next holder)
    3  the gate is lifted            what a pause holds back would wait for ever; told to stop, it begins no call
    4  each closes its open range    so that its work is kept: prepare, put, commit
    5  each releases its lease       only now may another worker start there
    6  whoever is not done in time   is cancelled; its lease expires, its prepared range is completed by the next holder
    7  end the lease thread          last, since steps 4 to 6 write leases

A consumer is paused by its gate (gate.py). Its leases are renewed, its checkpoints follow, its open ranges close by their age; it
takes no further leases, or the shards of a worker that has died would stand still here while others could read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from streamlet.core.rolling import MemoryBudget
from streamlet.engine.gate import Gate, within
from streamlet.engine.leases import Acquired, Broken, LeaseEvent, LeaseKeeper, LeaseRunner, LeaseThread, Lost, StoreTrouble
from streamlet.engine.pump import End, Pump
from streamlet.errors import AccessRefused, InternalError, LeaseLost, ServiceError, StoreError, StreamletError, UsageError
from streamlet.hooks import (
    Drained,
    Draining,
    Event,
    LeaseReleased,
    LeaseTaken,
    LeaseWentAway,
    Listener,
    Paused,
    Pausing,
    Resumed,
    ShardStopped,
    Trouble,
)
from streamlet.ports import Clock, Executor, LeaseStore, Random, Source
from streamlet.spec import ConsumerSpec

__all__ = ["Supervisor"]

SHARD_SYNC_S: Final = 30.0
DRAIN_TIMEOUT_S: Final = 25.0
SINK_MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024


class Supervisor:
    """Runs one consumer until it is told to stop.

    `failover_s`: how long a lease must stand still before it counts as abandoned. `worker_id` must be new for every process
    start. `gate` pauses it; without one it begins as the mapping's `enabled` says. After `run` returns, `failures` holds what stopped
    single shards. `lease_runner` is made with keeper, store and clock: a
    thread, or on virtual time something that needs none.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        *,
        source: Source,
        store: LeaseStore,
        worker_id: str,
        clock: Clock,
        random: Random,
        executor: Executor,
        listeners: Sequence[Listener] = (),
        failover_s: float = 10.0,
        shard_sync_s: float = SHARD_SYNC_S,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        budget: MemoryBudget | None = None,
        lease_runner: Callable[..., LeaseRunner] = LeaseThread,
        gate: Gate | None = None,
    ) -> None:
        self._spec, self._source, self._store = spec, source, store
        self._clock, self._random, self._executor = clock, random, executor
        self._listeners = tuple(listeners)
        self._worker_id, self._failover_s = worker_id, failover_s
        self._shard_sync_s, self._drain_timeout_s = shard_sync_s, drain_timeout_s
        self._budget = budget or MemoryBudget(SINK_MEMORY_BYTES_MAX)
        self._lease_runner = lease_runner
        self.gate = gate or Gate(shut=not spec.mapping.enabled)
        self._stopping = asyncio.Event()
        self._sync_now = asyncio.Event()
        self._pumps: dict[str, tuple[Pump, asyncio.Task[None]]] = {}
        self._fatal: StreamletError | None = None
        self._open = False
        self.failures: list[StreamletError] = []

    def stop(self) -> None:
        """Begin to drain. Call it from the loop's own thread; a second call changes nothing."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop`. Raises UsageError, ServiceError, StoreError or SinkError for what can never work from the start,
        and the HandlerError of a handler that is wrong."""
        self._spec.mapping.check_start(self._clock.time())
        if self._spec.sink is not None:
            await self._executor.run(self._spec.sink.check)
        shards = list(await self._source.list_shards())
        loop = asyncio.get_running_loop()

        def notify(event: LeaseEvent) -> None:
            loop.call_soon_threadsafe(self._on_lease_event, event)

        self._keeper = LeaseKeeper(
            self._store, self._worker_id, clock=self._clock, random=self._random, failover_s=self._failover_s, notify=notify
        )
        self._leases = self._lease_runner(self._keeper, self._store, clock=self._clock)
        self._leases.start()
        try:
            await self._leases.call(self._store.open)
            await self._leases.call(self._keeper.sync, shards, self._spec.mapping.start.position)
            async with asyncio.TaskGroup() as tg:
                self._tg, self._open = tg, True
                try:
                    told: type[Event] | None = None
                    if not self.gate.shut:
                        await self._leases.call(self._keeper.start_taking)
                        told = Resumed
                    watching = tg.create_task(self._watch_gate(told), name="gate")
                    syncing = tg.create_task(self._keep_in_step(), name="shard sync")
                    await self._stopping.wait()
                    watching.cancel()
                    syncing.cancel()
                    await self._drain()
                finally:
                    # A lease taken in this very moment finds no group to run in; it is not used, and expires.
                    self._open = False
        finally:
            self._leases.stop()
        self._emit(Drained(stream=self._spec.stream))
        if self._fatal is not None:
            raise self._fatal

    async def _drain(self) -> None:
        self._emit(Draining(stream=self._spec.stream))
        await self._leases.call(self._keeper.stop_taking)
        # An Acquired that was posted before that is handled before the loop comes back here: call_soon keeps order.
        await asyncio.sleep(0)
        tasks = [task for _, task in self._pumps.values()]
        for pump, _ in self._pumps.values():
            pump.stop()
        self.gate.lift()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_timeout_s)
            for task in late:
                task.cancel()
            if late:
                self._emit(
                    Trouble(stream=self._spec.stream, what="drain", error=f"{len(late)} shards not done in time; their leases expire")
                )

    async def _watch_gate(self, told: type[Event] | None) -> None:
        """Follow pauses, with leases and events. `told` is what was told last: Resumed at the start of one that is not paused."""
        while True:
            self.gate.news.clear()
            if not self.gate.shut:
                now: type[Event] = Resumed
            elif self.gate.busy:
                now = Pausing
            else:
                now = Paused
            if now is told:
                await self.gate.news.wait()
                continue
            if told is Resumed:
                await self._leases.call(self._keeper.stop_taking)
            told = now
            self._emit(now(stream=self._spec.stream))
            if now is Resumed:
                await self._leases.call(self._keeper.start_taking)

    # ── lease events ─────────────────────────────────────────────────────────────────────────────────────────────

    def _on_lease_event(self, event: LeaseEvent) -> None:
        match event:
            case Acquired():
                self._start(event)
            case Lost(grip=grip, reason=reason):
                pump, task = self._pumps.get(grip.key, (None, None))
                if pump is not None and task is not None and pump.grip == grip:
                    task.cancel()
                self._emit(LeaseWentAway(stream=self._spec.stream, shard_id=grip.key, reason=reason))
            case Broken(error=error):
                # Without renewals the leases are as good as lost.
                for _, task in self._pumps.values():
                    task.cancel()
                self._stop_for(InternalError(f"the lease thread has ended: {error}"))
            case StoreTrouble(error=error):
                self._emit(Trouble(stream=self._spec.stream, what="lease store", error=error))

    def _start(self, acquired: Acquired) -> None:
        if not self._open:
            return
        lease = acquired.lease
        self._emit(
            LeaseTaken(stream=self._spec.stream, shard_id=lease.key, checkpoint=str(lease.checkpoint), prepared=lease.pending is not None)
        )
        pump = Pump(
            self._spec,
            acquired,
            source=self._source,
            keeper=self._keeper,
            leases=self._leases,
            executor=self._executor,
            clock=self._clock,
            emit=self._emit,
            budget=self._budget,
            gate=self.gate,
        )
        if self._stopping.is_set():
            pump.stop()
        _, before = self._pumps.get(lease.key, (None, None))
        task = self._tg.create_task(self._guard(pump, before), name=f"pump {lease.key}")
        self._pumps[lease.key] = (pump, task)

    async def _guard(self, pump: Pump, before: asyncio.Task[None] | None) -> None:
        """Run one pump, and see that its end, whatever it is, ends no other."""
        if before is not None:
            # Event 1: the lease is lost; its pump is cancelled but still waits for a file to be written. Event 2: we take the
            # lease again. If the new pump started now, two pumps of one process would write to one shard's open range.
            await asyncio.wait([before])
        try:
            end = await pump.run()
        except* LeaseLost as group:
            self._emit(LeaseWentAway(stream=self._spec.stream, shard_id=pump.shard_id, reason=_first(group)))
        except* UsageError as group:
            self._stop_for(_leaf(group))
        except* AccessRefused as group:
            # Credentials expire and roles change: let go, and try again when the lease has expired.
            await self._leases.call(self._keeper.let_go, pump.grip)
            self._emit(Trouble(stream=self._spec.stream, shard_id=pump.shard_id, what="access", error=_first(group)))
        except* StoreError as group:
            # Whether the last write landed is unknown. Let go; after the fail-over time any worker, also this one, goes on.
            await self._leases.call(self._keeper.let_go, pump.grip)
            self._emit(Trouble(stream=self._spec.stream, shard_id=pump.shard_id, what="lease store", error=_first(group)))
        except* StreamletError as group:
            self._stopped(pump, _leaf(group))
        except* Exception as group:  # noqa: BLE001  our bug, or that of a sink of the user's own: this shard's only
            error = _innermost(group)
            wrapped = InternalError(f"{type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._stopped(pump, wrapped)
        else:
            self._emit(LeaseReleased(stream=self._spec.stream, shard_id=pump.shard_id, checkpoint=end.value))
            if end is End.SHARD_ENDED:
                self._sync_now.set()
        finally:
            if self._pumps.get(pump.shard_id, (None, None))[0] is pump:
                del self._pumps[pump.shard_id]

    def _stopped(self, pump: Pump, error: StreamletError) -> None:
        """The shard stands still, visibly, and keeps its lease: another worker would only fail in the same way."""
        self.failures.append(error)
        self._emit(ShardStopped(stream=self._spec.stream, shard_id=pump.shard_id, error=str(error)))

    def _stop_for(self, error: StreamletError) -> None:
        self._fatal = self._fatal or error
        self.stop()

    # ── shards ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_in_step(self) -> None:
        """Follow resharding: at intervals, and at once when a shard has ended, since then its children may start."""
        while True:
            await within(self._sync_now, self._shard_sync_s)
            self._sync_now.clear()
            try:
                shards = list(await self._source.list_shards())
                await self._leases.call(self._keeper.sync, shards, self._spec.mapping.start.position)
                await self._leases.call(self._keeper.take)
            except (ServiceError, StoreError) as error:
                self._emit(Trouble(stream=self._spec.stream, what="shard sync", error=str(error)))
                self._sync_now.set()
                await self._clock.sleep(1.0)

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _leaf(group: BaseExceptionGroup[StreamletError]) -> StreamletError:
    error = _innermost(group)
    assert isinstance(error, StreamletError)
    return error


def _first(group: BaseExceptionGroup[StreamletError]) -> str:
    return str(_leaf(group))
