"""How does the broker listen, start and stop?

The state belongs to the loop that the server runs on. Control helpers may be called from any thread: from another one
they are handed to that loop.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from streamlet.broker.admin import Admin
from streamlet.broker.connection import Client, Connection, Sweeper
from streamlet.broker.faults import FaultFile, Faults
from streamlet.broker.limits import MEMORY_BYTES_MAX, SEGMENT_BYTES, SHARDS_MAX
from streamlet.broker.quotas import Quotas
from streamlet.broker.shard import shard_name
from streamlet.broker.signatures import Verifier
from streamlet.broker.state import SHARED, State
from streamlet.broker.tls import Certificate
from streamlet.broker.wire import Front
from streamlet.errors import ConfigurationError

if TYPE_CHECKING:
    from streamlet.broker.persist.journal import Journal

__all__ = ["Broker", "new_loop", "serve"]

T = TypeVar("T")

_UNSTARTED: Final = "the broker is not running: use `async with Broker(...)` or `await broker.start()`"


class Broker:
    """A local Kinesis.

        async with Broker(streams={"orders": 4}) as broker:
            client = boto3.client("kinesis", endpoint_url=broker.endpoint_url, ...)

    `port` 0 takes a free one. `clock` returns epoch seconds. `control_delay_ms` is how long a stream stays CREATING,
    UPDATING or DELETING. `faults` makes things go wrong on purpose, by chance under `faults_seed`; `admin` has them
    switched over HTTP, too (admin.py), through loopback addresses and `admin_hosts`. `enforce_limits` enforces the
    service's rates (quotas.py). `console` shows a page to browsers at `/`.

    `tls` serves https with a certificate that is made for this machine's loopback, in `tls_dir` (else in a folder that
    goes with the broker), or with the PEM files `tls_cert` and `tls_key`; clients trust the file `certificate`. `verify`
    maps access keys to secrets: other signatures are refused. A fan-out subscription lasts `subscription_s`.

    With `data_dir` everything survives the process: what is answered is on the disk, in files of about `segment_bytes`.
    Of the records, `memory_bytes_max` stay in memory; some 50 MB, and the requests under way at three times their size, come
    on top. Such a broker has its streams from the start on, not before, and
    starts once. `streams` that are there already stay as they are.
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
        enforce_limits: bool = False,
        faults_seed: int = 0,
        admin: bool = False,
        admin_hosts: Iterable[str] = (),
        console: bool = False,
        tls: bool = False,
        tls_dir: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        verify: Mapping[str, str] | None = None,
        subscription_s: float = 300.0,
        data_dir: str | Path | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        if (tls_cert is None) != (tls_key is None):
            raise ConfigurationError("a certificate needs its key: give both tls_cert and tls_key")
        if not host:
            raise ConfigurationError("host is an address or a name: 0.0.0.0 for all of this machine's, not an empty one")
        if not 0 < subscription_s < 10**9:
            raise ConfigurationError(f"subscription_s is above 0 and below a billion seconds, not {subscription_s}")
        if not 0 <= control_delay_ms <= 10**9:
            raise ConfigurationError(f"control_delay_ms is 0 to a billion milliseconds, not {control_delay_ms}")
        self.state = State(clock, control_delay_ms=control_delay_ms, shards_max=shards_max, subscription_s=subscription_s)
        self._tls = tls or tls_cert is not None
        self._tls_dir = None if tls_dir is None else Path(tls_dir)
        self._tls_scratch: tempfile.TemporaryDirectory[str] | None = None
        self._tls_files = None if tls_cert is None or tls_key is None else Certificate(Path(tls_cert), Path(tls_key))
        self.state.quotas = Quotas() if enforce_limits else None
        self.faults = Faults(self.state, seed=faults_seed, run=self._on_loop)
        self._host = host
        self._port = port
        verifier = None if verify is None else Verifier(verify)
        self._front = Front(self.state, self.faults, pages=[Admin(self.faults, admin_hosts)] if admin else (), verifier=verifier)
        self._connections: set[Client] = set()
        self._sweeper = Sweeper(self._connections)
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._url = ""
        if console:
            self._add_console(clock, admin_hosts, data_dir)
        self._data_dir = data_dir
        self._segment_bytes, self._memory_bytes_max = segment_bytes, memory_bytes_max
        self._streams = dict(streams or {})
        self._journal: Journal | None = None
        if data_dir is None:
            for name, shards in self._streams.items():
                self.create_stream(name, shards)

    def _add_console(self, clock: Callable[[], float], hosts: Iterable[str], data_dir: str | Path | None) -> None:
        # Not above: whoever has no console does not wait for its modules.
        from streamlet import __version__
        from streamlet.broker.console import Console

        facts = {
            "version": __version__,
            "enforce_limits": self.state.quotas is not None,
            "data_dir": None if data_dir is None else str(data_dir),
        }
        console = Console(self.state, self.faults, self._front.call, hosts=(self._host, *hosts), clock=clock, facts=facts)
        self._front.add_page(console)
        self._front.watch = console.meter.saw

    @property
    def endpoint_url(self) -> str:
        """Where it listens: http://HOST:PORT."""
        if not self._url:
            raise RuntimeError(_UNSTARTED)
        return self._url

    @property
    def certificate(self) -> Path:
        """The PEM file that a client of https is to trust: `verify=` of boto3, AWS_CA_BUNDLE, NODE_EXTRA_CA_CERTS."""
        if self._tls_files is None:
            raise RuntimeError("the broker has no certificate: give tls=True, and start it")
        return self._tls_files.certificate

    def _context(self) -> ssl.SSLContext | None:
        if not self._tls:
            return None
        from streamlet.broker import tls

        if self._tls_files is None:
            if self._tls_dir is None:
                self._tls_scratch = tempfile.TemporaryDirectory(prefix="streamlet-tls-")
            folder = self._tls_dir or Path(self._tls_scratch.name if self._tls_scratch is not None else "")
            # The true time: it is the client's clock that judges a certificate.
            self._tls_files = tls.self_signed(folder, datetime.fromtimestamp(time.time(), UTC), self._host)
        return tls.context(self._tls_files)

    async def start(self) -> Self:
        """Listen. Raises OSError when the address is taken, ConfigurationError when `data_dir` cannot be used."""
        loop = asyncio.get_running_loop()
        if self._data_dir is not None:
            self._recover(self._data_dir, loop)
        try:
            return await self._listen(loop)
        except BaseException:
            if self._journal is not None:
                self._journal.close()
            raise

    def _recover(self, directory: str | Path, loop: asyncio.AbstractEventLoop) -> None:
        # Not above: whoever keeps nothing does not wait for it.
        from streamlet.broker.persist.recovery import open_journal

        if self._journal is not None:
            raise RuntimeError("a broker with data_dir starts once: make another one for the same directory")
        self._journal = self._front.journal = open_journal(
            directory, self.state, segment_bytes=self._segment_bytes, memory_bytes_max=self._memory_bytes_max
        )
        try:
            for name, shards in self._streams.items():
                if self.state.find(*SHARED, name, self.state.now_ms) is None:
                    self._front.call("CreateStream", {"StreamName": name, "ShardCount": shards})
        except BaseException:
            self._journal.close()
            raise
        self._journal.run_on(loop)

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> Self:
        self._loop, self._thread = loop, threading.get_ident()
        self._server = await loop.create_server(
            lambda: Connection(self._front, self._connections), self._host, self._port, backlog=1024, ssl=self._context()
        )
        port = self._server.sockets[0].getsockname()[1]
        scheme = "https" if self._tls else "http"
        self._url = f"{scheme}://[{self._host}]:{port}" if ":" in self._host else f"{scheme}://{self._host}:{port}"
        self._sweeper.start()
        return self

    async def aclose(self) -> None:
        """Stop listening and drop all connections. Any number of times."""
        server, self._server, self._loop = self._server, None, None
        if server is None:
            return
        # 1. No new connections.
        server.close()
        self._sweeper.stop()
        # 2. Say so where the protocol has a word for it, and let the word out.
        for connection in list(self._connections):
            connection.bid_farewell()
        await asyncio.sleep(0)
        # 3. Drop those that are left: from Python 3.12 on, waiting for the server waits for them.
        for connection in list(self._connections):
            connection.drop()
        await server.wait_closed()
        # 4. A dropped transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)
        # 5. Nothing changes any more: the last sync, and the directory is free.
        if self._journal is not None:
            self._journal.close()
        if self._tls_scratch is not None:
            self._tls_scratch.cleanup()
            self._tls_scratch = self._tls_files = None

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

    # Without an account or region a name means the shared stream, else the only one of that name anywhere.

    def call(self, operation: str, *, account: str | None = None, region: str | None = None, **members: Any) -> Any:
        """Any operation by name, members as the model spells them. Raises ApiError. From any thread.

        With `account` (twelve digits) or `region` it is a call of that account in that region; the other one is then
        the default. With neither, what is made is shared: every caller finds it.
        """
        if self._data_dir is not None and self._loop is None:
            raise RuntimeError(_UNSTARTED)
        return self._on_loop(lambda: self._front.call(operation, members, account, region))

    def create_stream(self, name: str, shards: int = 1, *, account: str | None = None, region: str | None = None) -> None:
        """CreateStream. Shared by all accounts and regions, unless one of them is named."""
        self.call("CreateStream", account=account, region=region, StreamName=name, ShardCount=shards)

    def delete_stream(self, name: str, *, account: str | None = None, region: str | None = None) -> None:
        """DeleteStream, with its consumers."""
        self.call("DeleteStream", account=account, region=region, StreamName=name, EnforceConsumerDeletion=True)

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
        stream = self.state.find_by_name(name, self.state.now_ms)
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
    host: str,
    port: int,
    streams: Mapping[str, int],
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    *,
    faults: FaultFile | None = None,
    **options: Any,
) -> None:
    """Run a broker until cancelled, or until `stop` is set; tell `on_ready` the URL once it listens.

    `faults` are armed before it listens. Further options are those of Broker.
    """
    broker = Broker(host=host, port=port, streams=streams, **options)
    if faults is not None:
        broker.faults.extend(faults)
    async with broker:
        on_ready(broker.endpoint_url)
        await (stop or asyncio.Event()).wait()


def new_loop() -> asyncio.AbstractEventLoop:
    """The one of uvloop where it is installed (twice the throughput), asyncio's otherwise."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())
