"""How does an HTTP request become an operation, and what does the answer look like on the wire?

The order of checks is the service's (reference/errors.md section 1), first failure answers: method, empty body,
content type, body, target, authorization, types, constraints, then the operation. A well-formed call of a hot
operation takes a shorter way to the same place: all its checks pass, so their order cannot be seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from streamlet.broker import schema
from streamlet.broker.auth import DEFAULT_ACCOUNT, DEFAULT_REGION, caller
from streamlet.broker.errors import ApiError
from streamlet.broker.eventstream import EVENT_STREAM_TYPE
from streamlet.broker.faults import Faults, InternalFailure, ResetAfter, ResetBefore, Reshard, Throttle
from streamlet.broker.formats import CBOR, CBOR_TYPE, JSON, JSON_TYPE, Format
from streamlet.broker.http import Request
from streamlet.broker.occasions import shards_to_reshard, stream_of, where_of
from streamlet.broker.ops import OPERATIONS, UNSUPPORTED
from streamlet.broker.ops._base import Call, Operation, arn
from streamlet.broker.quotas import RATES, throttle_text
from streamlet.broker.signatures import Verifier
from streamlet.broker.state import State
from streamlet.broker.stream import Stream
from streamlet.broker.subscriptions import EventPush, Subscription

if TYPE_CHECKING:  # not loaded by whoever keeps nothing
    from streamlet.broker.persist.journal import Journal

__all__ = ["Answer", "Front", "Page", "Pipe", "Push", "Watch", "settled"]

_log: Final = logging.getLogger("streamlet.broker")

_SERVICE: Final = "Kinesis_20131202"
_FORMS: Final = {JSON_TYPE: JSON, CBOR_TYPE: CBOR}
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

    The answer is sent when `ready` is done, if there is one, and `delay_s` have passed; see `settled`. Until then, and until a push
    has ended, the requests behind it on an HTTP/1.1 connection wait.
    """

    status: int
    body: tuple[bytes, ...] = ()
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    dropped: bool = False
    second_id: bool = True  # x-amz-id-2 is on every answer but the CORS preflight's
    ready: asyncio.Future[bool] | None = None
    delay_s: float = 0.0
    push: Push | None = None


Page = Callable[[Request], Answer | None]
"""Answers what is not a call of the service: a GET, or a path below `/_streamlet/`. None: not mine."""

Watch = Callable[[Request, str, tuple[bytes, ...], int], None]
"""Is told of a GetRecords that was answered: the request, its iterator, the body, and the time in epoch ms."""


class Front:
    """Answers requests from a state. Synchronous: the server calls it and writes what it says."""

    def __init__(self, state: State, faults: Faults, pages: Sequence[Page] = (), verifier: Verifier | None = None) -> None:
        self._state = state
        self._verifier = verifier
        self._faults = faults
        self._pages = tuple(pages)
        self.watch: Watch | None = None
        self.journal: Journal | None = None  # set where changes are durable

    def add_page(self, page: Page) -> None:
        """Ask one more page, after the others."""
        self._pages = (*self._pages, page)

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

    def call(self, name: str, members: dict[str, Any], account: str | None = None, region: str | None = None) -> Any:
        """One operation from within the process, through the same checks. Raises ApiError.

        With neither account nor region it is the broker's owner who calls: what is made is shared.
        """
        operation = OPERATIONS[name]
        checked = msgspec.convert(schema.check(operation.members, members), operation.request)
        owner = account is None and region is None
        call = Call(self._state, self._faults, account or DEFAULT_ACCOUNT, region or DEFAULT_REGION, self._state.now_ms, owner)
        result = self._recorded(operation, checked, call)
        if self.journal is not None and (operation.stores or operation.mutates):
            # The caller cannot wait as a connection does, so the loop does: such calls are rare.
            self.journal.commit()
            self.journal.check()
        return result

    def _recorded(self, operation: Operation, typed: Any, call: Call) -> Any:
        """What the operation answers; its call is in the journal, if there is one and it changed something."""
        journal = self.journal
        if journal is None or not (operation.mutates or operation.stores):
            return operation.run(call, typed)
        journal.check()
        if operation.stores:
            return operation.run(call, typed)  # the shards themselves tell
        journal.collect()
        serial = call.state.serial
        members = msgspec.json.encode(typed)  # before it runs: what cannot be written down must not happen
        result = operation.run(call, typed)
        journal.command(
            operation.name, members, account=call.account, region=call.region, owner=call.owner, now_ms=call.now_ms, serial=serial
        )
        return result

    def _answer(self, request: Request) -> Answer:
        if request.method != "POST":
            return Answer(403, (_DENIED,))
        content_type = request.headers.get("content-type", "")
        if content_type not in _FORMS:
            content_type = content_type.partition(";")[0].strip()
        service, _, name = request.headers.get("x-amz-target", "").partition(".")
        name = name.partition(".")[0]  # what follows a second dot counts for nothing
        operation = (OPERATIONS.get(name) or UNSUPPORTED.get(name)) if service == _SERVICE else None
        if not request.body:
            return _refusal(
                _FORMS.get(content_type, CBOR), ApiError("SerializationException" if operation else "UnknownOperationException")
            )
        if content_type == _OLD_JSON:
            return _old_envelope(request.body)
        form = _FORMS.get(content_type)
        if form is None:
            return Answer(404, (b"<UnknownOperationException/>\n",)) if service and name else Answer(403, (_DENIED,))
        try:
            answer = self._operate(request, form, operation, name)
        except ApiError as error:
            answer = _refusal(form, error)
        if answer.status >= 400 and self.journal is not None:
            # "It exists already" tells of an operation, too.
            answer = answer._replace(ready=self.journal.ready(changed=False))
        return answer

    def _operate(self, request: Request, form: Format, operation: Operation | None, name: str) -> Answer:
        typed: Any = _fast_decode(operation, request.body) if operation and form.typed else None
        content = None if typed is not None else _decode(form, request.body)
        if operation is None:
            raise ApiError("UnknownOperationException")
        account, region = caller(request)
        if self._verifier is not None:
            self._verifier.check(request, self._state.now_ms)
        if typed is None:
            typed = msgspec.convert(schema.check(operation.members, content), operation.request)
        call = Call(self._state, self._faults, account, region, self._state.now_ms)
        answer = self._under_faults(form, operation, typed, call) if self._faults.active else self._run(form, operation, typed, call)
        if self.watch is not None and name == "GetRecords" and answer.status == 200:
            self.watch(request, typed.shard_iterator, answer.body, call.now_ms)
        return answer

    def _run(self, form: Format, operation: Operation, typed: Any, call: Call) -> Answer:
        quotas = self._state.quotas
        if quotas is not None and operation.name in RATES:
            quotas.control(operation.name, where_of(call, operation.name, typed).stream, call.account, call.region, call.now_ms)
        journal = self.journal
        result = operation.run(call, typed) if journal is None else self._recorded(operation, typed, call)
        ready = None if journal is None else journal.ready(changed=operation.stores or operation.mutates)
        if result is None:
            return Answer(200, (), form.content_type, ready=ready)
        if isinstance(result, Subscription):
            return Answer(200, content_type=EVENT_STREAM_TYPE, push=EventPush(result, form, lambda: self._state.now_ms), ready=ready)
        body = form.from_json(result) if isinstance(result, tuple) else (form.encode(result),)
        return Answer(200, body, form.content_type, ready=ready)

    def _under_faults(self, form: Format, operation: Operation, typed: Any, call: Call) -> Answer:
        """The same call while faults are armed, which strike in the order that faults.py tells."""
        faults, name = self._faults, operation.name
        where = where_of(call, name, typed)
        faults.take_jump(where)
        call = call._replace(now_ms=self._state.now_ms)
        if faults.take(ResetBefore, where) is not None:
            return Answer(0, dropped=True)
        delay_s = faults.take_delay_s(where)
        try:
            if faults.take(Throttle, where) is not None:
                code = "ProvisionedThroughputExceededException" if name in _DATA_PLANE else "LimitExceededException"
                raise ApiError(code, throttle_text(name, call.account, where.stream, where.shard))
            if faults.take(InternalFailure, where) is not None:
                raise ApiError("InternalFailure", status=500)
            answer = (
                self._run_counted(form, operation, typed, call)
                if faults.resharding(where.stream)
                else self._run(form, operation, typed, call)
            )
        except ApiError as error:
            answer = _refusal(form, error)
        else:
            if faults.take(ResetAfter, where) is not None:
                if answer.push is not None:
                    answer.push.closed()
                answer = answer._replace(dropped=True, push=None)
        return answer._replace(delay_s=delay_s) if delay_s else answer

    def _run_counted(self, form: Format, operation: Operation, typed: Any, call: Call) -> Answer:
        """The same for a call that may bring the record at which a stream is resharded."""
        stream = stream_of(call, typed) if operation.name in {"PutRecord", "PutRecords"} else None
        if stream is None:
            return self._run(form, operation, typed, call)
        before = sum(shard.next_counter for shard in stream.shards.values())
        answer = self._run(form, operation, typed, call)
        stored = sum(shard.next_counter for shard in stream.shards.values()) - before
        for reshard in self._faults.take_reshards(stream.name, stored):
            self._reshard(call, stream, reshard)
        return answer

    def _reshard(self, call: Call, stream: Stream, reshard: Reshard) -> None:
        members: dict[str, Any] = {"StreamARN": arn(call, stream)}
        chosen = shards_to_reshard(stream, reshard)
        if not chosen:
            return
        if reshard.action == "split":
            members |= {"ShardToSplit": chosen[0].id, "NewStartingHashKey": str((chosen[0].start + chosen[0].end + 1) // 2)}
        else:
            members |= {"ShardToMerge": chosen[0].id, "AdjacentShardToMerge": chosen[1].id}
        try:
            self.call("SplitShard" if reshard.action == "split" else "MergeShards", members, call.account, call.region)
        except ApiError as error:
            _log.warning("the fault's %s of stream %s did not happen: %s", reshard.action, stream.name, error)


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


def settled(answer: Answer) -> Answer:
    """The answer once `ready` is done: itself, or a 500 if what it tells could not be made durable."""
    if answer.ready is None or answer.ready.result():
        return answer._replace(ready=None)
    if answer.push is not None:
        answer.push.closed()
    refused = _refusal(CBOR if answer.content_type == CBOR_TYPE else JSON, ApiError("InternalFailure", status=500))
    return refused._replace(headers=answer.headers, dropped=answer.dropped, delay_s=answer.delay_s)


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
