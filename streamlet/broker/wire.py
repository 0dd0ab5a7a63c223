"""How does an HTTP request become an operation, and what does the answer look like on the wire?

The order of checks is the service's (reference/errors.md section 1), first failure answers: method, empty body,
content type, body, target, authorization, types, constraints, then the operation. A well-formed call of a hot
operation takes a shorter way to the same place: all its checks pass, so their order cannot be seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from streamlet.broker import schema
from streamlet.broker.auth import DEFAULT_ACCOUNT, DEFAULT_REGION, caller
from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Faults
from streamlet.broker.formats import CBOR, CBOR_TYPE, JSON, JSON_TYPE, Format
from streamlet.broker.http import Request
from streamlet.broker.ops import OPERATIONS
from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.state import State

__all__ = ["Answer", "Front", "Page", "Pipe", "Push"]

_log: Final = logging.getLogger("streamlet.broker")

_SERVICE: Final = "Kinesis_20131202"
_OLD_JSON: Final = "application/json"
_PAGES: Final = "/_streamlet/"
_EXPOSED: Final = "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date"
_DENIED: Final = (
    b"<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"
)
_DATA_PLANE: Final = frozenset({"PutRecord", "PutRecords", "GetShardIterator", "GetRecords"})


class Pipe(Protocol):
    """Where a pushed body goes. Once the client has gone, all methods do nothing."""

    def write(self, data: bytes) -> None:
        """Send a piece. While the push is paused, pieces pile up in memory: do not."""

    def end(self) -> None:
        """The body is complete; the connection goes on."""

    def abort(self) -> None:
        """Break off, as a dying host would."""


class Push(Protocol):
    """A body whose end is not known when it begins: HTTP chunks, or HTTP/2 frames. All calls come on the server's loop."""

    def opened(self, pipe: Pipe) -> None:
        """The head has been sent: pieces may be written from now on."""

    def closed(self) -> None:
        """The client has gone. Not called after the push itself ended."""

    def paused(self) -> None:
        """The client does not read."""

    def resumed(self) -> None:
        """The client reads again."""


class Answer(NamedTuple):
    """What goes back: `body` in pieces, or `push` in its place. `dropped`: the connection breaks instead (a fault).

    The answer is sent when `ready` is done, if there is one, and `delay_s` have passed. Until then, and until a push
    has ended, the requests behind it on an HTTP/1.1 connection wait.
    """

    status: int
    body: tuple[bytes, ...] = ()
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    dropped: bool = False
    second_id: bool = True  # x-amz-id-2 is on every answer but the CORS preflight's
    ready: asyncio.Future[None] | None = None
    delay_s: float = 0.0
    push: Push | None = None


Page = Callable[[Request], Answer | None]
"""Answers what is not a call of the service: a GET, or a path below `/_streamlet/`. None: not mine."""


class Front:
    """Answers requests from a state. Synchronous: the server calls it and writes what it says."""

    def __init__(self, state: State, faults: Faults, pages: Sequence[Page] = ()) -> None:
        self._state = state
        self._faults = faults
        self._pages = tuple(pages)

    def answer(self, request: Request) -> Answer:
        """The answer to any request at all. A bug of ours is a 500 and a logged traceback, never a broken server."""
        origin = "origin" in request.headers
        try:
            for page in self._pages if request.method == "GET" or request.target.startswith(_PAGES) else ():
                # A page decides by itself who may see it: the service's "any origin" is not for it.
                if (found := page(request)) is not None:
                    return found
            if request.method == "OPTIONS" and origin:
                return _preflight(request)
            answer = self._answer(request)
        except Exception:  # noqa: BLE001 - the border: whatever a client sends, the server goes on
            _log.exception("the broker failed on %s", request.headers.get("x-amz-target"))
            answer = _refusal(JSON, ApiError("InternalFailure", status=500))
        if origin:
            answer = answer._replace(headers=(("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", _EXPOSED)))
        return answer

    def call(self, name: str, members: dict[str, Any]) -> Any:
        """One operation from within the process, through the same checks. Raises ApiError."""
        operation = OPERATIONS[name]
        checked = msgspec.convert(schema.check(operation.members, members), operation.request)
        return operation.run(self._call(DEFAULT_ACCOUNT, DEFAULT_REGION), checked)

    def _call(self, account: str, region: str) -> Call:
        return Call(self._state, self._faults, account, region, self._state.now_ms)

    def _answer(self, request: Request) -> Answer:
        if request.method != "POST":
            return Answer(403, (_DENIED,))
        content_type = request.headers.get("content-type", "").partition(";")[0].strip()
        service, _, name = request.headers.get("x-amz-target", "").partition(".")
        operation = OPERATIONS.get(name) if service == _SERVICE else None
        if not request.body:
            form = JSON if content_type == JSON_TYPE else CBOR
            return _refusal(form, ApiError("SerializationException" if operation else "UnknownOperationException"))
        if content_type == _OLD_JSON:
            return _old_envelope(request.body)
        if content_type not in {JSON_TYPE, CBOR_TYPE}:
            return Answer(404, (b"<UnknownOperationException/>\n",)) if service and name else Answer(403, (_DENIED,))
        form = JSON if content_type == JSON_TYPE else CBOR
        try:
            return self._operate(request, form, operation, name)
        except ApiError as error:
            return _refusal(form, error)

    def _operate(self, request: Request, form: Format, operation: Operation | None, name: str) -> Answer:
        typed = _fast_decode(operation, request.body) if operation and form.typed else None
        content = None if typed is not None else _decode(form, request.body)
        if operation is None:
            raise ApiError("UnknownOperationException")
        account, region = caller(request)
        if self._faults.take_reset_before(name):
            return Answer(0, dropped=True)
        if typed is None:
            typed = msgspec.convert(schema.check(operation.members, content), operation.request)
        if self._faults.take_throttle(name):
            raise _throttled(name, getattr(typed, "stream_name", None), account)
        result = operation.run(self._call(account, region), typed)
        if self._faults.take_reset_after(name):
            return Answer(0, dropped=True)
        if result is None:
            return Answer(200, (), form.content_type)
        return Answer(200, result if isinstance(result, tuple) else (form.encode(result),), form.content_type)


def _fast_decode(operation: Operation, body: bytes) -> Any:
    if operation.decode is None:
        return None
    try:
        return operation.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None  # the careful path finds out what is wrong, and says it in the service's words


def _decode(form: Format, body: bytes) -> Any:
    try:
        content = form.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ApiError("SerializationException") from None
    if not isinstance(content, dict | list):
        raise ApiError("SerializationException")
    return content


def _old_envelope(body: bytes) -> Answer:
    """Bodies of type application/json never reach an operation."""
    try:
        _decode(JSON, body)
    except ApiError:
        status, code = 400, "SerializationException"
    else:
        status, code = 404, "UnknownOperationException"
    envelope = b'{"Output":{"__type":"com.amazon.coral.service#%b"},"Version":"1.0"}' % code.encode()
    return Answer(status, (envelope,), _OLD_JSON)


def _refusal(form: Format, error: ApiError) -> Answer:
    body = {"__type": error.code}
    if error.text:
        body[error.key] = error.text
    return Answer(error.status, (form.encode(body),), form.content_type)


def _preflight(request: Request) -> Answer:
    headers = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Max-Age", "172800")]
    for asked, answered in (("headers", "Access-Control-Allow-Headers"), ("method", "Access-Control-Allow-Methods")):
        value = request.headers.get(f"access-control-request-{asked}")
        if value is not None:
            headers.append((answered, value))
    return Answer(200, headers=tuple(headers), second_id=False)


def _throttled(name: str, stream: str | None, account: str) -> ApiError:
    code = "ProvisionedThroughputExceededException" if name in _DATA_PLANE else "LimitExceededException"
    where = f"stream {stream} under account {account}" if stream else f"account {account}"
    return ApiError(code, f"Rate exceeded for {where}.")
