"""How does an HTTP request become an operation, and what does the answer look like on the wire?

The order of checks is the service's (reference/errors.md section 1), first failure answers: method, empty body,
content type, body, target, authorization, types, constraints, then the operation. A well-formed call of a hot
operation takes a shorter way to the same place: all its checks pass, so their order cannot be seen.

A `_Format` is the seam for CBOR: what a content type's bodies are read and written with. Today the CBOR one can only
say errors, which is what the service answers in it for an empty body of an unknown content type.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from streamlet.broker import schema
from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Faults
from streamlet.broker.http import Request
from streamlet.broker.ops import OPERATIONS
from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.state import State

__all__ = ["DEFAULT_ACCOUNT", "DEFAULT_REGION", "Answer", "Front"]

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"

_log: Final = logging.getLogger("streamlet.broker")

_SERVICE: Final = "Kinesis_20131202"
_JSON: Final = "application/x-amz-json-1.1"
_CBOR: Final = "application/x-amz-cbor-1.1"
_OLD_JSON: Final = "application/json"
_EXPOSED: Final = "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date"
_DENIED: Final = (
    b"<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"
)
_SCOPE: Final = re.compile(r"Credential=([^/\s,]+)/[^/\s,]*/([^/\s,]+)/")
_DATA_PLANE: Final = frozenset({"PutRecord", "PutRecords", "GetShardIterator", "GetRecords"})
_CREDENTIAL_PARTS: Final = ("Credential", "Signature", "SignedHeaders")
_QUERY_PARTS: Final = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")


class Answer(NamedTuple):
    """What goes back: `body` in pieces; `dropped` means that the connection breaks instead (a fault)."""

    status: int
    body: tuple[bytes, ...] = ()
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    dropped: bool = False
    second_id: bool = True  # x-amz-id-2 is on every answer but the CORS preflight's


class _Format(NamedTuple):
    content_type: str
    decode: Callable[[bytes], Any]
    encode: Callable[[dict[str, Any]], bytes]
    typed: bool  # may an operation's own typed decode read the body?


def _cbor_texts(value: dict[str, Any]) -> bytes:
    """A CBOR map of short texts: all that an error body is made of."""
    assert len(value) < 24, "the count must fit into the map's first byte"
    pieces = [bytes([0xA0 + len(value)])]
    for item in (text.encode() for pair in value.items() for text in pair):
        # Major type 3 with the length in the byte itself, or in the two that follow.
        pieces += [bytes([0x60 + len(item)]) if len(item) < 24 else b"\x79" + min(len(item), 0xFFFF).to_bytes(2, "big"), item[:0xFFFF]]
    return b"".join(pieces)


def _cbor_unread(_body: bytes) -> Any:
    raise ApiError("SerializationException", f"This broker does not read {_CBOR} yet: set AWS_CBOR_DISABLE=true.", key="Message")


_JSON_FORMAT: Final = _Format(_JSON, msgspec.json.decode, msgspec.json.encode, typed=True)
_CBOR_FORMAT: Final = _Format(_CBOR, _cbor_unread, _cbor_texts, typed=False)


class Front:
    """Answers requests from a state. Synchronous: the server calls it and writes what it says."""

    def __init__(self, state: State, faults: Faults) -> None:
        self._state = state
        self._faults = faults

    def answer(self, request: Request) -> Answer:
        """The answer to any request at all. A bug of ours is a 500 and a logged traceback, never a broken server."""
        origin = "origin" in request.headers
        try:
            if request.method == "OPTIONS" and origin:
                return _preflight(request)
            answer = self._answer(request)
        except Exception:  # noqa: BLE001 - the border: whatever a client sends, the server goes on
            _log.exception("the broker failed on %s", request.headers.get("x-amz-target"))
            answer = _refusal(_JSON_FORMAT, ApiError("InternalFailure", status=500))
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
            form = _JSON_FORMAT if content_type == _JSON else _CBOR_FORMAT
            return _refusal(form, ApiError("SerializationException" if operation else "UnknownOperationException"))
        if content_type == _OLD_JSON:
            return _old_envelope(request.body)
        if content_type not in {_JSON, _CBOR}:
            return Answer(404, (b"<UnknownOperationException/>\n",)) if service and name else Answer(403, (_DENIED,))
        form = _JSON_FORMAT if content_type == _JSON else _CBOR_FORMAT
        try:
            return self._operate(request, form, operation, name)
        except ApiError as error:
            return _refusal(form, error)

    def _operate(self, request: Request, form: _Format, operation: Operation | None, name: str) -> Answer:
        typed = _fast_decode(operation, request.body) if operation and form.typed else None
        content = None if typed is not None else _decode(form, request.body)
        if operation is None:
            raise ApiError("UnknownOperationException")
        account, region = _caller(request)
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


def _decode(form: _Format, body: bytes) -> Any:
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
        _decode(_JSON_FORMAT, body)
    except ApiError:
        status, code = 400, "SerializationException"
    else:
        status, code = 404, "UnknownOperationException"
    envelope = b'{"Output":{"__type":"com.amazon.coral.service#%b"},"Version":"1.0"}' % code.encode()
    return Answer(status, (envelope,), _OLD_JSON)


def _refusal(form: _Format, error: ApiError) -> Answer:
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


def _caller(request: Request) -> tuple[str, str]:
    """Account and region from the credential scope, once the authorization is complete. Signatures are not verified.

    An access key of twelve digits is an account id, so that a test can play two accounts (as LocalStack does).
    """
    header = request.headers.get("authorization")
    if header is None and "?" not in request.target:
        raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
    query = dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True)) if "?" in request.target else {}
    presigned = "X-Amz-Algorithm" in query
    if header is not None:
        if presigned:
            raise ApiError(
                "InvalidSignatureException", "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
            )
        _check_header(header, request.headers)
        scope = _SCOPE.search(header)
    else:
        if not presigned:
            raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
        missing = "".join(f"AWS query-string parameters must include '{part}'. " for part in _QUERY_PARTS if not query.get(part))
        if missing:
            raise ApiError("IncompleteSignatureException", f"{missing}Re-examine the query-string parameters.")
        scope = _SCOPE.search(f"Credential={query['X-Amz-Credential']}")
    if scope is None:
        return DEFAULT_ACCOUNT, DEFAULT_REGION
    key, region = scope.groups()
    return key if len(key) == 12 and key.isascii() and key.isdigit() else DEFAULT_ACCOUNT, region


def _check_header(header: str, headers: dict[str, str]) -> None:
    pieces = re.split(r"[, ]+", header)[1:]
    parts = dict(piece.split("=", 1) for piece in pieces if "=" in piece)
    missing = "".join(f"Authorization header requires '{part}' parameter. " for part in _CREDENTIAL_PARTS if not parts.get(part))
    if "x-amz-date" not in headers and "date" not in headers:
        missing += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
    if missing:
        raise ApiError("IncompleteSignatureException", f"{missing}Authorization={header}")
