"""Do two traces of one scenario say the same, and if not, where do they part?

A trace (see `scenarios` for its events) is brought to a normal form, free of ids and times: one stream of lines for each slot of each
shard, since slots run independently, and one for the checkpoints of each shard. Where slots share a shard the moves of the checkpoint
depend on how they interleave, so only the last position is compared; with one slot each move is. A move to a record that the filter
drops says the same as one to the record before, but for the last.

`problems` finds what no trace may hold, whatever it is compared with: a batch of two slots, records out of order, a checkpoint that
goes back, or one that passes a record which is delivered or given up afterwards; anything of a shard that is over, or whose parents
are not.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from itertools import pairwise
from typing import Any, Final, Literal

from tests.scenarios.scenarios import Event, Record, Scenario, Trace

__all__ = ["Checkpoints", "NormalForm", "difference", "normal", "observed", "problems", "unexpected"]

NormalForm = dict[str, list[str]]
Checkpoints = Literal["each", "final"]
TEXT_MAX: Final = 100


def normal(scenario: Scenario, trace: Trace, checkpoints: Checkpoints = "each", *, attempts: bool = False) -> NormalForm:
    """Streams of lines by name: "s0/0" for the slots that had anything, "s0 checkpoints" for the shards. `attempts` are told if asked
    for; not every function knows them.

    `checkpoints="final"` is for runtimes that save positions less often: only the last one of each shard is told.
    """
    known = _records(scenario)
    streams: NormalForm = {}
    for event in trace:
        if event["kind"] in {"invocation", "document"}:
            label = event["labels"][0] if event.get("labels") else event.get("start")
            lane = scenario.lane_of(known[label]) if label in known else 0
            streams.setdefault(f"{event['shard']}/{lane}", []).append(_line(event, attempts=attempts))
    each = checkpoints == "each" and scenario.mapping.factor == 1
    for shard in scenario.shards:
        moves = [event["label"] for event in trace if event["kind"] == "checkpoint" and event["shard"] == shard.name]
        told = _moves_over_passed(scenario, shard.records, moves) if each else []
        over = ["over" for event in trace if event["kind"] == "shard end" and event["shard"] == shard.name]
        streams[f"{shard.name} checkpoints"] = [*told, f"last: {moves[-1] if moves else 'none'}", *over]
    return dict(sorted(streams.items()))


def _moves_over_passed(scenario: Scenario, records: tuple[Record, ...], moves: list[str]) -> list[str]:
    """Each move as the last record at or before it that the filter passes, without repeats."""
    last_passed: dict[str, str | None] = {}
    passed: str | None = None
    for record in records:
        passed = record.label if scenario.passes(record) else passed
        last_passed[record.label] = passed
    reached = [last_passed.get(label, label) for label in moves]
    return [label for before, label in pairwise([None, *reached]) if label is not None and label != before]


def _line(event: Event, *, attempts: bool) -> str:
    if event["kind"] == "document":
        error = f"functionError {json.dumps(event['functionError'])}" if "functionError" in event else "no responseContext"
        return (
            f"document {event['condition']} after {event['approximateInvokeCount']}, {error}, "
            f"{event['start']}..{event['end']} batchSize {event['batchSize']}"
        )
    said = f"call [{' '.join(event['labels'])}] {event['outcome']}" + (f" at attempt {event['attempt']}" if attempts else "")
    if event.get("window") is not None:
        final = (" final" if event["final"] else "") + (" early" if event["early"] else "")
        said += f" in window {float(event['window']):g}{final} with {json.dumps(_shown(event['state']), sort_keys=True)}"
    return said


def _shown(state: Any) -> Any:
    """Of a text that makes a state too large, what it begins with and how long it is."""
    if not isinstance(state, dict):
        return state
    return {
        key: f"{value[:9]}… {len(value)}" if isinstance(value, str) and len(value) > TEXT_MAX else value for key, value in state.items()
    }


def difference(scenario: Scenario, expected: Trace, actual: Trace, checkpoints: Checkpoints = "each") -> str:
    """What a reader needs to see where two traces part; empty if they say the same."""
    attempts = all("attempt" in event for event in [*expected, *actual] if event["kind"] == "invocation")
    want, have = (normal(scenario, trace, checkpoints, attempts=attempts) for trace in (expected, actual))
    told: list[str] = [f"  the actual trace is impossible: {problem}" for problem in problems(scenario, actual)]
    for name in sorted({*want, *have}):
        before, after = want.get(name, []), have.get(name, [])
        if before != after:
            told.append(f"  {name}   (- expected, + actual)")
            whole = list(difflib.unified_diff(before, after, n=len(before), lineterm=""))[3:]  # from the fourth line on it is the content
            told += [f"    {line[0]} {line[1:]}" for line in whole]
    if not told:
        return ""
    m = scenario.mapping
    rules = [json.dumps({key: value for key, value in vars(rule).items() if value not in (None, ())}) for rule in scenario.rules]
    stream = [f"{shard.name}: " + " ".join(_place(scenario, record) for record in shard.records) for shard in scenario.shards]
    settings = ", ".join(f"{key}={value}" for key, value in vars(m).items() if value != getattr(type(m), key))
    destination = "none" if scenario.refusals is None else f"accepts after {scenario.refusals} refusals"
    head = [scenario.name, *stream, settings, *rules, f"calls take {scenario.duration_s:g} s; destination {destination}"]
    return "\n".join([head[0], *(f"  {line}" for line in head[1:]), *told])


def _place(scenario: Scenario, record: Record) -> str:
    lane = f"/{scenario.lane_of(record)}" if scenario.mapping.factor > 1 else ""
    return f"{record.label}{lane}@{record.arrival_s:g}" + ("" if scenario.passes(record) else "(dropped)")


def problems(scenario: Scenario, trace: Trace) -> list[str]:
    """Whatever no trace of the scenario may hold, in words."""
    known = _records(scenario)
    order = {label: index for index, label in enumerate(known)}
    shard_of = {record.label: shard.name for shard in scenario.shards for record in shard.records}
    found: list[str] = []
    last_seen: dict[str, int] = {}
    parents = {shard.name: shard.parents for shard in scenario.shards}
    over: set[str] = set()
    for index, event in enumerate(trace):
        if event["shard"] in over:
            found.append(f"{event['kind']} of {event['shard']}, which is over")
        if early := [parent for parent in parents[event["shard"]] if parent not in over]:
            found.append(f"{event['kind']} of {event['shard']} before {early} is over")
        if event["kind"] == "shard end":
            over.add(event["shard"])
            continue
        labels = _labels(event)
        if unknown := [label for label in labels if label not in known]:
            found.append(f"{event['kind']} of unknown records {unknown}")
            return found
        if any(shard_of[label] != event["shard"] for label in labels):
            found.append(f"{event['kind']} of {event['shard']} with records of another shard: {labels}")
        if event["kind"] == "checkpoint":
            continue
        if len({scenario.lane_of(known[label]) for label in labels}) > 1:
            found.append(f"records of different slots together: {labels}")
        if any(order[a] >= order[b] for a, b in pairwise(labels)) and event["kind"] == "invocation":
            found.append(f"records out of order: {labels}")
        if dropped := [label for label in labels if not scenario.passes(known[label])]:
            found.append(f"records that the filter drops: {dropped}")
        first, last = (order[labels[0]], order[labels[-1]]) if labels else (0, -1)
        for label in labels if event["kind"] == "invocation" else list(known)[first : last + 1]:
            if scenario.lane_of(known[label]) == scenario.lane_of(known[labels[0]]) and scenario.passes(known[label]):
                last_seen[label] = index
    for shard in scenario.shards:
        moves = [(i, event["label"]) for i, event in enumerate(trace) if event["kind"] == "checkpoint" and event["shard"] == shard.name]
        for (_, before), (_, after) in pairwise(moves):
            if order[after] < order[before]:
                found.append(f"the checkpoint of {shard.name} goes back from {before} to {after}")
        for at, label in moves:
            early = [r.label for r in shard.records if order[r.label] <= order[label] and last_seen.get(r.label, -1) > at]
            if early:
                found.append(f"the checkpoint of {shard.name} is at {label} while these are yet to come: {early}")
    return found


def _labels(event: Event) -> list[str]:
    if event["kind"] == "invocation":
        return list(event["labels"])
    if event["kind"] == "document":
        return [event["start"]] if event["start"] == event["end"] else [event["start"], event["end"]]
    return [event["label"]]


def _records(scenario: Scenario) -> dict[str, Record]:
    return {record.label: record for shard in scenario.shards for record in shard.records}


def observed(trace: Trace) -> dict[str, Any]:
    """What a recording tells of a run, to be held against `Recorded.expect`: how often each record was delivered, how many calls
    there were (throttled ones are none), the batches as delivered, the documents, and the last checkpoint of each shard."""
    calls = [event for event in trace if event["kind"] == "invocation" and event["outcome"] != "throttled"]
    fields = ("condition", "approximateInvokeCount", "functionError", "start", "end", "batchSize")
    documents = [event for event in trace if event["kind"] == "document"]
    return {
        "deliveries": dict(Counter(label for call in calls for label in call["labels"])),
        "invocations": len(calls),
        "batches": [call["labels"] for call in calls],
        "documents": [{field: document[field] for field in fields if field in document} for document in documents],
        "checkpoint": {event["shard"]: event["label"] for event in trace if event["kind"] == "checkpoint"},
    }


def unexpected(expect: dict[str, Any], trace: Trace) -> list[str]:
    """What a trace lacks of a recorded expectation, in words. Keys of a document that the expectation leaves out are not looked at;
    functionError "absent" means that the document has no responseContext."""
    have = observed(trace)
    found = [f"{key}: expected {want}, was {have[key]}" for key, want in expect.items() if key != "documents" and want != have[key]]
    if "documents" in expect:
        told = [{"functionError": "absent", **document} for document in have["documents"]]
        if len(told) != len(expect["documents"]):
            found.append(f"documents: expected {expect['documents']}, were {told}")
        for want, document in zip(expect["documents"], told, strict=False):
            found += [f"document {key}: expected {value!r}, was {document[key]!r}" for key, value in want.items() if document[key] != value]
    return found
