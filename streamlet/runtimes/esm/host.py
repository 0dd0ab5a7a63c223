"""Who runs the next invocation? A warm sandbox if one is idle, else a new one, as long as so many may run at once.

With a reserved concurrency, an invocation above it is throttled, as by Lambda. Without one, this machine's bound applies:
SANDBOXES_MAX processes, and an invocation above waits for one of them, which the function cannot tell.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Final, Self

from streamlet.core.failure import Throttled
from streamlet.errors import ConfigurationError
from streamlet.ports import Clock
from streamlet.runtimes.esm.guard import Guard
from streamlet.runtimes.esm.sandbox import FunctionError, Invoked, OnLine, Sandbox, SandboxSettings

__all__ = ["EVENT_BYTES_MAX", "Host", "check_client", "new_request_id"]

EVENT_BYTES_MAX: Final = 6_291_456
SANDBOXES_MAX: Final = 16


def new_request_id() -> str:
    """As Lambda makes them."""
    return str(uuid.uuid4())


def check_client() -> None:
    """Raises ConfigurationError if Lambda's own client is not installed."""
    if find_spec("awslambdaric") is None:
        raise ConfigurationError("hosting a function needs Lambda's own client: pip install 'streamlet[esm]'")


class Host:
    """Runs one function: `async with Host(...) as host: await host.invoke(event)`. Leaving the block kills its processes."""

    def __init__(self, settings: SandboxSettings, *, clock: Clock, concurrency: int | None = None, on_line: OnLine) -> None:
        if concurrency is not None and concurrency < 0:
            raise ConfigurationError(f"concurrency={concurrency!r}: must be 0 or more")
        check_client()
        self.settings = settings
        self._clock, self._on_line = clock, on_line
        self.reserved_concurrency = concurrency
        self._places = asyncio.Semaphore(SANDBOXES_MAX)
        self._busy = 0
        self._idle: list[Sandbox] = []  # the last one used is used next, so that a burst's others may be told from the warm ones
        self._all: list[Sandbox] = []
        self._numbers = 0
        self._guard = Guard()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._guard.close)
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for sandbox in self._all:
            sandbox.kill()
        for sandbox in self._all:
            await sandbox.close()
        # The group's own judgement of an exception is for the caller to make: the tasks in it have ended by now.
        await self._stack.__aexit__(None, None, None)

    async def invoke(self, event: bytes, *, request_id: str = "") -> Invoked | Throttled:
        """Run the function once with `event` (JSON). Throttled: it was not run, since no sandbox is free. `request_id` is given
        where a retry keeps the id of the first attempt, as for asynchronous invocations."""
        request_id = request_id or new_request_id()
        if self.reserved_concurrency is not None:
            if self._busy >= self.reserved_concurrency:
                return Throttled()
            return await self._invoke(event, request_id)
        async with self._places:
            return await self._invoke(event, request_id)

    async def _invoke(self, event: bytes, request_id: str) -> Invoked:
        if len(event) > EVENT_BYTES_MAX:
            message = f"the event has {len(event):,} bytes, {EVENT_BYTES_MAX:,} are allowed; the function was not run"
            return Invoked(request_id, 0, FunctionError("RequestEntityTooLarge", message), None, 0.0, 0)
        self._busy += 1
        sandbox = self._sandbox()
        try:
            return await sandbox.invoke(request_id, event)
        finally:
            self._busy -= 1
            if sandbox.usable:
                self._idle.append(sandbox)
            else:
                self._all.remove(sandbox)
                sandbox.kill()

    def _sandbox(self) -> Sandbox:
        while self._idle:
            sandbox = self._idle.pop()
            if sandbox.usable:
                return sandbox
            self._all.remove(sandbox)  # it ended between two invocations
        self._numbers += 1
        sandbox = Sandbox(
            self._numbers,
            uuid.uuid4().hex,
            self.settings,
            clock=self._clock,
            tasks=self._tasks,
            guard=self._guard,
            on_line=self._on_line,
        )
        self._all.append(sandbox)
        return sandbox
