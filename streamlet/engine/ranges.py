"""How do a shard's rows become files exactly once? The open range, and the protocol that closes it.

The protocol (docs/DESIGN.md, "Exactly once into Parquet"; every rule was found by a model check that left it out):

    1  rows collect in the open range; the checkpoint does not move
    2  prepare   one conditional lease write fixes the range, the runs given up, and each file's key, rows and digest
    3  put       every file, if its key is free; then the failure documents of the recorded runs
    4  commit    the checkpoint, on the same condition

Nothing is written outside the lease before step 2, so a worker that dies earlier leaves no trace; one that dies later leaves
all that its successor needs to write the very same files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from streamlet.core.failure import RECORD_AGE_EXCEEDED
from streamlet.core.prepared import GivenUp, PreparedFile, PreparedRange, differences
from streamlet.engine.leases import Grip, LeaseKeeper, Leases
from streamlet.errors import FileTaken, ReplayDiffers
from streamlet.hooks import Event, RangeCommitted, RangePrepared, RecordsTrimmed, Trouble
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.ports import Chunk, Clock, Destination, Executor, FailureDocument, Sink, SinkObject, Span

__all__ = ["Closer", "OpenRows", "document_of"]

T = TypeVar("T")

# The pause before a file or a document is tried again. The range is prepared: nothing is lost while it waits.
_RETRY_FIRST_S, _RETRY_CAP_S = 0.5, 15.0


class OpenRows:
    """What a shard's open range holds: chunks in order, the runs that were given up, and its first and last record."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.given_up: list[tuple[GivenUp, Sequence[Record]]] = []
        self.first: Position | None = None
        self.last: Position | None = None

    def took(self, records: Sequence[Record], chunk: Chunk | None) -> None:
        """These records are settled; `chunk` has their rows."""
        self._reach(records)
        if chunk is not None and chunk.rows:
            self.chunks.append(chunk)

    def passed(self, position: Position) -> None:
        """Everything up to here is settled: behind the last row there may be records that passed no filter."""
        if self.last is None or position > self.last:
            self.first = self.first if self.first is not None else position
            self.last = position

    def gave_up(self, run: GivenUp, records: Sequence[Record]) -> None:
        """These records are given up: they count as settled for the prepare, and as delivered only at the commit."""
        self._reach(records)
        self.given_up.append((run, records))

    def add_to_run(self, run: GivenUp, record: Record) -> None:
        """While completing a prepared range: one more record of a run that was given up then."""
        for known, records in self.given_up:
            if known == run:
                assert isinstance(records, list)
                records.append(record)
                return
        self.given_up.append((run, [record]))

    def _reach(self, records: Sequence[Record]) -> None:
        first, last = records[0].position, records[-1].position
        assert self.last is None or first > self.last, f"record {first} after {self.last}: a range is contiguous and in order"
        self.first = self.first if self.first is not None else first
        self.last = last


def document_of(run: GivenUp, records: Sequence[Record], *, name: str, stream: str, shard_id: str) -> FailureDocument:
    """The failure document of a run. Its id follows from the run, so a re-send after a crash can be recognised."""
    identity = f"{stream}/{shard_id}/{run.first}.{run.first_sub}-{run.last}.{run.last_sub}"
    return FailureDocument(
        document_id=identity,
        request_id=identity,
        function_name=name,
        condition=run.condition,
        invoke_count=run.invoke_count,
        function_error=None if run.condition == RECORD_AGE_EXCEEDED else run.function_error,
        stream=stream,
        shard_id=shard_id,
        timestamp_s=run.timestamp_s,
        records=records,
        error=run.error,
    )


class Closer:
    """Closes ranges of one shard: prepare, put, commit."""

    def __init__(
        self,
        *,
        stream: str,
        shard_id: str,
        name: str,
        sink: Sink,
        destination: Destination | None,
        grip: Grip,
        keeper: LeaseKeeper,
        leases: Leases,
        executor: Executor,
        clock: Clock,
        emit: Callable[[Event], None],
    ) -> None:
        self._stream, self._shard_id, self._name = stream, shard_id, name
        self._sink, self._destination = sink, destination
        self._grip, self._keeper, self._leases = grip, keeper, leases
        self._executor, self._clock, self._emit = executor, clock, emit

    async def close(self, rows: OpenRows) -> None:
        """Take a range from open to committed. Raises LeaseLost (stop, write nothing more) and StoreError."""
        if rows.first is None or rows.last is None:
            return
        span = Span(self._stream, self._shard_id, rows.first, rows.last)
        items = await self._executor.run(self._build, rows.chunks, span)
        if items or rows.given_up:
            prepared = PreparedRange(
                first=rows.first.text,
                first_sub=rows.first.sub,
                last=rows.last.text,
                last_sub=rows.last.sub,
                given_up=tuple(run for run, _ in rows.given_up),
                files=tuple(PreparedFile(item.key, item.rows, item.digest) for item in items),
            )
            await self._leases.call(self._keeper.prepare, self._grip, rows.last, prepared.encode())
            total = sum(item.rows for item in items)
            self._emit(
                RangePrepared(
                    stream=self._stream, shard_id=self._shard_id, first=rows.first.text, last=rows.last.text, files=len(items), rows=total
                )
            )
        await self._finish(span, items, rows.given_up, replayed=False)

    async def complete(self, prepared: PreparedRange, rows: OpenRows, first_read: Position | None) -> None:
        """Finish a range that another worker prepared, from its records read again. Raises ReplayDiffers, LeaseLost, StoreError."""
        span = Span(self._stream, self._shard_id, prepared.first_position, prepared.last_position)
        items = await self._executor.run(self._build, rows.chunks, span)
        remade = [PreparedFile(item.key, item.rows, item.digest) for item in items]
        trimmed = first_read is None or first_read > prepared.first_position
        if trimmed:
            # Retention was faster. What can still be read is put where no file is yet; the rest is told, loudly.
            last = prepared.last if first_read is None else first_read.text
            self._emit(RecordsTrimmed(stream=self._stream, shard_id=self._shard_id, first=prepared.first, last=last))
        elif wrong := differences(prepared.files, remade):
            raise ReplayDiffers(
                f"{self._stream} {self._shard_id}: the range {prepared.first} … {prepared.last} came out differently when it was made again "
                f"({'; '.join(wrong[:3])}). The way from record to row and partition must not depend on the clock, on random numbers or on "
                "anything else that changes. Restore the handler that prepared the range; if that cannot be, "
                f"streamlet doctor {self._name} {self._stream} --abandon-prepared {self._shard_id} lets go of it and says what may double"
            )
        await self._finish(span, items, rows.given_up, replayed=True)

    def _build(self, chunks: Sequence[Chunk], span: Span) -> list[SinkObject]:
        return self._sink.build(chunks, span) if chunks else []

    async def _finish(
        self, span: Span, items: Sequence[SinkObject], given_up: Sequence[tuple[GivenUp, Sequence[Record]]], *, replayed: bool
    ) -> None:
        async with asyncio.TaskGroup() as tg:
            for item in items:
                tg.create_task(self._until_done(f"file {item.key}", self._put_again if replayed else self._put_new, item))
        if self._destination is not None:
            for run, records in given_up:
                if records:
                    document = document_of(run, records, name=self._name, stream=self._stream, shard_id=self._shard_id)
                    await self._until_done("failure document", self._destination.send, document)
        await self._leases.call(self._keeper.checkpoint, self._grip, span.last)
        self._emit(
            RangeCommitted(
                stream=self._stream,
                shard_id=self._shard_id,
                first=span.first.text,
                last=span.last.text,
                files=len(items),
                rows=sum(item.rows for item in items),
                size_bytes=sum(len(item.data) for item in items),
                replayed=replayed,
            )
        )

    def _put_again(self, item: SinkObject) -> None:
        """A file of a range that another worker prepared: if the key is taken, it was that worker who wrote it."""
        self._sink.put_if_absent(item)

    def _put_new(self, item: SinkObject) -> None:
        """A file of a range that nobody prepared before: its key can be taken only by an earlier try of ours whose answer was
        lost, by an earlier life of this app whose state is gone, or by another app. An equal file is as good as written."""
        if not self._sink.put_if_absent(item) and not self._sink.holds(item):
            raise FileTaken(
                f"{item.key} exists already and is not ours: another app writes to the same place, or this one did before its state was "
                "lost. Give each app a url of its own; after a loss of state, a new one"
            )

    async def _until_done(self, what: str, function: Callable[[T], object], argument: T) -> None:
        """Try until it works. A prepared range can only go forward."""
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                await self._executor.run(function, argument)
            except FileTaken:
                raise
            except Exception as error:  # noqa: BLE001  a sink or a destination may be the user's own
                self._emit(Trouble(stream=self._stream, shard_id=self._shard_id, what=what, error=_text(error)))
                await self._clock.sleep(pause_s)
                pause_s = min(_RETRY_CAP_S, pause_s * 2)
            else:
                return


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
