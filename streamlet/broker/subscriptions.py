"""What does a fan-out consumer get next, and who pushes it there?

`Subscription` is the answer to the first question: it is asked "what is due now?", knows no loop and is given the time.
`EventPush` is the second: it asks when a record has come, once per turn of the loop, and every IDLE_S, and writes.

- An event carries records of up to EVENT_BYTES_MAX (at least one record): big enough for throughput, and small enough
  that a client which does not read costs one of them. A paused push asks for nothing.
- Without records an event tells the place in the shard: every IDLE_S, and at once after the beginning.
- The end of a shard is an event of its own, without records and without ContinuationSequenceNumber: that absence is how
  the KCL and the connectors of Flink and Beam see it (the model calls the member required).
- ContinuationSequenceNumber has the newest record's counter and the present second: it moves without records, and
  reading goes on exactly behind it.
- The five minutes, and the five seconds for which a shard's subscription cannot be taken over, are the broker's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from streamlet.broker import eventstream, sequence
from streamlet.broker.consumers import Consumer
from streamlet.broker.errors import ApiError, stream_not_found
from streamlet.broker.faults import DuplicateRead, EndSubscription, FailSubscription, Faults, StallSubscription, Where
from streamlet.broker.formats import Format
from streamlet.broker.shard import Shard, child_shape
from streamlet.broker.state import State
from streamlet.broker.stream import Stream

if TYPE_CHECKING:  # wire.py imports this module
    from streamlet.broker.wire import Pipe

__all__ = ["EVENT_BYTES_MAX", "IDLE_S", "TAKEOVER_MS", "Due", "EventPush", "Subscription", "consumer_not_found"]

EVENT_BYTES_MAX: Final = 1024 * 1024
EVENT_RECORDS_MAX: Final = 10_000
IDLE_S: Final = 1.0
TAKEOVER_MS: Final = 5_000  # so long a shard's subscription cannot be taken over
_FOR_EVER: Final = 2**62


class Due(NamedTuple):
    """What is to be sent. `continuation` None: the shard's end. `last`: then the stream of events ends.

    With `error` it is that exception; with `silent` nothing is sent before the end.
    """

    records: list[bytes]
    continuation: str | None = None
    behind_ms: int = 0
    children: tuple[Shard, ...] = ()
    error: ApiError | None = None
    last: bool = False
    silent: bool = False
    more: bool = False  # ask again at once


class Subscription:
    """One consumer's open subscription to one shard, and the place up to which it has sent."""

    __slots__ = (
        "_account",
        "_arn",
        "_consumer",
        "_error",
        "_expires_ms",
        "_faults",
        "_position",
        "_stalled_until_ms",
        "_state",
        "_stream",
        "_wake",
        "began_ms",
        "ended",
        "shard",
    )

    def __init__(
        self,
        state: State,
        faults: Faults,
        stream: Stream,
        consumer: Consumer,
        shard: Shard,
        position: int,
        *,
        account: str,
        consumer_arn: str,
        now_ms: int,
    ) -> None:
        """Opens it: from now on it is its consumer's subscription to the shard."""
        self.shard = shard
        self.began_ms = now_ms
        self.ended = False
        self._state = state
        self._faults = faults
        self._stream = stream
        self._consumer = consumer
        self._position = position
        self._account = account
        self._arn = consumer_arn
        self._expires_ms = now_ms + int(state.subscription_s * 1000)
        self._stalled_until_ms = 0
        self._error: ApiError | None = None
        self._wake: Callable[[], None] | None = None
        consumer.subscriptions[shard.index] = self

    @property
    def position(self) -> int:
        """The counter of the next record to send."""
        return self._position

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when something may be due."""
        self._wake = wake
        self.shard.watchers.append(self.wake)

    def wake(self) -> None:
        """Something has changed."""
        if self._wake is not None:
            self._wake()

    def fail(self, error: ApiError) -> None:
        """End with an exception within the stream."""
        self._error = error
        self.wake()

    def leave(self) -> None:
        """It is over: nothing is due any more, and the shard is free. Any number of times."""
        if self.ended:
            return
        self.ended = True
        if self._wake is not None:
            self._wake = None
            self.shard.watchers.remove(self.wake)
        if self._consumer.subscriptions.get(self.shard.index) is self:
            del self._consumer.subscriptions[self.shard.index]

    def due(self, now_ms: int, *, idle: bool) -> Due | None:
        """What is to be sent now; None if nothing. `idle`: say where we are even if nothing has come."""
        if self.ended:
            return None
        error = self._error or self._gone(now_ms)
        if error is not None:
            return Due([], error=error, last=True)
        if self._expired(now_ms):
            return Due([], last=True, silent=True)
        if now_ms < self._stalled_until_ms:
            return None
        shard = self.shard
        shard.trim(self._stream.horizon_ms(now_ms))
        read = shard.read(self._position, EVENT_RECORDS_MAX, EVENT_BYTES_MAX, now_ms)
        if not read.fragments and not read.at_end and not idle:
            return None
        if self._faults.active:
            struck = self._strike(now_ms)
            if struck is not None:
                return struck
            if now_ms < self._stalled_until_ms:
                return None
            back = self._faults.take(DuplicateRead, self._where()) if self._position > 1 else None
            if back is not None:
                read = shard.read(max(self._position - back.back, 1), EVENT_RECORDS_MAX, EVENT_BYTES_MAX, now_ms)
        self._position = read.position
        if read.at_end and not read.fragments:
            return Due([], children=shard.children, last=True)
        second = max(now_ms // 1000, shard.second)
        number = sequence.make(shard.creation_s, shard.index, read.position - 1, second)
        return Due(read.fragments, str(number), read.behind_ms, more=read.behind_ms > 0 or read.at_end)

    def over(self, now_ms: int) -> bool:
        """Is there nothing more to come but its end?"""
        return self._error is not None or self._expired(now_ms) or self._gone(now_ms) is not None

    def _expired(self, now_ms: int) -> bool:
        return now_ms >= self._expires_ms

    def _where(self) -> Where:
        return Where("SubscribeToShard", self._stream.name, frozenset({self.shard.index}))

    def _strike(self, now_ms: int) -> Due | None:
        """The faults that befall this subscription instead of the event it was about to send."""
        fault = self._faults.take_push(self._stream.name, self.shard.index)
        if isinstance(fault, FailSubscription):
            return Due([], error=ApiError(fault.error, "This exception was asked for."), last=True)
        if isinstance(fault, EndSubscription):
            return Due([], last=True, silent=True)
        if isinstance(fault, StallSubscription):
            self._stalled_until_ms = _FOR_EVER if fault.stall_s is None else now_ms + int(fault.stall_s * 1000)
        return None

    def _gone(self, now_ms: int) -> ApiError | None:
        stream = self._stream
        if self._state.find(stream.account, stream.region, stream.name, now_ms) is not stream:
            return stream_not_found(stream.name, self._account)
        if stream.consumers.find(self._consumer.name, now_ms) is not self._consumer:
            return consumer_not_found(self._arn, self._account)
        return None


def consumer_not_found(name: str, account: str) -> ApiError:
    """The consumer, by name or ARN, is not there."""
    return ApiError("ResourceNotFoundException", f"Consumer {name}, account {account} not found.")


class EventPush:
    """Pushes a subscription's events into a body. All calls come on the server's loop."""

    def __init__(self, subscription: Subscription, form: Format, now_ms: Callable[[], int]) -> None:
        self._subscription = subscription
        self._form = form
        self._now_ms = now_ms
        self._event = eventstream.event("SubscribeToShardEvent", form.content_type)
        self._pipe: Pipe | None = None
        self._paused = False
        self._scheduled = False
        self._spoken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, pipe: Pipe) -> None:
        """The first frame, and what there is."""
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        pipe.write(eventstream.encode(eventstream.event("initial-response", self._form.content_type), (self._form.encode({}),)))
        self._subscription.watch(self._wake)
        self._timer = self._loop.call_later(IDLE_S, self._tick)
        self._send(idle=True)

    def closed(self) -> None:
        """The client has gone."""
        self._pipe = None
        if self._timer is not None:
            self._timer.cancel()
        self._subscription.leave()

    def paused(self) -> None:
        """The client does not read: nothing more is asked for."""
        self._paused = True

    def resumed(self) -> None:
        """The client reads again."""
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        # Once per turn of the loop, however many records came in it.
        if not self._scheduled and not self._paused and self._pipe is not None and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self._send(idle=False)

    def _tick(self) -> None:
        if self._pipe is None or self._loop is None:
            return
        if self._paused and self._subscription.over(self._now_ms()):
            # Its end would wait for a client that may never read, and keep a deleted stream's records as long.
            pipe = self._pipe
            self.closed()
            pipe.abort()
            return
        self._timer = self._loop.call_later(IDLE_S, self._tick)
        spoken, self._spoken = self._spoken, False
        self._send(idle=not spoken)

    def _send(self, *, idle: bool) -> None:
        pipe = self._pipe
        if pipe is None or self._paused:
            return
        try:
            due = self._subscription.due(self._now_ms(), idle=idle)
        except ApiError:  # the log could not be read, which says so itself
            due = Due([], error=ApiError("InternalFailureException", "Internal Service Failure"), last=True)
        if due is None:
            return
        self._spoken = True
        if due.last:
            # Over before the last write: a client that reacts at once may subscribe again.
            self.closed()
        if not due.silent:
            pipe.write(self._frame(due))
        if due.last:
            pipe.end()
        elif due.more:
            self._wake()

    def _frame(self, due: Due) -> bytes:
        form = self._form
        if due.error is not None:
            body: dict[str, Any] = {"message": due.error.text}
            return eventstream.encode(eventstream.exception(due.error.code, form.content_type), (form.encode(body),))
        more: dict[str, Any] = {"MillisBehindLatest": due.behind_ms}
        if due.continuation is not None:
            more["ContinuationSequenceNumber"] = due.continuation
        else:
            more["ChildShards"] = [child_shape(child) for child in due.children]
        pieces = (b'{"Records":[', b",".join(due.records), b"],", msgspec.json.encode(more)[1:])
        return eventstream.encode(self._event, form.from_json(pieces))
