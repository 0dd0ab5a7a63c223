"""How are the requests of one client answered, in order?

Bytes go into the parser, requests to the front, answers onto the transport. An answer that is there at once costs no
task and no future. One that is not (a commit to disk, a latency on purpose, a push) holds back the requests behind it.
A client that does not read its answers is not read from either (back-pressure).
"""

from __future__ import annotations

import asyncio
import base64
import os
import uuid
from email.utils import formatdate
from typing import Final, cast

from streamlet.broker.http import CONTINUE, REASONS, HttpError, Request, RequestReader
from streamlet.broker.wire import Answer, Front, Push

__all__ = ["Connection"]

_WAITING_BYTES_MAX: Final = 1024 * 1024  # read ahead of an answer that waits
_SMALL: Final = 65536  # bodies up to this are joined: one write costs less than the copy


class Connection(asyncio.Protocol):
    """One HTTP/1.1 client."""

    def __init__(self, front: Front, all_connections: set[Connection]) -> None:
        self._front = front
        self._all = all_connections
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._paused = False  # the client does not read
        self._waiting = False  # the answer to a request is not complete
        self._push: _Chunks | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)
        if self._push is not None:
            self._push.lost()

    def data_received(self, data: bytes) -> None:
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

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._work()

    def _work(self) -> None:
        """Answer what has come in completely. While the client does not read, the rest waits in the parser."""
        while not self._paused and not self._waiting:
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
            request = cast("Request", event)
            answer = self._front.answer(request)
            if answer.delay_s > 0 or answer.ready is not None or answer.push is not None:
                self._waiting = True
                self._wait(request, answer)
            else:
                self._send(transport, request, answer)

    def _wait(self, request: Request, answer: Answer) -> None:
        """Come back when the answer may be sent."""
        ready = answer.ready
        if ready is not None:
            ready.add_done_callback(lambda _: self._wait(request, answer._replace(ready=None)))
        elif answer.delay_s > 0:
            asyncio.get_running_loop().call_later(answer.delay_s, self._wait, request, answer._replace(delay_s=0.0))
        elif self._transport is None or self._transport.is_closing():
            if answer.push is not None:
                answer.push.closed()
        elif answer.push is not None and not answer.dropped and request.method != "HEAD":
            self._transport.write(_render(answer, keep_alive=request.keep_alive))
            self._push = _Chunks(self, answer.push, keep_alive=request.keep_alive)
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


class _Chunks:
    """A pushed body on an HTTP/1.1 connection."""

    def __init__(self, connection: Connection, push: Push, *, keep_alive: bool) -> None:
        self.push = push
        self._keep_alive = keep_alive
        self._connection: Connection | None = connection

    def write(self, data: bytes) -> None:
        if self._connection is not None and data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
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


def _render(answer: Answer, *, keep_alive: bool) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", f"x-amzn-RequestId: {uuid.UUID(bytes=os.urandom(16), version=4)}"]
    if answer.second_id:
        lines.append(f"x-amz-id-2: {base64.b64encode(os.urandom(72)).decode()}")
    if answer.content_type:
        lines.append(f"Content-Type: {answer.content_type}")
    lines.extend(f"{name}: {value}" for name, value in answer.headers)
    lines.append("Transfer-Encoding: chunked" if answer.push is not None else f"Content-Length: {sum(map(len, answer.body))}")
    lines.append(f"Date: {formatdate(usegmt=True)}")
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
