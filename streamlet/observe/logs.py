"""What does a person read of an event? One sentence, or nothing where it would only be noise."""

from __future__ import annotations

import logging

import msgspec

from streamlet.hooks import (
    Drained,
    Draining,
    Event,
    HandlerFailed,
    Invoked,
    LeaseReleased,
    LeaseTaken,
    LeaseWentAway,
    Paused,
    Pausing,
    RangeCommitted,
    RecordsGivenUp,
    RecordsTrimmed,
    Resumed,
    ShardEnded,
    ShardStopped,
    Trouble,
)

__all__ = ["json_line", "log", "words"]

_logger = logging.getLogger("streamlet")
_LEVELS: dict[type[Event], int] = {
    HandlerFailed: logging.WARNING,
    RecordsGivenUp: logging.WARNING,
    LeaseWentAway: logging.WARNING,
    Trouble: logging.WARNING,
    RecordsTrimmed: logging.ERROR,
    ShardStopped: logging.ERROR,
}

_FIXED: dict[type[Event], str] = {
    ShardEnded: "at its end; its children may start",
    Pausing: "pausing, the calls in hand are finished first",
    Paused: "paused, position and leases are kept",
    Resumed: "goes on",
    Draining: "draining, the batches in hand are finished first (a second signal ends at once)",
    Drained: "drained",
}


def log(event: Event) -> None:
    """A listener that writes to the logger `streamlet`."""
    line = words(event)
    if line is not None:
        _logger.log(_LEVELS.get(type(event), logging.INFO), "%s", line)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def json_line(event: Event) -> bytes:
    """The event as a line of JSON, for another program. Of an invocation's records it has the count and the first and last."""
    fields = msgspec.structs.asdict(event)
    if isinstance(event, Invoked):
        numbers = [record.sequence_number for record in (*event.records[:1], *event.records[-1:])]
        fields |= {"records": len(event.records), "first": numbers[0] if numbers else None, "last": numbers[-1] if numbers else None}
    return msgspec.json.encode({"event": type(event).__name__} | fields) + b"\n"


def words(event: Event) -> str | None:
    """What a person wants to read of an event; None for what would only be noise."""
    where = f"{event.stream} {event.shard_id}".strip()
    match event:
        case LeaseTaken(checkpoint=checkpoint, prepared=prepared):
            return f"{where}: taken, from {checkpoint}" + (", with a prepared range to complete" if prepared else "")
        case LeaseWentAway(reason=reason):
            return f"{where}: given away: {reason}"
        case LeaseReleased(checkpoint=why):
            return f"{where}: released ({why})"
        case HandlerFailed(attempt=attempt, error=error, records=count):
            return f"{where}: attempt {attempt} failed, {_counted(count, 'record')} not done: {error}"
        case RecordsGivenUp(records=count, first=first, condition=condition, delivered_to=target, error=error):
            lost = f"for {target}" if target else "DROPPED: there is no on_failure destination"
            return f"{where}: {_counted(count, 'record')} from {first} on given up, {condition}, {lost}: {error}"
        case RangeCommitted(files=files, rows=rows, replayed=replayed):
            return f"{where}: {_counted(rows, 'row')} in {_counted(files, 'file')} committed" + (
                " (completing what another worker had prepared)" if replayed else ""
            )
        case RecordsTrimmed(first=first, last=last):
            return f"{where}: RECORDS LOST to retention between {first} and {last}"
        case ShardStopped(error=error):
            return f"{where}: THIS SHARD HAS STOPPED: {error}"
        case Trouble(what=what, error=error):
            return f"{where}: {what}: {error}"
    said = _FIXED.get(type(event))
    return said and f"{where}: {said}"
