"""What is a runtime given? One consumer: a stream, the event source mapping's options, a handler, a sink."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, get_args

import msgspec

from streamlet.core.failure import FailurePolicy
from streamlet.core.filters import FilterCriteria, compile_filters
from streamlet.errors import ConfigurationError
from streamlet.model.position import AT_TIMESTAMP, LATEST, TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.ports import Destination, IdempotencyStore, Sink, StartingPosition

__all__ = ["Application", "ConsumerSpec", "EventSourceMapping", "Kind", "LambdaApplication", "ObjectSpec", "check_stream_name"]

StartingPositionName = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
Kind = Literal["record", "batch", "deliver", "window"]
# What STREAMLET_<NAME> in the environment may override: a deployment's options without a new build.
_OVERRIDES: Mapping[str, type] = {
    "batch_size": int,
    "batching_window_s": float,
    "parallelization_factor": int,
    "starting_position": str,
    "starting_position_timestamp": float,
    "maximum_retry_attempts": int,
    "maximum_record_age_s": float,
    "bisect_batch_on_function_error": bool,
    "enabled": bool,
}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SENTINELS = {"TRIM_HORIZON": TRIM_HORIZON, "LATEST": LATEST, "AT_TIMESTAMP": AT_TIMESTAMP}


class EventSourceMapping(msgspec.Struct, frozen=True, kw_only=True):
    """How records become invocations, and what a failure leads to: Lambda's options under Lambda's names.

    `_s` stands for InSeconds. Ranges and defaults are AWS's (API reference, CreateEventSourceMapping); the one difference
    is that the starting position has a default, TRIM_HORIZON, with which nothing is skipped. In Lambda, AWS applies the
    options of the mapping that you deployed; there these only tell the template what to deploy.

    batch_size                      1-10,000 records at most in an invocation
    batching_window_s               0-300; how long to gather; 0 invokes as soon as there is a record
    parallelization_factor          1-10 batches of a shard at once; order is kept per partition key. Not with a sink
    starting_position               for shards without a checkpoint. LATEST begins where the first read finds the tip: on a shard
                                    where nothing has come yet, a worker that starts anew begins at its own tip
    starting_position_timestamp     epoch seconds, with AT_TIMESTAMP only. One in the future is refused when the worker begins
    maximum_retry_attempts          -1 (for ever) … 10,000; N means N + 1 attempts
    maximum_record_age_s            -1 (no limit), or 60 … 604,800
    bisect_batch_on_function_error  split a failing batch in two until the failing record stands alone
    tumbling_window_s               1-900 whole seconds, with on_window only; 0 is no window. Needs a parallelization factor of 1
    filters                         up to five patterns of Lambda's filter criteria, JSON text or dicts, on the payload's JSON:
                                    {"data": {"kind": ["order"]}}. A record that passes none is done, and goes nowhere
    on_failure                      where records go that were given up; None drops them, loudly
    enabled                         False: a worker begins paused there, and takes no shard until it is resumed
    """

    batch_size: int = 100
    batching_window_s: float = 0
    parallelization_factor: int = 1
    starting_position: StartingPositionName = "TRIM_HORIZON"
    starting_position_timestamp: float | None = None
    maximum_retry_attempts: int = -1
    maximum_record_age_s: float = -1
    bisect_batch_on_function_error: bool = False
    tumbling_window_s: int = 0
    filters: Sequence[str | Mapping[str, Any]] = ()
    on_failure: Destination | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        self._within("batch_size", 1, 10_000, whole=True)
        self._within("batching_window_s", 0, 300)
        self._within("parallelization_factor", 1, 10, whole=True)
        if self.starting_position not in get_args(StartingPositionName):
            raise ConfigurationError(
                f"starting_position={self.starting_position!r}: use one of {', '.join(get_args(StartingPositionName))}"
            )
        if (self.starting_position == "AT_TIMESTAMP") != (self.starting_position_timestamp is not None):
            raise ConfigurationError("starting_position='AT_TIMESTAMP' and starting_position_timestamp go together; give both or neither")
        at = self.starting_position_timestamp
        if at is not None and (isinstance(at, bool) or not isinstance(at, int | float) or not at >= 0):
            raise ConfigurationError(f"starting_position_timestamp={at!r}: must be a number of seconds since 1970, as time.time() gives it")
        for name in ("bisect_batch_on_function_error", "enabled"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: must be True or False")
        self._within("maximum_retry_attempts", -1, 10_000, whole=True)
        if self.maximum_record_age_s != -1:
            self._within("maximum_record_age_s", 60, 604_800)
        self._within("tumbling_window_s", 0, 900, whole=True)
        if self.tumbling_window_s and self.parallelization_factor > 1:
            raise ConfigurationError(
                f"tumbling_window_s with parallelization_factor={self.parallelization_factor}: a shard's windows are one chain of states, "
                "which cannot be handed on in parallel; leave the factor at 1"
            )
        if isinstance(self.filters, str | Mapping) or not isinstance(self.filters, Sequence):
            raise ConfigurationError(
                f"filters={self.filters!r}: must be a list of patterns, as in filters=[{{'data': {{'kind': ['order']}}}}]"
            )
        compile_filters(self.filters)
        if self.on_failure is not None and not callable(getattr(self.on_failure, "send", None)):
            raise ConfigurationError(f"on_failure={self.on_failure!r} is no destination; use for instance FileDestination('failed.jsonl')")
        if self.on_failure is not None and self.maximum_retry_attempts == -1 and self.maximum_record_age_s == -1:
            raise ConfigurationError(
                "on_failure is never reached: with maximum_retry_attempts=-1 and maximum_record_age_s=-1 nothing is given up; "
                "set one of the two"
            )

    def _within(self, name: str, low: float, high: float, *, whole: bool = False) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            raise ConfigurationError(f"{name}={value!r}: must be a {'whole ' if whole else ''}number from {low:,} to {high:,}")

    @classmethod
    def of(cls, mapping: EventSourceMapping | None, options: dict[str, Any]) -> EventSourceMapping:
        """One value from a decorator's keywords. Raises ConfigurationError, with the nearest name, for an unknown one."""
        if mapping is not None and not isinstance(mapping, EventSourceMapping):
            raise ConfigurationError(f"mapping={mapping!r}: must be an EventSourceMapping, or give its options one by one")
        known = cls.__struct_fields__
        for name in options:
            if name not in known:
                import difflib  # only who has mistyped pays for it

                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise ConfigurationError(f"unknown option {name!r}: {hint}")
        if mapping is not None and options:
            raise ConfigurationError(f"mapping= and {', '.join(options)}= both set options of the mapping; use one of the two ways")
        return mapping if mapping is not None else cls(**options)

    def overridden(self, environ: Mapping[str, str]) -> EventSourceMapping:
        """With what the environment overrides, as STREAMLET_BATCH_SIZE. Raises ConfigurationError, with the variable's name."""
        changes: dict[str, Any] = {}
        for field, kind in _OVERRIDES.items():
            name = f"STREAMLET_{field.upper()}"
            text = environ.get(name)
            if text is None:
                continue
            try:
                changes[field] = _FLAGS[text.lower()] if kind is bool else kind(text)
            except (KeyError, ValueError):
                must = "use true or false" if kind is bool else f"must be of type {kind.__name__}"
                raise ConfigurationError(f"{name}={text!r} in the environment: {must}") from None
        if not changes:
            return self
        if changes.get("starting_position", "AT_TIMESTAMP") != "AT_TIMESTAMP":
            changes.setdefault("starting_position_timestamp", None)
        fields = {field: getattr(self, field) for field in self.__struct_fields__}
        return EventSourceMapping(**{**fields, **changes})

    def check_start(self, now_s: float) -> None:
        """Raises ConfigurationError if it is to begin in the future, as AWS does. `now_s`, epoch seconds, is the time of whoever runs it:
        virtual in a test."""
        at_s = self.starting_position_timestamp
        if at_s is not None and at_s > now_s:
            raise ConfigurationError(
                f"starting_position_timestamp={at_s:.15g} is {at_s - now_s:,.3f} s in the future: give a time that has passed, "
                "or LATEST to begin now"
            )

    @property
    def policy(self) -> FailurePolicy:
        """The part of it that the failure machine reads."""
        return FailurePolicy(
            maximum_retry_attempts=self.maximum_retry_attempts,
            maximum_record_age_s=self.maximum_record_age_s,
            bisect_batch_on_function_error=self.bisect_batch_on_function_error,
        )

    @property
    def criteria(self) -> FilterCriteria | None:
        """The filters, compiled; None if there are none."""
        return compile_filters(self.filters) if self.filters else None

    @property
    def start(self) -> StartingPosition:
        """Where a shard without a checkpoint begins."""
        return StartingPosition(_SENTINELS[self.starting_position], self.starting_position_timestamp)


def check_stream_name(stream: Any) -> None:
    """Raises ConfigurationError for what cannot be the name of a stream (Kinesis API: 1-128 of letters, digits and _.-)."""
    if isinstance(stream, str) and stream.startswith("arn:"):
        raise ConfigurationError(f"{stream!r}: give the stream's name, not its ARN; account and region come from the credentials")
    if not isinstance(stream, str) or not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", stream):
        raise ConfigurationError(f"{stream!r} cannot be the name of a stream: use 1 to 128 letters, digits, '_', '.' and '-'")


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One registered handler with all that a runtime needs to run it.

    Of a handler of records: `concurrency` records of different keys at once; `idempotency` spares those whose effect was had,
    under `idempotency_key`, or their position in the stream. `deaggregate`: the handler sees the user records of KPL aggregates.
    """

    name: str
    stream: str
    kind: Kind
    handler: Callable[..., Any] | None
    decoder: Callable[[bytes], Any]
    mapping: EventSourceMapping
    sink: Sink | None = None
    concurrency: int = 1
    idempotency: IdempotencyStore | None = None
    idempotency_key: Callable[[Record], str] | None = None
    deaggregate: bool = True

    def __post_init__(self) -> None:
        if (self.kind == "window") != (self.mapping.tumbling_window_s > 0):
            raise ConfigurationError(
                f"on_window({self.stream!r}) needs tumbling_window_s=, 1 to 900 seconds"
                if self.kind == "window"
                else f"tumbling_window_s={self.mapping.tumbling_window_s} for {self.stream!r} needs @app.on_window: "
                "only its handlers take and return a state"
            )


class ObjectSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One registered handler of a bucket's notifications."""

    bucket: str
    handler: Callable[..., Any]


class Application(Protocol):
    """What a worker sees of an App."""

    name: str

    @property
    def consumers(self) -> tuple[ConsumerSpec, ...]:
        """Every registered consumer."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """The lifespan around all handlers."""
        ...


class LambdaApplication(Application, Protocol):
    """What the Lambda runtime sees of an App."""

    deadline_margin_s: float

    @property
    def buckets(self) -> tuple[ObjectSpec, ...]:
        """Every registered handler of a bucket."""
        ...
