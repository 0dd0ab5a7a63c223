"""How does each runtime run a scenario (`scenarios` says what that asks of it)?

    in_worker        the pump, its lanes and windows, on virtual time; the handler does what the script says
    in_esm           the same under `streamlet esm`: Lambda's event as JSON, the function's answer as JSON, the host's own throttles
    in_processes     that, with a broker and real processes, in real time
    handled          one handler of the user's (of records, batches or windows), in a worker
    handled_lambda   the same one behind `lambda_handler`; the second interpreter is AWS, and reads what the adapter really answered

Time passes only where something waits, so that a scenario on the edge of a time limit falls on the same side everywhere. Where an
arrival and the end of a wait fall together, the arrival is first. A handler lets the pump write its checkpoint before it begins.

Events and failure documents are looked at whole, key for key (`shapes`), before they become a line of the trace.
"""

from __future__ import annotations

import asyncio
import copy
import json
from base64 import b64decode
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import pytest

from streamlet import App, RecordFailed
from streamlet.broker import Broker
from streamlet.core.failure import FailedFrom, Throttled
from streamlet.core.responses import outcome_of
from streamlet.core.rolling import MemoryBudget
from streamlet.destinations.document import failure_document
from streamlet.engine import pump as pumps
from streamlet.engine.invoke import BatchFailed, NotTaken
from streamlet.engine.lane import lane_of
from streamlet.engine.leases import Acquired, LeaseEvent, LeaseKeeper
from streamlet.engine.pump import End, Pump
from streamlet.errors import SinkError
from streamlet.kpl.aggregate import aggregate
from streamlet.model.batch import Batch
from streamlet.model.position import SHARD_END, TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.model.shard import HASH_KEY_MAX
from streamlet.model.shard import Shard as Hashes
from streamlet.ports import FailureDocument, Fetch, Lease, StartingPosition
from streamlet.producer import Producer
from streamlet.runtimes.aws_lambda import LambdaRuntime
from streamlet.runtimes.esm import mapping as esm
from streamlet.runtimes.esm.host import Host
from streamlet.runtimes.esm.once import Once
from streamlet.runtimes.esm.sandbox import Answer, FunctionError, Invoked, SandboxSettings
from streamlet.runtimes.worker import WorkerOptions, run_worker
from streamlet.spec import ConsumerSpec, EventSourceMapping
from streamlet.stores import open_store
from streamlet.testing.virtual import VirtualClock
from tests.scenarios import shapes
from tests.scenarios.interpreter import Choices, interpret
from tests.scenarios.scenarios import GROWN, Crashed, Event, Raised, Scenario, Script, Trace, with_sequence_numbers
from tests.scenarios.scenarios import Returned as Returns
from tests.scenarios.scenarios import Throttled as Refused
from tests.unit.engine.chaos import Inline, Store, Violated, run

__all__ = [
    "FILTER",
    "STREAM",
    "ZERO_S",
    "Kind",
    "Run",
    "handled",
    "handled_lambda",
    "in_esm",
    "in_processes",
    "in_worker",
    "mapping_of",
    "record_of",
    "with_reports",
]
Kind = Literal["record", "batch", "window"]
STREAM: Final = "orders"
APP: Final = "same"
STREAM_ARN: Final = shapes.stream_arn(STREAM)
ZERO_S: Final = 1_699_999_200.0
"""Time zero: a multiple of an hour, and so of every tumbling window here."""
FILTER: Final = {"data": {"keep": [True]}}
TRIES_MAX: Final = 500
AFTERWARDS_S: Final = 100.0
"""How long the runtime goes on after everything is done, so that what it then does too much is seen."""
FOR_EVER_S: Final = 1e9
"""Longer than any scenario takes: who waits for so long is cancelled."""
TURNS: Final = 20
"""Turns of the loop in which a pump notices what was settled and writes it."""
FIRST_S: Final = 2e-9
"""By how much an arrival comes before a timer of the same moment; the clock's epoch seconds do not tell the difference."""


class Boom(Exception):
    """What the function raises."""


class Crash(BaseException):
    """The runtime ends here. No Exception, or the engine would take it for one of the handler."""


class Run:
    """One run of a scenario: the script, the names of things in it, and what has happened. On virtual time, `function` is the name
    that its failure documents have to give."""

    def __init__(self, scenario: Scenario, function: str = "", *, aggregated: bool = False) -> None:
        self.scenario, self._function, self._aggregated = scenario, function, aggregated
        self.script = Script(scenario)
        self.trace: Trace = []
        self.tries = 0
        self.shard_ids = {f"shardId-{index:012}": shard.name for index, shard in enumerate(scenario.shards)}
        # From 8 on, so that the order as text (10 before 8) is not the order as numbers.
        self.numbers = {record.label: str(8 + index) for shard in scenario.shards for index, record in enumerate(shard.records)}
        self.labels = {
            (shard_id, self.numbers[record.label]): record.label
            for shard_id, shard in zip(self.shard_ids, scenario.shards, strict=True)
            for record in shard.records
        }
        self._left = {shard.name: shard.records[-1].label for shard in scenario.shards}
        self._at: dict[str, str] = {}
        self._closed = {shard.name for shard in scenario.shards if shard.ends_s is not None}
        self._over: set[str] = set()
        self._refused: Counter[str] = Counter()
        self.requests: dict[str, str] = {}  # the last invocation of each record, where there are such
        self.kill: Callable[[str], object] = lambda shard_id: None
        self.done = asyncio.Event()

    def records(self, shard_id: str) -> list[Record]:
        shard = next(shard for shard in self.scenario.shards if shard.name == self.shard_ids[shard_id])
        return [self.record(record.label, shard_id) for record in shard.records]

    def record(self, label: str, shard_id: str) -> Record:
        return record_of(self.scenario, label, self.numbers[label], shard_id, aggregated=self._aggregated)

    def sent(self, label: str, shard_id: str) -> shapes.Sent:
        """The record as an event or a document tells it."""
        record = self.record(label, shard_id)
        return shapes.Sent(
            shard_id=shard_id, key=record.partition_key, number=record.sequence_number, data=record.data, arrival_s=record.arrived_at_s
        )

    def next(
        self,
        shard_id: str,
        labels: list[str],
        *,
        attempt: int | None = None,
        window: float | None = None,
        final: bool = False,
        early: bool = False,
        state: Any = None,
    ) -> Any:
        """Ask the script once, and note it; the attempt where the function is told. Where the runtime crashes, nobody gets an answer."""
        self.tries += 1
        if self.tries > TRIES_MAX:
            raise Violated(f"{self.scenario.name}: no end after {TRIES_MAX} tries")
        name = self.shard_ids[shard_id]
        answer = self.script.next(labels, window=f"{name}@{window}", state=state, early=early)
        outcome = {Raised: "raised", Refused: "throttled", Crashed: "crashed"}.get(type(answer), "returned")
        event: Event = {"kind": "invocation", "shard": name, "labels": labels, "outcome": outcome}
        if attempt is not None:
            event["attempt"] = attempt
        if window is not None:
            event |= {"window": window, "final": final, "early": early, "state": copy.deepcopy(state)}
        self.trace.append(event)
        if isinstance(answer, Crashed):
            self.kill(shard_id)
            raise Crash
        return answer

    def value(self, answer: Returns) -> Any:
        """What the function returns, as JSON makes it."""
        return json.loads(json.dumps(with_sequence_numbers(answer.value, self.numbers)))

    def look(self, lease: Lease) -> None:
        """A row of the lease table was written."""
        name = self.shard_ids[lease.key]
        label = self.labels.get((lease.key, lease.checkpoint.text))
        if lease.checkpoint == SHARD_END:
            self._over.add(name)
            self.trace.append({"kind": "shard end", "shard": name})
        elif label is not None and self._at.get(name) != label:
            self._at[name] = label
            self.trace.append({"kind": "checkpoint", "shard": name, "label": label})
        if self._at == self._left and self._over == self._closed:
            self.done.set()

    def send(self, document: FailureDocument) -> None:
        """The destination."""
        if self._refused[document.document_id] < (self.scenario.refusals or 0):
            self._refused[document.document_id] += 1
            raise SinkError("the queue is away")
        told = failure_document(document, payload=True)
        batch, context = told["KinesisBatchInfo"], told["requestContext"]
        shard_id = batch["shardId"]
        event: Event = {
            "kind": "document",
            "shard": self.shard_ids[shard_id],
            "condition": context["condition"],
            "approximateInvokeCount": context["approximateInvokeCount"],
            "start": self.labels[shard_id, batch["startSequenceNumber"]],
            "end": self.labels[shard_id, batch["endSequenceNumber"]],
            "batchSize": batch["batchSize"],
        }
        if "responseContext" in told:
            event["functionError"] = told["responseContext"]["functionError"]
        self.trace.append(event)
        if self._function:
            self._check(event, shard_id, told, with_records=True)
            self._check(event, shard_id, failure_document(document, payload=False), with_records=False)

    def _check(self, event: Event, shard_id: str, told: dict[str, Any], *, with_records: bool) -> None:
        """Is the document, whole, what the reference says of the records named?"""
        (shard,) = [shard for shard in self.scenario.shards if shard.name == event["shard"]]
        known = [record.label for record in shard.records]
        span = shard.records[known.index(event["start"]) : known.index(event["end"]) + 1]
        lane = self.scenario.lane_of(span[0])
        request_id = told["requestContext"]["requestId"]
        expected = shapes.document(
            [self.sent(r.label, shard_id) for r in span if self.scenario.passes(r) and self.scenario.lane_of(r) == lane],
            STREAM,
            self._function,
            request_id=self.requests.get(event["start"], str(UUID(request_id))),
            condition=event["condition"],
            invoke_count=event["approximateInvokeCount"],
            function_error=event.get("functionError"),
            at_s=VirtualClock(ZERO_S).time(),
            with_records=with_records,
        )
        if json.dumps(told) != json.dumps(expected):  # in the order of keys
            raise Violated(f"{self.scenario.name}: the document is {told}, and should be {expected}")


def key_of(scenario: Scenario, key: str) -> str:
    """A partition key that the runtime assigns to the slot which the scenario wants."""
    factor, n, name = scenario.mapping.factor, 0, key
    while lane_of(name, factor) != scenario.lanes.get(key, 0):
        n += 1
        assert n < 1000, f"no partition key goes to slot {scenario.lanes.get(key, 0)} of {factor}"
        name = f"{key}-{n}"
    return name


def record_of(scenario: Scenario, label: str, number: str, shard_id: str, *, aggregated: bool) -> Record:
    """`aggregated`: two of three hold two user records of keys of their own, the first of which has a "part"."""
    record = next(record for shard in scenario.shards for record in shard.records if record.label == label)
    data = json.dumps({"label": label, "keep": scenario.passes(record)}).ljust(record.size_bytes).encode()
    if aggregated and int(number) % 3:
        data = aggregate([("first", json.dumps({"label": label, "part": 0}).encode()), ("second", data)])
    return Record(data, key_of(scenario, record.key), number, 0, ZERO_S + record.arrival_s, shard_id, STREAM, json.loads)


def mapping_of(scenario: Scenario, destination: Any) -> EventSourceMapping:
    m = scenario.mapping
    given_up = m.retries >= 0 or m.max_age_s >= 0  # else a destination is refused, which nothing could reach
    return EventSourceMapping(
        batch_size=m.batch_size,
        batching_window_s=m.window_s,
        parallelization_factor=m.factor,
        maximum_retry_attempts=m.retries,
        maximum_record_age_s=m.max_age_s,
        bisect_batch_on_function_error=m.bisect,
        tumbling_window_s=m.tumbling_s,
        filters=[] if m.passes is None else [FILTER],
        on_failure=destination if scenario.refusals is not None and given_up else None,
    )


# ── the engine on virtual time ───────────────────────────────────────────────────────────────────────────────────


class Arriving:
    """The stream. Each read waits for the next arrival, or the end of a tumbling window; what arrives together comes in one read."""

    stream = STREAM

    def __init__(self, state: Run) -> None:
        self._run = state

    async def list_shards(self) -> Sequence[Hashes]:
        width = (HASH_KEY_MAX + 1) // len(self._run.shard_ids)
        ids = {name: shard_id for shard_id, name in self._run.shard_ids.items()}
        return [
            Hashes(ids[shard.name], n * width, (n + 1) * width - 1, tuple(ids[parent] for parent in shard.parents))
            for n, shard in enumerate(self._run.scenario.shards)
        ]

    def reader(self, shard_id: str, start: StartingPosition) -> ArrivingReader:
        (shard,) = [shard for shard in self._run.scenario.shards if shard.name == self._run.shard_ids[shard_id]]
        rest = [record for record in self._run.records(shard_id) if record.position > start.position]
        return ArrivingReader(rest, self._run.scenario.mapping.tumbling_s, None if shard.ends_s is None else ZERO_S + shard.ends_s)


class ArrivingReader:
    def __init__(self, records: list[Record], tumbling_s: int, ends_at_s: float | None) -> None:
        self._rest, self._tumbling_s, self._ends_at_s = deque(records), tumbling_s, ends_at_s
        self._looked_s = -1.0  # in whole moments: when this reader last said what is there

    async def read(self) -> Fetch:
        clock = VirtualClock(ZERO_S)
        if round(clock.time(), 6) <= self._looked_s:
            wakes = [self._rest[0].arrived_at_s] if self._rest else []
            if self._tumbling_s:
                wakes.append((self._looked_s // self._tumbling_s + 1) * self._tumbling_s)
            if self._ends_at_s is not None:
                wakes.append(self._ends_at_s)
            if not wakes:
                await asyncio.Event().wait()
            await asyncio.sleep(min(wakes) - ZERO_S - clock.monotonic() - FIRST_S)
            # Nothing is read yet: who asks how far was read is told of a read that began at this moment.
            return Fetch([], 0)
        self._looked_s = round(clock.time(), 6)
        records = []
        while self._rest and self._rest[0].arrived_at_s <= self._looked_s:
            records.append(self._rest.popleft())
        return Fetch(records, 0, ended=self._ends_at_s is not None and self._ends_at_s <= self._looked_s)


class Taking(Inline):
    """An executor on which a handler's job lasts as long as the scenario says."""

    def __init__(self, duration_s: float = 0.0) -> None:
        super().__init__(Random(0))
        self._duration_s = duration_s

    async def run(self, function: Callable[..., Any], /, *args: Any) -> Any:
        await turns()
        lasts_s = 0.0 if getattr(function, "__name__", "") in {"send", "taken_apart"} else self._duration_s
        try:
            return function(*args)
        except NotTaken:
            lasts_s = 0.0  # a refused call takes no time
            raise
        except Crash:
            lasts_s = FOR_EVER_S
        finally:
            if lasts_s:
                await asyncio.sleep(lasts_s)


async def turns() -> None:
    """Let the pump see what was settled, and write it. No time passes."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _pump(state: Run, spec: ConsumerSpec) -> None:
    """Run the shards until everything is done, and a little longer; then drain. A pump that is killed has a successor at once."""
    clock, source, leases = VirtualClock(ZERO_S), Arriving(state), Inline(Random(0))
    running: dict[str, tuple[Pump, asyncio.Task[End]]] = {}
    ends: dict[str, End] = {}

    def start(event: LeaseEvent) -> None:
        assert isinstance(event, Acquired)
        pump = Pump(
            spec,
            event,
            source=source,
            keeper=keeper,
            leases=leases,
            executor=Taking(state.scenario.duration_s),
            clock=clock,
            emit=lambda event: None,
            budget=MemoryBudget(1_000_000),
        )
        task = tg.create_task(pump.run())
        task.add_done_callback(lambda task: ended(pump, task))
        running[pump.shard_id] = pump, task

    def ended(pump: Pump, task: asyncio.Task[End]) -> None:
        if task.cancelled():
            keeper.release(pump.grip)  # as if the lease had expired
        elif task.exception() is None:
            ends[pump.shard_id] = task.result()
        if not state.done.is_set():
            keeper.take()

    state.kill = lambda shard_id: running[shard_id][1].cancel()
    keeper = LeaseKeeper(Store(state.look), "worker", clock=clock, random=Random(0), failover_s=1e9, notify=start)
    keeper.sync(list(await source.list_shards()), TRIM_HORIZON)
    assert clock.time() == ZERO_S
    async with asyncio.TaskGroup() as tg:
        keeper.start_taking()
        await state.done.wait()
        await asyncio.sleep(AFTERWARDS_S)
        for pump, _ in running.values():
            pump.stop()
    assert ends == {
        shard_id: End.DRAINED if shard.ends_s is None else End.SHARD_ENDED
        for shard_id, shard in zip(state.shard_ids, state.scenario.shards, strict=True)
    }


def _on_virtual_time(state: Run, main: Callable[[], Any]) -> Trace:
    with pytest.MonkeyPatch.context() as patch:
        # A worker writes a checkpoint once a second at most. Here each move is looked at.
        patch.setattr(pumps, "CHECKPOINT_EVERY_S", 0.0)
        run(main(), step_s=0.0)
    return state.trace


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


class Scripted:
    """A handler of batches or windows which does what the script says, and tells the engine what a function's response says."""

    def __init__(self, state: Run) -> None:
        self._run = state

    async def __call__(self, batch: Batch) -> None:
        answer = await self._answer(batch, None)
        value = self._run.value(answer)
        outcome = outcome_of(value, [r.sequence_number for r in batch.records], reports_failures=self._run.scenario.mapping.report)
        if isinstance(outcome, FailedFrom):
            raise BatchFailed(outcome.index, outcome.function_error, outcome.error)

    async def in_window(self, batch: Batch, state: Any) -> Any:
        value = self._run.value(await self._answer(batch, state))
        if not isinstance(value, dict) or value.get("state") is None:
            raise BatchFailed(0, None, "no state")
        if batch.records:
            outcome = outcome_of(value, [r.sequence_number for r in batch.records], reports_failures=self._run.scenario.mapping.report)
            if isinstance(outcome, FailedFrom):
                raise BatchFailed(outcome.index, outcome.function_error, outcome.error, state=value["state"])
        return value["state"]

    async def _answer(self, batch: Batch, state: Any) -> Returns:
        await turns()
        try:
            answer = self._run.next(batch.shard_id, [record.value["label"] for record in batch], **told(batch, state))
        except Crash:
            await asyncio.sleep(FOR_EVER_S)
        if isinstance(answer, Refused):
            raise NotTaken("the script says so")
        await asyncio.sleep(self._run.scenario.duration_s)
        if isinstance(answer, Raised):
            raise Boom("the script says so")
        assert isinstance(answer, Returns)
        return answer


def told(batch: Batch, state: Any) -> dict[str, Any]:
    """What a handler is told of its call."""
    if (window := batch.window) is None:
        return {"attempt": batch.attempt}
    return {
        "attempt": batch.attempt,
        "window": window.start.timestamp() - ZERO_S,
        "final": window.is_final,
        "early": window.is_terminated_early,
        "state": state,
    }


def in_worker(scenario: Scenario) -> Trace:
    """The worker's engine. An exception of the handler is an exception; what a function returns is read as `streamlet esm` does."""
    state = Run(scenario, "worker")
    handler = Scripted(state)
    windows = scenario.mapping.tumbling_s > 0
    spec = ConsumerSpec(
        name="worker",
        stream=STREAM,
        kind="window" if windows else "batch",
        handler=handler.in_window if windows else handler,
        decoder=json.loads,
        mapping=mapping_of(scenario, state),
    )
    return _on_virtual_time(state, lambda: _pump(state, spec))


# ── streamlet esm ────────────────────────────────────────────────────────────────────────────────────────────────


class ScriptedSandbox:
    """Instead of a process: JSON in, JSON out."""

    usable = True

    def __init__(self, state: Run) -> None:
        self._run = state
        self.answer: Any = None

    async def invoke(self, request_id: str, event: bytes) -> Invoked:
        labels: list[str] = self.answer[1]
        assert labels_of(json.loads(event)) == labels
        self._run.requests.update(dict.fromkeys(labels, str(UUID(request_id))))
        await asyncio.sleep(self._run.scenario.duration_s)
        answer = self.answer[0]
        outcome = FunctionError("Boom", "the script says so") if isinstance(answer, Raised) else Answer(self._run.value(answer))
        return Invoked(request_id, 1, outcome, None, self._run.scenario.duration_s, 0)


def labels_of(event: dict[str, Any]) -> list[str]:
    return [json.loads(b64decode(entry["kinesis"]["data"]))["label"] for entry in event["Records"]]


def ask(state: Run, event: dict[str, Any]) -> Any:
    """Ask the script for an event's function."""
    labels = labels_of(event)
    if "window" not in event:
        return state.next(event["Records"][0]["eventID"].rsplit(":", 1)[0], labels)
    return state.next(
        event["shardId"],
        labels,
        window=datetime.fromisoformat(event["window"]["start"]).timestamp() - ZERO_S,
        final=event["isFinalInvokeForWindow"],
        early=event["isWindowTerminatedEarly"],
        state=event["state"],
    )


def expected_event(run: Run, shard_id: str, labels: Sequence[str], start_s: float = 0.0, **window: Any) -> dict[str, Any]:
    """What Lambda would hand to the function; with tumbling windows, `window` has state, final and early."""
    if window:
        window |= {"shard_id": shard_id, "start_s": ZERO_S + start_s, "end_s": ZERO_S + start_s + run.scenario.mapping.tumbling_s}
    return shapes.event([run.sent(label, shard_id) for label in labels], STREAM, **window)


def in_esm(scenario: Scenario) -> Trace:
    """`streamlet esm`, with functions that run in this process."""
    state = Run(scenario, "function")

    class ScriptedHost(Host):
        """The host as it is, but for the processes. Where the script says so there is no place for one more invocation."""

        async def invoke(self, event: bytes, *, request_id: str = "") -> Invoked | Throttled:
            await turns()
            decoded = json.loads(event)
            try:
                answer = ask(state, decoded)
            except Crash:
                await asyncio.sleep(FOR_EVER_S)
            self._check(decoded)
            if isinstance(answer, Refused):
                self.reserved_concurrency = 0
                refused = await super().invoke(event, request_id=request_id)
                self.reserved_concurrency = None
                return refused
            self._next = (answer, labels_of(decoded))
            return await super().invoke(event, request_id=request_id)

        def _check(self, event: dict[str, Any]) -> None:
            told = state.trace[-1]
            (shard_id,) = [shard_id for shard_id, name in state.shard_ids.items() if name == told["shard"]]
            window = {"start_s": told["window"], **{key: told[key] for key in ("state", "final", "early")}} if "window" in told else {}
            expected = expected_event(state, shard_id, told["labels"], **window)
            # The order of keys was recorded of the records.
            if event != expected or json.dumps(event["Records"]) != json.dumps(expected["Records"]):
                raise Violated(f"{state.scenario.name}: the event is {event}, and should be {expected}")

        def _sandbox(self) -> Any:
            # Called before anything else can run: no other invocation comes in between.
            sandbox = ScriptedSandbox(state)
            sandbox.answer = self._next
            return sandbox

    settings = SandboxSettings(handler="function.handler", function_name="function", folder=Path())
    options = esm.MappingOptions(
        stream=STREAM, mapping=mapping_of(scenario, state), function=settings, reports_failures=scenario.mapping.report
    )

    async def main() -> None:
        function = esm.Function(options)
        async with function._hosted.open(STREAM_ARN, "us-east-1"):
            await _pump(state, msgspec.structs.replace(function.consumers[0], decoder=json.loads))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(esm, "Host", ScriptedHost)
        return _on_virtual_time(state, main)


FUNCTION: Final = """
import json, os, socket

def handler(event, context):
    with socket.create_connection(("127.0.0.1", int(os.environ["SCRIPT_PORT"]))) as to, to.makefile("rw") as lines:
        lines.write(json.dumps(event) + chr(10))
        lines.flush()
        answer = json.loads(lines.readline())
    if "value" not in answer:
        raise ValueError("the script says so")
    return answer["value"]
"""


async def in_processes(scenario: Scenario, folder: Path) -> Trace:
    """`streamlet esm` as it is: a broker, Lambda's client in processes, real time. The function asks here what to do.

    Of the checkpoints only the last is told. Scenarios of one shard, without late arrivals, throttles and windows."""
    assert not scenario.uses() & {"throttle", "shards", "late arrivals", "tumbling window", "parallelization factor", "crash"}
    state = Run(scenario)
    (folder / "function.py").write_text(FUNCTION)
    (shard_id,) = state.shard_ids

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = ask(state, json.loads(await reader.readline()))
        told = {} if isinstance(answer, Raised) else {"value": state.value(answer)}
        writer.write(json.dumps(told).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with Broker(streams={STREAM: 1}) as broker, await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 24) as server:
        async with Producer(STREAM, endpoint_url=broker.endpoint_url) as producer:
            for record in state.records(shard_id):
                label = state.labels.pop((shard_id, record.sequence_number))
                result = await (await producer.put(record.data, record.partition_key))
                state.numbers[label] = result.sequence_number
                state.labels[shard_id, result.sequence_number] = label
        once, stop = Once(), asyncio.Event()
        port = str(server.sockets[0].getsockname()[1])
        function = esm.Function(
            esm.MappingOptions(
                stream=STREAM,
                mapping=mapping_of(scenario, state),
                function=SandboxSettings(
                    handler="function.handler", function_name="function", folder=folder, timeout_s=20, environment={"SCRIPT_PORT": port}
                ),
                reports_failures=scenario.mapping.report,
                endpoint_url=broker.endpoint_url,
                listeners=(once.listen,),
            )
        )
        url = f"sqlite:///{folder}/leases.db"
        worker = WorkerOptions(endpoint_url=broker.endpoint_url, state=url, poll_interval_s=0.02, listeners=(once.listen,))

        async def drain() -> None:
            await once.drained()
            stop.set()

        async with asyncio.timeout(30), asyncio.TaskGroup() as tg:
            tg.create_task(drain())
            assert await run_worker(function, worker, stop=stop, through=once.through) == []
    store = open_store(url, f"{function.name}.{STREAM}")
    store.open()
    for lease in store.scan():
        state.look(lease)
    store.close()
    return state.trace


# ── one handler of the user's, in both runtimes ──────────────────────────────────────────────────────────────────


class Users:
    """A handler as users write them: it returns, raises, or names the record that failed. `decide` says which.

    It changes the values that it gets, which the next
    try must not see. Of an aggregate the last user record is the one that fails, but for windows: there a state up to it would be none for the
    records of the stream, and nothing would be done."""

    def __init__(self, decide: Callable[[Sequence[str], Batch | None, Any], Any]) -> None:
        self._decide = decide

    def on_record(self, record: Record) -> None:
        if "part" in record.value:
            return
        label = record.value.pop("label")
        answer = self._decide([label], None, None)
        if isinstance(answer, Raised) or named(answer):
            raise Boom(label)

    def on_batch(self, batch: Batch) -> None:
        held = held_by_label(batch)
        labels = list(held)
        answer = self._decide(labels, batch, None)
        if isinstance(answer, Raised):
            raise Boom("the batch")
        if failed := named(answer):
            raise RecordFailed(held[labels[min(map(labels.index, failed))]][-1])

    def on_window(self, batch: Batch, state: Any) -> Any:
        held = held_by_label(batch)
        labels = list(held)
        answer = self._decide(labels, batch, state)
        if isinstance(answer, Raised):
            raise Boom("the window")
        failed = named(answer)
        count = min(map(labels.index, failed)) if failed else len(labels)
        state = {"labels": [*state.get("labels", []), *labels[:count]]} | ({"text": GROWN} if grows(answer) else {})
        if failed:
            raise RecordFailed(held[labels[count]][0], state=state)
        assert batch.window is not None
        return None if batch.window.is_final else state  # nobody reads it, and users do not return it


def held_by_label(batch: Batch) -> dict[str, list[Record]]:
    """The user records of each record of the stream. Takes their values to pieces, as handlers do: the next try must not see that."""
    held: dict[str, list[Record]] = {}
    for record in batch:
        held.setdefault(record.value.pop("label"), []).append(record)
    return held


def grows(answer: Any) -> bool:
    """Whether a scripted response carries a state that is too large."""
    return isinstance(answer, Returns) and isinstance(answer.value, dict) and "text" in answer.value.get("state", {})


def named(answer: Any) -> list[str]:
    """The labels that a scripted response names."""
    failures = answer.value.get("batchItemFailures", []) if isinstance(answer, Returns) and isinstance(answer.value, dict) else []
    return [failure["itemIdentifier"]["$sequence"] for failure in failures]


def _app(kind: Kind, users: Users, mapping: EventSourceMapping) -> App:
    app = App(APP)
    match kind:
        case "record":
            app.on_record(STREAM, mapping=mapping)(users.on_record)
        case "batch":
            app.on_batch(STREAM, mapping=mapping)(users.on_batch)
        case "window":
            app.on_window(STREAM, mapping=mapping)(users.on_window)
    return app


def handled(scenario: Scenario, kind: Kind, *, aggregated: bool = False) -> Trace:
    """The handler in a worker. Of a handler of records each call is an invocation."""
    state = Run(scenario, APP, aggregated=aggregated)
    shard_of = {record.label: shard_id for shard_id in state.shard_ids for record in scenario.shards[int(shard_id[-12:])].records}

    def decide(labels: Sequence[str], batch: Batch | None, carried: Any) -> Any:
        shard_id = shard_of[labels[0]] if batch is None else batch.shard_id
        answer = state.next(shard_id, list(labels), **({} if batch is None else told(batch, carried)))
        if isinstance(answer, Refused):
            raise NotTaken("the script says so")
        if kind == "record" and named(answer):
            state.trace[-1]["outcome"] = "raised"  # such a handler can name no record: it raises
        return answer

    (spec,) = _app(kind, Users(decide), mapping_of(scenario, state)).consumers
    return _on_virtual_time(state, lambda: _pump(state, spec))


class Adapter(Script):
    """The function behind a mapping of AWS's: our adapter, whose answers are what the interpreter reads."""

    def __init__(self, scenario: Scenario, kind: Kind, *, aggregated: bool) -> None:
        super().__init__(scenario)
        self._run, self._kind, self._scenario = Run(scenario, aggregated=aggregated), kind, scenario
        self._labels_by_number = {
            shard.name: {self._run.numbers[record.label]: record.label for record in shard.records} for shard in scenario.shards
        }
        self._shard_of = {record.label: shard.name for shard in scenario.shards for record in shard.records}
        self.calls: defaultdict[tuple[str, ...], deque[list[tuple[str, str]]]] = defaultdict(deque)
        self._told: list[tuple[str, str]] = []
        self._answer: Any = None
        self._early = False
        self._runtime = LambdaRuntime(_app(kind, Users(self._decide), mapping_of(scenario, None)))

    def close(self) -> None:
        self._runtime.close()

    def _decide(self, labels: Sequence[str], batch: Batch | None, _: Any) -> Any:
        if batch is not None:
            if (window := batch.window) is not None and (window.is_final, window.is_terminated_early) != (not labels, self._early):
                raise Violated(f"{self._scenario.name}: {window} for {labels}, early {self._early}")
            return self._answer
        answer = super().next(labels)
        self._told.append((labels[0], "raised" if isinstance(answer, Raised) or named(answer) else "returned"))
        return answer

    def next(self, labels: Sequence[str], *, window: str = "", state: Any = None, early: bool = False) -> Any:
        if self._kind != "record":
            self._answer = super().next(labels, window=window, state=state, early=early)
            if isinstance(self._answer, Refused | Crashed):
                return self._answer
        self._told, self._early = [], early
        shard = self._shard_of[labels[0]] if labels else window.split("@", maxsplit=1)[0]
        try:
            answer = self._runtime(self._event(shard, labels, window, state, early), None)
        except Boom:
            return Raised()
        finally:
            self.calls[tuple(labels)].append(self._told)
        assert answer is not None
        # The interpreter has numbers of its own: names again, and it puts in what they stand for.
        failures = [self._labels_by_number[shard][failure["itemIdentifier"]] for failure in answer["batchItemFailures"]]
        return Returns({**answer, "batchItemFailures": [{"itemIdentifier": {"$sequence": label}} for label in failures]})

    def _event(self, shard: str, labels: Sequence[str], window: str, state: Any, early: bool) -> dict[str, Any]:
        shard_id = next(shard_id for shard_id, name in self._run.shard_ids.items() if name == shard)
        if self._kind != "window":
            return expected_event(self._run, shard_id, labels)
        start_s = float(window.split("@")[1])
        return expected_event(self._run, shard_id, labels, start_s, state=state, final=not labels, early=early)


def handled_lambda(scenario: Scenario, kind: Kind, choices: Choices, *, aggregated: bool = False) -> Trace:
    """The same handler in Lambda, where the second interpreter is the event source mapping. Raises `Endless`, as that does."""
    adapter = Adapter(scenario, kind, aggregated=aggregated)
    try:
        trace = interpret(scenario, choices, adapter)
    finally:
        adapter.close()
    if kind != "record":
        return trace
    out: Trace = []
    for event in trace:
        if event["kind"] != "invocation":
            out.append(event)
            continue
        told = adapter.calls[tuple(event["labels"])].popleft()
        out += [{**event, "labels": [label], "outcome": outcome} for label, outcome in told]
    return out


def with_reports(scenario: Scenario) -> Scenario:
    """As a user of the SDK deploys it: with ReportBatchItemFailures, which the adapter's answers need."""
    return replace(scenario, mapping=replace(scenario.mapping, report=True))
