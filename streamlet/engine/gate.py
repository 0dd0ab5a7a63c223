"""May the handler be called now? The gate of one consumer: its pumps and lanes pass it, and who pauses the consumer shuts it.

While it is shut no call and no read begins, and nothing is given up; a call that has begun is finished. What is between two
attempts stays there, with its count. A drain lifts the gate, when everybody behind it has been told to stop. And how does the engine
wait for something, but not for ever? `within`.
"""

from __future__ import annotations

import asyncio

__all__ = ["Gate", "within"]


async def within(event: asyncio.Event, delay_s: float | None) -> bool:
    """Wait for an event, `delay_s` seconds at most (None: for ever); False if the time has passed."""
    try:
        async with asyncio.timeout(None if delay_s is None else max(0.0, delay_s)):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Gate:
    """Open or shut, and how many calls are under way (`with gate:` around each). For one event loop."""

    def __init__(self, *, shut: bool = False) -> None:
        self._opened = asyncio.Event()
        self._lifted = False
        self._calls = 0
        self.news = asyncio.Event()  # it was shut or opened, or the last call has ended
        if not shut:
            self._opened.set()

    @property
    def shut(self) -> bool:
        """Is the consumer paused?"""
        return not self._opened.is_set()

    @property
    def busy(self) -> bool:
        """Is a call under way?"""
        return self._calls > 0

    def close(self) -> None:
        """Pause. A gate that is shut, or lifted, stays as it is."""
        if not self._lifted:
            self._opened.clear()
            self.news.set()

    def open(self) -> None:
        """Go on. Does nothing to an open one."""
        self._opened.set()
        self.news.set()

    def lift(self) -> None:
        """Open it for good."""
        self._lifted = True
        self.open()

    async def opened(self) -> None:
        """Wait until it is open."""
        while self.shut:  # a pause may follow a resume before this task has its turn
            await self._opened.wait()

    async def held(self, stopping: asyncio.Event) -> bool:
        """Wait while it is shut. True if it was, and whoever asks is to stop instead of going on."""
        if not self.shut:
            return False
        await self.opened()
        return stopping.is_set()

    def __enter__(self) -> None:
        self._calls += 1

    def __exit__(self, *exc_info: object) -> None:
        self._calls -= 1
        if not self._calls:
            self.news.set()
