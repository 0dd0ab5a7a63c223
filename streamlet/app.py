"""How does a user say what happens with the records of a stream? The App: a registry of typed handlers.

An App imports no runtime. `app.lambda_handler` brings in the Lambda runtime at its first call, `app.run()` the worker.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from streamlet.codecs.json import decoder_for
from streamlet.errors import ConfigurationError, HandlerError, StreamletError
from streamlet.ports import Sink
from streamlet.spec import ConsumerSpec, EventSourceMapping, Kind, check_stream_name

__all__ = ["App"]

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[["App"], AsyncIterator[None]]

_OVERRIDES: Mapping[str, type] = {
    "batch_size": int,
    "batching_window_s": float,
    "parallelization_factor": int,
    "starting_position": str,
    "starting_position_timestamp": float,
    "maximum_retry_attempts": int,
    "maximum_record_age_s": float,
}


class App:
    """A named set of consumers, one per stream.

    The name is what leases, logs and failure documents carry: keep it, and a new deployment goes on where the old one stopped.

        app = App("orders")

        @app.on_record("orders", maximum_retry_attempts=3, bisect_batch_on_function_error=True)
        async def handle(record): ...

    Options of the decorators are those of `EventSourceMapping`; `STREAMLET_BATCH_SIZE` and its like override them.
    `decode=` is a dataclass, msgspec.Struct, TypedDict, pydantic model, a callable from bytes, `bytes`, or None for plain JSON.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name or not all(c.isalnum() or c in "_.-" for c in name):
            raise ConfigurationError(f"App name {name!r}: use letters, digits, '_', '.' and '-'; leases are kept under it")
        self.name = name
        self._consumers: dict[str, ConsumerSpec] = {}
        self._lifespan: Lifespan | None = None
        self._lambda: Any = None

    # ── registering ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_record(
        self, stream: str, *, decode: Any = None, sink: Sink | None = None, mapping: EventSourceMapping | None = None, **options: Any
    ) -> Callable[[F], F]:
        """Call the handler with one Record at a time, in order. What it raises is that record's failure: those before it are
        done, it and those after it are tried again (and given up together, unless the mapping bisects).
        With a sink it returns a row, a list of rows, or None."""
        return self._register("record", stream, decode, sink, mapping, options)

    def on_batch(
        self, stream: str, *, decode: Any = None, sink: Sink | None = None, mapping: EventSourceMapping | None = None, **options: Any
    ) -> Callable[[F], F]:
        """Call the handler with a Batch. What it raises is the whole batch's failure, unless it raises RecordFailed(record).
        With a sink it returns one item per record, in order: a row, a list of rows, or None."""
        return self._register("batch", stream, decode, sink, mapping, options)

    def deliver(self, stream: str, *, sink: Sink, mapping: EventSourceMapping | None = None, **options: Any) -> None:
        """No handler: the payloads themselves are the sink's rows, parsed in bulk."""
        self._add("deliver", stream, None, None, sink, mapping, options)

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Register what runs around the handlers: an async generator function that takes the app and yields once.

        Up to the yield it runs before the first record (in Lambda: once per execution environment), after it when the worker
        has drained."""
        if not inspect.isasyncgenfunction(function):
            raise HandlerError(f"@app.lifespan needs an async generator function (async def … yield), not {function!r}")
        self._lifespan = function
        return function

    def _register(
        self, kind: Kind, stream: str, decode: Any, sink: Sink | None, mapping: EventSourceMapping | None, options: dict[str, Any]
    ) -> Callable[[F], F]:
        _check_stream(stream, f"@app.on_{kind}")

        def register(function: F) -> F:
            self._add(kind, stream, function, decode, sink, mapping, options)
            return function

        return register

    def _add(
        self,
        kind: Kind,
        stream: str,
        function: Callable[..., Any] | None,
        decode: Any,
        sink: Sink | None,
        mapping: EventSourceMapping | None,
        options: dict[str, Any],
    ) -> None:
        _check_stream(stream, f"app.{kind}")
        if stream in self._consumers:
            raise ConfigurationError(f"app {self.name!r} has a handler for stream {stream!r} already; use a second App to consume it twice")
        if function is not None:
            _check_handler(kind, function)
        if kind == "deliver" and sink is None:
            raise ConfigurationError(
                f"app.deliver({stream!r}) without a sink would read the stream and keep nothing; give sink=ParquetSink(...)"
            )
        if sink is not None and (inspect.isclass(sink) or not callable(getattr(sink, "collect", None))):
            raise ConfigurationError(f"sink={sink!r} is no sink; use for instance ParquetSink('s3://bucket/orders', schema=...)")
        settled = _overridden(EventSourceMapping.of(mapping, options), os.environ)
        if sink is not None and settled.parallelization_factor > 1:
            raise ConfigurationError(
                f"parallelization_factor={settled.parallelization_factor} with a sink: its files hold one range after the other of a shard, so "
                "that nothing lands twice; leave the factor at 1, and add shards to go wider"
            )
        self._consumers[stream] = ConsumerSpec(
            name=self.name,
            stream=stream,
            kind=kind,
            handler=function,
            decoder=decoder_for(decode),
            mapping=settled,
            sink=sink,
        )

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def consumers(self) -> tuple[ConsumerSpec, ...]:
        """What is registered, for the runtimes."""
        return tuple(self._consumers.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The lifespan, entered and left; nothing if there is none. For runtimes."""
        if self._lifespan is None:
            yield
        else:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(contextlib.asynccontextmanager(self._lifespan)(self))
                except StreamletError:
                    raise
                except Exception as error:
                    raise HandlerError(
                        f"the lifespan of app {self.name!r} failed before its yield: {type(error).__name__}: {error}"
                    ) from error
                yield

    def lambda_handler(self, event: Any, context: Any = None) -> Any:
        """The function that Lambda calls: a Kinesis event in, `batchItemFailures` out. Deploy the mapping with
        FunctionResponseTypes: [ReportBatchItemFailures]."""
        if self._lambda is None:
            from streamlet.runtimes.aws_lambda import LambdaRuntime

            self._lambda = LambdaRuntime(self)
        return self._lambda(event, context)

    def run(self, *, endpoint_url: str | None = None, region: str | None = None, state: str | None = None, **options: Any) -> None:
        """Run as a worker until SIGTERM or SIGINT, then drain. Options: those of `streamlet run`, and `listeners`.

        Raises what stopped a shard, once the others have drained. Events go to the logger `streamlet` unless `listeners` says
        otherwise."""
        from streamlet.observe.logs import log
        from streamlet.runtimes.worker import WorkerOptions, run_worker_blocking

        options.setdefault("listeners", (log,))
        for failure in run_worker_blocking(self, WorkerOptions(endpoint_url=endpoint_url, region=region, state=state, **options)):
            raise failure


def _check_stream(stream: Any, where: str) -> None:
    if callable(stream) or not stream:
        raise ConfigurationError(f"{where} needs the name of a stream, as in {where}('orders'), not {stream!r}")
    check_stream_name(stream)


def _check_handler(kind: str, function: Any) -> None:
    if not callable(function):
        raise HandlerError(f"@app.on_{kind} needs a function, not {function!r}")
    if inspect.isclass(function):
        raise HandlerError(f"@app.on_{kind} needs a function or an instance with __call__; {function.__name__} is a class")
    for called in (function, getattr(function, "func", None), type(function).__call__):
        if inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
            name = getattr(function, "__name__", repr(function))
            raise HandlerError(f"{name} yields: a handler returns (a list of rows, with a sink), it does not yield")
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise HandlerError(f"{name} cannot be called with one {kind} ({error}); write def {name}({kind}): …") from error
    except ValueError:
        return  # a builtin without a signature: its first call will tell


def _overridden(mapping: EventSourceMapping, environ: Mapping[str, str]) -> EventSourceMapping:
    changes: dict[str, Any] = {}
    for field, kind in _OVERRIDES.items():
        name = f"STREAMLET_{field.upper()}"
        if name in environ:
            try:
                changes[field] = kind(environ[name])
            except ValueError:
                raise ConfigurationError(f"{name}={environ[name]!r} in the environment: must be of type {kind.__name__}") from None
    flag = environ.get("STREAMLET_BISECT_BATCH_ON_FUNCTION_ERROR")
    if flag is not None:
        if flag.lower() not in {"true", "false", "1", "0"}:
            raise ConfigurationError(f"STREAMLET_BISECT_BATCH_ON_FUNCTION_ERROR={flag!r} in the environment: use true or false")
        changes["bisect_batch_on_function_error"] = flag.lower() in {"true", "1"}
    if not changes:
        return mapping
    if changes.get("starting_position", "AT_TIMESTAMP") != "AT_TIMESTAMP":
        changes.setdefault("starting_position_timestamp", None)
    fields = {field: getattr(mapping, field) for field in mapping.__struct_fields__}
    return EventSourceMapping(**{**fields, **changes})
