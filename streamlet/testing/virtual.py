"""How do minutes pass in milliseconds? An event loop whose clock jumps to the next timer, and the ports of the engine on it.

No thread and no socket: a seed gives the same run every time. What virtual time cannot wait for is told, instead of waited for:

    every task waits, and no timer is left          Stuck
    some spin, and time stands still                Stuck
    a coroutine opens a socket or a pipe            OutsideVirtualTime: who answers lives in real time, and would be waited for
                                                    while virtual hours pass

Threads are no problem: what is handed to the loop's executor (`asyncio.to_thread`) is called at once, and virtual time stands
still meanwhile. So a blocking client (boto3, requests) works, in a plain handler or in a thread.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from streamlet.engine.leases import LeaseKeeper
from streamlet.ports import LeaseStore, Random

__all__ = ["STEP_S", "OutsideVirtualTime", "Stuck", "VirtualClock", "VirtualExecutor", "VirtualLeases", "VirtualLoop", "run"]

T = TypeVar("T")

STEP_S: Final = 1e-6  # what a turn of the loop takes
TURNS_AT_ONCE_MAX: Final = 200_000  # turns between two jumps of the clock


class Stuck(AssertionError):
    """Every task waits, and nothing is left that could wake one; or some spin, and never come to an end."""


class OutsideVirtualTime(AssertionError):
    """A coroutine opened a socket or a pipe, and virtual time cannot wait for who is at its other end."""


class _Jumping(selectors.DefaultSelector):
    def __init__(self, turns_max: int | None, step_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._step_s = step_s
        self._turns_max = turns_max
        self._turns = 0
        self._since_jump = 0
        self.sealed = False
        self._refused: OutsideVirtualTime | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # The loop's own pipe, with which other threads wake it, is registered before anything runs.
        if self.sealed:
            self._refused = OutsideVirtualTime(
                "a coroutine opened a socket or a pipe, for which virtual time cannot wait. Give the handler a client that answers from "
                "memory, or a blocking one (boto3, requests; in asyncio.to_thread); or run the app against the fixture `broker` in real time"
            )
            raise self._refused
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> Any:
        if self._refused is not None:
            # A handler's exception would be tried again. This one ends the loop.
            refused, self._refused = self._refused, None
            raise refused
        self._turns += 1
        self._since_jump += 1
        if self._since_jump > TURNS_AT_ONCE_MAX or (self._turns_max is not None and self._turns > self._turns_max):
            self._turns = self._since_jump = 0  # whoever cleans up has turns left
            raise Stuck("some task spins: it gives way again and again, without waiting for anything that takes time")
        if timeout is None and not (ready := super().select(0)):
            raise Stuck("every task waits for another, and no timer is left: an event, future or queue that nobody will ever serve")
        if timeout:
            self._since_jump = 0
        self.now_s += self._step_s + max(0.0, timeout or 0.0)
        return ready if timeout is None else super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer; a turn takes `step_s`. `turns_max` bounds the whole run."""

    def __init__(self, *, turns_max: int | None = None, step_s: float = STEP_S) -> None:
        self._jumping = _Jumping(turns_max, step_s)
        super().__init__(self._jumping)
        self._jumping.sealed = True

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now_s

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed's has a TypeVarTuple
        """Call it here and now."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except StopIteration as error:
            future.set_exception(RuntimeError(f"StopIteration: {error}"))  # which no future can carry
        except Exception as error:  # noqa: BLE001  handed to whoever awaits it
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T], *, turns_max: int | None = None, step_s: float = STEP_S) -> T:
    """Run it on virtual time."""
    __tracebackhide__ = True  # of pytest's reports
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(turns_max=turns_max, step_s=step_s)) as runner:
        return runner.run(main)


class VirtualClock:
    """The running loop's time as ports.Clock. `epoch_s`: what time it was at the loop's beginning."""

    def __init__(self, epoch_s: float) -> None:
        self.epoch_s = epoch_s

    def time(self) -> float:
        """Epoch seconds."""
        return self.epoch_s + self.monotonic()

    def monotonic(self) -> float:
        """Seconds since the loop was made."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(delay_s)


class VirtualExecutor:
    """Runs what would block after a moment of virtual time, up to `delay_max_s` before and after: the engine's executor, and, by
    `call`, its lease thread, which does one job after the other."""

    def __init__(self, random: Random, delay_max_s: float = 0.0) -> None:
        self._random, self._delay_max_s = random, delay_max_s
        self._turn = asyncio.Lock()

    async def run(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call it. An exception of the call is raised here."""
        await asyncio.sleep(self._random.random() * self._delay_max_s)
        result = function(*args)
        await asyncio.sleep(self._random.random() * self._delay_max_s)
        return result

    async def call(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """The same, one after the other."""
        async with self._turn:
            return await self.run(function, *args)


class VirtualLeases:
    """What the lease thread does, on timers of the virtual loop."""

    def __init__(self, keeper: LeaseKeeper, store: LeaseStore, *, clock: VirtualClock) -> None:
        self._keeper = keeper
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Renew and take, from now on."""
        self._again("renew", self._keeper.failover_s / 3, self._keeper.renew_all)
        self._again("take", self._keeper.failover_s / 2, self._keeper.take)

    def _again(self, name: str, every_s: float, work: Callable[[], None]) -> None:
        def due() -> None:
            self._do(work)
            self._again(name, every_s, work)

        self._timers[name] = asyncio.get_running_loop().call_later(every_s, due)

    def _do(self, work: Callable[[], None]) -> None:
        work()

    async def call(self, function: Callable[..., T], /, *args: Any) -> T:
        """Call it when all else that is due has had its turn."""
        await asyncio.sleep(0)
        return function(*args)

    def stop(self) -> None:
        """Renew and take no more."""
        for timer in self._timers.values():
            timer.cancel()
