"""What time is it, and where do blocking calls run? The real world's answers behind the ports.

The only module of the library that imports `time` and `random`; a simulation passes others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

__all__ = ["SystemClock", "SystemRandom", "ThreadExecutor"]

T = TypeVar("T")


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


SystemRandom: Final = random.Random


class ThreadExecutor:
    """A bounded pool of threads for sync handlers, Arrow and file writes."""

    def __init__(self, threads_max: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="streamlet")

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        """Call it on a thread. An exception of the call is raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, _called, function, args)

    def close(self) -> None:
        """Take nothing more. What still runs (a handler that outlived the drain) is not waited for here."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _called(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    try:
        return function(*args)
    except (StopIteration, SystemExit) as error:
        # A future cannot carry a StopIteration: whoever awaits it would wait for ever. And one call's exit is not the process's.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
