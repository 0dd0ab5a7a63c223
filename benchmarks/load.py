"""How is a server kept busy without the generator being what is measured? Raw sockets, requests built beforehand, no tasks per request.

A `Connection` sends bytes and hands whole answers to a callback. `closed_loop` keeps a number of connections busy, each with
one request under way; it stops sending after a time or a number of requests, whichever comes first, and waits for what is under way.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from benchmarks.wire import BadAnswer, refusal, request

__all__ = ["Client", "Connection", "Load", "closed_loop", "percentile"]

Address = tuple[str, int]
OnAnswer = Callable[["Connection", int, bytes], None]
Check = Callable[[int, bytes], int]

ANSWER_TIMEOUT_S: Final = 120.0


class Connection(asyncio.Protocol):
    """One connection, one request at a time. `on_body`, when set, is given the parts of a chunked body as they come."""

    def __init__(self, address: Address, on_answer: OnAnswer, on_lost: Callable[[Connection], None]) -> None:
        self.address = address
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._status = 0  # of the answer whose head has been read
        self._length: int | None = None  # None: chunked
        self._until_end = False
        self._chunks = bytearray()
        self._transport: asyncio.Transport | None = None
        self.on_body: Callable[[int, bytes], None] | None = None
        self.sent_at = 0.0
        self.request = b""
        self.waiting = False  # for an answer
        self.closing = False  # the server said that it closes after this answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def send(self, data: bytes) -> None:
        """Send a request; the answer goes to the callback."""
        assert self._transport is not None, "connected first"
        self.request, self.waiting = data, True
        self.sent_at = time.perf_counter()
        self._transport.write(data)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._buffer += data
        if self._status == 0 and not self._read_head():
            return
        if self._until_end:
            return
        if self._length is not None:
            if len(self._buffer) >= self._length:
                body = bytes(self._buffer[: self._length])
                del self._buffer[: self._length]
                self._finish(body)
        else:
            self._read_chunks()

    def connection_lost(self, _error: Exception | None) -> None:
        """asyncio's."""
        if self._status and self._until_end:
            self._finish(bytes(self._buffer))
        self._on_lost(self)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        self._status = int(head[9:12])
        self.closing = b"\r\nconnection: close" in head
        at = head.find(b"\r\ncontent-length:")
        self._until_end = False
        if at >= 0:
            stop = head.find(b"\r\n", at + 2)
            self._length = int(head[at + 17 : stop if stop > 0 else len(head)])
        else:
            self._length = None
            self._until_end = b"chunked" not in head
        return True

    def _read_chunks(self) -> None:
        buffer = self._buffer
        while True:
            line = buffer.find(b"\r\n")
            if line < 0:
                return
            size = int(buffer[:line].partition(b";")[0], 16)
            if len(buffer) < line + 2 + size + 2:
                return
            part = bytes(buffer[line + 2 : line + 2 + size])
            del buffer[: line + 2 + size + 2]
            if size == 0:
                body = bytes(self._chunks)
                self._chunks.clear()
                self._finish(body)
                return
            if self.on_body is not None:
                self.on_body(self._status, part)
            else:
                self._chunks += part

    def _finish(self, body: bytes) -> None:
        status, self._status, self.waiting = self._status, 0, False
        self._on_answer(self, status, body)


async def _connect(address: Address, on_answer: OnAnswer, on_lost: Callable[[Connection], None]) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(address, on_answer, on_lost), *address)
    return connection


class Client:
    """Asks one thing after another, for what is not under load. Reconnects where a server closes after each answer."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """Status and body. Raises BadAnswer when none comes."""
        fresh = self._connection is None
        try:
            return await self._send_once(data)
        except ConnectionError:
            if fresh:
                raise BadAnswer("the connection was closed before an answer came") from None
        # It was about to end, after the answer before.
        return await self._send_once(data)

    async def _send_once(self, data: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = await _connect(self._address, self._answered, self._lost)
        self._answer = asyncio.get_running_loop().create_future()
        self._connection.send(data)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._answer
        except TimeoutError:
            self.close()
            raise BadAnswer(f"no answer after {ANSWER_TIMEOUT_S:.0f} s") from None

    async def call(self, operation: str, **members: Any) -> Any:
        """The decoded answer. Raises BadAnswer unless it is 200."""
        status, body = await self.send(request(operation, members))
        if status != 200:
            raise BadAnswer(f"{operation}: {refusal(status, body)}")
        return json.loads(body) if body else None

    async def stream(self, data: bytes, on_part: Callable[[int, bytes], None]) -> None:
        """Send a request whose answer is a body without end; `on_part` is given its status and its parts as they come.

        Returns when the body ends after all. Raises BadAnswer when the answer has another form.
        """
        self._connection = await _connect(self._address, self._answered, self._lost)
        self._connection.on_body = on_part
        self._answer = asyncio.get_running_loop().create_future()
        self._connection.send(data)
        try:
            status, body = await self._answer
        except ConnectionError:
            raise BadAnswer("the connection was closed in the middle of the stream") from None
        if status != 200 or body:
            raise refusal(status, body)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        if connection.closing and connection is self._connection:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def _lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(ConnectionResetError())


@dataclass(slots=True)
class Load:
    """What a closed loop did. `units` are records; latencies are in seconds, one per request."""

    wall_s: float = 0.0
    generator_cpu_s: float = 0.0
    units: int = 0
    latencies: list[float] = field(default_factory=list)


async def closed_loop(
    address: Address, requests: Sequence[bytes], check: Check, *, connections: int, seconds: float, requests_max: int | None = None
) -> Load:
    """Send the requests round and round. Raises BadAnswer at the first answer that `check` refuses."""
    run = _ClosedLoop(requests, check, seconds, requests_max)
    made = [await _connect(address, run.answered, run.lost) for _ in range(connections)]
    try:
        run.begin(made)
        async with asyncio.timeout(seconds + ANSWER_TIMEOUT_S):
            await run.done
    except TimeoutError:
        raise BadAnswer(f"no answer for {ANSWER_TIMEOUT_S:.0f} s") from None
    finally:
        for connection in run.connections:
            connection.close()
        for task in run.reconnecting:
            task.cancel()
    return run.load


class _ClosedLoop:
    def __init__(self, requests: Sequence[bytes], check: Check, seconds: float, requests_max: int | None) -> None:
        self.load = Load()
        self.connections: set[Connection] = set()
        self.reconnecting: set[asyncio.Task[None]] = set()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._check = check
        self._seconds = seconds
        self._requests_max = requests_max
        self._sent = 0
        self._under_way = 0
        self._started = self._stop_at = self._cpu = 0.0

    def begin(self, connections: Sequence[Connection]) -> None:
        self.connections.update(connections)
        self._cpu = time.process_time()
        self._started = time.perf_counter()
        self._stop_at = self._started + self._seconds
        for connection in connections:
            self._next(connection)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        self._under_way -= 1
        self.load.latencies.append(time.perf_counter() - connection.sent_at)
        try:
            self.load.units += self._check(status, body)
        except BadAnswer as error:
            self._end(error)
            return
        self._next(connection)

    def lost(self, connection: Connection) -> None:
        if connection not in self.connections or self.done.done():
            return
        if not connection.waiting:
            self.connections.discard(connection)
            return
        # It was idle for too long, or the server closes without saying so: this request went out in vain.
        self._send_anew(connection, connection.request)

    def _send_anew(self, old: Connection, data: bytes) -> None:
        self.connections.discard(old)
        old.close()
        task = asyncio.ensure_future(self._reconnect(old.address, data))
        self.reconnecting.add(task)
        task.add_done_callback(self.reconnecting.discard)

    async def _reconnect(self, address: Address, data: bytes) -> None:
        # Part of what a request costs with such a server.
        started = time.perf_counter()
        try:
            connection = await _connect(address, self.answered, self.lost)
        except OSError as error:
            self._end(BadAnswer(f"the server closed a connection and takes no new one: {error}"))
            return
        self.connections.add(connection)
        connection.send(data)
        connection.sent_at = started

    def _next(self, connection: Connection) -> None:
        spent = self._requests_max is not None and self._sent >= self._requests_max
        if spent or time.perf_counter() >= self._stop_at:
            if self._under_way == 0:
                self._end(None)
            return
        self._under_way += 1
        data = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        if connection.closing:
            self._send_anew(connection, data)
        else:
            connection.send(data)

    def _end(self, error: BadAnswer | None) -> None:
        if self.done.done():
            return
        self.load.wall_s = time.perf_counter() - self._started
        self.load.generator_cpu_s = time.process_time() - self._cpu
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 … 1) of the values lie; nearest rank. Raises ValueError for no values."""
    if not values:
        raise ValueError("a percentile of nothing")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be 0 … 1, not {share}")
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1)]
