"""How are the requests of one client answered, in order?

Bytes go into the parser, requests to the front, answers onto the transport. An answer that is there at once costs no
task and no future. One that is not (a commit to disk, a latency on purpose, a push) holds back the requests behind it.
A client that does not read its answers is not read from either (back-pressure).
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from email.utils import formatdate
from functools import lru_cache
from typing import Final, Protocol, cast

from streamlet.broker.http import CONTINUE, REASONS, HttpError, Request, RequestReader
from streamlet.broker.wire import Answer, Front, Push, settled

__all__ = ["Client", "Connection", "Sweeper", "http_date", "request_ids"]

_WAITING_BYTES_MAX: Final = 1024 * 1024  # read ahead of an answer that waits
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PREFACE_BYTES: Final = len(_PREFACE)
_SWEEP_S: Final = 10.0
_SWEEP_BYTES_MIN: Final = 1024
_STRIKES_MAX: Final = 3
_SMALL: Final = 65536  # bodies up to this are joined: one write costs less than the copy


class Client(Protocol):
    """What the server and the sweeper know of a connection, whatever it speaks."""

    @property
    def busy_bytes(self) -> int | None:
        """How much has come in so far, while a request is incomplete; None while none is."""

    def drop(self) -> None:
        """Break the connection, as a dying host would."""

    def bid_farewell(self) -> None:
        """The server stops."""

    def time_out(self) -> None:
        """A request does not get complete."""


class Connection(asyncio.Protocol):
    """One client. It begins as HTTP/1.1; the preface of HTTP/2 hands the transport over to http2.py."""

    def __init__(self, front: Front, all_connections: set[Client]) -> None:
        self._front = front
        self._all = all_connections
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._paused = False  # the client does not read
        self._waiting = False  # the answer to a request is not complete
        self._push: _Chunks | None = None
        self._preface: bytes | None = b""  # what has come of an HTTP/2 preface; None once it is none
        self._received = 0

    @property
    def busy_bytes(self) -> int | None:
        """How much has come in, while a request is incomplete; None while none is."""
        return self._received if self._preface or (not self._waiting and not self._paused and self._reader.in_request) else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)
        if self._push is not None:
            self._push.lost()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._preface is not None:
            data = self._preface + data
            if data[:_PREFACE_BYTES] == _PREFACE[: len(data)]:
                self._preface = data
                if len(data) >= _PREFACE_BYTES:
                    self._switch(data)
                return
            self._preface = None
        if not self._waiting and not self._paused and self._answer_whole(data):
            return
        self._reader.feed(data)
        if self._waiting:
            if self._reader.waiting_bytes > _WAITING_BYTES_MAX and self._transport is not None:
                self._transport.pause_reading()
            return
        self._work()

    def pause_writing(self) -> None:
        self._paused = True
        if self._push is not None:
            self._push.push.paused()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._push is not None:
            self._push.push.resumed()
        self._go_on()

    def drop(self) -> None:
        """Break the connection, as a dying host would."""
        if self._transport is not None:
            self._transport.abort()

    def bid_farewell(self) -> None:
        """The server stops: HTTP/1.1 has no word for it."""
        self.drop()

    def time_out(self) -> None:
        """A request does not get complete."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_render(Answer(408), keep_alive=False))
            self._transport.close()

    def _switch(self, data: bytes) -> None:
        """The client speaks HTTP/2."""
        transport = self._transport
        assert transport is not None, "bytes come from a transport"
        try:
            from streamlet.broker.http2 import Http2Connection
        except ImportError:
            # In its own language: empty SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED and the reason.
            why = b"HTTP/2 needs the package h2: pip install 'streamlet[broker]'"
            transport.write(b"\0\0\0\4\0\0\0\0\0" + (8 + len(why)).to_bytes(3, "big") + b"\7\0\0\0\0\0\0\0\0\0\0\0\0\r" + why)
            transport.close()
            return
        self._all.discard(self)
        self._transport = None
        successor = Http2Connection(self._front, self._all)
        transport.set_protocol(successor)
        successor.connection_made(transport)
        successor.data_received(data)

    def _go_on(self) -> None:
        # While the client does not read, what waited may have come to its end all the same: then resume_writing calls again.
        if self._transport is not None and not self._transport.is_closing() and not self._paused:
            self._transport.resume_reading()
            self._work()

    def _answer_whole(self, data: bytes) -> bool:
        """A request that came in one piece, with none before it under way, is answered without the parser's buffer."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        try:
            request = self._reader.whole(data)
        except HttpError as error:
            self._refuse(transport, error)
            return True
        if request is not None:
            self._answer(transport, request)
        return request is not None

    def _refuse(self, transport: asyncio.Transport, error: HttpError) -> None:
        transport.write(_render(Answer(error.status), keep_alive=False))
        transport.close()

    def _answer(self, transport: asyncio.Transport, request: Request) -> None:
        answer = self._front.answer(request)
        if answer.ready is not None or answer.push is not None or answer.delay_s > 0:
            self._waiting = True
            self._wait(request._replace(body=b""), answer)  # which would lie in memory as long
        else:
            self._send(transport, request, answer)

    def _work(self) -> None:
        """Answer what has come in completely. While the client does not read, the rest waits in the parser."""
        while not self._paused and not self._waiting:
            transport = self._transport
            if transport is None or transport.is_closing():
                return
            try:
                event = self._reader.next_event()
            except HttpError as error:
                self._refuse(transport, error)
                return
            if event is None:
                return
            if event == CONTINUE:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                continue
            self._answer(transport, cast("Request", event))

    def _wait(self, request: Request, answer: Answer) -> None:
        """Come back when the answer may be sent."""
        ready = answer.ready
        if ready is not None:
            ready.add_done_callback(lambda _: self._wait(request, settled(answer)))
        elif answer.delay_s > 0:
            asyncio.get_running_loop().call_later(answer.delay_s, self._wait, request, answer._replace(delay_s=0.0))
        elif self._transport is None or self._transport.is_closing():
            if answer.push is not None:
                answer.push.closed()
        elif answer.push is not None and not answer.dropped and request.method != "HEAD":
            keep_alive = request.keep_alive and request.chunked
            self._transport.write(_render(answer, keep_alive=keep_alive, chunked=request.chunked))
            self._push = _Chunks(self, answer.push, keep_alive=keep_alive, chunked=request.chunked)
            if self._paused:
                answer.push.paused()
            answer.push.opened(self._push)
        else:
            self._send(self._transport, request, answer)
            self._waiting = False
            self._go_on()

    def _send(self, transport: asyncio.Transport, request: Request, answer: Answer) -> None:
        if answer.dropped:
            transport.abort()
            return
        head = _render(answer, keep_alive=request.keep_alive)
        if request.method == "HEAD":
            transport.write(head)
        elif sum(map(len, answer.body)) < _SMALL:
            transport.write(head + b"".join(answer.body))
        else:
            transport.writelines((head, *answer.body))
        if not request.keep_alive:
            transport.close()

    def write(self, data: bytes) -> None:
        """A piece of the body that is being pushed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end_push(self, *, keep_alive: bool) -> None:
        """The pushed body is complete."""
        self._push, self._waiting = None, False
        if not keep_alive and self._transport is not None:
            self._transport.close()
        # Not from here: whoever ended the push is still at work, and the next request may be for it.
        asyncio.get_running_loop().call_soon(self._go_on)


class Sweeper:
    """Ends connections whose request does not get complete: fewer than 1 KiB in each of three turns of 10 s.

    A connection without a request under way is never touched, however long it is idle: SDKs keep them for later.
    """

    def __init__(self, connections: set[Client]) -> None:
        self._connections = connections
        self._seen: dict[Client, tuple[int, int]] = {}  # bytes at the last turn, and how many poor turns in a row
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to take turns, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._turn)

    def stop(self) -> None:
        """Take no more turns."""
        if self._timer is not None:
            self._timer.cancel()

    def sweep(self) -> None:
        """One turn."""
        seen: dict[Client, tuple[int, int]] = {}
        for client in list(self._connections):
            busy = client.busy_bytes
            if busy is None:
                continue
            before, strikes = self._seen.get(client, (busy - _SWEEP_BYTES_MIN, 0))
            strikes = strikes + 1 if busy - before < _SWEEP_BYTES_MIN else 0
            if strikes >= _STRIKES_MAX:
                client.time_out()
            else:
                seen[client] = (busy, strikes)
        self._seen = seen

    def _turn(self) -> None:
        self.sweep()
        self.start()


class _Chunks:
    """A pushed body on an HTTP/1.1 connection."""

    def __init__(self, connection: Connection, push: Push, *, keep_alive: bool, chunked: bool) -> None:
        self.push = push
        self._chunked = chunked
        self._keep_alive = keep_alive
        self._connection: Connection | None = connection

    def write(self, data: bytes) -> None:
        if self._connection is not None and data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._chunked:
                connection.write(b"0\r\n\r\n")
            connection.end_push(keep_alive=self._keep_alive)

    def abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    def lost(self) -> None:
        """The client has gone."""
        if self._connection is not None:
            self._connection = None
            self.push.closed()


def _fresh_ids() -> Iterator[tuple[str, str]]:
    """x-amzn-RequestId and x-amz-id-2. Random bytes are drawn for many answers at once: a system call for each would cost more
    than the rest of a head."""
    while True:
        pool = os.urandom(64 * 88)
        for at in range(0, len(pool), 88):
            h = pool[at : at + 16].hex()
            yield f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}", base64.b64encode(pool[at + 16 : at + 88]).decode()


_ids: Final = _fresh_ids()


def request_ids() -> tuple[str, str]:
    """A new x-amzn-RequestId and a new x-amz-id-2."""
    return next(_ids)


def http_date() -> str:
    """The Date header's value now."""
    return _date_of(int(time.time()))


@lru_cache(maxsize=2)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)


def _render(answer: Answer, *, keep_alive: bool, chunked: bool = True) -> bytes:
    """Status line and headers. An unknown length ends with the connection where there are no chunks."""
    first, second = next(_ids)
    second_line = f"x-amz-id-2: {second}\r\n" if answer.second_id else ""
    kind_line = f"Content-Type: {answer.content_type}\r\n" if answer.content_type else ""
    more = "".join([f"{name}: {value}\r\n" for name, value in answer.headers]) if answer.headers else ""
    length_line = ""
    if answer.push is None:
        length_line = f"Content-Length: {sum(map(len, answer.body))}\r\n"
    elif chunked:
        length_line = "Transfer-Encoding: chunked\r\n"
    last_line = "" if keep_alive else "Connection: close\r\n"
    return (
        f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\nx-amzn-RequestId: {first}\r\n"
        f"{second_line}{kind_line}{more}{length_line}Date: {http_date()}\r\n{last_line}\r\n"
    ).encode("latin-1")
