"""What came of a run? Every invocation, retry, bisect, document, file and checkpoint, with the virtual second it happened in.

`print(report)` is the run as a person reads it; pytest shows it below a test that failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from streamlet.errors import ConfigurationError
from streamlet.hooks import Event
from streamlet.kpl.user_records import taken_apart
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.model.window import Window

__all__ = ["Checkpoint", "File", "GivenUp", "Invocation", "Report"]

_VALUES_SHOWN: Final = 6
_VALUE_CHARS: Final = 24
_LINES_SHOWN: Final = 60


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One batch, or a part of it, that the handler was called for (a handler of records: once for each, up to a failure). `records` and
    `done` count records of the stream; of a KPL aggregate the handler sees what is in it, and so do `values`.

    `at_s`: when it ended, in seconds from the start of the run. `attempt` is 1 for the first delivery; a part that a bisect made, and
    what is left after progress, begin anew with 1. The first `done` of its records are done; `error` says why the others are not.
    `window` is what a handler of tumbling windows was called for; its final call has no records.
    """

    at_s: float
    stream: str
    shard_id: str
    records: Sequence[Record]
    attempt: int
    done: int
    failed: bool = False
    error: str = ""
    window: Window | None = None

    @property
    def values(self) -> list[Any]:
        """The payloads, decoded; where that fails, as bytes."""
        return values_of(self.records)


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were given up together.

    `condition` is RetryAttemptsExhausted or RecordAgeExceeded, `attempts` how often they were tried. `document` is what the on-failure
    destination was sent, `payload` included; None where there is no destination, and the records were dropped.
    """

    at_s: float
    stream: str
    shard_id: str
    records: Sequence[Record]
    condition: str
    attempts: int
    error: str
    document: Mapping[str, Any] | None

    @property
    def values(self) -> list[Any]:
        """The payloads, decoded; where that fails, as bytes."""
        return values_of(self.records)


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's checkpoint moved to `position`: everything up to it is settled. SHARD_END: the shard is done."""

    at_s: float
    stream: str
    shard_id: str
    position: Position


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a sink wrote, with so many rows."""

    at_s: float
    stream: str
    key: str
    rows: int
    data: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run, in the order in which it happened. `elapsed_s` is virtual.

    `filtered` are records that passed no filter. `events` is what listeners of a worker are told; `troubles` are those of them
    that say that something failed and was tried again, in words.
    """

    app: str
    elapsed_s: float
    invocations: Sequence[Invocation] = ()
    given_up: Sequence[GivenUp] = ()
    filtered: Sequence[Record] = ()
    checkpoints: Sequence[Checkpoint] = ()
    files: Sequence[File] = ()
    troubles: Sequence[str] = ()
    events: Sequence[Event] = msgspec.field(default=())

    @property
    def failed(self) -> list[Invocation]:
        """Invocations that did not take all of their records."""
        return [invocation for invocation in self.invocations if invocation.failed]

    @property
    def retried(self) -> list[Invocation]:
        """Invocations with an `attempt` above 1."""
        return [invocation for invocation in self.invocations if invocation.attempt > 1]

    @property
    def bisected(self) -> list[Invocation]:
        """Failed invocations whose records came again in two parts: the next one that begins at the same record is shorter."""
        found: list[Invocation] = []
        next_sizes: dict[tuple[str, str, Position], int] = {}
        for invocation in reversed(self.invocations):
            if invocation.records:
                size = len(invocation.records)
                if invocation.failed and next_sizes.get(_first(invocation), size) < size:
                    found.append(invocation)
                next_sizes[_first(invocation)] = size
        return found[::-1]

    @property
    def done(self) -> list[Record]:
        """Every record that the handler took, in the order of its invocations, those of KPL aggregates one by one; one that was
        delivered twice stands twice."""
        return [record for invocation in self.invocations for record in taken_apart(invocation.records[: invocation.done]).records]

    def checkpoint(self, shard: int | str, stream: str | None = None) -> Position | None:
        """Where a shard, by number or id, stands at the end; None if its checkpoint has not moved. `stream` may be left out where
        the run had only one."""
        shard_id = shard if isinstance(shard, str) else f"shardId-{shard:012d}"
        moved = [move for move in self.checkpoints if move.shard_id == shard_id and stream in {None, move.stream}]
        if len({move.stream for move in moved}) > 1:
            raise ConfigurationError(
                f"{shard_id} is a shard of several streams of this run: say which, as in checkpoint({shard!r}, 'orders')"
            )
        return moved[-1].position if moved else None

    def __str__(self) -> str:
        lines = [line for _, line in sorted(self._lines(), key=_at)]
        if len(lines) > _LINES_SHOWN:
            half = _LINES_SHOWN // 2
            lines[half:-half] = [
                f"{'…':>9}  {len(lines) - 2 * half} lines are left out: report.invocations, .given_up and .checkpoints have all"
            ]
        if self.filtered:
            lines.append(f"           passed no filter: {_shown(self.filtered)}")
        for trouble, times in Counter(self.troubles).most_common(_VALUES_SHOWN):
            lines.append(f"           trouble, {times} times: {_first_line(trouble)}")
        return "\n".join([f"{self.app}: {self.elapsed_s:.1f} s of virtual time", *lines])

    def _lines(self) -> Iterator[tuple[float, str]]:
        for invocation in self.invocations:
            how = f"failed: {_first_line(invocation.error)}" if invocation.failed else "ok"
            if invocation.failed and invocation.done:
                how = f"{len(taken_apart(invocation.records[: invocation.done]).records)} done, then {how}"
            again = f", attempt {invocation.attempt}" if invocation.attempt > 1 else ""
            final = "final call of the window, " if invocation.window is not None and invocation.window.is_final else ""
            yield _line(invocation, f"{final}{_shown(invocation.records)}{again}: {how}")
        for given_up in self.given_up:
            where = "" if given_up.document is not None else ", DROPPED: there is no on_failure"
            yield _line(given_up, f"given up after {given_up.attempts}, {given_up.condition}: {_shown(given_up.records)}{where}")
        for move in self.checkpoints:
            yield _line(move, f"checkpoint {move.position}")
        for file in self.files:
            yield file.at_s, f"{file.at_s:>9.1f}  {file.stream}  file {file.key}, {file.rows} rows"


def values_of(records: Sequence[Record]) -> list[Any]:
    """The payloads, those in KPL aggregates one by one, decoded; where that fails, as bytes."""
    return _decoded(taken_apart(records).records)


def _decoded(records: Sequence[Record]) -> list[Any]:
    values = []
    for record in records:
        try:
            values.append(record.value)
        except Exception:  # noqa: BLE001  a user's decoder may raise anything, and the report must still be readable
            values.append(record.data)
    return values


def _first(invocation: Invocation) -> tuple[str, str, Position]:
    return invocation.stream, invocation.shard_id, invocation.records[0].position


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _at(line: tuple[float, str]) -> float:
    return line[0]


def _line(what: Invocation | GivenUp | Checkpoint, text: str) -> tuple[float, str]:
    return what.at_s, f"{what.at_s:>9.1f}  {what.stream} {int(what.shard_id[-12:])}  {text}"


def _shown(records: Sequence[Record]) -> str:
    users = taken_apart(records).records
    values = _decoded(users[:_VALUES_SHOWN])
    shown = [text if len(text := repr(value)) <= _VALUE_CHARS else text[: _VALUE_CHARS - 1] + "…" for value in values]
    more = [f"… {len(users)} in all"] if len(users) > _VALUES_SHOWN else []
    return f"[{', '.join(shown + more)}]"
