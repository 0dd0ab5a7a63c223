"""How do records get from a caller into the stream, packed, in order per key, and never dropped?

    put ──> packer (core/packing decides) ──> one dispatcher ──> calls, at most calls_in_flight_max ──> results

One dispatcher task and its calls live in the producer's own TaskGroup; the dispatcher alone asks the packer for calls. A full
buffer makes `put` wait. What may pass is repeated with growing waits; what will not pass surfaces on the record's result.

**At least once.** When an answer is lost, the producer cannot know whether the call was applied; it sends the records again, and
the stream may then hold them twice. Kinesis has no request token that would prevent it. Order per key still holds: the second
copy comes before any later record of the key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from streamlet.core.packing import CALL_BYTES_MAX, CALL_RECORDS_MAX, RECORD_BYTES_MAX, Entry, Failed, Pack, Packer
from streamlet.errors import (
    AccessRefused,
    ConfigurationError,
    RecordError,
    RequestRefused,
    ServiceError,
    StreamletError,
    Unavailable,
    UsageError,
)
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.retry import PASSING, Failure, backoff_s, verdict
from streamlet.kinesis.wire import PutEntry, PutRecordsAnswer
from streamlet.model.shard import HASH_KEY_MAX
from streamlet.ports import Clock, Random
from streamlet.producer.pending import PutPending, PutResult

__all__ = ["Producer"]

# What a buffered record costs beside its bytes, roughly; so that many small records are bounded, too.
ENTRY_OVERHEAD_BYTES: Final = 256
# Failed records are kept until somebody looks or flush reports them; beyond this many only their number is.
FAILURES_KEPT_MAX: Final = 10_000
# A caller that puts and puts without ever waiting gives the event loop a turn this often: once per call's worth.
PUTS_PER_TURN: Final = CALL_RECORDS_MAX
# After an exception in its body, an exit still sends what is buffered, but not for ever.
FLUSH_AFTER_ERROR_S: Final = 10.0
BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 5.0
KEY_CHARS_MAX: Final = 256  # Kinesis API model
_STOPPED: Final = "the producer stopped before the record was sent, or before its answer came: it may or may not be in the stream"


class Producer:
    """Puts records into one stream. Use as `async with Producer("orders") as producer`; leaving it sends everything.

        pending = await producer.put({"id": 1}, "customer-1")     # waits only while the buffer is full
        result = await pending                                    # PutResult(shard_id, sequence_number)
        results = await producer.put_many([(b"...", "customer-2"), ...])

    linger_ms              how long a record may wait for others to share its call
    calls_in_flight_max    PutRecords calls at once
    buffer_bytes_max       records taken over and not settled; beyond it `put` waits
    keep_order             at most one record per partition key under way, because PutRecords may fail the first of two and
                           take the second. False is faster where few keys carry much, and promises no order
    record_ttl_s           give a record up that could not be put for this long; None (default): never
    call_bytes_max         data and keys of one call; lower it for emulators that still know 5 MB
    on_trouble             is told each error that is waited out
    client                 an open KinesisClient to share; by default the producer has its own

    A failed record raises on its own result. If nobody looks there, `flush` and the exit raise for it: nothing is lost silently.
    """

    def __init__(
        self,
        stream: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        linger_ms: float = 50,
        calls_in_flight_max: int = 4,
        buffer_bytes_max: int = 64 * 1024 * 1024,
        keep_order: bool = True,
        record_ttl_s: float | None = None,
        call_bytes_max: int = CALL_BYTES_MAX,
        client: KinesisClient | None = None,
        on_trouble: Callable[[ServiceError], None] | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        _within("linger_ms", linger_ms, 0, 60_000)
        _within("calls_in_flight_max", calls_in_flight_max, 1, 256)
        _within("buffer_bytes_max", buffer_bytes_max, 1, 2**40)
        _within("call_bytes_max", call_bytes_max, 1, CALL_BYTES_MAX)
        if record_ttl_s is not None:
            _within("record_ttl_s", record_ttl_s, 0, 31_536_000)
        if not stream:
            raise ConfigurationError("stream='': name the stream to put records into")
        if clock is None or random is None:
            # The real world's answers, where nobody gave others. Lazy, because only the engine's adapter may import time.
            from streamlet.clock import SystemClock, SystemRandom

            clock, random = clock or SystemClock(), random or SystemRandom()
        self.stream = stream
        self._clock, self._random = clock, random
        self._given_client = client
        self._where = (region, endpoint_url)
        self._calls_in_flight_max = calls_in_flight_max
        self._buffer_bytes_max = buffer_bytes_max
        self._on_trouble = on_trouble
        self._options: dict[str, Any] = {
            "linger_s": linger_ms / 1000,
            "keep_order": keep_order,
            "record_ttl_s": record_ttl_s,
            "call_bytes_max": call_bytes_max,
        }
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._dispatcher: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[None], Pack] = {}
        self._state = "new"
        self._buffered_bytes = 0
        self._room: deque[tuple[PutPending, asyncio.Future[None]]] = deque()
        # Flush waits for the records that were put before it: each epoch counts its unsettled ones.
        self._epoch = 0
        self._unsettled: dict[int, int] = {0: 0}
        self._settled_news: list[asyncio.Future[None]] = []
        self._hurried = 0
        self._failed: deque[PutPending] = deque()
        self._failed_more = 0
        self._first_failure: StreamletError | None = None
        # The dispatcher sleeps until this moment unless it is woken.
        self._wake = asyncio.Event()
        self._wake_at_s = float("inf")
        self._linger_s = linger_ms / 1000
        self._since_turn = 0

    # ── open and close ───────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        """Find the stream. Raises NotFound, AccessRefused, Unavailable or ConfigurationError, each saying what to do."""
        if self._state != "new":
            raise UsageError("a Producer is used once: make a new one")
        async with AsyncExitStack() as stack:
            client = self._given_client
            if client is None:
                client = await stack.enter_async_context(KinesisClient(*self._where, clock=self._clock, random=self._random))
            self._client: KinesisClient = client
            record_bytes_max, shard_ends = await self._look()
            self._packer = Packer(
                backoff_s=self._backoff_s,
                shard_ends=shard_ends,
                record_bytes_max=min(record_bytes_max, self._options["call_bytes_max"]),
                **self._options,
            )
            await self._tasks.__aenter__()
            self._stack = stack.pop_all()
        self._dispatcher = self._tasks.create_task(self._dispatch(), name=f"producer {self.stream}")
        self._state = "open"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Send what is buffered, then close. Raises for failed records that nobody looked at (unless the body raised)."""
        # 1. Take nothing more: a put from here on would never be sent, and one that waits for room has put nothing yet.
        self._state = "closed"
        self._turn_away()
        async with self._stack:
            cancelled = error if isinstance(error, asyncio.CancelledError) else None
            try:
                # 2. Send what is buffered. Not when cancelled: then the caller wants to be gone. After an error, not for ever.
                if cancelled is None:
                    async with asyncio.timeout(None if error is None else FLUSH_AFTER_ERROR_S):
                        await self._flush()
            except TimeoutError:
                assert error is not None
            except asyncio.CancelledError as late:
                # From outside, or by the TaskGroup because the dispatcher failed: the group below tells the two apart.
                cancelled = late
            # 3. Stop the dispatcher and the calls; whoever still waits for a record or for room hears of it.
            try:
                for task in (self._dispatcher, *self._calls):
                    if task is not None:
                        task.cancel()
                packs = list(self._calls.values())
                if cancelled is None:
                    await self._tasks.__aexit__(None, None, None)
                else:
                    await self._tasks.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
            finally:
                self._abandon(packs)
        # 4. Only now raise for what failed: everything else is settled. The body's own exception goes first.
        unseen = self._take_unseen()
        if unseen is not None:
            if error is None:
                raise unseen
            error.add_note(str(unseen))

    async def _look(self) -> tuple[int, list[int]]:
        """How large may a record be, and where do the shards' hash ranges end?"""
        try:
            summary = await self._client.describe_stream_summary(self.stream)
            shards = await self._client.list_shards(self.stream)
        except (AccessRefused, RequestRefused) as error:
            # A producer may be allowed to put and nothing else; an emulator may not know the call. The first put will tell.
            if error.code not in {"AccessDeniedException", "AccessDenied", "UnknownOperationException"}:
                raise
            return RECORD_BYTES_MAX, []
        record_bytes_max = (summary.max_record_size_in_kib or 1024) * 1024
        return record_bytes_max, sorted(shard.ending_hash_key for shard in shards if not shard.closed)

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, self._random.random(), base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, data: Any, partition_key: str, explicit_hash_key: int | str | None = None) -> PutPending:
        """Hand a record over; returns at once unless the buffer is full. `await` what it returns for the PutResult.

        `data` is bytes, a str (sent as UTF-8), or any value that msgspec writes as JSON. Raises RecordTooLarge, or UsageError for
        a key that Kinesis does not take; then the record was not taken over.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        key_bytes = len(partition_key) if type(partition_key) is str and partition_key.isascii() else _key_bytes(partition_key)
        if not 0 < key_bytes <= KEY_CHARS_MAX:
            _check_key(partition_key)
        hash_key = None if explicit_hash_key is None else _hash_key(explicit_hash_key)
        if self._state != "open":
            self._check_open()
        size_bytes = len(data) + key_bytes
        pending = PutPending(data, partition_key, hash_key, size_bytes)
        buffered_bytes = self._buffered_bytes
        if self._room or (buffered_bytes and buffered_bytes + size_bytes + ENTRY_OVERHEAD_BYTES > self._buffer_bytes_max):
            await self._wait_for_room(pending)
        else:
            self._take_over(pending)
        self._since_turn += 1
        if self._since_turn >= PUTS_PER_TURN:
            # A caller that never waits for anything would keep the dispatcher and everybody else from their turn.
            self._since_turn = 0
            await asyncio.sleep(0)
        return pending

    async def put_many(self, records: Iterable[tuple[Any, str] | tuple[Any, str, int | str | None]]) -> list[PutResult]:
        """Hand over all (data, partition key[, explicit hash key]) and wait for them. One result per record, in order.

        If some failed, raises the first failure's class with the counts, after all the others were settled.
        """
        pendings: list[PutPending] = []
        errors: list[StreamletError] = []
        for record in records:
            try:
                pendings.append(await self.put(*record))
            except RecordError as error:
                # One of many: the others are not held up by it, and it is named when all are done.
                errors.append(error)
        given = len(pendings) + len(errors)
        results: list[PutResult] = []
        with self._hurrying():
            for pending in pendings:
                try:
                    results.append(await pending)
                except StreamletError as error:
                    errors.append(error)
        if errors:
            raise _summed_up(len(errors), errors[0], self.stream, of=given)
        return results

    async def flush(self) -> None:
        """Wait until every record that was put before this call is settled. Raises for failed ones that nobody looked at."""
        self._check_open()
        await self._flush()
        unseen = self._take_unseen()
        if unseen is not None:
            raise unseen

    def _take_over(self, pending: PutPending) -> None:
        """Give a record, for which there is room, to the packer. Raises RecordTooLarge, and then nothing has changed."""
        packer = self._packer
        packer.add(pending, self._clock.monotonic())
        self._buffered_bytes += pending.size_bytes + ENTRY_OVERHEAD_BYTES
        pending.epoch = self._epoch
        self._unsettled[self._epoch] += 1
        if len(self._calls) < self._calls_in_flight_max and (self._wake_at_s > pending.added_at_s + self._linger_s or packer.is_full):
            self._wake.set()

    def _check_open(self) -> None:
        if self._state != "open":
            raise UsageError("the producer is not open: use it inside `async with Producer(...) as producer`")

    # ── room in the buffer ───────────────────────────────────────────────────────────────────────────────────────

    async def _wait_for_room(self, pending: PutPending) -> None:
        """First come, first served: the record is taken over at the moment when room is granted, not when its caller next runs.

        Otherwise: 1. A waits with a record of a key. 2. Room is granted to A. 3. Before A runs, B puts a record of the same
        key and finds room. 4. B's record would go first.
        """
        self._packer.check(pending)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append((pending, granted))
        # Nothing lingers while somebody waits for room. A caller that is cancelled here has put nothing if it was still waiting.
        with self._hurrying():
            await granted

    def _free(self, freed_bytes: int) -> None:
        self._buffered_bytes -= freed_bytes
        room = self._room
        while room:
            pending, granted = room[0]
            needed_bytes = pending.size_bytes + ENTRY_OVERHEAD_BYTES
            if not granted.done():
                if self._buffered_bytes and self._buffered_bytes + needed_bytes > self._buffer_bytes_max:
                    return
                self._take_over(pending)
                granted.set_result(None)
            room.popleft()

    # ── the dispatcher ───────────────────────────────────────────────────────────────────────────────────────────

    async def _dispatch(self) -> None:
        """Start calls as they fall due. Ends by cancellation."""
        packer, clock, calls = self._packer, self._clock, self._calls
        while True:
            self._wake.clear()
            while len(calls) < self._calls_in_flight_max and (pack := packer.next_call(clock.monotonic())) is not None:
                task = self._tasks.create_task(self._call(pack), name=f"PutRecords {self.stream}")
                calls[task] = pack
                task.add_done_callback(self._call_ended)
            self._expire()
            # With all calls taken only the end of one of them matters, and that wakes.
            due_s = packer.due_at_s() if len(calls) < self._calls_in_flight_max else None
            self._wake_at_s = float("inf") if due_s is None else due_s
            try:
                async with asyncio.timeout(None if due_s is None else max(0.0, due_s - clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _call_ended(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        self._wake.set()

    async def _call(self, pack: Pack) -> None:
        """One PutRecords, and what came of it."""
        records = [PutEntry(entry.data, entry.partition_key, entry.explicit_hash_key) for entry in pack.entries]
        try:
            answer = await self._client.put_records(self.stream, records)
        except ServiceError as error:
            given_up = self._packer.feed_lost(pack, Failed(error, isinstance(error, PASSING)), self._clock.monotonic())
            if isinstance(error, PASSING):
                self._tell(error)
        else:
            given_up = self._answered(pack, answer)
        for entry, failed in given_up:
            self._settle(entry, failed.error)
        self._tell_flush()

    def _answered(self, pack: Pack, answer: PutRecordsAnswer) -> list[tuple[Entry, Failed]]:
        failures: dict[int, Failed] = {}
        unsettled, freed_bytes = self._unsettled, 0
        for index, (entry, result) in enumerate(zip(pack.entries, answer.records, strict=True)):
            sequence_number = result.sequence_number
            if sequence_number is not None and result.error_code is None:
                assert isinstance(entry, PutPending)
                entry.settle(PutResult(result.shard_id or "", sequence_number))
                unsettled[entry.epoch] -= 1
                freed_bytes += entry.size_bytes + ENTRY_OVERHEAD_BYTES
            else:
                code, text = result.error_code or "InternalFailure", result.error_message or ""
                found = verdict(Failure("PutRecords", 200, code, text, url=self._client.endpoint_url, stream=self.stream))
                failures[index] = Failed(found.error, found.again)
                if found.again and len(failures) == 1:
                    self._tell(found.error)
        given_up = self._packer.feed(pack, failures, self._clock.monotonic())
        self._free(freed_bytes)
        return given_up

    def _expire(self) -> None:
        for entry in self._packer.take_expired():
            age_s = self._clock.monotonic() - entry.added_at_s
            text = f"PutRecords: a record of {self.stream} could not be put within record_ttl_s; it is {age_s:.1f} s old"
            self._settle(entry, Unavailable(text, operation="PutRecords"))
            self._tell_flush()

    def _settle(self, entry: Entry, outcome: PutResult | StreamletError) -> None:
        assert isinstance(entry, PutPending)
        entry.settle(outcome)
        self._unsettled[entry.epoch] -= 1
        self._free(entry.size_bytes + ENTRY_OVERHEAD_BYTES)
        if isinstance(outcome, StreamletError):
            self._note_failure(entry, outcome)

    def _tell(self, error: ServiceError) -> None:
        if self._on_trouble is not None:
            self._on_trouble(error)

    # ── flush, and failures that nobody saw ──────────────────────────────────────────────────────────────────────

    @contextmanager
    def _hurrying(self) -> Iterator[None]:
        """While somebody waits for records, nothing lingers."""
        self._hurried += 1
        self._packer.hurry = True
        self._wake.set()
        try:
            yield
        finally:
            self._hurried -= 1
            self._packer.hurry = self._hurried > 0

    async def _flush(self) -> None:
        last = self._epoch
        self._epoch += 1
        self._unsettled[self._epoch] = 0
        with self._hurrying():
            while any(count for epoch, count in self._unsettled.items() if epoch <= last):
                news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._settled_news.append(news)
                await news
        for epoch in [epoch for epoch, count in self._unsettled.items() if not count and epoch <= last]:
            del self._unsettled[epoch]

    def _tell_flush(self) -> None:
        news, self._settled_news = self._settled_news, []
        for waiter in news:
            if not waiter.done():
                waiter.set_result(None)

    def _note_failure(self, entry: PutPending, error: StreamletError) -> None:
        if entry.seen:
            return
        failed = self._failed
        while failed and failed[0].seen:
            failed.popleft()
        if len(failed) < FAILURES_KEPT_MAX:
            failed.append(entry)
        else:
            self._failed_more += 1
            self._first_failure = self._first_failure or error

    def _take_unseen(self) -> StreamletError | None:
        """The one error that stands for all failures that nobody looked at; they are reported with it."""
        unseen = [entry for entry in self._failed if not entry.seen]
        count = len(unseen) + self._failed_more
        first = unseen[0].outcome if unseen else self._first_failure
        for entry in unseen:
            entry.seen = True
        self._failed.clear()
        self._failed_more, self._first_failure = 0, None
        return _summed_up(count, first, self.stream) if isinstance(first, StreamletError) else None

    def _turn_away(self) -> None:
        for _, granted in self._room:
            if not granted.done():
                granted.set_exception(UsageError("the producer was closed while the record waited for room in its buffer; it was not sent"))
        self._room.clear()

    def _abandon(self, packs: list[Pack]) -> None:
        """Nobody sends any more: whoever waits must not wait for ever."""
        self._turn_away()
        in_calls = (entry for pack in packs for entry in pack.entries)
        for entry in (*in_calls, *self._packer.take_all()):
            if isinstance(entry, PutPending) and not entry.done:
                self._settle(entry, Unavailable(_STOPPED, operation="PutRecords"))
        self._tell_flush()


def _within(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigurationError(f"{name}={value!r}: must be a number from {low:,} to {high:,}")


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    try:
        return msgspec.json.encode(data)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise UsageError(f"data is neither bytes nor str, and cannot be written as JSON: {error}") from error


def _key_bytes(key: Any) -> int:
    if not isinstance(key, str):
        raise UsageError(f"partition_key={key!r:.80}: must be a str of 1 to {KEY_CHARS_MAX} characters")
    try:
        return len(key.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"partition_key={key!r:.80} cannot be written as UTF-8: {error}") from error


def _check_key(key: str) -> None:
    # The service counts characters here, and bytes for the size.
    if not 0 < len(key) <= KEY_CHARS_MAX:
        raise UsageError(f"partition_key={key!r:.80}: must be a str of 1 to {KEY_CHARS_MAX} characters")


def _hash_key(value: int | str) -> str:
    text = str(value)
    if not (text.isascii() and text.isdigit()) or int(text) > HASH_KEY_MAX:
        # The service refuses the whole call for one such key (errors.md, 7.2), so it must not get there.
        raise UsageError(f"explicit_hash_key={value!r:.80}: must be a number from 0 to 2**128 - 1")
    return str(int(text))


def _summed_up(count: int, first: StreamletError, stream: str, of: int | None = None) -> StreamletError:
    share = f"{count:,} of {of:,}" if of is not None else f"{count:,}"
    message = f"{share} record{'s' if (of or count) != 1 else ''} could not be put into {stream}; the first: {first}"
    if isinstance(first, ServiceError):
        summed: StreamletError = type(first)(message, code=first.code, status=first.status, operation=first.operation)
    else:
        summed = type(first)(message)
    summed.__cause__ = first
    return summed
