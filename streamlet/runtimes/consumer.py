"""How does a program with a loop of its own consume? The same engine, turned inside out.

    async with Consumer("orders", endpoint_url=...) as consumer:
        async for batch in consumer:
            ...
            await batch.ack()

The engine hands each batch over and waits for `ack` (settled) or `nack` (a failure like any other: retried, bisected, given
up as the options say). Leaving the block without an answer leaves the batch unsettled: it comes again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from streamlet.codecs.json import decoder_for
from streamlet.engine.gate import Gate
from streamlet.engine.invoke import NotTaken, RecordFailed
from streamlet.errors import StreamletError, UsageError
from streamlet.hooks import Event, Listener, ShardStopped
from streamlet.model.batch import Batch
from streamlet.model.record import Record
from streamlet.ports import LeaseStore
from streamlet.runtimes.worker import WorkerOptions, supervised
from streamlet.spec import ConsumerSpec, EventSourceMapping, check_stream_name

__all__ = ["Consumer", "ReceivedBatch"]


class _Refused(StreamletError):
    """A batch was not acknowledged."""


class ReceivedBatch:
    """A batch that waits for an answer. Iterate it for its records."""

    def __init__(self, batch: Batch, answer: asyncio.Future[None]) -> None:
        self._batch = batch
        self._answer = answer

    def __iter__(self) -> Iterator[Record]:
        return iter(self._batch.records)

    def __len__(self) -> int:
        return len(self._batch.records)

    @property
    def answered(self) -> bool:
        """Was it answered, or is nobody waiting for an answer any more?"""
        return self._answer.done()

    @property
    def batch(self) -> Batch:
        """The batch itself."""
        return self._batch

    async def ack(self) -> None:
        """Every record is done: the checkpoint may pass it."""
        self._settle(None)

    async def nack(self, error: Exception | str = "not acknowledged", *, record: Record | None = None) -> None:
        """It failed. With `record`, those before it are done, it and the rest are tried again."""
        if record is not None:
            self._settle(RecordFailed(record, str(error)))
        else:
            self._settle(error if isinstance(error, Exception) else _Refused(error))

    def _settle(self, error: Exception | None) -> None:
        if self._answer.done():
            if self._answer.cancelled() or isinstance(self._answer.exception(), NotTaken):
                return  # the shard went to another worker, or the consumer is closing: the batch comes again there
            raise UsageError("this batch was answered already: call ack or nack once")
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)


class Consumer:
    """Consumes a stream from within your own loop. Options: those of `WorkerOptions` and of `EventSourceMapping`; as with an App,
    `STREAMLET_BATCH_SIZE` and its like override the latter."""

    def __init__(
        self,
        stream: str,
        *,
        name: str = "consumer",
        decode: Any = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        state: str | Callable[[str], LeaseStore] | None = None,
        failover_s: float = 10.0,
        poll_interval_s: float = 1.0,
        listeners: Sequence[Listener] = (),
        mapping: EventSourceMapping | None = None,
        **options: Any,
    ) -> None:
        check_stream_name(stream)
        self._options = WorkerOptions(
            endpoint_url=endpoint_url,
            region=region,
            state=state,
            failover_s=failover_s,
            poll_interval_s=poll_interval_s,
            listeners=(self._listen, *listeners),
        )
        self._spec = ConsumerSpec(
            name=name,
            stream=stream,
            kind="batch",
            handler=self._hand_over,
            decoder=decoder_for(decode),
            mapping=EventSourceMapping.of(mapping, options).overridden(os.environ),
        )
        self._gate = Gate(shut=not self._spec.mapping.enabled)
        # One batch per lane is in hand at most (each lane waits for its answer), so the queue is bounded by shards and factor.
        self._waiting: asyncio.Queue[ReceivedBatch | None] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._error: StreamletError | None = None
        self._closing = False
        self._entered = False
        self._unanswered: set[asyncio.Future[None]] = set()
        self._unseen: set[asyncio.Future[None]] = set()  # of batches that the loop has not taken yet

    async def __aenter__(self) -> Self:
        try:
            made = supervised([self._spec], self._options, self._spec.name, gates={self._spec.stream: self._gate})
            self._supervisor = (await self._stack.enter_async_context(made))[0]
            group = await self._stack.enter_async_context(asyncio.TaskGroup())
            self._running = group.create_task(self._run(), name=f"consumer {self._spec.stream}")
        except BaseException:
            await self._stack.aclose()
            raise
        self._entered = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # A block that raised keeps its own exception.
        # Event 1: the program acknowledges a batch and leaves the block. Event 2: the pump, not yet told to stop, hands over
        # the next one, which nobody will answer. So hand-overs end first.
        self._closing = True
        self._supervisor.stop()
        for answer in self._unanswered:
            if not answer.done():
                answer.set_exception(NotTaken("the consumer closed before it answered"))
        await self._stack.__aexit__(None, None, None)
        if exc_info[0] is None:
            self._raise()

    def pause(self) -> None:
        """Read nothing more, and hand over no batch: the loop waits. Batches that it has taken wait for their answers as ever. The
        position and the leases are kept (top of runtimes/worker.py). A second call changes nothing."""
        self._gate.close()
        for answer in self._unseen:
            if not answer.done():
                answer.set_exception(NotTaken("the consumer was paused before the batch was taken"))

    def resume(self) -> None:
        """Go on with the next record. Does nothing where nothing is paused."""
        self._gate.open()

    async def _run(self) -> None:
        try:
            await self._supervisor.run()
        except StreamletError as error:
            # Told where the program looks: in its loop, or when it leaves the block.
            self._error = error
        finally:
            self._waiting.put_nowait(None)

    def _listen(self, event: Event) -> None:
        if isinstance(event, ShardStopped):
            # Wake the loop, which then raises what stopped the shard.
            self._waiting.put_nowait(None)

    async def _hand_over(self, batch: Batch) -> None:
        if self._closing:
            raise NotTaken("the consumer is closing")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        self._unseen.add(answer)
        try:
            self._waiting.put_nowait(ReceivedBatch(batch, answer))
            await answer
        finally:
            self._unanswered.discard(answer)
            self._unseen.discard(answer)

    async def __aiter__(self) -> AsyncIterator[ReceivedBatch]:
        if not self._entered:
            raise UsageError("a Consumer runs inside its block: async with Consumer(...) as consumer: async for batch in consumer: ...")
        while (received := await self._waiting.get()) is not None:
            if not received.answered:
                self._unseen.discard(received._answer)  # noqa: SLF001  it is ours
                yield received
        self._waiting.put_nowait(None)
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is None and self._supervisor.failures:
            error = self._supervisor.failures.pop(0)
        if error is not None:
            raise error
