"""How does a user say what happens with the records of a stream? The App: a registry of typed handlers.

An App imports no runtime. `app.lambda_handler` brings in the Lambda runtime at its first call, `app.run()` the worker.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from streamlet.codecs.json import decoder_for
from streamlet.errors import ConfigurationError, HandlerError, StreamletError
from streamlet.model.record import Record
from streamlet.ports import IdempotencyStore, LeaseStore, Sink
from streamlet.spec import ConsumerSpec, EventSourceMapping, Kind, ObjectSpec, check_stream_name

__all__ = ["App"]

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[["App"], AsyncIterator[None]]

_TAKES: Mapping[str, tuple[str, ...]] = {"record": ("record",), "batch": ("batch",), "window": ("batch", "state"), "s3": ("object",)}
_WITH: Mapping[str, str] = {"record": "one record", "batch": "one batch", "window": "a batch and a state", "s3": "one object"}


class App:
    """A named set of consumers, one per stream.

    The name is what leases, logs and failure documents carry: keep it, and a new deployment goes on where the old one stopped.

        app = App("orders")

        @app.on_record("orders", maximum_retry_attempts=3, bisect_batch_on_function_error=True)
        async def handle(record): ...

    Options of the decorators are those of `EventSourceMapping`; `STREAMLET_BATCH_SIZE` and its like override them.
    `decode=` is a dataclass, msgspec.Struct, TypedDict, pydantic model, a callable from bytes, `bytes`, or None for plain JSON.

    `deadline_margin_s` (STREAMLET_DEADLINE_MARGIN_S): in Lambda, `on_record` begins no record in the last seconds before the
    function's time-out, so that what is done can still be told. With a sink, its files are written in that time.
    """

    def __init__(self, name: str, *, deadline_margin_s: float = 1.0) -> None:
        if not isinstance(name, str) or not name or not all(c.isalnum() or c in "_.-" for c in name):
            raise ConfigurationError(f"App name {name!r}: use letters, digits, '_', '.' and '-'; leases are kept under it")
        self.name = name
        self.deadline_margin_s = _margin(os.environ.get("STREAMLET_DEADLINE_MARGIN_S", deadline_margin_s))
        self._buckets: dict[str, ObjectSpec] = {}
        self._consumers: dict[str, ConsumerSpec] = {}
        self._lifespan: Lifespan | None = None
        self._lambda: Any = None

    # ── registering ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_record(
        self,
        stream: str,
        *,
        decode: Any = None,
        sink: Sink | None = None,
        concurrency: int = 1,
        idempotency: IdempotencyStore | None = None,
        idempotency_key: Callable[[Record], str] | None = None,
        mapping: EventSourceMapping | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Call the handler with one Record at a time, in order. What it raises is that record's failure: those before it are
        done, it and those after it are tried again (and given up together, unless the mapping bisects).
        With a sink it returns a row, a list of rows, or None.

        `concurrency` records of a batch run at once, those of one partition key always one after the other: async handlers as
        tasks, others on threads (a worker has 64, or more if one shard asks for more). A key stops at its first failure, the others go on to the end of the
        batch. What succeeded behind the failed record is not run again by this worker; in Lambda, and after a crash, it is.

        `idempotency` (a MemoryIdempotency, SqliteIdempotency or DynamoDBIdempotency) spares what was done before, wherever it
        was done. A record is known by its place in the stream, or by the text that `idempotency_key(record)` returns. Its
        effect is had at most once while its marker lives, with one exception: where the process dies between the effect and
        the marker's "done", or a handler takes longer than the store's `in_progress_s` (60 s unless told otherwise), the record
        blocks until the marker is too old, and then runs again. A record of which no key can be made has failed."""
        return self._register("record", stream, decode, sink, mapping, options, concurrency, idempotency, idempotency_key)

    def on_batch(
        self, stream: str, *, decode: Any = None, sink: Sink | None = None, mapping: EventSourceMapping | None = None, **options: Any
    ) -> Callable[[F], F]:
        """Call the handler with a Batch. What it raises is the whole batch's failure, unless it raises RecordFailed(record).
        With a sink it returns one item per record, in order: a row, a list of rows, or None.

        Handlers see what is in KPL aggregates, while the mapping counts records of the stream, as AWS does: a batch may be longer than
        `batch_size`, and an aggregate of which one record fails comes again as a whole."""
        return self._register("batch", stream, decode, sink, mapping, options)

    def on_window(self, stream: str, *, decode: Any = None, mapping: EventSourceMapping | None = None, **options: Any) -> Callable[[F], F]:
        """Call the handler with a Batch and a state, in tumbling windows of `tumbling_window_s` seconds per shard (by arrival).

        It returns the state of its next call in the window: JSON, up to 1 MB, `{}` at first. `batch.window` tells which window,
        and whether this is its last call, where what was summed up is written away. A crash begins the window anew.

        What it raises is the whole call's failure, and the next one gets the same state, unless it raises
        RecordFailed(record, state=...): then the records before that one are done, and the state is what they led to."""
        return self._register("window", stream, decode, None, mapping, options)

    def on_s3(self, bucket: str) -> Callable[[F], F]:
        """Call the handler with an S3Object for each notification of the bucket. In Lambda, whose function the bucket notifies:
        what the handler raises makes Lambda call again with the whole event (twice, unless the function says otherwise)."""
        if not isinstance(bucket, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise ConfigurationError(f"@app.on_s3 needs the name of a bucket, as in @app.on_s3('my-bucket'), not {bucket!r}")

        def register(function: F) -> F:
            if bucket in self._buckets:
                raise ConfigurationError(f"app {self.name!r} has a handler for bucket {bucket!r} already")
            _check_handler("s3", function)
            self._buckets[bucket] = ObjectSpec(bucket=bucket, handler=function)
            return function

        return register

    def deliver(self, stream: str, *, sink: Sink, mapping: EventSourceMapping | None = None, **options: Any) -> None:
        """No handler: the payloads themselves are the sink's rows, parsed in bulk."""
        self._add("deliver", stream, None, None, sink, mapping, options)

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Register what runs around the handlers: an async generator function that takes the app and yields once.

        Up to the yield it runs before the first record, after it when the worker has drained. In Lambda: once per execution environment;
        if it raises there, the invocation fails, and the next one begins it again. What is after the yield runs there only if you ask: Lambda
        sends SIGTERM to a function that has an extension, and with Python 3.12 or later `signal.signal(signal.SIGTERM, lambda *_: app.close())`
        takes it."""
        if not inspect.isasyncgenfunction(function):
            raise HandlerError(f"@app.lifespan needs an async generator function (async def … yield), not {function!r}")
        self._lifespan = function
        return function

    def _register(
        self,
        kind: Kind,
        stream: str,
        decode: Any,
        sink: Sink | None,
        mapping: EventSourceMapping | None,
        options: dict[str, Any],
        concurrency: int = 1,
        idempotency: IdempotencyStore | None = None,
        idempotency_key: Callable[[Record], str] | None = None,
    ) -> Callable[[F], F]:
        _check_stream(stream, f"@app.on_{kind}")

        def register(function: F) -> F:
            self._add(kind, stream, function, decode, sink, mapping, options, concurrency, idempotency, idempotency_key)
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
        concurrency: int = 1,
        idempotency: IdempotencyStore | None = None,
        idempotency_key: Callable[[Record], str] | None = None,
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
        if kind == "record":
            concurrency = _concurrency(os.environ.get("STREAMLET_CONCURRENCY"), concurrency)
        _check_idempotency(idempotency, idempotency_key, sink)
        settled = EventSourceMapping.of(mapping, options).overridden(os.environ)
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
            concurrency=concurrency,
            idempotency=idempotency,
            idempotency_key=idempotency_key,
        )

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def consumers(self) -> tuple[ConsumerSpec, ...]:
        """What is registered, for the runtimes."""
        return tuple(self._consumers.values())

    @property
    def buckets(self) -> tuple[ObjectSpec, ...]:
        """What is registered for buckets, for the runtimes."""
        return tuple(self._buckets.values())

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
        """The function that Lambda calls: a Kinesis event in, `batchItemFailures` out; or an S3 event. Deploy the mapping with
        FunctionResponseTypes: [ReportBatchItemFailures].

        Raises what a batch handler raised; HandlerError for an event of another source; ConfigurationError for a stream or bucket that has
        no handler; UsageError inside an event loop (call it with `await asyncio.to_thread(app.lambda_handler, event, context)`), and
        while another thread is in it."""
        if self._lambda is None:
            from streamlet.runtimes.aws_lambda import LambdaRuntime

            self._lambda = LambdaRuntime(self)
        return self._lambda(event, context)

    def close(self) -> None:
        """Close what `lambda_handler` has opened: leave the lifespan, close idempotency stores, threads and the event loop. For tests and
        scripts that call it; Lambda does not. A second call does nothing, and a `lambda_handler` that is called afterwards begins anew.
        Raises UsageError inside an event loop, and while an invocation is under way."""
        if self._lambda is not None:
            with self._lambda.alone("close"):
                runtime, self._lambda = self._lambda, None
                runtime.close()

    def run(
        self,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        state: str | Callable[[str], LeaseStore] | None = None,
        **options: Any,
    ) -> None:
        """Run as a worker until SIGTERM or SIGINT, then drain; a second one ends the process at once. SIGUSR1 pauses it, SIGUSR2 resumes it. Options: those of
        `WorkerOptions`. To pause it from within the program, or one stream of it, run a `streamlet.Worker`.

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
    takes = _TAKES[kind]
    try:
        inspect.signature(function).bind(*takes)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise HandlerError(f"{name} cannot be called with {_WITH[kind]} ({error}); write def {name}({', '.join(takes)}): …") from error
    except ValueError:
        return  # a builtin without a signature: its first call will tell


def _concurrency(override: str | None, concurrency: Any) -> int:
    if override is not None:
        concurrency = int(override) if override.isascii() and override.isdigit() else override
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= 1000:
        where = "concurrency" if override is None else "STREAMLET_CONCURRENCY"
        raise ConfigurationError(f"{where}={concurrency!r}: must be a whole number from 1 to 1,000")
    return concurrency


def _check_idempotency(store: Any, key: Any, sink: Any) -> None:
    if store is None and key is not None:
        raise ConfigurationError(
            "idempotency_key= without idempotency= has no effect; give a store, as idempotency=SqliteIdempotency('done.db')"
        )
    if store is None:
        return
    if inspect.isclass(store) or not callable(getattr(store, "begin", None)):
        raise ConfigurationError(f"idempotency={store!r} is no store; use for instance DynamoDBIdempotency('my-table')")
    if key is not None and (not callable(key) or inspect.iscoroutinefunction(key)):
        raise ConfigurationError(f"idempotency_key={key!r}: must be a plain function that takes the record and returns text")
    if sink is not None:
        raise ConfigurationError(
            "idempotency= with a sink: of a record that is spared there is no row, so its row would be lost. A sink alone lands each row once"
        )


def _margin(value: Any) -> float:
    try:
        margin_s = float(value)
    except (TypeError, ValueError):
        margin_s = -1.0
    if isinstance(value, bool) or not 0 <= margin_s <= 900:
        raise ConfigurationError(f"deadline_margin_s={value!r}: must be a number of seconds from 0 to 900")
    return margin_s
