"""What does Lambda's event source mapping do with a scenario, read from the reference alone?

This is a witness: it imports nothing of the package, and is written for clarity from the notes on Lambda's behaviour (batching,
retries, partial responses, bisect, tumbling windows), not from our implementation. Each slot of each shard is followed by itself
from its first record to its last, with its own clock, by recursion over the list of records still open. Checkpoints are worked out
afterwards from the times at which records came to their end. Where the runtime crashes, the shard begins again at its checkpoint, knowing nothing.

What the notes leave open is decided by `Choices`, one field each, so that one can ask which scenarios depend on which reading
(`depends_on`). The defaults are the readings that the notes propose, else the literal ones. Readings without a field:
  * Time passes only in function calls, waits, and until records arrive or windows close. A record is read when it arrives.
  * A record is too old if its age exceeds the limit: at exactly the limit it is still tried.
  * The row of waits starts anew for a new batch, after progress, and for each part of a split.
  * A throttled try counts neither as a retry nor in approximateInvokeCount, and splits nothing. If it was the first try of a
    batch whose records then get too old, the document says 1, as it does for records that were too old when first read.
  * With ReportBatchItemFailures, a response without the key batchItemFailures, of any type, lists no failures and is a success;
    a batchItemFailures that is neither a list nor null is a complete failure.
  * Without it, and without tumbling windows, every returned value is a success.
  * A try that fails as a whole keeps the count of tries; records that got too old meanwhile leave the batch with a document
    of their own before the next try.
  * Each piece that is done moves the checkpoint, in a split batch as well. The document is delivered before the checkpoint moves.
  * Slots are independent; the checkpoint of a shard is the end of the longest row of its records, from the first, that are all at
    their end. Records that the filter drops are at their end when they arrive.
  * An event holds at most 6 MiB; a record takes its base64 length and 500 bytes. Scenarios stay away from the exact bound.
  * A batch holds records of one tumbling window. A window without records is not opened, and one in which no call was made has no
    final call. A batch given up leaves the state as it was; a partial response that makes progress replaces it; a complete failure
    does not. The final call is tried until it succeeds, whatever the number of retries; with it the checkpoint moves, not before.
  * A state of more than 1 MB ends its window before any other call in it: the final call carries that state, and if no call follows
    in the window there is no other final call.
  * A closed shard ends its last batching window and its last tumbling window. Its children are read once all in it is at its end.
  * Counts, waits and states do not survive a crash; positions do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from math import inf
from typing import Any, Final, Literal

from tests.scenarios.scenarios import Crashed, Event, Raised, Record, Scenario, Script, Shard, Throttled, Trace, with_sequence_numbers

__all__ = ["ALTERNATIVES", "Choices", "Endless", "interpret"]

TRIES_MAX: Final = 400
EVENT_BYTES_MAX: Final = 6 * 1024 * 1024
ENVELOPE_BYTES: Final = 500
STATE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How to read what the reference leaves open."""

    first_wait_s: float = 1.0
    """Waits between tries double from here …"""
    longest_wait_s: float = 12.0
    """… up to here. With these, 60 s of age allow the eight tries that were recorded, and 9 s for the calls."""
    wait_after_split: bool = True
    """Whether the first half of a split waits like a retry."""
    wait_after_progress: bool = True
    """Whether what is left after a partial response waits like a retry."""
    throttles_wait_apart: bool = False
    """Whether throttles and failures have a row of growing waits each, and a failure starts that of the throttles anew."""
    cut: Literal["down", "up"] = "down"
    """Whether the first half of an odd batch is the smaller (n // 2) or the larger."""
    split_without_retries: bool = True
    """Whether a batch is split even where no retry is allowed, as splits use up none."""
    pieces_start_anew: bool = True
    """Whether each half counts its tries from none."""
    invalid_splits: bool = True
    """Whether an invalid response is a function error, and so splits the batch."""
    first_named: Literal["whole", "halve"] = "whole"
    """With bisect, a response naming the first record: split there, which leaves the batch whole, or in the middle."""
    mixed_identifiers: Literal["invalid", "lowest"] = "invalid"
    """A response with valid and invalid identifiers: a complete failure, or the lowest valid one counts."""
    too_old_keeps_tries: bool = True
    """Whether the younger records keep the count of tries when older ones are dropped."""
    too_old_alone: bool = False
    """Whether records too old when read make a batch of their own, so that the younger ones join the next records."""
    too_old_count: Literal["tries", "one more"] = "tries"
    """approximateInvokeCount of a RecordAgeExceeded: tries, but at least 1; or the try that did not happen is counted."""
    refused: Literal["insist", "drop"] = "insist"
    """A document that the destination refuses is delivered again until it is accepted, or dropped."""
    documents: Literal["each", "merged"] = "each"
    """One document for each piece of a batch that is given up, or one for neighbouring pieces that failed alike, with the last one's count."""
    window_opens: Literal["after call", "at record"] = "after call"
    """The batching window starts when the last call ended (so a record after it is handed on at once), or not before a record is there."""
    too_old_after_wait: bool = True
    """Whether the ages are looked at only after a wait, or also before it, so that what is too old by then is given up at once."""
    null_state: bool = True
    """Whether a response that contains a state of null contains one."""
    latency_s: float = 0.0
    """What each try takes besides the function. For finding scenarios that stand on the edge of a time limit."""


_DEFAULT: Final = Choices()
ALTERNATIVES: Final[dict[str, tuple[Choices, ...]]] = {
    "waits": (
        Choices(first_wait_s=0.2, longest_wait_s=5.0),
        Choices(first_wait_s=4.0, longest_wait_s=60.0),
        Choices(wait_after_split=False),
        Choices(wait_after_progress=False),
        Choices(throttles_wait_apart=True),
        Choices(too_old_after_wait=False),
    ),
    "cut": (Choices(cut="up"),),
    "split without retries": (Choices(split_without_retries=False),),
    "pieces start anew": (Choices(pieces_start_anew=False),),
    "invalid splits": (Choices(invalid_splits=False),),
    "first named": (Choices(first_named="halve"),),
    "mixed identifiers": (Choices(mixed_identifiers="lowest"),),
    "too old keeps tries": (Choices(too_old_keeps_tries=False),),
    "too old alone": (Choices(too_old_alone=True),),
    "too old count": (Choices(too_old_count="one more"),),
    "refused": (Choices(refused="drop"),),
    "documents": (Choices(documents="merged"),),
    "window opens": (Choices(window_opens="at record"),),
    "null state": (Choices(null_state=False),),
    "latency": (Choices(latency_s=0.05),),
}


class Endless(Exception):
    """The scenario is not over after so many tries that it never will be."""


def interpret(scenario: Scenario, choices: Choices = _DEFAULT, script: Script | None = None) -> Trace:
    """The events of a scenario, in the format of `tests.scenarios.scenarios`, each with its time as "at".

    `script` is asked instead of the scenario's own rules: a function may really be run, and its answer be looked at.
    Raises `Endless` if a record is never done nor given up.
    """
    script = script or Script(scenario)
    events: Trace = []
    over: dict[str, float] = {}
    for shard in scenario.shards:
        begins = max([0.0, *(over[parent] for parent in shard.parents)])
        told, over[shard.name] = _shard(scenario, shard, script, choices, begins)
        events += told
    return sorted(events, key=_at)


def _shard(scenario: Scenario, shard: Shard, script: Script, choices: Choices, now: float) -> tuple[Trace, float]:
    """What happens in one shard from `now` on, and when all in it is at its end."""
    told: Trace = []
    position = 0
    for _ in range(TRIES_MAX):
        rest = shard.records[position:]
        crashed = False
        lanes = [Lane(scenario, shard, script, choices, now) for _ in range(scenario.mapping.factor)]
        for number, lane in enumerate(lanes):
            try:
                lane.run([record for record in rest if scenario.passes(record) and scenario.lane_of(record) == number])
            except Crash:
                assert len(lanes) == 1, "which of several slots is where when the runtime crashes is not said"
                crashed = True
        stops = lanes[0].now if crashed else inf
        dropped = [record for record in rest if not scenario.passes(record) and record.arrival_s <= stops]
        ends = [{"kind": "end", "at": max(now, record.arrival_s), "labels": [record.label]} for record in dropped]
        merged = sorted([*ends, *(event for lane in lanes for event in lane.events)], key=_at)
        moves, position = _with_checkpoints(shard, position, merged)
        told += moves
        now = max([now, *(lane.now for lane in lanes), *map(_at, merged)])
        if not crashed:
            break
    else:
        raise Endless(f"{scenario.name}: no end after {TRIES_MAX} crashes")
    if shard.ends_s is not None:
        now = max(now, shard.ends_s)
        told.append({"kind": "shard end", "shard": shard.name, "at": now})
    return told, now


def _at(event: Event) -> float:
    at: float = event["at"]
    return at


def _with_checkpoints(shard: Shard, position: int, events: Trace) -> tuple[Trace, int]:
    """The events, with the ends of records replaced by the moves of the checkpoint that they allow; and where it then is."""
    ended: set[str] = set()
    result: Trace = []
    for event in events:
        if event["kind"] != "end":
            result.append(event)
            continue
        ended.update(event["labels"])
        before = position
        while position < len(shard.records) and shard.records[position].label in ended:
            position += 1
        if position > before:
            result.append({"kind": "checkpoint", "shard": shard.name, "label": shard.records[position - 1].label, "at": event["at"]})
    return result, position


class Crash(Exception):
    """The runtime ends here."""


@dataclass(frozen=True)
class Reading:
    """What a try says of its batch: the first `done` records are done. If not all, why, and whether the batch may be split."""

    done: int
    function_error: str | None = None
    splits: bool = False


class Lane:
    """One slot of one shard: its records in order, each brought to its end before the next batch is begun."""

    def __init__(self, scenario: Scenario, shard: Shard, script: Script, choices: Choices, now: float = 0.0) -> None:
        self.mapping = scenario.mapping
        self.scenario = scenario
        self.shard = shard
        self.script = script
        self.choices = choices
        self.events: Trace = []
        self.now = now
        self.ends = inf if shard.ends_s is None else shard.ends_s
        self.tries = 0
        self.window: float | None = None  # start of the tumbling window
        self.state: Any = {}
        self.called = False  # was a call made in it that its final call must follow?
        self.too_large = False  # is its state?
        self.held: list[str] = []  # records of the window that are done, but for the final call
        self.given_up: list[Record] = []  # not yet told, …
        self.why: Event = {}  # … for this reason
        # From 8 on, so that the order as text (10 before 8) is not the order as numbers.
        self.numbers = {record.label: str(8 + index) for index, record in enumerate(shard.records)}

    def run(self, records: list[Record]) -> None:
        length = self.mapping.tumbling_s
        if not length:
            self.drain(records)
            return
        for start, group in groupby(records, key=lambda record: record.arrival_s // length * length):
            self.window, self.state = start, {}
            self.drain(list(group))
            self.now = max(self.now, min(start + length, self.ends))
            self.close_window()

    def drain(self, records: list[Record]) -> None:
        """Batch after batch until no record is left."""
        last_call_s = self.now
        while records:
            batch = self.gather(records, last_call_s)
            records = records[len(batch) :]
            self.finish(batch, tries=0, waits=0)
            self.tell()
            self.close_if_too_large()
            last_call_s = self.now

    # --- batches

    def gather(self, records: list[Record], last_call_s: float) -> list[Record]:
        """The next batch. The clock goes to the moment at which it is closed: by count, by bytes, or by the batching window."""
        self.now = max(self.now, records[0].arrival_s)
        opened = last_call_s if self.choices.window_opens == "after call" else self.now
        closes = opened + self.mapping.window_s
        if self.window is not None:
            closes = min(closes, self.window + self.mapping.tumbling_s)
        closes = max(min(closes, self.ends), self.now)
        batch: list[Record] = []
        for record in records:
            if record.arrival_s > closes:
                break
            if event_bytes([*batch, record]) > EVENT_BYTES_MAX:
                closes = max(self.now, record.arrival_s)
                break
            batch.append(record)
            if len(batch) == self.mapping.batch_size:
                closes = max(self.now, record.arrival_s)
                break
        self.now = closes
        too_old = self.too_old(batch)
        return too_old if too_old and self.choices.too_old_alone else batch

    def too_old(self, records: list[Record]) -> list[Record]:
        limit = self.mapping.max_age_s
        return [record for record in records if limit >= 0 and self.now - record.arrival_s > limit]

    # --- tries

    def finish(self, batch: list[Record], *, tries: int, waits: int, throttles: int = 0, ready: float = 0.0) -> None:
        """Bring every record of a batch to its end. `tries` were made of it before, and `waits` waits since its last progress,
        or with `throttles_wait_apart` after failures; then `throttles` are those since the last failure. No try before `ready`."""
        if not batch:
            return
        if too_old := self.too_old(batch):
            count = max(1, tries) if self.choices.too_old_count == "tries" else tries + 1
            self.give_up(too_old, {"condition": "RecordAgeExceeded", "approximateInvokeCount": count})
            young = [record for record in batch if record not in too_old]
            tries = tries if self.choices.too_old_keeps_tries else 0
            self.finish(young, tries=tries, waits=waits, throttles=throttles, ready=ready)
            return
        if self.now < ready:
            self.now = ready
            self.finish(batch, tries=tries, waits=waits, throttles=throttles)
            return
        reading = self.attempt(batch, tries)
        if reading is None and self.choices.throttles_wait_apart:
            ready = self.pause(throttles)
            self.finish(batch, tries=tries, waits=waits, throttles=throttles + 1, ready=ready)
        elif reading is None:
            ready = self.pause(waits)
            self.finish(batch, tries=tries, waits=waits + 1, ready=ready)
        elif reading.done == len(batch):
            self.succeed(batch)
        elif reading.done > 0:
            self.succeed(batch[: reading.done])
            ready = self.pause(0) if self.choices.wait_after_progress else self.now
            self.finish(batch[reading.done :], tries=0, waits=0, ready=ready)
        elif self.is_split(batch, reading, tries + 1):
            middle = len(batch) // 2 if self.choices.cut == "down" else (len(batch) + 1) // 2
            of_each = 0 if self.choices.pieces_start_anew else tries
            ready = self.pause(waits) if self.choices.wait_after_split else self.now
            self.finish(batch[:middle], tries=of_each, waits=0, ready=ready)
            self.finish(batch[middle:], tries=of_each, waits=0)
        elif 0 <= self.mapping.retries < tries + 1:
            why = {"condition": "RetryAttemptsExhausted", "approximateInvokeCount": tries + 1, "functionError": reading.function_error}
            self.give_up(batch, why)
        else:
            ready = self.pause(waits)
            self.finish(batch, tries=tries + 1, waits=waits + 1, ready=ready)

    def is_split(self, batch: list[Record], reading: Reading, tries: int) -> bool:
        if not self.mapping.bisect or len(batch) == 1 or not reading.splits:
            return False
        return self.choices.split_without_retries or self.mapping.retries < 0 or tries <= self.mapping.retries

    def attempt(self, batch: list[Record], tries: int) -> Reading | None:
        """One try. None if it was throttled."""
        self.close_if_too_large()
        self.called = True
        answer = self.call([record.label for record in batch], tries + 1)
        if isinstance(answer, Throttled):
            return None
        if isinstance(answer, Raised):
            return Reading(0, "Unhandled", splits=True)
        value = with_sequence_numbers(answer.value, self.numbers)
        reading = self.read(value, batch)
        if self.window is not None and reading.done:
            self.state = value["state"]
            self.too_large = is_too_large(self.state)
        return reading

    def call(self, labels: list[str], attempt: int, *, final: bool = False, early: bool = False) -> Any:
        self.tries += 1
        if self.tries > TRIES_MAX:
            raise Endless(f"{self.scenario.name}: no end after {TRIES_MAX} tries")
        answer = self.script.next(labels, window=f"{self.shard.name}@{self.window}", state=self.state, early=early)
        outcome = {Raised: "raised", Throttled: "throttled", Crashed: "crashed"}.get(type(answer), "returned")
        event = {"kind": "invocation", "shard": self.shard.name, "labels": labels, "outcome": outcome, "attempt": attempt, "at": self.now}
        if self.window is not None:
            event |= {"window": self.window, "final": final, "early": early, "state": self.state}
        self.events.append(event)
        if isinstance(answer, Crashed):
            raise Crash
        self.now += self.choices.latency_s
        if not isinstance(answer, Throttled):
            self.now += self.scenario.duration_s
        return answer

    def close_if_too_large(self) -> None:
        if self.too_large:
            self.close_window(early=True)

    def close_window(self, tries: int = 0, waits: int = 0, *, early: bool = False) -> None:
        """The final call, until it succeeds. Then what was done in the window is at its end."""
        if not self.called:
            return
        answer = self.call([], tries + 1, final=True, early=early)
        if isinstance(answer, Raised | Throttled) or not self.has_state(answer.value):
            self.wait(waits)
            self.close_window(tries + (not isinstance(answer, Throttled)), waits + 1, early=early)
            return
        self.state, self.called, self.too_large = {}, False, False
        self.events.append({"kind": "end", "at": self.now, "labels": self.held})
        self.held = []

    # --- responses

    def read(self, value: Any, batch: list[Record]) -> Reading:
        """How many records from the front are done, by what the function returned."""
        everything = Reading(len(batch))
        invalid = Reading(0, None, splits=self.choices.invalid_splits)
        if self.window is not None and not self.has_state(value):
            return invalid
        if not self.mapping.report or not isinstance(value, dict):
            return everything
        failures = value.get("batchItemFailures")
        if failures is None or failures == []:
            return everything
        if not isinstance(failures, list):
            return invalid
        known = [self.numbers[record.label] for record in batch]
        named = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in failures]
        valid = [name for name in named if isinstance(name, str) and name in known]
        if not valid or (len(valid) < len(named) and self.choices.mixed_identifiers == "invalid"):
            return invalid
        lowest = min(valid, key=int)
        return Reading(known.index(lowest), None, splits=self.choices.first_named == "halve")

    def has_state(self, value: Any) -> bool:
        """Whether a returned value is valid with tumbling windows."""
        return isinstance(value, dict) and "state" in value and (self.choices.null_state or value["state"] is not None)

    # --- ends

    def give_up(self, records: list[Record], why: Event) -> None:
        """The records failed for good. With merged documents it is told when no neighbour can fail alike any more."""
        alike = all(why.get(key) == self.why.get(key) for key in ("condition", "functionError"))
        if self.given_up and not alike:
            self.tell()
        self.given_up, self.why = self.given_up + records, why
        if self.choices.documents == "each":
            self.tell()

    def tell(self) -> None:
        """Tell the destination, if there is one, of the records given up; then they are at their end."""
        records, self.given_up = self.given_up, []
        if not records:
            return
        document = {"kind": "document", "shard": self.shard.name, **self.why}
        document |= {"start": records[0].label, "end": records[-1].label, "batchSize": len(records)}
        if self.scenario.refusals is not None:
            self.deliver(document, 0)
        self.at_end(records)

    def deliver(self, document: Event, refused: int) -> None:
        if refused == self.scenario.refusals:
            self.events.append({**document, "at": self.now})
        elif self.choices.refused == "insist":
            self.wait(refused)
            self.deliver(document, refused + 1)

    def succeed(self, records: list[Record]) -> None:
        self.tell()
        self.at_end(records)

    def at_end(self, records: list[Record]) -> None:
        labels = [record.label for record in records]
        if self.window is not None and self.called:
            self.held += labels
        else:
            self.events.append({"kind": "end", "at": self.now, "labels": labels})

    def pause(self, waited: int) -> float:
        """When the next try may be: now, after a wait, or only once that time has come."""
        if self.choices.too_old_after_wait:
            self.wait(waited)
            return self.now
        return self.now + self.wait_s(waited)

    def wait(self, waited: int) -> None:
        self.now += self.wait_s(waited)

    def wait_s(self, waited: int) -> float:
        return min(self.choices.first_wait_s * 2.0**waited, self.choices.longest_wait_s)


def is_too_large(state: Any) -> bool:
    """Whether a state has more than 1 MB, as JSON in UTF-8."""
    if isinstance(state, dict) and any(isinstance(value, str) and len(value) > STATE_BYTES_MAX for value in state.values()):
        return True  # which one need not write down to know
    return len(json.dumps(state, ensure_ascii=False).encode()) > STATE_BYTES_MAX


def event_bytes(records: list[Record]) -> int:
    """The size of the event that holds these records, roughly."""
    return sum((record.size_bytes + 2) // 3 * 4 + ENVELOPE_BYTES for record in records)
