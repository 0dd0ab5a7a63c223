"""What is a scenario of Lambda's event source mapping for Kinesis, and what must whoever runs one record?

A scenario says what is in the stream, how the mapping is set, what the function does and whether the destination accepts. It is
plain data: `Scenario.as_json()` gives a JSON value and `Scenario.of_json()` takes it back. Times are seconds from the moment at
which the mapping starts to read (from TRIM_HORIZON); records may have arrived before it, at negative times. Labels name records,
and are unique in a scenario.

    {"name": "…", "source": "where the expectation comes from",
     "shards": [{"name": "s0", "records": [{"label": "a", "key": "k0", "arrival_s": 0.0, "size_bytes": 64}, …],
                 "parents": [], "ends_s": null}, …],
     "lanes": {"k0": 0},                the slot of each key, below `factor`; keys not named are in slot 0
     "mapping": {"batch_size": 100, "window_s": 0, "factor": 1, "bisect": false, "retries": -1, "max_age_s": -1,
                 "report": false, "passes": null, "tumbling_s": 0},
     "rules": [{"action": "raise", "on": "c", "times": 2, "labels": [], "value": null}, …],
     "duration_s": 0.0,                 how long each call of the function takes; a throttle takes no time
     "refusals": null}                  null: no destination; n: each document is refused n times, then accepted

`passes` lists the labels that the filter lets through; null is no filter. Arrivals do not decrease within a shard. A shard that was
split or merged ends at `ends_s`, when its last record has arrived; its children name it among their `parents`, stand behind it in the
list, and are read when everything in their parents is done.

Rules. At each try of a batch the first rule that applies decides; if none applies the function returns null. A rule with `on`
applies to batches that hold that record, one without to all; with `times` it applies only that often per record: per `on`, or
without it per first record of the batch. So the script is the same however slots and shards interleave. Actions:
  raise     the function raises an exception
  throttle  the call is refused with 429 before the function runs
  report    it returns batchItemFailures naming those of `labels` that are in the batch, in the order of `labels`
  return    it returns `value`, in which {"$sequence": "c"} stands for the sequence number of c (a string)
  grow      with tumbling windows: as report, with a state of more than 1 MB
  crash     the runtime ends while the function runs; another goes on at once from the saved position. With `times`, and one slot a shard
With tumbling windows null and report also return the state: {"labels": [those of this window that are done]}, where of a batch with
reported failures those before the earliest are done.

What a driver does, for a runtime on a virtual clock:
  * It sets the clock so that time zero is a multiple of every `tumbling_s` since the epoch, and gives the records the arrival times
    named. Those of one arrival become readable in one read. A runtime that waits between reads must be woken, or the clock be stepped,
    so that a record is read when it arrives.
  * The runtime's assignment of keys to slots is its own affair: for each key of the scenario the driver takes a partition key that the
    runtime assigns to the slot in `lanes` (try k0, k0-1, k0-2, …). This makes the traces independent of the hash.
  * The data are {"label": …, "keep": true or false} padded to `size_bytes` with spaces; the filter is {"data": {"keep": [true]}}.
  * For each try it asks one `Script` of the run, once, and does what that says: `script.next(labels)`, and with tumbling windows
    `script.next(labels, window=<any text unique to shard and window>, state=<state of the event>, early=<ended early>)`. In a returned value it puts the real
    sequence numbers (`with_sequence_numbers`). Where functions run in processes of their own, the driver asks and the functions are
    told, since the counts are of the whole run.
  * Waits between tries are 1, 2, 4, 8, 12, 12, … seconds; see `interpreter.Choices` for what else the reference leaves open.
  * It runs until every record is done or given up, and in tumbling windows until the last window is closed.

And records, in the order in which they happen, these events (plain dicts; keys not named are ignored):
  {"kind": "invocation", "shard": "s0", "labels": ["a", "b"], "outcome": "returned" | "raised" | "throttled" | "crashed"}
      for each try, also of a throttled one: the records in the order of the event, and what the script said. Where a function is
      told of it also "attempt": 1 for the first, 2 for the first retry, …
      With tumbling windows also "window": start in seconds, "final": bool, "early": bool, "state": the value handed in.
  {"kind": "document", "shard": "s0", "condition": "RetryAttemptsExhausted" | "RecordAgeExceeded", "approximateInvokeCount": 4,
   "functionError": null | "Unhandled", "start": "c", "end": "f", "batchSize": 4}
      when the destination accepts it. `functionError` is there if and only if the document has a responseContext.
      start and end are the labels of startSequenceNumber and endSequenceNumber.
  {"kind": "checkpoint", "shard": "s0", "label": "b"}
      when the saved position moves: everything up to that record is done, given up, or dropped by the filter.
  {"kind": "shard end", "shard": "s0"}
      when it is saved that everything in a shard that ended is done. Before that nothing of its children happens.
The traces are then compared: `compare.difference(scenario, interpreter.interpret(scenario), trace)` must be empty, and for recorded
scenarios so must `compare.unexpected(expect, trace)`. A runtime that saves its position less often than it could passes "final" to
`difference`. Where there is a difference, `generated.depends_on(scenario)` tells which open readings it may come from.
A driver that cannot do something (a runtime that is never throttled) says which scenarios it leaves out, by `Scenario.uses()`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

__all__ = [
    "CRASHED",
    "RAISED",
    "THROTTLED",
    "Action",
    "Crashed",
    "Mapping",
    "Raised",
    "Record",
    "Recorded",
    "Returned",
    "Rule",
    "Scenario",
    "Script",
    "Shard",
    "Throttled",
    "Trace",
    "recorded",
    "with_sequence_numbers",
]

Action = Literal["raise", "throttle", "report", "return", "grow", "crash"]
Event = dict[str, Any]
Trace = list[Event]

GROWN: Final = "x" * 1_100_000
"""What makes a state too large: the bound is 1 MB."""


@dataclass(frozen=True, kw_only=True)
class Record:
    label: str
    key: str = "k0"
    arrival_s: float = 0.0
    size_bytes: int = 64


@dataclass(frozen=True, kw_only=True)
class Shard:
    name: str
    records: tuple[Record, ...]
    parents: tuple[str, ...] = ()
    ends_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """BatchSize, MaximumBatchingWindowInSeconds, ParallelizationFactor, BisectBatchOnFunctionError, MaximumRetryAttempts,
    MaximumRecordAgeInSeconds, ReportBatchItemFailures, the labels that the filter passes, TumblingWindowInSeconds."""

    batch_size: int = 100
    window_s: int = 0
    factor: int = 1
    bisect: bool = False
    retries: int = -1
    max_age_s: int = -1
    report: bool = False
    passes: tuple[str, ...] | None = None
    tumbling_s: int = 0


@dataclass(frozen=True, kw_only=True)
class Rule:
    action: Action
    on: str | None = None
    times: int | None = None
    labels: tuple[str, ...] = ()
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    name: str
    source: str
    shards: tuple[Shard, ...]
    mapping: Mapping
    rules: tuple[Rule, ...] = ()
    lanes: MappingType[str, int]
    duration_s: float = 0.0
    refusals: int | None = None

    def as_json(self) -> dict[str, Any]:
        """A JSON value, every field present."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Scenario:
        """The scenario that a JSON value says; fields left out have their defaults."""
        shards = tuple(
            Shard(
                name=shard["name"],
                records=tuple(Record(**record) for record in shard["records"]),
                parents=tuple(shard.get("parents", ())),
                ends_s=shard.get("ends_s"),
            )
            for shard in value["shards"]
        )
        mapping = dict(value.get("mapping", {}))
        if mapping.get("passes") is not None:
            mapping["passes"] = tuple(mapping["passes"])
        rules = tuple(Rule(**{**rule, "labels": tuple(rule.get("labels", ()))}) for rule in value.get("rules", ()))
        rest = {name: value[name] for name in ("duration_s", "refusals") if name in value}
        lanes = dict(value.get("lanes", {}))
        return cls(name=value["name"], source=value["source"], shards=shards, mapping=Mapping(**mapping), rules=rules, lanes=lanes, **rest)

    def lane_of(self, record: Record) -> int:
        """The slot, below the parallelization factor, that a record belongs to."""
        return self.lanes.get(record.key, 0)

    def passes(self, record: Record) -> bool:
        """Whether the filter lets a record through."""
        return self.mapping.passes is None or record.label in self.mapping.passes

    def uses(self) -> frozenset[str]:
        """What a driver must be able to do for this scenario."""
        m = self.mapping
        said = {
            "batching window": m.window_s > 0,
            "parallelization factor": m.factor > 1,
            "bisect": m.bisect,
            "retries": m.retries >= 0,
            "max age": m.max_age_s >= 0,
            "report": m.report,
            "filter": m.passes is not None,
            "tumbling window": m.tumbling_s > 0,
            "destination": self.refusals is not None,
            "refusing destination": bool(self.refusals),
            "throttle": any(rule.action == "throttle" for rule in self.rules),
            "payload bound": sum(record.size_bytes for shard in self.shards for record in shard.records) > 4_000_000,
            "late arrivals": any(record.arrival_s > 0 for shard in self.shards for record in shard.records),
            "shards": len(self.shards) > 1,
            "reshard": any(shard.parents for shard in self.shards),
            "crash": any(rule.action == "crash" for rule in self.rules),
            "early end": m.tumbling_s > 0 and any(rule.action == "grow" for rule in self.rules),
        }
        return frozenset(name for name, used in said.items() if used)


@dataclass(frozen=True)
class Raised:
    """The function raised an exception."""


@dataclass(frozen=True)
class Throttled:
    """The call was refused before the function ran."""


@dataclass(frozen=True)
class Crashed:
    """The runtime ended before the function did."""


@dataclass(frozen=True)
class Returned:
    """The function returned a value, with {"$sequence": label} for sequence numbers."""

    value: Any


RAISED: Final = Raised()
THROTTLED: Final = Throttled()
CRASHED: Final = Crashed()
Answer = Raised | Throttled | Crashed | Returned


class Script:
    """What the function of one run does at each try. It counts, so each run needs its own."""

    def __init__(self, scenario: Scenario) -> None:
        self._rules = scenario.rules
        self._tumbling = scenario.mapping.tumbling_s > 0
        self._fired: Counter[tuple[int, str]] = Counter()

    def next(self, labels: Sequence[str], *, window: str = "", state: Any = None, early: bool = False) -> Answer:
        """What happens at this try of a batch. With tumbling windows, `window` names the shard and window of a call without records,
        and `early` says that it ends the window before its time (which no rule looks at, but a function may)."""
        for index, rule in enumerate(self._rules):
            if rule.on is not None and rule.on not in labels:
                continue
            counted_as = rule.on or (labels[0] if labels else window)
            if rule.times is not None and self._fired[index, counted_as] >= rule.times:
                continue
            self._fired[index, counted_as] += 1
            if rule.action == "raise":
                return RAISED
            if rule.action == "throttle":
                return THROTTLED
            if rule.action == "crash":
                return CRASHED
            if rule.action == "return":
                return Returned(rule.value)
            failed = [label for label in rule.labels if label in labels]
            return Returned(self._reported(labels, failed, state, GROWN if rule.action == "grow" else ""))
        return Returned(self._reported(labels, [], state) if self._tumbling else None)

    def _reported(self, labels: Sequence[str], failed: list[str], state: Any, grown: str = "") -> Any:
        answer: dict[str, Any] = {"batchItemFailures": [{"itemIdentifier": {"$sequence": label}} for label in failed]}
        if self._tumbling:
            done = labels[: min(map(labels.index, failed))] if failed else labels
            answer["state"] = {"labels": [*(state or {}).get("labels", []), *done]} | ({"text": grown} if grown else {})
        return answer


def with_sequence_numbers(value: Any, numbers: MappingType[str, str]) -> Any:
    """The value that the function really returns: each {"$sequence": label} replaced by that record's sequence number."""
    if isinstance(value, dict):
        if set(value) == {"$sequence"}:
            return numbers[value["$sequence"]]
        return {key: with_sequence_numbers(item, numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [with_sequence_numbers(item, numbers) for item in value]
    return value


@dataclass(frozen=True)
class Recorded:
    """A scenario of the reference with what is known of its outcome: some of the keys of `compare.observed`."""

    scenario: Scenario
    expect: dict[str, Any]


def recorded() -> list[Recorded]:
    """Every recorded or documented outcome of the reference. Each scenario's `source` begins with recorded, documented or derived."""
    rows = json.loads((Path(__file__).parent / "recorded.json").read_text())
    return [Recorded(Scenario.of_json(row["scenario"]), row["expect"]) for row in rows]
