"""What does a caller hold until its record is in the stream? An awaitable that costs less than a Future and no task.

Unlike a Future it is not cancelled when somebody who awaits it is, since the record may be on its way; and it
remembers whether anybody looked at a failure, so that one that nobody saw can be raised at `flush`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import msgspec

from streamlet.core.packing import Entry
from streamlet.errors import StreamletError

__all__ = ["PutPending", "PutResult"]


class PutResult(msgspec.Struct, frozen=True, gc=False):
    """Where a record is: the service's shard id and sequence number."""

    shard_id: str
    sequence_number: str


class PutPending(Entry, eq=False, gc=False):
    """A record under way. `await` it for its PutResult, or for the error that it failed with. Any number of times."""

    epoch: int = 0
    outcome: PutResult | StreamletError | None = None
    seen: bool = False
    _waiters: list[asyncio.Future[None]] | None = None

    @property
    def done(self) -> bool:
        """Settled, either way."""
        return self.outcome is not None

    def result(self) -> PutResult:
        """The result of a settled record. Raises what it failed with; asyncio.InvalidStateError while it is under way."""
        outcome = self.outcome
        if isinstance(outcome, PutResult):
            return outcome
        if outcome is None:
            raise asyncio.InvalidStateError("the record is still under way; await it")
        self.seen = True
        raise outcome

    def settle(self, outcome: PutResult | StreamletError) -> None:
        """Called by the producer, once. The payload is let go."""
        assert self.outcome is None, "a record is settled once"
        self.outcome = outcome
        self.data = b""
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters = None

    def __await__(self) -> Generator[Any, None, PutResult]:
        if self.outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = [waiter]
            else:
                self._waiters.append(waiter)
            yield from waiter
        return self.result()
