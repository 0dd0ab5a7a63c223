"""How are the requests of one HTTP/2 client answered, many at once?

The package h2 knows the protocol: bytes in, events out. Here requests are put together from them, handed to the front,
and the answers cut into frames as far as the client's windows reach. Everything that a client can make us hold is bounded:

- bodies under way: a stream may always send its first window; what all streams have sent together beyond
  BODIES_BYTES_MAX lets only the oldest of them go on (so that it ends, and the others follow);
- answers that the client does not take: beyond ANSWERS_BYTES_MAX requests wait, and with them the client;
- a push is paused as soon as PUSH_BYTES_MAX of it wait for the client's window.

Connections come here with prior knowledge, or by ALPN: either way the first bytes are the client's preface.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.frame_buffer
import h2.settings
from hyperframe.frame import Frame, GoAwayFrame

from streamlet.broker.connection import Client, http_date, request_ids
from streamlet.broker.http import Request
from streamlet.broker.limits import BODY_BYTES_MAX, HEAD_BYTES_MAX
from streamlet.broker.wire import Answer, Front, Push, settled

__all__ = ["Http2Connection"]

STREAMS_MAX: Final = 512  # at once, of one client
BODIES_BYTES_MAX: Final = 64 * 1024 * 1024
ANSWERS_BYTES_MAX: Final = 32 * 1024 * 1024
PUSH_BYTES_MAX: Final = 64 * 1024
_FRAME_HEAD_BYTES: Final = 9
_CREDIT_BYTES: Final = 32 * 1024  # windows are opened again in steps of this
_CONNECTION_WINDOW: Final = 1024 * 1024


class _FrameBuffer(h2.frame_buffer.FrameBuffer):
    """Refuses a frame that is too long when its head has come: h2 would wait for all of its 16 MiB first."""

    def __next__(self) -> Frame:
        if len(self._data) >= _FRAME_HEAD_BYTES:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()


class _Server(h2.connection.H2Connection):
    """h2's connection, but a client's GOAWAY does not close it.

    GOAWAY only says "no new streams". Node sends it as soon as a session is closed on its side, and goes on opening
    windows for the streams that are under way; h2 calls that a protocol error, and would break off their answers.
    """

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self.incoming_buffer = _FrameBuffer(server=True)
        self.incoming_buffer.max_frame_size = self.max_inbound_frame_size

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        return [], [h2.events.ConnectionTerminated()]


class _Stream:
    """One request and its answer."""

    __slots__ = ("answering", "body", "credit", "head", "method", "out", "out_bytes", "out_ended", "paused", "push", "target", "timer")

    def __init__(self, method: str, target: str, head: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.head = head
        self.body = bytearray()
        self.credit = 0  # bytes that came in and were not given back to the client's window
        self.answering = False  # the request is complete
        self.out: deque[memoryview] = deque()
        self.out_bytes = 0
        self.out_ended = False
        self.push: Push | None = None
        self.paused = False
        self.timer: asyncio.TimerHandle | None = None


class Http2Connection(asyncio.Protocol):
    """One HTTP/2 client."""

    def __init__(self, front: Front, all_connections: set[Client]) -> None:
        self._front = front
        self._all = all_connections
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, _Stream] = {}
        self._bodies_bytes = 0
        self._answers_bytes = 0  # of answers; pushes have a bound of their own
        self._credit = 0
        self._complete: dict[int, None] = {}  # requests that wait for their answer, in order
        self._blocked: dict[int, None] = {}  # streams that have something to send, in order
        self._paused = False  # the client does not read
        self._received = 0
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = _Server(config)
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                codes.MAX_HEADER_LIST_SIZE: HEAD_BYTES_MAX,
                codes.ENABLE_PUSH: 0,
            },
        )

    @property
    def busy_bytes(self) -> int | None:
        """How much has come in, while a request is incomplete; None while none is."""
        return self._received if any(not stream.answering for stream in self._streams.values()) else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)
        for stream_id in list(self._streams):
            self._forget(stream_id)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        try:
            events = self._h2.receive_data(data)
            for event in events:
                self._on_event(event)
        except h2.exceptions.ProtocolError:
            self._break()  # h2 has put the reason into its GOAWAY
            return
        self._work()
        self._flush()

    def pause_writing(self) -> None:
        self._paused = True
        for stream in list(self._streams.values()):
            self._pace(stream)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._send_blocked()
        # A push that had nothing to send is not among those, but was paused like them.
        for stream in list(self._streams.values()):
            self._pace(stream)
        self._work()
        self._flush()

    def drop(self) -> None:
        """Break the connection, as a dying host would."""
        if self._transport is not None:
            self._transport.abort()

    def bid_farewell(self) -> None:
        """The server stops: GOAWAY, and the end."""
        self._h2.close_connection()
        self._break()

    def time_out(self) -> None:
        """A request does not get complete."""
        self._h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        self._break()

    def _break(self) -> None:
        """Send what h2 has to say, and close."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(self._h2.data_to_send())
            transport.close()

    def _flush(self) -> None:
        transport = self._transport
        data = self._h2.data_to_send()
        if data and transport is not None and not transport.is_closing():
            transport.write(data)

    # --- what comes in ----------------------------------------------------------------------------------------------------

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._on_request(event)
        elif isinstance(event, h2.events.DataReceived):
            self._on_data(event.stream_id, event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, h2.events.StreamEnded):
            stream = self._streams.get(event.stream_id)
            if stream is not None and not stream.answering:
                stream.answering = True
                self._complete[event.stream_id] = None
        elif isinstance(event, h2.events.StreamReset):
            self._forget(event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated):
            if event.stream_id:
                self._send_some(event.stream_id)
            else:
                self._send_blocked()
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self._send_blocked()  # a larger initial window is one for every stream
        elif isinstance(event, h2.events.ConnectionTerminated) and not self._streams and self._transport is not None:
            self._transport.close()

    def _on_request(self, event: h2.events.RequestReceived) -> None:
        head: dict[str, str] = {}
        for raw_name, raw_value in event.headers or ():
            # As over HTTP/1.1: any byte is a character, so that signatures see what was sent.
            name, value = str(raw_name, "latin-1"), str(raw_value, "latin-1")
            if name in {":authority", "host"}:
                head["host"] = value  # where both are sent, h2 has seen that they are equal
            elif name == "cookie" and name in head:
                head[name] += f"; {value}"
            else:
                head[name] = f"{head[name]}, {value}" if name in head else value
        stream = _Stream(head.pop(":method", ""), head.pop(":path", "/"), {name: value for name, value in head.items() if name[:1] != ":"})
        self._streams[event.stream_id] = stream
        length = head.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > BODY_BYTES_MAX:
            self._refuse(event.stream_id, stream)

    def _on_data(self, stream_id: int, data: bytes, flow_bytes: int) -> None:
        # The connection's window is given back at once, so that no stream holds up the others; its own window is not.
        self._credit += flow_bytes
        if self._credit >= _CREDIT_BYTES:
            self._h2.increment_flow_control_window(self._credit)
            self._credit = 0
        stream = self._streams.get(stream_id)
        if stream is None or stream.answering:
            return
        stream.body += data
        stream.credit += flow_bytes
        self._bodies_bytes += len(data)
        if len(stream.body) > BODY_BYTES_MAX:
            self._refuse(stream_id, stream)
        elif stream.credit >= _CREDIT_BYTES and (self._bodies_bytes < BODIES_BYTES_MAX or stream_id == self._oldest()):
            self._give_back(stream_id, stream)

    def _oldest(self) -> int:
        """The first stream whose body is not complete."""
        return next((stream_id for stream_id, stream in self._streams.items() if not stream.answering), 0)

    def _give_back(self, stream_id: int, stream: _Stream) -> None:
        credit, stream.credit = stream.credit, 0
        try:
            self._h2.increment_flow_control_window(credit, stream_id)
        except (h2.exceptions.StreamClosedError, h2.exceptions.NoSuchStreamError):
            return

    def _let_others_go_on(self) -> None:
        """A body is complete, or has gone: those that were held back may send."""
        for stream_id, stream in list(self._streams.items()):
            if stream.answering or stream.credit < _CREDIT_BYTES:
                continue
            if self._bodies_bytes >= BODIES_BYTES_MAX and stream_id != self._oldest():
                return
            self._give_back(stream_id, stream)

    def _refuse(self, stream_id: int, stream: _Stream) -> None:
        """A body that is too big: an answer before its end, and no more of it."""
        stream.answering = True
        self._release_body(stream)
        self._send(stream_id, stream, Answer(413))
        if stream_id in self._streams:
            self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    def _release_body(self, stream: _Stream) -> bytes:
        body = bytes(stream.body)
        held = self._bodies_bytes
        self._bodies_bytes -= len(body)
        stream.body = bytearray()
        if held >= BODIES_BYTES_MAX:
            self._let_others_go_on()
        return body

    def _forget(self, stream_id: int) -> None:
        """The stream is over, in whatever way."""
        stream = self._streams.pop(stream_id, None)
        self._blocked.pop(stream_id, None)
        self._complete.pop(stream_id, None)
        if stream is None:
            return
        if stream.timer is not None:
            stream.timer.cancel()
        if stream.push is not None:
            push, stream.push = stream.push, None
            push.closed()
        else:
            self._answers_bytes -= stream.out_bytes
        stream.out_bytes = 0
        stream.out.clear()
        self._release_body(stream)

    def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        self._forget(stream_id)
        try:
            self._h2.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:  # it has been closed from the other side
            return

    # --- what goes out ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer what is complete, as long as the client takes answers."""
        while self._complete and not self._paused and self._answers_bytes < ANSWERS_BYTES_MAX:
            if self._transport is None or self._transport.is_closing():
                return
            stream_id = next(iter(self._complete))
            del self._complete[stream_id]
            stream = self._streams[stream_id]
            request = Request(stream.method, stream.target, stream.head, self._release_body(stream), keep_alive=True)
            answer = self._front.answer(request)
            # Held from now on, also while it waits for the disk or a latency.
            self._hold(stream, sum(map(len, answer.body)))
            self._wait(stream_id, stream, answer)

    def _wait(self, stream_id: int, stream: _Stream, answer: Answer) -> None:
        """Come back when the answer may be sent."""
        loop = asyncio.get_running_loop()
        stream.timer = None
        if answer.ready is not None:
            answer.ready.add_done_callback(lambda _: self._wait_on(stream_id, stream, settled(answer)))
        elif answer.delay_s > 0:
            stream.timer = loop.call_later(answer.delay_s, self._wait_on, stream_id, stream, answer._replace(delay_s=0.0))
            stream.push = answer.push  # told if the client goes before
        elif self._streams.get(stream_id) is not stream:
            if answer.push is not None:
                answer.push.closed()
        elif answer.dropped:
            self.drop()
        else:
            self._send(stream_id, stream, answer)

    def _wait_on(self, stream_id: int, stream: _Stream, answer: Answer) -> None:
        self._wait(stream_id, stream, answer)
        self._work()
        self._flush()

    def _hold(self, stream: _Stream, size: int) -> None:
        """So much of the answer is in memory."""
        self._answers_bytes += size - stream.out_bytes
        stream.out_bytes = size

    def _send(self, stream_id: int, stream: _Stream, answer: Answer) -> None:
        body = b"" if stream.method == "HEAD" else b"".join(answer.body)
        ends = answer.push is None and not body
        try:
            self._h2.send_headers(stream_id, _head(answer), end_stream=ends)
        except h2.exceptions.ProtocolError:
            self._forget(stream_id)
            if answer.push is not None:
                answer.push.closed()
            return
        if answer.push is not None:
            stream.push = answer.push
            answer.push.opened(_Frames(self, stream_id, stream))
        elif ends:
            self._forget(stream_id)
        else:
            stream.out.append(memoryview(body))
            self._hold(stream, len(body))
            stream.out_ended = True
            self._send_some(stream_id)

    def push_some(self, stream_id: int, stream: _Stream, data: bytes, *, last: bool) -> None:
        """A piece of a pushed body, or its end."""
        if self._streams.get(stream_id) is not stream:
            return
        if data:
            stream.out.append(memoryview(data))
            stream.out_bytes += len(data)
        stream.out_ended = last
        self._send_some(stream_id)
        self._flush()

    def _send_blocked(self) -> None:
        for stream_id in list(self._blocked):
            self._send_some(stream_id)

    def _send_some(self, stream_id: int) -> None:
        """As much of a stream's answer as the windows and the client let through."""
        stream = self._streams.get(stream_id)
        if stream is None or not (stream.out or stream.out_ended):
            return
        try:
            self._send_frames(stream_id, stream)
        except h2.exceptions.ProtocolError:  # the client has closed the stream, and h2 will not hear of it any more
            self._forget(stream_id)
            return
        if not stream.out and stream.out_ended:
            stream.push = None  # it ended by itself
            self._forget(stream_id)
            return
        if stream.out:
            self._blocked[stream_id] = None
        else:
            self._blocked.pop(stream_id, None)
        self._pace(stream)

    def _send_frames(self, stream_id: int, stream: _Stream) -> None:
        h2_, out = self._h2, stream.out
        if not out:
            h2_.end_stream(stream_id)
            return
        while out and not self._paused:
            room = min(h2_.local_flow_control_window(stream_id), h2_.max_outbound_frame_size)
            if room <= 0:
                return
            piece = out[0]
            if len(piece) > room:
                now, out[0] = piece[:room], piece[room:]
            else:
                now = out.popleft()
            stream.out_bytes -= len(now)
            if stream.push is None:
                self._answers_bytes -= len(now)
            h2_.send_data(stream_id, now.tobytes(), end_stream=stream.out_ended and not out)
            # Piece by piece onto the transport: it says when the client does not read.
            self._flush()

    def _pace(self, stream: _Stream) -> None:
        """Tell a push whether the client takes what it sends."""
        push = stream.push
        if push is None or stream.out_ended:
            return
        full = self._paused or stream.out_bytes > PUSH_BYTES_MAX
        if full and not stream.paused:
            stream.paused = True
            push.paused()
        elif not full and stream.paused:
            stream.paused = False
            push.resumed()


class _Frames:
    """A pushed body on an HTTP/2 stream."""

    def __init__(self, connection: Http2Connection, stream_id: int, stream: _Stream) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._connection.push_some(self._stream_id, self._stream, data, last=False)

    def end(self) -> None:
        self._connection.push_some(self._stream_id, self._stream, b"", last=True)

    def abort(self) -> None:
        self._connection.drop()


def _head(answer: Answer) -> list[tuple[str, str]]:
    """Status and headers, as over HTTP/1.1 but in lower case."""
    first, second = request_ids()
    lines = [(":status", str(answer.status)), ("x-amzn-requestid", first)]
    if answer.second_id:
        lines.append(("x-amz-id-2", second))
    if answer.content_type:
        lines.append(("content-type", answer.content_type))
    lines.extend((name.lower(), value) for name, value in answer.headers)
    if answer.push is None:
        lines.append(("content-length", str(sum(map(len, answer.body)))))
    lines.append(("date", http_date()))
    return lines
