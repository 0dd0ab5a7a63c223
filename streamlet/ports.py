"""What does the engine ask of the world? Every adapter fits one of these shapes.

Clock, randomness, the blocking executor, the HTTP transport and the object store are ports, so that a simulation can
put its own behind them and run a whole system on virtual time.

Lease stores and object stores are synchronous on purpose. Lease writes happen on a thread of their own, so that a
blocked event loop does not lose its leases; file writes happen on the executor. Neither needs a loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from streamlet.model.position import TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.model.shard import Shard

__all__ = [
    "Chunk",
    "Clock",
    "Destination",
    "Executor",
    "FailureDocument",
    "Fetch",
    "IdempotencyStore",
    "Lease",
    "LeaseStore",
    "Marker",
    "Random",
    "ShardReader",
    "Sink",
    "SinkObject",
    "Source",
    "Span",
    "StartingPosition",
]

T = TypeVar("T")


class Clock(Protocol):
    """Wall time for ages, monotonic time for intervals, and waiting."""

    def time(self) -> float:
        """Epoch seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait; cancellable."""
        ...


class Random(Protocol):
    """Jitter only, never secrets. `random.Random` fits."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class Executor(Protocol):
    """Where blocking calls run."""

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        """Call `function(*args)` where it does not block the event loop, and return what it returns."""
        ...


# ── where records come from ──────────────────────────────────────────────────────────────────────────────────────


class StartingPosition(msgspec.Struct, frozen=True):
    """Where a reader begins.

    `position` is a sentinel (`timestamp_s`, epoch seconds, goes with AT_TIMESTAMP) or the position of a record. After a
    record position, reading goes on with the first record whose (sequence, sub-sequence) is greater.
    """

    position: Position = TRIM_HORIZON
    timestamp_s: float | None = None


class Fetch(msgspec.Struct, frozen=True):
    """What one read brought. `ended` means that the shard is closed and this was the last of it."""

    records: Sequence[Record]
    millis_behind_latest: int
    ended: bool = False


class ShardReader(Protocol):
    """Reads one shard in order, without gap and without repeat, until it ends."""

    async def read(self) -> Fetch:
        """The next records, perhaps none. Waits by itself as the service's limits ask. Never raises for what will pass."""
        ...


class Source(Protocol):
    """One stream."""

    stream: str

    async def list_shards(self) -> Sequence[Shard]:
        """Every shard within retention, open and closed. Raises NotFound, AccessRefused, RequestRefused, Unavailable."""
        ...

    def reader(self, shard_id: str, start: StartingPosition) -> ShardReader:
        """A reader that begins at `start`."""
        ...


# ── who holds a shard, and how far it is ─────────────────────────────────────────────────────────────────────────


class Lease(msgspec.Struct, frozen=True):
    """One row of the lease table; the fields are the KCL's (amazon-kinesis-client, DynamoDBLeaseSerializer).

    `counter` grows with every write and is the condition of every write. `pending` and `pending_state` are the prepared
    checkpoint: the last position of a range whose files may or may not be in the object store, and what is needed to
    complete it. `checkpoint_owner` is set only while a KCL 3 hands the lease over.
    """

    key: str
    owner: str | None = None
    counter: int = 0
    checkpoint: Position = TRIM_HORIZON
    parents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    pending: Position | None = None
    pending_state: bytes | None = None
    owner_switches: int = 0
    starting_hash_key: int | None = None
    ending_hash_key: int | None = None
    checkpoint_owner: str | None = None


class LeaseStore(Protocol):
    """A table of leases with one kind of write: conditional on the counter. Called from one thread at a time.

    All methods raise StoreError when the store cannot be reached; after a write that raises, whether it was applied is
    unknown, and the caller finds out by reading.
    """

    def open(self) -> None:
        """Create or check the table. Raises StoreError with what to do if it is not writable."""
        ...

    def scan(self) -> list[Lease]:
        """Every lease row, in key order. Rows of other entity types are not leases and are left out."""
        ...

    def read(self, key: str) -> Lease | None:
        """One row as it is now (a consistent read)."""
        ...

    def create(self, lease: Lease) -> bool:
        """Insert the row; False if there is one with this key."""
        ...

    def create_all(self, leases: Sequence[Lease]) -> int:
        """Insert those that are not there, all or none, and say how many. At a first start half a table would read as
        "the rest was not asked for"."""
        ...

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        """Replace the whole row if its counter is `if_counter` still; False if it is not, or the row is gone."""
        ...

    def delete(self, key: str, *, if_counter: int) -> bool:
        """Remove the row if its counter is `if_counter` still."""
        ...

    def close(self) -> None:
        """Release what `open` took. Idempotent."""
        ...


# ── which effects have been had ──────────────────────────────────────────────────────────────────────────────────


class Marker(msgspec.Struct, frozen=True):
    """What a store says when a key is begun: it is now ours (`token` is not empty), was done before, or is busy elsewhere."""

    state: Literal["mine", "done", "busy"]
    token: str = ""


class IdempotencyStore(Protocol):
    """Remembers which records' effects have been had. Any thread may call it, any number of processes may share it.

    A marker is in progress from `begin` to `finish` or `release`, and done from `finish` on; either kind has a time after which
    it counts as absent. All methods but `close` raise StoreError or ServiceError when the store cannot be reached.
    """

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """Set the marker in progress if there is none that counts: of any number of callers at once, one gets it. `for_s`: how
        long it counts, where whoever asks knows when its process ends; else as long as the store was told."""
        ...

    def finish(self, key: str) -> None:
        """The effect has been had: done, whoever holds the marker by now."""
        ...

    def release(self, key: str, token: str) -> None:
        """The handler failed: remove the marker if it is still the one of this token."""
        ...

    def close(self) -> None:
        """Give back what is open. Idempotent; another call opens anew."""
        ...


# ── where rows go ────────────────────────────────────────────────────────────────────────────────────────────────


class Span(msgspec.Struct, frozen=True):
    """A contiguous range of one shard, both ends included: what one set of files is made of, and named after."""

    stream: str
    shard_id: str
    first: Position
    last: Position


class Chunk(Protocol):
    """Rows of consecutive records, already in the sink's own form."""

    @property
    def rows(self) -> int:
        """How many rows."""
        ...

    @property
    def size_bytes(self) -> int:
        """About how much memory they hold."""
        ...


class SinkObject(msgspec.Struct, frozen=True):
    """One finished file. `digest` covers the positions (and row numbers within a record) of its rows, in order."""

    key: str
    rows: int
    digest: str
    data: bytes


class Sink(Protocol):
    """Turns records into files. Synchronous: the engine calls it on the executor."""

    def check(self) -> None:
        """Called once at start. Raises ConfigurationError or SinkError with what to do if it can never work."""
        ...

    def collect(self, records: Sequence[Record], rows: Sequence[Any] | None) -> Chunk:
        """Convert one batch. `rows` has one item per record (a row, a list of rows, or None), or is None: the payloads
        themselves are the rows. Raises RowError with the index of the first record whose row does not fit."""
        ...

    def build(self, chunks: Sequence[Chunk], span: Span, *, positions: bool = False) -> list[SinkObject]:
        """The files of a range: keys and bytes follow from the rows and the span alone. With `positions`, each row
        carries its sequence and sub-sequence number as columns (used where a range may be replayed differently)."""
        ...

    def put_if_absent(self, item: SinkObject) -> bool:
        """Write the file unless its key is taken; False if it was. Raises SinkError if the store cannot take it."""
        ...

    def holds(self, item: SinkObject) -> bool:
        """Is the file under this key the very same? Raises SinkError if the store cannot say."""
        ...

    def put(self, item: SinkObject) -> None:
        """Write the file, over an older one of the same key. Raises SinkError."""
        ...


# ── where records go that were given up ──────────────────────────────────────────────────────────────────────────


class FailureDocument(msgspec.Struct, frozen=True):
    """What is told about consecutive records that were given up: Lambda's on-failure document.

    `condition` is `RetryAttemptsExhausted` or `RecordAgeExceeded`; `function_error` is `Unhandled` after an exception and
    None after a partial response; `document_id` follows from the records, so that a re-send can be recognised.
    (reference: Lambda developer guide, kinesis-on-failure-destination.)
    """

    document_id: str
    request_id: str
    function_name: str
    condition: str
    invoke_count: int
    function_error: str | None
    stream: str
    shard_id: str
    timestamp_s: float
    records: Sequence[Record]
    error: str = ""


class Destination(Protocol):
    """Takes failure documents."""

    def send(self, document: FailureDocument) -> None:
        """Deliver, durably, before returning. Blocking (called on the executor). Raises SinkError or ServiceError."""
        ...


Handler = Callable[..., Awaitable[Any]]
