"""How does an open page hear of what moves? Server-sent events: one snapshot a second, made once for all pages.

The timer runs while somebody listens. A page that does not read is skipped, and gets the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from streamlet.broker.wire import Pipe

__all__ = ["PAGES_MAX", "TICK_S", "Ticks"]

TICK_S: Final = 1.0
PAGES_MAX: Final = 32


class Ticks:
    """All open pages."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._snapshot = snapshot
        self._listeners: set[Listener] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Is one more page too many?"""
        return len(self._listeners) >= PAGES_MAX

    def join(self, listener: Listener) -> None:
        """A page has opened: it hears at once."""
        self._listeners.add(listener)
        listener.send(self._event())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def leave(self, listener: Listener) -> None:
        """A page has gone."""
        self._listeners.discard(listener)
        if not self._listeners and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        event = self._event()
        for listener in tuple(self._listeners):
            listener.send(event)

    def _event(self) -> bytes:
        return b"data: " + msgspec.json.encode(self._snapshot()) + b"\n\n"


class Listener:
    """One page's stream of events (a Push)."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self._pipe: Pipe | None = None
        self._paused = False

    def opened(self, pipe: Pipe) -> None:
        """The head was sent."""
        self._pipe = pipe
        pipe.write(b"retry: 1000\n\n")
        self._ticks.join(self)

    def closed(self) -> None:
        """The page has gone."""
        self._pipe = None
        self._ticks.leave(self)

    def paused(self) -> None:
        """The page does not read."""
        self._paused = True

    def resumed(self) -> None:
        """It reads again."""
        self._paused = False

    def send(self, event: bytes) -> None:
        """One event, unless the page is behind."""
        if self._pipe is not None and not self._paused:
            self._pipe.write(event)
