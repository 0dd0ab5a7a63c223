"""How is an App run to "drained" on virtual time? The worker's own supervisor, reader and client, around a virtual broker.

Nothing of the engine is replaced: pumps, lanes, windows, ranges, leases and the polling reader are those of `streamlet run`. What is
virtual are its ports: clock, executor, lease thread, HTTP transport, randomness from a seed. What it would send to on-failure
destinations is kept for the report, and goes nowhere. Leases and idempotency markers are kept by the virtual broker: it numbers the
records of every test alike, so a store that outlives a test would take the next test's records for its own.

Drained: every open shard was read to its tip after the last thing that was to happen had happened, everything that was read is
settled, and no tumbling window is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar

import msgspec

from streamlet.core.rolling import MemoryBudget
from streamlet.destinations.document import failure_document
from streamlet.engine.supervisor import SINK_MEMORY_BYTES_MAX, Supervisor
from streamlet.errors import ConfigurationError, ServiceError
from streamlet.hooks import BatchSettled, Event, Invoked, RecordsFiltered, ShardStopped, Trouble
from streamlet.kinesis.client import KinesisClient
from streamlet.kinesis.session import LOCAL_CREDENTIALS, Identity
from streamlet.kinesis.sigv4 import Credentials
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.ports import FailureDocument, Fetch, Lease, Sink, SinkObject
from streamlet.sources.polling import PollingSource
from streamlet.sources.watched import WatchedSource
from streamlet.spec import Application, ConsumerSpec
from streamlet.testing.report import Checkpoint, File, GivenUp, Invocation, Report
from streamlet.testing.virtual import VirtualClock, VirtualExecutor, VirtualLeases, run
from streamlet.testing.virtual_broker import VirtualBroker, VirtualTransport

__all__ = ["Given", "NotDrained", "run_worker"]

T = TypeVar("T")

Given = VirtualBroker | Mapping[str, Sequence[Any]] | Sequence[Any]
"""What a run reads: a broker, or values per stream, or values for the app's only stream."""

# Nothing listens there; it shows in error texts only.
_URL: Final = "http://virtual-broker.invalid"
_REGION: Final = "us-east-1"
_LOOK_EVERY_S: Final = 0.5


class NotDrained(AssertionError):
    """The run did not come to its end within `time_max_s`: a record blocks its shard, or something is to happen later. `report` is
    how far it came."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def run_worker(
    app: Application,
    given: Given,
    *,
    sinks: Mapping[str, Sink] | None = None,
    crashes_s: Sequence[float] = (),
    time_max_s: float = 3600.0,
    failover_s: float = 10.0,
    poll_interval_s: float = 1.0,
    seed: int = 0,
) -> Report:
    """Run every consumer of the app until nothing is left to do, and tell what came of it.

        report = run_worker(app, [{"n": 1}, {"n": 2}])              # values for the app's only stream, one shard
        report = run_worker(app, {"orders": [...], "users": [...]})
        report = run_worker(app, broker)                            # a VirtualBroker: shards, keys, times, faults

    Time is virtual: batching windows, back-offs, tumbling windows and `asyncio.sleep` of handlers take none. Handlers run as in a worker,
    but plain ones one after the other, in this thread. Streams that the broker does not have are made, with one shard. In place of the
    app's idempotency stores there is one in memory, which lives as long as the broker (in progress 60 s, done a day).

    sinks          replace the app's sinks, by stream: `{"orders": MemorySink()}`
    crashes_s      at these seconds from the start the worker is cut off, and another one takes over after `failover_s`. A handler that
                   awaits is cancelled; `app.lifespan` stays entered
    time_max_s     seconds of virtual time after which the run is given up
    seed           of the jitter of polls and leases, and of which lease is taken first

    Raises NotDrained; the error of a handler that is none; what stopped a shard (with a sink: ReplayDiffers, FileTaken).
    Call it from a plain test: the run has an event loop of its own.
    """
    __tracebackhide__ = True  # of pytest's reports
    _check(app, sinks, crashes_s, time_max_s)
    broker = _broker_of(app, given)
    for spec in app.consumers:
        if not broker.has_stream(spec.stream):
            broker.create_stream(spec.stream)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ConfigurationError(
            "run_worker has an event loop of its own: call it from a plain test (def, not async def), or await asyncio.to_thread(run_worker, app, ...)"
        )
    options = _Options(dict(sinks or {}), tuple(crashes_s), time_max_s, failover_s, poll_interval_s, seed)
    report, left = run(_Run(app, broker, options).run())
    if left:
        raise NotDrained(f"{app.name} is not drained after {time_max_s:g} s of virtual time (time_max_s): {left}\n{report}", report)
    return report


def _check(app: Application, sinks: Mapping[str, Sink] | None, crashes_s: Sequence[float], time_max_s: float) -> None:
    if not app.consumers:
        raise ConfigurationError(
            f"app {app.name!r} has no handlers of streams; for @app.on_s3 call app.lambda_handler(s3_event(...), None)"
        )
    for stream in sinks or {}:
        if not any(spec.stream == stream and spec.sink is not None for spec in app.consumers):
            raise ConfigurationError(f"sinks={{{stream!r}: …}}: app {app.name!r} has no handler with a sink for that stream")
    if not all(before < after for before, after in zip((0, *crashes_s), crashes_s, strict=False)):
        raise ConfigurationError(f"crashes_s={tuple(crashes_s)!r}: must be seconds from the start, above 0 and ascending")
    if not time_max_s > 0:
        raise ConfigurationError(f"time_max_s={time_max_s!r}: must be above 0 seconds")


def _broker_of(app: Application, given: Given) -> VirtualBroker:
    if isinstance(given, VirtualBroker):
        return given
    streams = [spec.stream for spec in app.consumers]
    if isinstance(given, str | bytes) or not isinstance(given, Mapping | Sequence):
        raise ConfigurationError(f"run_worker(app, {given!r}): give a list of values, a dict of such lists by stream, or a VirtualBroker")
    if not isinstance(given, Mapping):
        if len(streams) != 1:
            raise ConfigurationError(f"app {app.name!r} reads {', '.join(streams)}: give a dict, as in {{{streams[0]!r}: [...]}}")
        given = {streams[0]: given}
    broker = VirtualBroker()
    for stream, values in given.items():
        if stream not in streams:
            raise ConfigurationError(f"app {app.name!r} does not read stream {stream!r}; it reads {', '.join(streams)}")
        broker.put(stream, *values)
    return broker


class _Options(msgspec.Struct, frozen=True):
    sinks: dict[str, Sink]
    crashes_s: tuple[float, ...]
    time_max_s: float
    failover_s: float
    poll_interval_s: float
    seed: int


class _Run:
    """One run. It is made outside its loop, and used inside."""

    def __init__(self, app: Application, broker: VirtualBroker, options: _Options) -> None:
        self._app, self._broker, self._options = app, broker, options
        self._clock = VirtualClock(broker.now_s)
        self._random = Random(f"{options.seed}")
        self._seen = _Seen(self._clock)
        self._specs = [self._watched(spec) for spec in app.consumers if spec.mapping.enabled]

    def _watched(self, spec: ConsumerSpec) -> ConsumerSpec:
        """The spec with a destination and a sink that are watched."""
        mapping, sink = spec.mapping, self._options.sinks.get(spec.stream, spec.sink)
        if mapping.maximum_retry_attempts != -1 or mapping.maximum_record_age_s != -1:
            kept = _Documents(self._seen, sends=mapping.on_failure is not None)
            mapping = msgspec.structs.replace(mapping, on_failure=kept)
        watched: Any = None if sink is None else _SeenSink(sink, spec.stream, self._seen)
        markers = None if spec.idempotency is None else self._broker.markers
        return msgspec.structs.replace(spec, mapping=mapping, sink=watched, idempotency=markers)

    async def run(self) -> tuple[Report, str]:
        """What came of it, and what is left to do; "" if it is drained."""
        client = KinesisClient(
            clock=self._clock,
            random=self._random,
            transport=VirtualTransport(self._broker, self._clock),
            identity=Identity(_URL, _REGION, _credentials),
        )
        left = ""
        try:
            async with client, self._app.running():
                for life, crash_s in enumerate((*self._options.crashes_s, None)):
                    supervisors = [self._supervisor(client, spec, life) for spec in self._specs]
                    left = await self._live(supervisors, crash_s)
                    failures = [error for supervisor in supervisors for error in supervisor.failures]
                    if failures:
                        failures[0].add_note(str(self._report()))
                        raise failures[0]
        finally:
            self._broker.move_to(self._clock.time())
        return self._report(), left

    def _supervisor(self, client: KinesisClient, spec: ConsumerSpec, life: int) -> Supervisor:
        source = PollingSource(
            client,
            spec.stream,
            clock=self._clock,
            random=self._random,
            decoder=spec.decoder,
            poll_interval_s=self._options.poll_interval_s,
            on_trouble=lambda error: self._seen.listen(Trouble(stream=spec.stream, what="reading", error=_first_line(error))),
        )
        store = self._broker.leases(self._app.name, spec.stream)
        store.moved = lambda lease: self._seen.moved(spec.stream, lease)
        return Supervisor(
            spec,
            source=WatchedSource(source, self._seen),
            store=store,
            worker_id=f"worker-{self._clock.epoch_s}-{life}",
            clock=self._clock,
            random=self._random,
            executor=VirtualExecutor(self._random),
            listeners=(self._seen.listen,),
            failover_s=self._options.failover_s,
            budget=MemoryBudget(SINK_MEMORY_BYTES_MAX),
            lease_runner=VirtualLeases,
        )

    async def _live(self, supervisors: Sequence[Supervisor], crash_s: float | None) -> str:
        """One worker's life, to a crash, to where everything is drained (""), or to the end of the time: what is left to do."""
        ends: list[Exception] = []
        left_s = (self._options.time_max_s if crash_s is None else crash_s) - self._clock.monotonic()
        left = ""
        async with asyncio.TaskGroup() as tg:
            running = [tg.create_task(_guarded(supervisor.run(), ends), name="supervisor") for supervisor in supervisors]
            looking = tg.create_task(_guarded(self._look(to_the_end=crash_s is None), ends), name="look")
            await asyncio.wait([*running, looking], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                left = self._left()
            looking.cancel()
            for supervisor, task in zip(supervisors, running, strict=True):
                if crash_s is None or ends:
                    supervisor.stop()
                else:
                    task.cancel()
        if ends:
            raise ends[0]
        return left

    def _left(self) -> str:
        """Why is it not drained?"""
        says = [
            f"{stream} {int(shard_id[-12:])}: {shard.read - shard.settled} of {shard.read} records are not settled"
            for (stream, shard_id), shard in self._seen.shards.items()
            if shard.settled < shard.read
        ]
        if self._seen.errors:
            says.append(f"the last error was {self._seen.errors[-1]}")
        elif says:
            says.append("no call has failed: one has not returned, or a batching window is open")
        if self._broker.next_s is not None:
            says.append(f"something is to happen in {self._broker.next_s - self._clock.time():.0f} s")
        return "; ".join(says) or "a shard has not been read to its tip, or a tumbling window is open"

    async def _look(self, *, to_the_end: bool) -> None:
        """Do what is to happen when its time comes; end when there is nothing left to do, or a shard has stopped."""
        quiet_since_s = self._clock.monotonic()
        while True:
            next_s = self._broker.next_s
            await self._clock.sleep(_LOOK_EVERY_S if next_s is None else max(0.0, min(_LOOK_EVERY_S, next_s - self._clock.time())))
            self._broker.move_to(self._clock.time())
            if next_s is not None:
                quiet_since_s = self._clock.monotonic()
            elif to_the_end and (self._seen.stopped or self._is_drained(quiet_since_s)):
                return

    def _is_drained(self, quiet_since_s: float) -> bool:
        seen = self._seen.shards
        if not all(shard.settled >= shard.read for shard in seen.values()):
            return False
        for spec in self._specs:
            rows = {lease.key: lease for lease in self._broker.leases(self._app.name, spec.stream).scan()}
            for wire in self._broker.call("ListShards", StreamName=spec.stream)["Shards"]:
                if "EndingSequenceNumber" in wire["SequenceNumberRange"]:
                    continue  # a closed shard has an open descendant, which is read when it is done
                shard = seen.get((spec.stream, wire["ShardId"]))
                if shard is None or shard.tip_at_s is None or shard.tip_at_s < quiet_since_s:
                    return False
                if spec.kind == "window" and shard.last is not None and rows[wire["ShardId"]].checkpoint < shard.last:
                    return False
        return True

    def _report(self) -> Report:
        seen = self._seen
        handled = {_place(record) for invocation in seen.invocations for record in invocation.records}
        filtered = []
        for spec in self._specs:
            criteria = spec.mapping.criteria
            if criteria is not None:
                read = [record for (stream, *_), record in seen.records.items() if stream == spec.stream]
                filtered += [record for record in read if _place(record) not in handled and not criteria.matches(record.data)]
        return Report(
            app=self._app.name,
            elapsed_s=self._clock.monotonic(),
            invocations=tuple(seen.invocations),
            given_up=tuple(seen.given_up),
            filtered=tuple(filtered),
            checkpoints=tuple(seen.checkpoints),
            files=tuple(seen.files),
            troubles=tuple(f"{event.what}: {event.error}" for event in seen.events if isinstance(event, Trouble)),
            events=tuple(seen.events),
        )


async def _guarded(work: Coroutine[Any, Any, None], ends: list[Exception]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001  raised again when the others have drained
        ends.append(error)


async def _credentials() -> Credentials:
    return LOCAL_CREDENTIALS


def _first_line(error: ServiceError) -> str:
    return str(error).partition("\n")[0]


def _place(record: Record) -> tuple[str, str, Position]:
    return record.stream, record.shard_id, record.position


# ── looking on ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Shard(msgspec.Struct):
    """One reader: records read and settled, when the last read began, and the last one at the tip, the last record."""

    read: int = 0
    settled: int = 0
    asked_at_s: float = 0.0
    tip_at_s: float | None = None
    last: Position | None = None


class _Seen:
    """Everything that a run shows."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.shards: dict[tuple[str, str], _Shard] = {}
        self.records: dict[tuple[str, str, Position], Record] = {}
        self.invocations: list[Invocation] = []
        self.given_up: list[GivenUp] = []
        self.checkpoints: list[Checkpoint] = []
        self.files: list[File] = []
        self.events: list[Event] = []
        self.errors: list[str] = []
        self.stopped = False

    @property
    def now_s(self) -> float:
        return self._clock.monotonic()

    def listen(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Invoked():
                self.invocations.append(
                    Invocation(
                        at_s=self.now_s,
                        stream=event.stream,
                        shard_id=event.shard_id,
                        records=tuple(event.records),
                        attempt=event.attempt,
                        done=event.done,
                        failed=event.failed,
                        error=event.error,
                        window=event.window,
                    )
                )
                if event.failed:
                    self.errors.append(event.error)
            case BatchSettled(records=records) | RecordsFiltered(records=records):
                if (shard := self.shards.get((event.stream, event.shard_id))) is not None:
                    shard.settled += records
            case ShardStopped():
                self.stopped = True
            case Trouble(what=what, error=error):
                self.errors.append(f"{what}: {error}")

    def moved(self, stream: str, lease: Lease) -> None:
        if lease.checkpoint.sub >= 0:  # else it only says where LATEST begins
            self.checkpoints.append(Checkpoint(at_s=self.now_s, stream=stream, shard_id=lease.key, position=lease.checkpoint))

    def opens(self, stream: str, shard_id: str) -> None:
        self.shards[stream, shard_id] = _Shard()

    def asks(self, stream: str, shard_id: str) -> None:
        self.shards[stream, shard_id].asked_at_s = self.now_s

    def reads(self, stream: str, shard_id: str, fetch: Fetch) -> None:
        shard = self.shards[stream, shard_id]
        shard.read += len(fetch.records)
        if fetch.ended or fetch.millis_behind_latest == 0:
            shard.tip_at_s = shard.asked_at_s
        for record in fetch.records:
            shard.last = record.position
            self.records.setdefault((stream, shard_id, record.position), record)


class _Documents:
    """A destination that keeps what it is sent. `sends`: does the app have one?"""

    def __init__(self, seen: _Seen, *, sends: bool) -> None:
        self._seen, self._sends = seen, sends

    def send(self, document: FailureDocument) -> None:
        self._seen.given_up.append(
            GivenUp(
                at_s=self._seen.now_s,
                stream=document.stream,
                shard_id=document.shard_id,
                records=tuple(document.records),
                condition=document.condition,
                attempts=document.invoke_count,
                error=document.error,
                document=failure_document(document, payload=True) if self._sends else None,
            )
        )

    def __str__(self) -> str:
        return "the report" if self._sends else ""


class _SeenSink:
    """A sink whose files are noted. Everything else is the sink's own."""

    def __init__(self, sink: Sink, stream: str, seen: _Seen) -> None:
        self._sink, self._stream, self._seen = sink, stream, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def put_if_absent(self, item: SinkObject) -> bool:
        written = self._sink.put_if_absent(item)
        if written:
            self._seen.files.append(File(at_s=self._seen.now_s, stream=self._stream, key=item.key, rows=item.rows, data=item.data))
        return written
