"""What can be watched? Small typed events; logs, metrics and progress are listeners, imported on first use.

A listener is a plain function. It is called inline, must be quick and must not raise; the core emits per batch, never per
record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from streamlet.model.record import Record
from streamlet.model.window import Window

__all__ = [
    "BatchSettled",
    "Drained",
    "Draining",
    "Event",
    "HandlerFailed",
    "Invoked",
    "LeaseReleased",
    "LeaseTaken",
    "LeaseWentAway",
    "Listener",
    "Paused",
    "Pausing",
    "RangeCommitted",
    "RangePrepared",
    "RecordsFiltered",
    "RecordsGivenUp",
    "RecordsRead",
    "RecordsTrimmed",
    "Resumed",
    "ShardEnded",
    "ShardStopped",
    "Trouble",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events: which shard of which stream."""

    stream: str
    shard_id: str = ""


class LeaseTaken(Event, frozen=True, kw_only=True):
    """This worker now reads the shard, from `checkpoint` on. `prepared`: a dead worker left a range to complete first."""

    checkpoint: str
    prepared: bool


class LeaseWentAway(Event, frozen=True, kw_only=True):
    """Another worker holds the shard now (or the store could not be reached for too long)."""

    reason: str


class LeaseReleased(Event, frozen=True, kw_only=True):
    """This worker gave the shard back in good order."""

    checkpoint: str


class RecordsRead(Event, frozen=True, kw_only=True):
    """A read brought records."""

    records: int


class BatchSettled(Event, frozen=True, kw_only=True):
    """A batch is settled: `records` of it, `given_up` among them; `millis_behind_latest` of the read that brought it."""

    records: int
    given_up: int
    size_bytes: int
    duration_s: float
    millis_behind_latest: int


class Invoked(Event, frozen=True, kw_only=True):
    """The handler was called for these records and has answered: the first `done` of them are done, and `error` says why not all.
    `window` is the tumbling window that it was called for; its final call has no records."""

    records: Sequence[Record]
    attempt: int
    done: int
    failed: bool = False
    error: str = ""
    window: Window | None = None


class HandlerFailed(Event, frozen=True, kw_only=True):
    """An invocation failed from the record at `sequence_number` on."""

    sequence_number: str
    records: int
    attempt: int
    error: str


class RecordsFiltered(Event, frozen=True, kw_only=True):
    """Records of one read that pass no filter. They are settled: they go to no handler and to no destination."""

    records: int


class RecordsGivenUp(Event, frozen=True, kw_only=True):
    """Records first … last go to the destination; `delivered_to` is "" where there is none, and they are dropped."""

    first: str
    last: str
    records: int
    condition: str
    error: str
    delivered_to: str


class RangePrepared(Event, frozen=True, kw_only=True):
    """The files of a range are fixed in the lease, and not written yet."""

    first: str
    last: str
    files: int
    rows: int


class RangeCommitted(Event, frozen=True, kw_only=True):
    """The files of a range are in the store and the checkpoint has moved. `replayed`: another worker had prepared it."""

    first: str
    last: str
    files: int
    rows: int
    size_bytes: int
    replayed: bool


class RecordsTrimmed(Event, frozen=True, kw_only=True):
    """Retention removed records of a prepared range before they could be read again: those not yet in a file are lost."""

    first: str
    last: str


class ShardEnded(Event, frozen=True, kw_only=True):
    """The shard is closed and everything in it is settled; its children may start."""


class ShardStopped(Event, frozen=True, kw_only=True):
    """The shard stands still until somebody acts: what is wrong will not pass by itself. Its lease is kept."""

    error: str


class Trouble(Event, frozen=True, kw_only=True):
    """Something failed and is tried again. Nothing is lost; nothing moves meanwhile either."""

    what: str
    error: str


class Pausing(Event, frozen=True, kw_only=True):
    """The consumer was paused; the calls in hand are finished."""


class Paused(Event, frozen=True, kw_only=True):
    """No handler runs, and none will until the consumer is resumed."""


class Resumed(Event, frozen=True, kw_only=True):
    """The consumer goes on after a pause, with what comes next."""


class Draining(Event, frozen=True, kw_only=True):
    """The worker was told to stop, and finishes what it has in hand."""


class Drained(Event, frozen=True, kw_only=True):
    """The worker has stopped in good order."""


Listener = Callable[[Event], None]
