"""Which path is answered by what? The console's page, its files and its calls.

    GET  /                                  the page
    GET  /_streamlet/console/NAME           its files
    GET  /_streamlet/console/api/NAME       overview, stream, faults, events
    POST /_streamlet/console/api/NAME       operation, records, record, faults/add, faults/remove, faults/clear

Calls take a JSON object and answer one; what was wrong with it is said in {"error", "code"} with a status of 4xx. What
a client sends can be anything: it is converted to a type before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from streamlet.broker.console.browse import Query, browse, record_at
from streamlet.broker.console.guard import HEADERS, Guard, Refused
from streamlet.broker.console.meter import Meter
from streamlet.broker.console.payloads import FORMATS, show
from streamlet.broker.console.ticks import Listener, Ticks
from streamlet.broker.console.views import Views
from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Faults, decode_faults
from streamlet.broker.http import Request
from streamlet.broker.state import State
from streamlet.broker.stream import Stream
from streamlet.broker.wire import Answer

__all__ = ["Console"]

_ROOT: Final = "/_streamlet/console/"
_API: Final = f"{_ROOT}api/"
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_FILES: Final = ("index.html", "console.js", "console.css", "icon.svg", "htm-preact.js", "uplot.js", "uplot.css", "boot.js")
_TOKEN_MARK: Final = b"%TOKEN%"
_OPERATIONS: Final = frozenset(
    {"CreateStream", "DeleteStream", "SplitShard", "MergeShards", "UpdateShardCount", "PutRecord", "DeregisterStreamConsumer"}
)
_FAULTS_MAX: Final = 1_000
_FAULT_BYTES_MAX: Final = 64 * 1024
_SCHEMA_CHARS_MAX: Final = 64 * 1024
_CALL_BYTES_MAX: Final = 256 * 1024
_PUT_BYTES_MAX: Final = 15 * 1024 * 1024  # 10 MiB of data as base64, and its key


class _Operation(msgspec.Struct, forbid_unknown_fields=True):
    operation: str
    members: dict[str, Any]
    account: str = ""
    region: str = ""


class _Record(msgspec.Struct, forbid_unknown_fields=True, rename={"wanted": "as"}):
    stream: str
    shard: int
    position: int
    account: str = ""
    region: str = ""
    wanted: str = "auto"
    schema: str = ""


class _Removal(msgspec.Struct, forbid_unknown_fields=True):
    id: int


class _Wrong(Exception):
    """What was asked cannot be done. The text is shown to the person."""

    def __init__(self, text: str, *, code: str = "Wrong", status: int = 400) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


class Console:
    """Answers requests for the console; one of the front's pages.

    `hosts`: what the broker listens on, and further names that it is known by. `call` runs an operation by name, members,
    account and region (both None: the broker's own). `facts` are what the broker says of itself, such as its version.
    `clock` answers epoch seconds.
    """

    def __init__(
        self,
        state: State,
        faults: Faults,
        call: Callable[[str, dict[str, Any], str | None, str | None], Any],
        *,
        hosts: Sequence[str],
        clock: Callable[[], float],
        facts: Mapping[str, Any],
    ) -> None:
        self.meter = Meter(state)
        self._state = state
        self._faults = faults
        self._call = call
        self._guard = Guard(hosts)
        self._views = Views(state, faults, self.meter, clock, facts)
        self._ticks = Ticks(self._views.tick)
        self._files: dict[str, Answer] = {}
        self._reads: dict[str, Callable[[Request], Any]] = {
            "overview": lambda _: self._views.overview(),
            "stream": self._stream,
            "faults": lambda _: self._views.faults(),
        }
        self._changes: dict[str, tuple[int, Callable[[bytes], Any]]] = {
            "operation": (_PUT_BYTES_MAX, self._operation),
            "records": (_CALL_BYTES_MAX, self._records),
            "record": (_CALL_BYTES_MAX, self._record),
            "faults/add": (_FAULT_BYTES_MAX, self._add_fault),
            "faults/remove": (_FAULT_BYTES_MAX, self._remove_fault),
            "faults/clear": (_FAULT_BYTES_MAX, self._clear_faults),
        }

    def __call__(self, request: Request) -> Answer | None:
        """The answer to what is the console's; None for everything else."""
        path = request.target.partition("?")[0]
        if path != "/" and not path.startswith(_ROOT):
            return None
        if path == "/" and request.method != "GET":
            return None
        try:
            if path.startswith(_API):
                return self._api(request, path.removeprefix(_API))
            self._guard.check_host(request)
            return self._file("index.html" if path == "/" else path.removeprefix(_ROOT))
        except Refused as error:
            return _answer(403, {"error": str(error), "code": "Refused"})
        except _Wrong as error:
            return _answer(error.status, {"error": str(error), "code": error.code})
        except ApiError as error:
            return _answer(400, {"error": error.text or error.code, "code": error.code})

    def _file(self, name: str) -> Answer:
        if name not in _FILES:
            raise _Wrong("There is nothing here.", code="NotFound", status=404)
        if name not in self._files:
            content = (files("streamlet.broker.console") / "static" / name).read_bytes()
            if name == "index.html":
                content = content.replace(_TOKEN_MARK, self._guard.token.encode())
            self._files[name] = Answer(200, (content,), _TYPES[name.rpartition(".")[2]], HEADERS)
        return self._files[name]

    def _api(self, request: Request, name: str) -> Answer:
        if request.method == "GET":
            self._guard.check_read(request)
            if name == "events":
                if self._ticks.full:
                    raise _Wrong("Too many consoles are open: close one.")
                return Answer(200, (), "text/event-stream", HEADERS, push=Listener(self._ticks))
            read = self._reads.get(name)
            if read is None:
                raise _Wrong("There is no such call.", code="NotFound", status=404)
            return _answer(200, read(request))
        self._guard.check_change(request)
        if name not in self._changes:
            raise _Wrong("There is no such call.", code="NotFound", status=404)
        bytes_max, change = self._changes[name]
        if len(request.body) > bytes_max:
            raise _Wrong(f"The body is larger than {bytes_max} bytes.", code="TooLarge", status=413)
        return _answer(200, change(request.body))

    def _find(self, account: str, region: str, name: str) -> Stream:
        stream = self._state.find(account, region, name, self._state.now_ms)
        if stream is None or (stream.account, stream.region) != (account, region):
            raise _Wrong(f"There is no stream {name[:128]} (any more).", code="NotFound", status=404)
        return stream

    def _stream(self, request: Request) -> dict[str, Any]:
        try:
            wanted = dict(parse_qsl(request.target.partition("?")[2], max_num_fields=8))
        except ValueError:
            raise _Wrong("A stream is named by name, account and region.") from None
        return self._views.stream(self._find(wanted.get("account", ""), wanted.get("region", ""), wanted.get("name", "")))

    def _operation(self, body: bytes) -> dict[str, Any]:
        asked = _convert(body, _Operation)
        if asked.operation not in _OPERATIONS:
            raise _Wrong(f"The console does not call {asked.operation[:64]}.")
        # Both None: the broker's owner calls, who finds shared streams and whose new streams are shared.
        result = self._call(asked.operation, asked.members, asked.account or None, asked.region or None)
        return {"result": msgspec.Raw(b"".join(result)) if isinstance(result, tuple) else result}

    def _records(self, body: bytes) -> dict[str, Any]:
        query = _convert(body, Query)
        if not 1 <= query.limit <= 100 or len(query.search) > 256 or len(query.shards) > 1_000:
            raise _Wrong("limit is 1 to 100, search up to 256 characters, shards up to 1,000.")
        if len(query.cursor or ()) > 1_000 or abs(query.from_ms or 0) > 2**53:
            raise _Wrong("The cursor or the time is not one of ours.")
        return browse(self._find(query.account, query.region, query.stream), query, self._state.now_ms)

    def _record(self, body: bytes) -> dict[str, Any]:
        asked = _convert(body, _Record)
        if asked.wanted not in FORMATS or len(asked.schema) > _SCHEMA_CHARS_MAX:
            raise _Wrong(f"as is one of {', '.join(FORMATS)}, and a schema up to {_SCHEMA_CHARS_MAX} characters.")
        shard = self._find(asked.account, asked.region, asked.stream).shards.get(asked.shard)
        found = None if shard is None else record_at(shard, asked.position, self._state.now_ms)
        if found is None:
            raise _Wrong("This record has expired, or its stream was made anew.", code="NotFound", status=404)
        row, data = found
        return {"record": row, "view": show(data, asked.wanted, asked.schema)}

    def _add_fault(self, body: bytes) -> dict[str, Any]:
        if len(self._faults.active) >= _FAULTS_MAX:
            raise _Wrong(f"More than {_FAULTS_MAX} faults are armed: remove some.")
        try:
            found = decode_faults(body)
            if len(found) != 1:
                raise _Wrong("One fault at a time.")
            return {"id": self._faults.add(found[0])}
        except ValueError as error:
            raise _Wrong(str(error).removeprefix("fault 1 ")) from None

    def _remove_fault(self, body: bytes) -> dict[str, Any]:
        try:
            self._faults.remove(_convert(body, _Removal).id)
        except KeyError:
            raise _Wrong("This fault is not there any more.", code="NotFound", status=404) from None
        return {}

    def _clear_faults(self, _body: bytes) -> dict[str, Any]:
        return {"removed": self._faults.clear()}


def _convert(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _Wrong(f"The body is not what this call takes: {error}"[:300]) from None


def _answer(status: int, content: Any) -> Answer:
    return Answer(status, (msgspec.json.encode(content),), "application/json", HEADERS)
