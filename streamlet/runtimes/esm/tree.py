"""What does a person read of a mapping at work? Its invocations as a tree, one line each, while it happens.

    14:03:07  0  #3    1-8         ok       12 ms  41 MB
    14:03:08  0  #4    1-8         FAILED    9 ms  41 MB  ValueError: no amount
    14:03:08  0  #4      1-4       ok        3 ms  41 MB
    14:03:08  0  #4      5-8       FAILED    3 ms  41 MB  ValueError: no amount

The columns: the shard (and its parallel slot), the number of the batch, which of its records, what came of it. What was cut out of
a piece stands below it and further right; a retry stands at the same depth and says which attempt it is. Lines of several shards
come between each other, so every line names its own. Pure text: whoever shows it may colour a line by its kind.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

import msgspec

from streamlet.hooks import Event, RecordsGivenUp
from streamlet.runtimes.esm.mapping import FunctionPrinted, InvocationEnded
from streamlet.runtimes.esm.output import printable

__all__ = ["NOISE", "Kind", "Line", "Tree", "shortened"]

Kind = Literal["ok", "bad", "warn", "dim"]
ERROR_CHARS_MAX: Final = 200
# The client's advice after an init error: 700 characters on updates of managed runtimes, of which there are none here.
NOISE: Final = "LAMBDA_WARNING: Unhandled exception. The most likely cause is"
_REQUEST: Final = re.compile(r"RequestId: [0-9a-f-]{36} Error: ")
_WORDS = {"ok": "ok", "failed": "FAILED", "partial": "PARTIAL", "throttled": "throttled"}
_KINDS: dict[str, Kind] = {"ok": "ok", "failed": "bad", "partial": "warn", "throttled": "warn"}


class Line(NamedTuple):
    """Text without an end, and how it should look."""

    text: str
    kind: Kind


class _Batch:
    """A batch that is not settled yet."""

    def __init__(self, number: int, numbers: tuple[str, ...], begun_s: float) -> None:
        self.number, self.size, self.begun_s = number, len(numbers), begun_s
        self.places = {int(one): place for place, one in enumerate(numbers)}  # some brokers write leading zeros
        self.path: list[tuple[int, int]] = []  # the pieces that failed, from the batch down to the one in hand
        self.invocations = self.done = self.given_up = 0

    def depth_of(self, start: int, stop: int) -> int:
        """How deep in the tree the piece [start, stop) stands."""
        while self.path and not (self.path[-1][0] <= start and stop <= self.path[-1][1]):
            self.path.pop()
        return len(self.path) - 1 if self.path and self.path[-1] == (start, stop) else len(self.path)

    @property
    def settled(self) -> bool:
        return self.done + self.given_up >= self.size


class _Slot(msgspec.Struct, frozen=True):
    shard_id: str
    lane: int


class Tree:
    """Feed it events; it answers with lines. `lanes`: show parallel slots, too."""

    def __init__(self, *, lanes: bool = False) -> None:
        self._lanes = lanes
        self._open: dict[_Slot, _Batch] = {}
        self._batches = self.invocations = self.cold_starts = self.throttles = self.done = self.given_up = 0

    def feed(self, event: Event, now_s: float, at: str) -> list[Line]:
        """`now_s` is the clock for durations, `at` the time of day as it shall be shown."""
        match event:
            case InvocationEnded():
                return self._invocation(event, now_s, at)
            case RecordsGivenUp():
                return self._gave_up(event, now_s, at)
            case FunctionPrinted(sandbox=sandbox, line=line):
                if NOISE in line:
                    return []
                return [Line(f"{at}  sandbox {sandbox} │ {line}", "dim")]
            case _:
                return []

    def summary(self) -> str:
        """What it came to."""
        parts = [_counted(self.invocations, "invocation"), f"{self.cold_starts} cold"]
        if self.throttles:
            parts.append(f"{self.throttles} throttled")
        return ", ".join([*parts, f"{_counted(self.done, 'record')} done", f"{self.given_up:,} given up"])

    def _invocation(self, event: InvocationEnded, now_s: float, at: str) -> list[Line]:
        slot = _Slot(event.shard_id, event.lane)
        if not event.sequence_numbers:
            return [self._final(event, at)]
        batch = self._open.get(slot)
        if batch is None or int(event.sequence_numbers[0]) not in batch.places:
            self._batches += 1
            batch = self._open[slot] = _Batch(self._batches, event.sequence_numbers, now_s - event.duration_s)
        start = batch.places[int(event.sequence_numbers[0])]
        stop = start + len(event.sequence_numbers)
        depth = batch.depth_of(start, stop)
        if event.outcome == "throttled":
            self.throttles += 1
        else:
            self.invocations += 1
            batch.invocations += 1
            self.cold_starts += event.init_s is not None
            self._count(batch, event.failed_from if event.outcome == "partial" else len(event.sequence_numbers) * (event.outcome == "ok"))
        lines = [Line(f"{self._where(at, slot, batch)}{_label(depth, start, stop)}{_outcome(event, start)}", _KINDS[event.outcome])]
        if event.outcome in {"failed", "partial"} and (start, stop) not in batch.path:
            batch.path.append((start, stop))
        return lines + self._closed(slot, batch, now_s, at)

    def _final(self, event: InvocationEnded, at: str) -> Line:
        """The last call of a tumbling window: it is of no batch."""
        if event.outcome == "throttled":
            self.throttles += 1
        else:
            self.invocations += 1
            self.cold_starts += event.init_s is not None
        return Line(f"{at}  {_short(event.shard_id):<3}  {'window':<6} {'final call':<18}{_outcome(event, 0)}", _KINDS[event.outcome])

    def _gave_up(self, event: RecordsGivenUp, now_s: float, at: str) -> list[Line]:
        if event.delivered_to:
            said = f"GIVEN UP  {event.condition}, to {event.delivered_to}"
        else:
            # Nothing else will tell which these were.
            numbers = f"number {event.first}" if event.records == 1 else f"numbers {event.first} to {event.last}"
            said = f"GIVEN UP  {event.condition}, DROPPED, there is no --on-failure; sequence {numbers}"
        self.given_up += event.records
        for slot, batch in self._open.items():
            if slot.shard_id == event.shard_id and (start := batch.places.get(int(event.first))) is not None:
                batch.given_up += event.records
                depth = batch.depth_of(start, start + event.records)
                text = f"{self._where(at, slot, batch)}{_label(depth, start, start + event.records)}{said}"
                return [Line(text, "bad"), *self._closed(slot, batch, now_s, at)]
        return [Line(f"{at}  {_short(event.shard_id):<3}  {_counted(event.records, 'record')} {said}", "bad")]

    def _count(self, batch: _Batch, done: int) -> None:
        batch.done += done
        self.done += done

    def _closed(self, slot: _Slot, batch: _Batch, now_s: float, at: str) -> list[Line]:
        if not batch.settled:
            return []
        del self._open[slot]
        if not batch.path:
            return []
        told = f"settled after {_counted(batch.invocations, 'invocation')} in {_time(now_s - batch.begun_s)}"
        return [Line(f"{self._where(at, slot, batch)}{told}: {batch.done:,} done, {batch.given_up:,} given up", "dim")]

    def _where(self, at: str, slot: _Slot, batch: _Batch) -> str:
        shard = _short(slot.shard_id) + (f"/{slot.lane}" if self._lanes else "")
        return f"{at}  {shard:<3}  #{batch.number:<4} "


def _short(shard_id: str) -> str:
    return shard_id.rpartition("-")[2].lstrip("0") or "0"


def _label(depth: int, start: int, stop: int) -> str:
    piece = f"{start + 1}" if stop - start == 1 else f"{start + 1}-{stop}"
    return f"{'  ' * depth + piece:<18}"


def _outcome(event: InvocationEnded, start: int) -> str:
    text = f"{_WORDS[event.outcome]:<9}"
    if event.outcome == "throttled":
        return f"{text}  no sandbox is free (--concurrency); this is no attempt"
    text += f" {_time(event.duration_s):>8}  {event.memory_bytes / 1_048_576:4.0f} MB"
    if event.init_s is not None:
        text += f"  cold start {_time(event.init_s)} in sandbox {event.sandbox}"
    if event.attempt > 1:
        text += f"  attempt {event.attempt}"
    if event.outcome == "partial" or event.error.startswith("batchItemFailures:"):
        text += f"  record {start + event.failed_from + 1} and what follows it failed"
    elif event.error:
        said = f"{event.error_type}: {event.error}" if event.error_type else event.error
        text += "  " + shortened(said)
    return text


def shortened(text: str) -> str:
    """An error as part of one line, without the request id, which says nothing where there is one line per request."""
    line = printable(" ".join(_REQUEST.sub("", text).split()))
    return line if len(line) <= ERROR_CHARS_MAX else line[:ERROR_CHARS_MAX] + "…"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
