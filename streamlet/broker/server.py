"""How does the broker listen, start and stop?

The state belongs to the loop that the server runs on. Control helpers may be called from any thread: from another one
they are handed to that loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, Self, TypeVar, cast

from streamlet.broker.connection import Connection
from streamlet.broker.faults import Faults
from streamlet.broker.limits import SHARDS_MAX
from streamlet.broker.shard import shard_name
from streamlet.broker.state import State
from streamlet.broker.wire import Front

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
        self._connections: set[Connection] = set()
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
        self._server = await loop.create_server(lambda: Connection(self._front, self._connections), self._host, self._port, backlog=1024)
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
