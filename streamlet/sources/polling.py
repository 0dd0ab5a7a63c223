"""How is a shard read with GetRecords, in order, without gap and without repeat?

A reader remembers a *place* (where the next record is, in words that survive everything) and an *iterator* (the service's
token for it, good for five minutes). Every answer moves both. Whatever goes wrong with the iterator, a new one is made from
the place. Trouble that passes is waited out here, for ever, and shown through `on_trouble`; what will not pass is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from streamlet.errors import ConfigurationError, IteratorExpired, IteratorRefused, NotFound, ServiceError, Throttled, Unavailable
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.retry import PASSING, backoff_s
from streamlet.kinesis.wire import GetRecordsAnswer
from streamlet.kpl.user_records import taken_apart
from streamlet.model.position import AT_TIMESTAMP, LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.model.record import Record
from streamlet.model.shard import Shard
from streamlet.ports import Clock, Fetch, Random, StartingPosition

__all__ = ["PollingReader", "PollingSource"]

LIMIT_MAX: Final = 10_000  # GetRecords, API model
# Before a record was seen, its size is unknown. A thousand of 1 KB are 1 MB; ten thousand would be 10 MB, after which the
# service blocks the shard's reads for five seconds.
LIMIT_FIRST: Final = 1_000
# Two reads of this size reach a shard's 2 MB/s, and an answer stays far from the service's 10 MiB.
BYTES_TARGET: Final = 1_500_000
RECORD_OVERHEAD_BYTES: Final = 200
# AWS asks to wait a second after a throttled GetRecords.
THROTTLED_BASE_S: Final = 1.0
UNAVAILABLE_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 10.0
# A deleted and re-created stream answers an old iterator with 500 for ever; a fresh iterator finds out (errors.md, 7.1).
FAILURES_PER_ITERATOR: Final = 3
# Arrival times are the service's, LATEST is remembered in ours.
CLOCK_SKEW_S: Final = 1.0


class PollingSource:
    """One stream, read with GetRecords. Fits ports.Source.

    poll_interval_s        wait between reads of a shard that is caught up; AWS allows 5 reads a second and shard, over all readers
    reads_per_second_max   while there is more to read; None for a local broker, which has no such limit
    bytes_target           how much a read should bring; the limit follows the size of the records seen
    on_trouble             is told each error that is waited out
    """

    def __init__(
        self,
        client: KinesisClient,
        stream: str,
        *,
        clock: Clock,
        random: Random,
        decoder: Callable[[bytes], Any] = msgspec.json.decode,
        poll_interval_s: float = 1.0,
        reads_per_second_max: float | None = 5,
        bytes_target: int = BYTES_TARGET,
        on_trouble: Callable[[ServiceError], None] | None = None,
    ) -> None:
        if poll_interval_s < 0:
            raise ConfigurationError(f"poll_interval_s={poll_interval_s!r}: must be 0 or more")
        if reads_per_second_max is not None and reads_per_second_max <= 0:
            raise ConfigurationError(f"reads_per_second_max={reads_per_second_max!r}: must be more than 0, or None for no limit")
        if not 1 <= bytes_target <= 10_000_000:
            raise ConfigurationError(f"bytes_target={bytes_target!r}: must be from 1 to 10,000,000")
        self.stream = stream
        self.client = client
        self.clock = clock
        self.random = random
        self.decoder = decoder
        self.poll_interval_s = poll_interval_s
        self.read_gap_s = 0.0 if reads_per_second_max is None else 1.0 / reads_per_second_max
        self.bytes_target = bytes_target
        self.on_trouble = on_trouble

    async def list_shards(self) -> Sequence[Shard]:
        """Every shard within retention, open and closed."""
        return await self.client.list_shards(self.stream)

    def reader(self, shard_id: str, start: StartingPosition) -> PollingReader:
        """A reader that begins at `start`. Nothing is asked yet."""
        return PollingReader(self, shard_id, start)


class _Place(msgspec.Struct, frozen=True):
    """What a shard iterator is made from."""

    kind: str
    sequence_number: str | None = None
    timestamp_s: float | None = None


class PollingReader:
    """Reads one shard. One task at a time; a cancelled `read` loses nothing, the next one asks for the same records."""

    def __init__(self, source: PollingSource, shard_id: str, start: StartingPosition) -> None:
        self._source = source
        self._shard_id = shard_id
        self._place = _place_of(start)
        # Records up to and including it are known: the start, then the last that was read. An answer may repeat some, as one
        # from AT_SEQUENCE_NUMBER inside an aggregate does.
        self._after: Position | None = None if start.position.is_sentinel else start.position
        self._iterator: str | None = None
        self._ended = start.position == SHARD_END
        self._record_bytes: float | None = None
        self._due_at_s = 0.0
        self._failures = 0

    @property
    def limit(self) -> int:
        """How many records the next read asks for."""
        if self._record_bytes is None:
            return LIMIT_FIRST
        return max(1, min(LIMIT_MAX, int(self._source.bytes_target / self._record_bytes)))

    async def read(self) -> Fetch:
        """The next records, perhaps none. Waits before the read as pace and back-off ask.

        Raises IteratorRefused (the stream was re-created), NotFound (it was deleted), AccessRefused, RequestRefused.
        """
        if self._ended:
            return Fetch((), 0, ended=True)
        clock = self._source.clock
        while True:
            # Waiting comes first: what was read is handed over at once, and a caught-up shard brings an empty fetch per interval.
            if (wait_s := self._due_at_s - clock.monotonic()) > 0:
                await clock.sleep(wait_s)
            try:
                fresh = self._iterator is None
                if self._iterator is None:
                    self._iterator = await self._make_iterator()
                answer = await self._source.client.get_records(self._iterator, self.limit)
            except IteratorExpired:
                # Five minutes without a read (a slow handler, a suspended machine): go on from the place.
                self._iterator = None
            except PASSING as error:
                self._wait_out(error)
            except NotFound as error:
                if not await self._was_removed():
                    raise
                # The stream is there, the shard is not: retention removed it, with everything in it.
                self._tell(error)
                self._ended = True
                return Fetch((), 0, ended=True)
            except IteratorRefused as error:
                if error.operation == "GetRecords" and not fresh:
                    # A service that restarted may not know its old tokens. Whether the place is still good, only a new one tells.
                    self._iterator = None
                    continue
                place = self._place.sequence_number or self._place.kind
                raise IteratorRefused(
                    f"{self._source.stream} {self._shard_id} cannot be read from {place}: {error}. "
                    "Was the stream deleted and created anew? Then start without the old checkpoints (a new lease table or --state)",
                    code=error.code,
                    status=error.status,
                    operation=error.operation,
                ) from error
            else:
                return self._fetch(answer)

    async def _was_removed(self) -> bool:
        """Is the stream still there, without this shard? Of a deleted stream GetRecords only says that the shard is missing."""
        clock = self._source.clock
        while True:
            try:
                return all(shard.shard_id != self._shard_id for shard in await self._source.list_shards())
            except PASSING as error:
                self._wait_out(error)
                await clock.sleep(max(0.0, self._due_at_s - clock.monotonic()))

    async def _make_iterator(self) -> str:
        place, source = self._place, self._source
        asked_at_s = source.clock.time()
        iterator = await source.client.get_shard_iterator(
            source.stream, self._shard_id, place.kind, sequence_number=place.sequence_number, timestamp_s=place.timestamp_s
        )
        if place.kind == "LATEST":
            # 1. A LATEST iterator is made at noon. 2. A record arrives. 3. The iterator expires before it is used. A second
            # LATEST iterator would begin after that record and lose it; so LATEST is from now on the moment of the first one.
            self._place = _Place("AT_TIMESTAMP", timestamp_s=asked_at_s - CLOCK_SKEW_S)
        return iterator

    def _fetch(self, answer: GetRecordsAnswer) -> Fetch:
        source, shard_id, wire = self._source, self._shard_id, answer.records
        stream, decoder = source.stream, source.decoder
        records = [
            Record(
                item.data, item.partition_key or "", item.sequence_number, 0, item.approximate_arrival_timestamp, shard_id, stream, decoder
            )
            for item in wire
        ]
        behind_ms = answer.millis_behind_latest or 0
        self._failures = 0
        self._iterator = answer.next_shard_iterator
        self._ended = answer.next_shard_iterator is None
        if wire:
            # Records are in order, so the last one of the answer is the place; the known ones at its front are dropped below.
            self._place = _Place("AFTER_SEQUENCE_NUMBER", sequence_number=wire[-1].sequence_number)
            seen_bytes = RECORD_OVERHEAD_BYTES + sum([len(item.data) for item in wire]) / len(wire)
            self._record_bytes = seen_bytes if self._record_bytes is None else (self._record_bytes + seen_bytes) / 2
            if self._after is not None:
                records = _beyond(records, self._after)
            if records:
                self._after = records[-1].position
        more = bool(wire) or behind_ms > 0
        self._due_at_s = source.clock.monotonic() + (source.read_gap_s if more else max(source.poll_interval_s, source.read_gap_s))
        return Fetch(records, behind_ms, ended=self._ended)

    def _wait_out(self, error: ServiceError) -> None:
        assert isinstance(error, Throttled | Unavailable)
        self._failures += 1
        base_s = THROTTLED_BASE_S if isinstance(error, Throttled) else UNAVAILABLE_BASE_S
        wait_s = backoff_s(self._failures, self._source.random.random(), base_s=base_s, cap_s=BACKOFF_CAP_S)
        self._due_at_s = self._source.clock.monotonic() + wait_s
        if isinstance(error, Unavailable) and self._failures % FAILURES_PER_ITERATOR == 0:
            self._iterator = None
        self._tell(error)

    def _tell(self, error: ServiceError) -> None:
        if self._source.on_trouble is not None:
            self._source.on_trouble(error)


def _beyond(records: list[Record], after: Position) -> list[Record]:
    for index, record in enumerate(records):
        if record.position > after:
            return records[index:] if index else records
        if after.sub > 0 and record.position.sequence == after.sequence:
            # A KCL had done a part of this aggregate, or all of it.
            return [user for user in taken_apart([record]).records if user.position > after] + records[index + 1 :]
    return []


def _place_of(start: StartingPosition) -> _Place:
    position = start.position
    if position == AT_TIMESTAMP:
        if start.timestamp_s is None:
            raise ConfigurationError("the starting position AT_TIMESTAMP needs a timestamp_s (epoch seconds)")
        return _Place("AT_TIMESTAMP", timestamp_s=start.timestamp_s)
    if start.timestamp_s is not None:
        raise ConfigurationError(f"timestamp_s goes with the starting position AT_TIMESTAMP only, not with {position}")
    if position in {TRIM_HORIZON, LATEST, SHARD_END}:
        return _Place(position.text)
    # AT, not AFTER: the record itself may be an aggregate of which only some sub-sequence numbers are done. A position that
    # retention has trimmed away begins at the trim horizon, where every record is greater.
    return _Place("AT_SEQUENCE_NUMBER", sequence_number=position.text)
