"""What goes wrong on purpose? Frozen values that are armed, strike, are counted, and are used up.

    broker.faults.add(Throttle("GetRecords", times=2))
    broker.faults.add(FailRecords(0.25, stream="orders", times="always"))
    broker.faults.add(Latency(delay_s=0.05, delay_max_s=0.5, probability=0.1))

The same types read a file (`--faults FILE`) and the admin path's bodies; there `kind` tells them apart, and unknown keys
are refused.

When does a fault strike? It looks at every occasion within its scope: a call of its operation, on its stream, on its
shard; a put's stored records for Reshard; an event about to be sent for the subscriptions' faults. It lets `after` of
them pass, then strikes at each with its `probability`, until it has struck `times`. `times` is 1 unless told otherwise,
and "always" (until removed) where a probability below 1 is given.

Faults of one kind queue: the first of them that strikes is the only one that is asked. Of different kinds that meet in
one call the order is: ClockJump, ResetBefore, Latency (which goes with all that follow), Throttle, InternalFailure, the
operation with its own faults, Reshard, ResetAfter. A fault that comes too late in this order has not seen the call.

Chance is each fault's own, from the seed and its id: the same seed and the same calls meet the same strikes, whatever
else is armed. With nothing armed, `active` is empty and a call pays one truth test.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from streamlet.broker.state import State
from streamlet.errors import ConfigurationError

__all__ = [
    "KINDS",
    "AnyFault",
    "CallFault",
    "ClockJump",
    "DuplicatePut",
    "DuplicateRead",
    "EmptyRead",
    "EndSubscription",
    "ExpiredIterator",
    "FailRecords",
    "FailSubscription",
    "Fault",
    "FaultFile",
    "Faults",
    "InternalFailure",
    "Latency",
    "ResetAfter",
    "ResetBefore",
    "Reshard",
    "StallSubscription",
    "Standing",
    "Throttle",
    "Where",
    "decode_faults",
    "read_faults",
]

T = TypeVar("T")

Times = int | Literal["always"]
RecordError = Literal["ProvisionedThroughputExceededException", "InternalFailure"]
StreamError = Literal[
    "ResourceNotFoundException",
    "ResourceInUseException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSAccessDeniedException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "KMSThrottlingException",
    "InternalFailureException",
]

_OF_SHARDS: Final = frozenset({"PutRecord", "PutRecords", "GetRecords", "GetShardIterator"})
_CALENDAR_END_S: Final = 253_402_300_800  # the year 10000
_SPENT_MAX: Final = 1_000  # faults that are used up and still listed
_SHARD_ID: Final = re.compile(r"shardId-(\d{12})", re.ASCII)


def _kind(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag=_kind):
    """What all kinds have in common. Not a fault itself.

    `times`: how often it strikes. `probability`: above 0, up to 1. `after`: occasions that it lets pass first. `stream`: a
    name. `shard`: an id, or its number. Raises ValueError for a value out of range.
    """

    times: Times | None = None
    probability: float = 1.0
    after: int = 0
    stream: str | None = None
    shard: int | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.times, int) and self.times < 1:
            raise ValueError(f'times is how often it strikes, 1 or more, or "always"; not {self.times}')
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability lies above 0 and up to 1, not {self.probability}")
        if self.after < 0:
            raise ValueError(f"after is how many occasions pass first, 0 or more; not {self.after}")
        if (isinstance(self.shard, str) and not _SHARD_ID.fullmatch(self.shard)) or (isinstance(self.shard, int) and self.shard < 0):
            raise ValueError(f"shard is a number or an id such as shardId-000000000000, not {self.shard!r}")

    @property
    def times_max(self) -> int | None:
        """How often it strikes; None: until it is removed."""
        if self.times is None:
            return 1 if self.probability == 1 else None
        return None if self.times == "always" else self.times

    @property
    def shard_index(self) -> int | None:
        """The shard's number, where the fault is for one shard."""
        return int(self.shard[-12:]) if isinstance(self.shard, str) else self.shard


class CallFault(Fault, frozen=True):
    """What befalls a call of any `operation`, or of one. Not a fault itself."""

    operation: str | None = None


class Throttle(CallFault, frozen=True):
    """The call is refused as too fast: ProvisionedThroughputExceededException on the data plane, LimitExceededException elsewhere."""


class InternalFailure(CallFault, frozen=True):
    """The call is refused with 500 InternalFailure, and nothing is done."""


class Latency(CallFault, frozen=True, kw_only=True):
    """The answer comes late: by `delay_s`, or by an even chance between `delay_s` and `delay_max_s`. What was asked is done at once."""

    delay_s: float
    delay_max_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.delay_s <= 3600:
            raise ValueError(f"delay_s is 0 to 3600 seconds, not {self.delay_s}")
        if self.delay_max_s is not None and not self.delay_s <= self.delay_max_s <= 3600:
            raise ValueError(f"delay_max_s is delay_s to 3600 seconds, not {self.delay_max_s}")


class ResetBefore(CallFault, frozen=True):
    """The connection breaks before anything is done."""


class ResetAfter(CallFault, frozen=True):
    """The connection breaks in place of the answer; what was asked is done, so that a client's retry does it again."""


class ClockJump(CallFault, frozen=True, kw_only=True):
    """Before the call, the broker's clock moves by `jump_s`: forwards, or backwards where it is negative. It stays between
    1970 and the year 9999: a jump beyond strikes and moves nothing."""

    jump_s: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < abs(self.jump_s) <= 10 * 366 * 86_400:
            raise ValueError(f"jump_s is up to ten years of seconds in either direction and not 0, not {self.jump_s}")


class FailRecords(Fault, frozen=True):
    """Some records of a PutRecords fail with `error`, the others are stored.

    `which` is a fraction (spread evenly, rounded down, but at least one record) or indices. With `shard` it counts only the
    records of that shard.
    """

    which: float | tuple[int, ...] = 1.0
    error: RecordError = "ProvisionedThroughputExceededException"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.which, tuple) and not 0 < self.which <= 1:
            raise ValueError(f"which is a fraction, above 0 and up to 1, or a list of indices; not {self.which}")

    def chosen(self, count: int) -> list[int]:
        """The indices that fail of `count` records."""
        if isinstance(self.which, tuple):
            return sorted({index for index in self.which if 0 <= index < count})
        failing = max(1, int(count * self.which)) if count else 0
        return [index for index in range(count) if (index + 1) * failing // count > index * failing // count]


class DuplicatePut(Fault, frozen=True):
    """What a PutRecord or PutRecords stores is stored twice, the second copy behind the first. The answer names the first."""

    operation: Literal["PutRecord", "PutRecords"] | None = None


class DuplicateRead(Fault, frozen=True):
    """A GetRecords answer, or a subscription's event, begins `back` records before its place: they were read before.

    It waits for a place that has records before it.
    """

    back: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.back < 1:
            raise ValueError(f"back is how many records are repeated, 1 or more; not {self.back}")


class EmptyRead(Fault, frozen=True):
    """A GetRecords answers nothing and stays where it is, although there are records, as the service does now and then.

    It waits for a read that would have brought records.
    """


class ExpiredIterator(Fault, frozen=True):
    """A GetRecords is refused with ExpiredIteratorException, whatever its iterator's age."""


class StallSubscription(Fault, frozen=True):
    """A subscription sends nothing more, not even empty events, for `stall_s`, or as long as it is open."""

    stall_s: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stall_s is not None and not 0 < self.stall_s <= 3600:
            raise ValueError(f"stall_s is up to 3600 seconds and not 0, not {self.stall_s}")


class EndSubscription(Fault, frozen=True):
    """A subscription ends before its time, as if its five minutes were over."""


class FailSubscription(Fault, frozen=True):
    """A subscription sends an exception within the stream, and ends."""

    error: StreamError = "InternalFailureException"


class Reshard(Fault, frozen=True):
    """A split or merge follows the put that stores the stream's `at_record`-th record since the fault was added.

    With `times` it comes again at each multiple. Without `shard` it splits the widest open shard, or merges the narrowest pair of
    neighbours (the lowest of them). A reshard that the service would refuse at that moment (a stream UPDATING) does not
    happen, and has struck.
    """

    stream: str
    at_record: int
    action: Literal["split", "merge"] = "split"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_record < 1:
            raise ValueError(f"at_record is the number of a record, 1 or more; not {self.at_record}")


AnyFault = (
    Throttle
    | InternalFailure
    | Latency
    | ResetBefore
    | ResetAfter
    | ClockJump
    | FailRecords
    | DuplicatePut
    | DuplicateRead
    | EmptyRead
    | ExpiredIterator
    | StallSubscription
    | EndSubscription
    | FailSubscription
    | Reshard
)
KINDS: Final = tuple(_kind(kind.__name__) for kind in AnyFault.__args__)
F = TypeVar("F", bound=Fault)


class FaultFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file says: `faults`, in order, and perhaps the `seed` of their chances."""

    faults: tuple[AnyFault, ...] = ()
    seed: int | None = None


class Where(NamedTuple):
    """An occasion: which operation, and on which stream and shards (by number), as far as the call says."""

    operation: str
    stream: str | None = None
    shards: frozenset[int] = frozenset()

    @property
    def shard(self) -> int | None:
        """The shard, if it is one alone and the call puts or reads."""
        return next(iter(self.shards)) if len(self.shards) == 1 and self.operation in _OF_SHARDS else None


class Standing(msgspec.Struct, frozen=True):
    """A fault as it stands: the occasions it has seen, how often it struck, and how often it still will (None: until removed)."""

    id: int
    fault: AnyFault
    seen: int
    struck: int
    left: int | None


class _Armed:
    """A fault with its counts and its chance."""

    __slots__ = ("chance", "fault", "id", "operation", "seen", "shard", "struck", "turns")

    def __init__(self, number: int, fault: Fault, seed: int) -> None:
        self.id = number
        self.fault = fault
        self.operation: str | None = getattr(fault, "operation", None)
        self.shard = fault.shard_index
        self.seen = 0
        self.struck = 0
        self.turns = 0  # of a Reshard: multiples of its record number that went by
        self.chance = random.Random(f"{seed}:{number}")

    @property
    def left(self) -> int | None:
        most = self.fault.times_max
        return None if most is None else most - self.struck

    def covers(self, where: Where) -> bool:
        fault = self.fault
        return (
            (self.operation is None or self.operation == where.operation)
            and (fault.stream is None or fault.stream == where.stream)
            and (self.shard is None or self.shard in where.shards)
        )

    def strikes(self) -> bool:
        """One more occasion."""
        self.seen += 1
        return self.seen > self.fault.after and self.draw()

    def draw(self) -> bool:
        if self.fault.probability < 1 and self.chance.random() >= self.fault.probability:
            return False
        self.struck += 1
        return True


class Faults:
    """The faults that are armed, and those that are used up. May be used from any thread.

    `run` brings a piece of work to the thread that owns the state.
    """

    def __init__(self, state: State, *, seed: int = 0, run: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self._state = state
        self._seed = seed
        self._run = run
        self._listed: dict[int, _Armed] = {}
        self._last_id = 0
        self.active: tuple[_Armed, ...] = ()
        """Those that may still strike: the truth test of the hot path."""

    @property
    def seed(self) -> int:
        """The seed of chances of the faults that are added from now on."""
        return self._seed

    # --- control: from any thread ----------------------------------------------------------------------------------------

    def add(self, fault: AnyFault) -> int:
        """Arm a fault, and answer its id. Raises ValueError for an operation that is not there."""
        operation = getattr(fault, "operation", None)
        if operation is not None:
            _check_operation(operation)
        return self._owned(lambda: self._add(fault))

    def load(self, path: str | Path) -> tuple[int, ...]:
        """Arm what a file says, all or nothing. Raises ConfigurationError, OSError."""
        return self.extend(read_faults(path))

    def extend(self, content: FaultFile) -> tuple[int, ...]:
        """Arm what a file said, with its seed if it has one, and answer the ids."""

        def work() -> tuple[int, ...]:
            if content.seed is not None:
                self._seed = content.seed
            return tuple(self._add(fault) for fault in content.faults)

        return self._owned(work)

    def list(self) -> tuple[Standing, ...]:
        """All faults in the order they were added; the spent ones, too (the last thousand)."""
        return self._owned(lambda: tuple(_standing(armed) for armed in self._listed.values()))

    def remove(self, fault_id: int) -> Standing:
        """Take a fault away, and answer how it stood. Raises KeyError."""

        def work() -> Standing:
            armed = self._listed.pop(fault_id)
            self._disarm(armed)
            return _standing(armed)

        return self._owned(work)

    def clear(self) -> int:
        """Take all faults away, and answer how many were listed."""

        def work() -> int:
            count = len(self._listed)
            self._listed.clear()
            self.active = ()
            return count

        return self._owned(work)

    def throttle(self, operation: str, times: int = 1) -> int:
        """Throttle the next calls."""
        return self.add(Throttle(operation, times=times))

    def fail_records(self, which: float | Iterable[int], times: int = 1) -> int:
        """FailRecords in the next PutRecords calls."""
        return self.add(FailRecords(float(which) if isinstance(which, float | int) else tuple(which), times=times))

    def reset_before(self, operation: str, times: int = 1) -> int:
        """ResetBefore for the next calls."""
        return self.add(ResetBefore(operation, times=times))

    def reset_after(self, operation: str, times: int = 1) -> int:
        """ResetAfter for the next calls."""
        return self.add(ResetAfter(operation, times=times))

    def expire_iterators(self) -> None:
        """Make every shard iterator that was given out so far an expired one."""

        def work() -> None:
            self._state.iterators_void_before = self._state.next_serial()

        self._owned(work)

    # --- asked by the broker, on its own thread ----------------------------------------------------------------------------

    @property
    def by_shard(self) -> bool:
        """Is any fault for one shard? Then a put must be routed before it is known whom it meets."""
        return any(armed.shard is not None for armed in self.active)

    def take(self, kind: type[F], where: Where) -> F | None:
        """The first fault of a kind that strikes here, counted as struck."""
        for armed in self.active:
            fault = armed.fault
            if isinstance(fault, kind) and armed.covers(where) and armed.strikes():
                self._settle(armed)
                return fault
        return None

    def take_delay_s(self, where: Where) -> float:
        """How late this call's answer is to be."""
        for armed in self.active:
            fault = armed.fault
            if isinstance(fault, Latency) and armed.covers(where) and armed.strikes():
                self._settle(armed)
                more_s = 0.0 if fault.delay_max_s is None else (fault.delay_max_s - fault.delay_s) * armed.chance.random()
                return fault.delay_s + more_s
        return 0.0

    def take_jump(self, where: Where) -> None:
        """Move the clock, if this is the call for it."""
        jump = self.take(ClockJump, where)
        if jump is not None and 0 < self._state.now_ms / 1000 + jump.jump_s < _CALENDAR_END_S:
            self._state.ahead_s += jump.jump_s

    def take_failing(self, stream: str, shards: Sequence[int]) -> dict[int, RecordError]:
        """The records that are to fail, by index, with the error's code. `shards` are where the records go, in order."""
        for armed in self.active:
            fault = armed.fault
            if not isinstance(fault, FailRecords) or not armed.covers(Where("PutRecords", stream, frozenset(shards))):
                continue
            if armed.strikes():
                self._settle(armed)
                places = [place for place, shard in enumerate(shards) if armed.shard in {None, shard}]
                return {places[index]: fault.error for index in fault.chosen(len(places))}
        return {}

    def take_reshards(self, stream: str, stored: int) -> Sequence[Reshard]:
        """The reshards that are due now that `stored` more records are in the stream."""
        due = []
        for armed in self.active:
            fault = armed.fault
            if not isinstance(fault, Reshard) or fault.stream != stream:
                continue
            armed.seen += stored
            turns = max(0, armed.seen - fault.after) // fault.at_record
            while armed.turns < turns and armed.left != 0:
                armed.turns += 1
                if armed.draw():
                    due.append(fault)
            self._settle(armed)
        return due

    def resharding(self, stream: str | None) -> bool:
        """Does a reshard wait for this stream's records? Then they are to be counted."""
        return any(isinstance(armed.fault, Reshard) and armed.fault.stream == stream for armed in self.active)

    def take_push(self, stream: str, shard: int) -> StallSubscription | EndSubscription | FailSubscription | None:
        """What befalls a subscription that is about to send an event."""
        where = Where("SubscribeToShard", stream, frozenset({shard}))
        return self.take(FailSubscription, where) or self.take(EndSubscription, where) or self.take(StallSubscription, where)

    # --- within ------------------------------------------------------------------------------------------------------------

    def _owned(self, work: Callable[[], T]) -> T:
        if self._run is None:
            return work()
        done: T = self._run(work)
        return done

    def _add(self, fault: Fault) -> int:
        self._last_id += 1
        armed = _Armed(self._last_id, fault, self._seed)
        self._listed[armed.id] = armed
        self.active = (*self.active, armed)
        return armed.id

    def _settle(self, armed: _Armed) -> None:
        if armed.left != 0:
            return
        self._disarm(armed)
        spent = [other.id for other in self._listed.values() if other.left == 0] if len(self._listed) > _SPENT_MAX else []
        for number in spent[: max(0, len(spent) - _SPENT_MAX)]:
            del self._listed[number]

    def _disarm(self, armed: _Armed) -> None:
        self.active = tuple(other for other in self.active if other is not armed)


def _standing(armed: _Armed) -> Standing:
    return Standing(armed.id, armed.fault, armed.seen, armed.struck, armed.left)  # type: ignore[arg-type]  # only AnyFault is added


def _check_operation(name: str) -> None:
    # Not above: operations are given the faults with each call, and so import this module.
    from streamlet.broker.ops import OPERATIONS

    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r} is none of the broker's: write it as the service does, such as PutRecords")


# --- files and bodies ------------------------------------------------------------------------------------------------------


def read_faults(path: str | Path) -> FaultFile:
    """What a file says: TOML if its name ends in `.toml`, otherwise JSON. Raises ConfigurationError, OSError."""
    import tomllib  # for whoever has a file

    place = Path(path)
    raw = place.read_bytes()
    try:
        text = raw.decode()
        content = tomllib.loads(text) if place.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:  # both formats' errors are ValueErrors that name line and column
        raise ConfigurationError(f"{place}: this is no {'TOML' if place.suffix == '.toml' else 'JSON'}: {error}") from error
    if isinstance(content, list):
        content = {"faults": content}
    try:
        return _convert(content)
    except ValueError as error:
        raise ConfigurationError(f"{place}: {error}") from error


def decode_faults(body: bytes) -> tuple[AnyFault, ...]:
    """One fault, or a list of them, as JSON. Raises ValueError that says which key is wrong."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON: {error}") from None
    return _convert({"faults": content if isinstance(content, list) else [content]}).faults


def _convert(content: Any) -> FaultFile:
    try:
        found = msgspec.convert(content, FaultFile)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(str(error), content)) from None
    for number, fault in enumerate(found.faults, 1):
        operation = getattr(fault, "operation", None)
        if operation is not None:
            try:
                _check_operation(operation)
            except ValueError as error:
                raise ValueError(f"fault {number} ({_kind(type(fault).__name__)}): {error}") from None
    return found


_PATH: Final = re.compile(r"(?P<text>.*?)(?: - at `\$(?:\.faults\[(?P<index>\d+)\])?(?P<key>.*)`)?", re.DOTALL)


def _explain(text: str, content: Any) -> str:
    """What msgspec calls `... - at $.faults[1].times` as a person counts: the second fault, its kind, its key."""
    match = _PATH.fullmatch(text)
    assert match is not None, "every text matches"
    where, what = "", match["text"]
    if match["index"] is not None:
        entry = content["faults"][int(match["index"])]
        kind = entry.get("kind") if isinstance(entry, dict) else None
        where = f"fault {int(match['index']) + 1}" + (f" ({kind}): " if isinstance(kind, str) else ": ")
        if not isinstance(entry, dict) or kind not in KINDS:
            return f"{where}key kind says what it is: one of {', '.join(KINDS)}"
    key = match["key"]
    return f"{where}{f'key {key.lstrip(chr(46))}: ' if key else ''}{what}"
