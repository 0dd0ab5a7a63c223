"""Where does one HTTP/1.1 request end and the next begin? A parser that is fed bytes and owns no socket.

    reader.feed(bytes)              then, until it answers None:
    reader.next_event()             a Request, CONTINUE ("the client waits for 100 Continue"), or None ("feed me")

Only what a Kinesis client sends is understood: requests with Content-Length or chunked bodies, kept alive and
pipelined. Anything else raises HttpError, after which the connection is to be closed: the stream of bytes has no
known place to go on from.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from streamlet.broker.limits import BODY_BYTES_MAX, HEAD_BYTES_MAX

__all__ = ["CONTINUE", "REASONS", "HttpError", "Request", "RequestReader"]

CONTINUE: Final = "continue"
REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A client repeats most of its header lines in every request: each is parsed once. Dates come in between, and go with all others
# when the table is full.
_KNOWN_LINES_MAX: Final = 1024
_KNOWN_LINE_BYTES_MAX: Final = 200
_known_lines: Final[dict[bytes, tuple[str, str]]] = {}
_LINE_BYTES_MAX: Final = 8192  # of a chunk's size line or a trailer


class HttpError(Exception):
    """The bytes are not a request that this server takes; `status` says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} {REASONS[status]}")
        self.status = status


class Request(NamedTuple):
    """One request. Header names are in lower case; of repeated headers the values are joined by a comma."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    chunked: bool = True  # may the answer come in chunks? HTTP/1.0 does not know them


class _Head(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool
    chunked: bool


class RequestReader:
    """One connection's incoming bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._length: int | None = None  # of the body; None while its end is told by chunks
        self._chunk: int | None = None  # bytes of the chunk that is under way, None between chunks
        self._chunks = bytearray()
        self._in_trailers = False
        self._trailer_bytes = 0
        self._searched = 0  # no end of a head lies before this

    @property
    def in_request(self) -> bool:
        """Has a request begun that is not complete?"""
        return self._head is not None or bool(self._buffer)

    @property
    def waiting_bytes(self) -> int:
        """What has come in and was not read yet."""
        return len(self._buffer)

    def whole(self, data: bytes) -> Request | None:
        """The one request that `data` is, if nothing else has come in and it is nothing else: the common case, without a copy
        into the buffer. None: feed it. Raises HttpError."""
        if self._buffer or self._head is not None:
            return None
        end = data.find(b"\r\n\r\n")
        if not 0 <= end <= HEAD_BYTES_MAX or data.startswith(b"\r\n"):
            return None
        head = _parse_head(data[:end])
        if _body_length(head.headers) != len(data) - end - 4:
            return None
        return Request(head.method, head.target, head.headers, data[end + 4 :], head.keep_alive, head.chunked)

    def feed(self, data: bytes) -> None:
        """Take in what came from the socket."""
        self._buffer += data

    def next_event(self) -> Request | str | None:
        """The next thing to act on, or None until more bytes are fed. Raises HttpError."""
        if self._head is None:
            return self._read_head()
        if self._length is not None:
            return self._read_sized(self._length)
        return self._read_chunked()

    def _read_head(self) -> Request | str | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # an empty line or two before a request are to be ignored
            del buffer[:2]
            self._searched = 0
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(buffer)
            if len(buffer) > HEAD_BYTES_MAX + 3:  # of its end, three bytes may be there
                raise HttpError(431)
            return None
        if end > HEAD_BYTES_MAX:
            raise HttpError(431)
        head = _parse_head(bytes(buffer[:end]))
        del buffer[: end + 4]
        self._searched = 0
        self._head = head
        self._length = _body_length(head.headers)
        if head.headers.get("expect", "").lower() == "100-continue" and not buffer and self._length != 0:
            return CONTINUE
        return self.next_event()

    def _read_sized(self, length: int) -> Request | None:
        buffer = self._buffer
        if len(buffer) < length:
            return None
        with memoryview(buffer) as view:
            body = bytes(view[:length])
        del buffer[:length]
        return self._finish(body)

    def _read_chunked(self) -> Request | None:
        buffer = self._buffer
        while True:
            if self._chunk is None:
                line = self._line()
                if line is None:
                    return None
                if self._in_trailers:
                    if not line:
                        return self._finish(bytes(self._chunks))
                    self._trailer_bytes += len(line)
                    if self._trailer_bytes > HEAD_BYTES_MAX:
                        raise HttpError(431)
                    continue
                size = line.partition(b";")[0].strip()
                if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", size):
                    raise HttpError(400)
                self._chunk = int(size, 16)
                if len(self._chunks) + self._chunk > BODY_BYTES_MAX:
                    raise HttpError(413)
                if self._chunk == 0:
                    self._chunk, self._in_trailers = None, True
                    continue
            if len(buffer) < self._chunk + 2:
                return None
            if buffer[self._chunk : self._chunk + 2] != b"\r\n":
                raise HttpError(400)
            self._chunks += buffer[: self._chunk]
            del buffer[: self._chunk + 2]
            self._chunk = None

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > _LINE_BYTES_MAX or (end < 0 and len(self._buffer) > _LINE_BYTES_MAX + 1):
            raise HttpError(400)
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _finish(self, body: bytes) -> Request:
        head = self._head
        assert head is not None, "a body is only read after its head"
        self._head, self._length, self._in_trailers = None, None, False
        self._chunks = bytearray()
        self._trailer_bytes = 0
        return Request(head.method, head.target, head.headers, body, head.keep_alive, head.chunked)


def _parse_head(raw: bytes) -> _Head:
    first, *lines = raw.split(b"\r\n")
    method, target, modern = _parse_first(first)
    pairs = [known or _parse_line(line) for known, line in zip(map(_known_lines.get, lines), lines, strict=True)]
    headers = dict(pairs)
    if len(headers) < len(pairs):
        headers = {}
        for name, value in pairs:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    keep_alive = modern
    if "connection" in headers:
        options = {option.strip().lower() for option in headers["connection"].split(",")}
        keep_alive = "close" not in options if modern else "keep-alive" in options
    return _Head(method, target, headers, keep_alive, modern)


@lru_cache(maxsize=256)
def _parse_first(line: bytes) -> tuple[str, str, bool]:
    """Method, target, and whether the version is 1.1, not 1.0."""
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not parts[1]:
        raise HttpError(400)
    method, target, version = parts
    if not re.fullmatch(r"HTTP/\d\.\d", version, re.ASCII):
        raise HttpError(400)
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise HttpError(505)
    return method, target, version == "HTTP/1.1"


def _parse_line(line: bytes) -> tuple[str, str]:
    name, colon, value = line.decode("latin-1").partition(":")
    if not colon or not _TOKEN.fullmatch(name) or "\n" in value or "\r" in value or "\0" in value:
        raise HttpError(400)
    parsed = name.lower(), value.strip(" \t")
    if len(line) <= _KNOWN_LINE_BYTES_MAX:
        if len(_known_lines) >= _KNOWN_LINES_MAX:
            _known_lines.clear()
        _known_lines[line] = parsed
    return parsed


def _body_length(headers: dict[str, str]) -> int | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        # Both at once is how requests are smuggled past a proxy; a proper client never sends both.
        if length is not None:
            raise HttpError(400)
        if coding.lower() != "chunked":
            raise HttpError(501)
        return None
    if length is None:
        return 0
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise HttpError(400)
    if int(length) > BODY_BYTES_MAX:
        raise HttpError(413)
    return int(length)
