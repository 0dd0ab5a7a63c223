"""What does Lambda's own client ask, and what is it answered? The Runtime API of one sandbox, on a port of its own.

The client (awslambdaric) takes host and port from AWS_LAMBDA_RUNTIME_API and no path, so sandboxes are told apart by the port.

    GET  /2018-06-01/runtime/invocation/next             waits until there is an event; the event, and headers about it
    POST /2018-06-01/runtime/invocation/{id}/response    what the handler returned: 202
    POST /2018-06-01/runtime/invocation/{id}/error       what it raised: 202
    POST /2018-06-01/runtime/init/error                  why it cannot begin: 202; the client then exits

An answer for another invocation than the one in hand is refused with 400. (reference: Lambda developer guide, runtimes-api)
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

__all__ = ["RESPONSE_BYTES_MAX", "Raised", "RuntimeApi", "Slot", "Work"]

RESPONSE_BYTES_MAX: Final = 6_291_556  # as Lambda's own message says it
# An error report is a message and a stack; the client itself cuts neither.
ERROR_CHARS_MAX: Final = 65_536
# It also puts both into a header (for X-Ray), if that stays below a megabyte.
HEADER_BYTES_MAX: Final = 2 * 1024 * 1024
_ANSWER: Final = re.compile(r"/2018-06-01/runtime/invocation/([^/]+)/(response|error)")
_BYTES_READ_MAX: Final = 64 * 1024 * 1024


class Work(msgspec.Struct, frozen=True):
    """One invocation, as the client is told of it. `deadline_ms` is epoch milliseconds."""

    request_id: str
    event: bytes
    deadline_ms: int
    function_arn: str


class Raised(msgspec.Struct, frozen=True):
    """An error report of the client. What is missing in it counts as empty; `report` is the whole of it, `error_message` at most
    ERROR_CHARS_MAX characters."""

    error_type: str
    error_message: str
    report: dict[str, Any]


class Slot(Protocol):
    """Who stands behind the server: one sandbox."""

    async def next(self) -> Work:
        """The client is ready. Waits for the next invocation."""
        ...

    def responded(self, request_id: str, body: bytes | None) -> bool:
        """What the handler returned, or None for more than is allowed. False: there is no such invocation."""
        ...

    def raised(self, request_id: str, raised: Raised) -> bool:
        """The handler failed. False: there is no such invocation."""
        ...

    def init_failed(self, raised: Raised) -> None:
        """The function cannot be imported."""
        ...


class RuntimeApi:
    """The server of one sandbox."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        # A client that has gone must not stay in `next`: its event would go nowhere.
        self._server = web.Server(self._answer, handler_cancellation=True, access_log=None, max_field_size=HEADER_BYTES_MAX)
        self._listener: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen. Returns host:port."""
        self._listener = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def close(self) -> None:
        """Stop listening and cut what is open. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            await self._server.shutdown(timeout=0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/2018-06-01/runtime/invocation/next":
                return _event(await self._slot.next())
            case "POST", "/2018-06-01/runtime/init/error":
                self._slot.init_failed(_report(await _body(request, RESPONSE_BYTES_MAX), request))
                return _said(202, {"status": "OK"})
            case "POST", path if (answer := _ANSWER.fullmatch(path)) is not None:
                request_id, kind = answer.groups()
                if kind == "error":
                    known = self._slot.raised(request_id, _report(await _body(request, RESPONSE_BYTES_MAX), request))
                else:
                    body = await _body(request, RESPONSE_BYTES_MAX)
                    known = self._slot.responded(request_id, body)
                    if known and body is None:
                        return _said(413, {"errorMessage": _TOO_LARGE, "errorType": "RequestEntityTooLarge"})
                if known:
                    return _said(202, {"status": "OK"})
                return _said(400, {"errorMessage": "Invalid request ID", "errorType": "InvalidRequestID"})
            case _:
                return _said(404, {"errorMessage": f"{request.method} {request.path}: no such call", "errorType": "NotFound"})


_TOO_LARGE: Final = f"Exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."


async def _body(request: web.BaseRequest, limit: int) -> bytes | None:
    """None if it is longer than `limit`; then it is read to its end all the same (within reason), so that the answer is heard."""
    kept, total = bytearray(), 0
    async for chunk in request.content.iter_chunked(65_536):
        total += len(chunk)
        if total <= limit:
            kept += chunk
        elif total > _BYTES_READ_MAX:
            break
    return bytes(kept) if total <= limit else None


def _report(body: bytes | None, request: web.BaseRequest) -> Raised:
    kind = request.headers.get("Lambda-Runtime-Function-Error-Type", "")
    if body is None:
        return Raised(kind or "Unknown", "the error report is too long to be shown", {})
    try:
        # Half a surrogate pair can be written in JSON, and in a Python message, but in no text that we hand on.
        report = msgspec.json.decode(json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        report = None
    fields = report if isinstance(report, dict) else {}
    message = str(fields.get("errorMessage") or "")
    return Raised(str(fields.get("errorType") or kind or "Unknown"), message[:ERROR_CHARS_MAX], fields)


def _event(work: Work) -> web.Response:
    return web.Response(
        body=work.event,
        content_type="application/json",
        headers={
            "Lambda-Runtime-Aws-Request-Id": work.request_id,
            "Lambda-Runtime-Deadline-Ms": str(work.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": work.function_arn,
            "Lambda-Runtime-Trace-Id": _trace_id(work),
        },
    )


def _trace_id(work: Work) -> str:
    unique = work.request_id.replace("-", "")
    return f"Root=1-{work.deadline_ms // 1000:08x}-{unique[:24]};Parent={unique[-16:]};Sampled=0"


def _said(status: int, body: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
