"""How does the broker listen, start and stop?

One asyncio protocol per connection feeds the parser and writes what the front answers, in order. Nothing in between
waits, so a request costs no task; a client that does not read its answers is not read from either (back-pressure).

The state belongs to the loop that the server runs on. Control helpers may be called from any thread: from another one
they are handed to that loop.
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, Final, Self, TypeVar, cast

from streamlet.broker.faults import Faults
from streamlet.broker.http import CONTINUE, REASONS, HttpError, Request, RequestReader
from streamlet.broker.limits import SHARDS_MAX
from streamlet.broker.state import State, shard_name
from streamlet.broker.wire import Answer, Front

__all__ = ["Broker", "new_loop", "serve"]

T = TypeVar("T")

_UNSTARTED: Final = "the broker is not running: use `async with Broker(...)` or `await broker.start()`"


class Broker:
    """A local Kinesis.

        async with Broker(streams={"orders": 4}) as broker:
            client = boto3.client("kinesis", endpoint_url=broker.endpoint_url, ...)

    `port` 0 takes a free one. `clock` returns epoch seconds. `control_delay_ms` is how long a stream stays CREATING,
    UPDATING or DELETING. `faults` makes things go wrong on purpose.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        streams: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
        control_delay_ms: int = 0,
        shards_max: int = SHARDS_MAX,
    ) -> None:
        self.state = State(clock, control_delay_ms=control_delay_ms, shards_max=shards_max)
        self.faults = Faults(self.state)
        self._host = host
        self._port = port
        self._front = Front(self.state, self.faults)
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._url = ""
        for name, shards in (streams or {}).items():
            self.create_stream(name, shards)

    @property
    def endpoint_url(self) -> str:
        """Where it listens: http://HOST:PORT."""
        if not self._url:
            raise RuntimeError(_UNSTARTED)
        return self._url

    async def start(self) -> Self:
        """Listen. Raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._loop, self._thread = loop, threading.get_ident()
        self._server = await loop.create_server(lambda: _Connection(self._front, self._connections), self._host, self._port, backlog=1024)
        port = self._server.sockets[0].getsockname()[1]
        self._url = f"http://[{self._host}]:{port}" if ":" in self._host else f"http://{self._host}:{port}"
        return self

    async def aclose(self) -> None:
        """Stop listening and drop all connections. Any number of times."""
        server, self._server, self._loop = self._server, None, None
        if server is None:
            return
        # 1. No new connections. 2. Drop the old ones: from Python 3.12 on, waiting for the server waits for them.
        server.close()
        for connection in list(self._connections):
            connection.drop()
        await server.wait_closed()
        # 3. A dropped transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    @classmethod
    @contextmanager
    def in_thread(cls, **options: Any) -> Iterator[Self]:
        """The broker on a loop and thread of its own, for synchronous programs and tests."""
        ready: Future[tuple[Self, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def main() -> None:
            stop = asyncio.Event()
            async with cls(**options) as broker:
                ready.set_result((broker, asyncio.get_running_loop(), stop))
                await stop.wait()

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=new_loop) as runner:
                    runner.run(main())
            except BaseException as error:  # whoever waits for the start must hear of it
                if ready.done():
                    raise
                ready.set_exception(error)

        thread = threading.Thread(target=run, name="streamlet-broker", daemon=True)
        thread.start()
        try:
            broker, loop, stop = ready.result()
            try:
                yield broker
            finally:
                loop.call_soon_threadsafe(stop.set)
        finally:
            thread.join()

    # --- control, through the same operations as a client's calls -----------------------------------------------------

    def call(self, operation: str, **members: Any) -> Any:
        """Any operation by name, members as the model spells them. Raises ApiError. From any thread."""
        return self._on_loop(lambda: self._front.call(operation, members))

    def create_stream(self, name: str, shards: int = 1) -> None:
        """CreateStream."""
        self.call("CreateStream", StreamName=name, ShardCount=shards)

    def delete_stream(self, name: str) -> None:
        """DeleteStream."""
        self.call("DeleteStream", StreamName=name)

    def split_shard(self, name: str, shard_id: str | int, new_start: int | None = None) -> tuple[str, str]:
        """SplitShard, in the middle unless told otherwise. Answers the children's ids (with no control delay)."""
        wanted = shard_id if isinstance(shard_id, str) else shard_name(shard_id)

        def split() -> tuple[str, str]:
            shard = next((shard for shard in self._shards(name) if shard.id == wanted), None)
            start = (shard.start + shard.end + 1) // 2 if shard is not None and new_start is None else new_start or 0
            self._front.call("SplitShard", {"StreamName": name, "ShardToSplit": wanted, "NewStartingHashKey": str(start)})
            return cast("tuple[str, str]", tuple(child.id for child in shard.children) if shard is not None else ())

        return self._on_loop(split)

    def merge_shards(self, name: str, lower: str | int, upper: str | int) -> str:
        """MergeShards. Answers the child's id (with no control delay)."""
        ids = [shard if isinstance(shard, str) else shard_name(shard) for shard in (lower, upper)]

        def merge() -> str:
            self._front.call("MergeShards", {"StreamName": name, "ShardToMerge": ids[0], "AdjacentShardToMerge": ids[1]})
            return next((child.id for shard in self._shards(name) if shard.id == ids[0] for child in shard.children), "")

        return self._on_loop(merge)

    def _shards(self, name: str) -> list[Any]:
        stream = self.state.find(name, self.state.now_ms)
        return [] if stream is None else list(stream.shards.values())

    def _on_loop(self, work: Callable[[], T]) -> T:
        loop = self._loop
        if loop is None or threading.get_ident() == self._thread:
            return work()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller, in another thread
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        return done.result()


async def serve(
    host: str, port: int, streams: Mapping[str, int], on_ready: Callable[[str], None], stop: asyncio.Event | None = None
) -> None:
    """Run a broker until cancelled, or until `stop` is set; tell `on_ready` the URL once it listens."""
    async with Broker(host=host, port=port, streams=streams) as broker:
        on_ready(broker.endpoint_url)
        await (stop or asyncio.Event()).wait()


def new_loop() -> asyncio.AbstractEventLoop:
    """The one of uvloop where it is installed (twice the throughput), asyncio's otherwise."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())


class _Connection(asyncio.Protocol):
    """One client: bytes in, answers out, in order."""

    def __init__(self, front: Front, all_connections: set[_Connection]) -> None:
        self._front = front
        self._all = all_connections
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._work()

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._work()

    def drop(self) -> None:
        """Break the connection, as a dying host would."""
        if self._transport is not None:
            self._transport.abort()

    def _work(self) -> None:
        """Answer what has come in completely. While the client does not read, the rest waits in the parser."""
        while not self._paused:
            transport = self._transport
            if transport is None or transport.is_closing():
                return
            try:
                event = self._reader.next_event()
            except HttpError as error:
                transport.write(_render(Answer(error.status), keep_alive=False))
                transport.close()
                return
            if event is None:
                return
            if event == CONTINUE:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                continue
            self._respond(transport, cast("Request", event))

    def _respond(self, transport: asyncio.Transport, request: Request) -> None:
        answer = self._front.answer(request)
        if answer.dropped:
            transport.abort()
            return
        head = _render(answer, keep_alive=request.keep_alive)
        if request.method == "HEAD":
            transport.write(head)
        elif sum(map(len, answer.body)) < 65536:
            transport.write(head + b"".join(answer.body))
        else:
            transport.writelines((head, *answer.body))
        if not request.keep_alive:
            transport.close()


def _render(answer: Answer, *, keep_alive: bool) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", f"x-amzn-RequestId: {uuid.UUID(bytes=os.urandom(16), version=4)}"]
    if answer.second_id:
        lines.append(f"x-amz-id-2: {base64.b64encode(os.urandom(72)).decode()}")
    if answer.content_type:
        lines.append(f"Content-Type: {answer.content_type}")
    lines.extend(f"{name}: {value}" for name, value in answer.headers)
    lines += [f"Content-Length: {sum(map(len, answer.body))}", f"Date: {formatdate(usegmt=True)}"]
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
