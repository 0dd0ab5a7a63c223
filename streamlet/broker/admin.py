"""How are faults switched over HTTP? `/_streamlet/faults`, where the broker was told to have it (`--admin`).

    GET    /_streamlet/faults       {"seed": 0, "faults": [{"id": 1, "fault": {"kind": ...}, "seen": 3, "struck": 1, "left": 0}]}
    POST   /_streamlet/faults       one fault or a list of them, all or nothing; answers {"ids": [1]}
    DELETE /_streamlet/faults       all; answers {"removed": 2}
    DELETE /_streamlet/faults/1     one

A page in some browser must not reach it. Against DNS rebinding (a foreign name that leads here) the Host must be a
loopback one, or one that was named. Against requests across sites an Origin must be this very host, Sec-Fetch-Site must
say so where a browser sends it, and a body must be called application/json, which no form can do and which makes other
pages' scripts ask first; that question is refused like everything else, and no answer carries a CORS header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from streamlet.broker.faults import Faults, decode_faults
from streamlet.broker.http import Request
from streamlet.broker.wire import Answer

__all__ = ["Admin", "foreign"]

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(?::\d{1,5})?", re.ASCII)
_PATH: Final = re.compile(r"/_streamlet/faults(?:/(?P<id>[^/?#]*))?", re.ASCII)
_JSON: Final = "application/json"
_BODY_BYTES_MAX: Final = 65_536
_FAULTS_MAX: Final = 1_000  # armed at a time by this way
_HEADERS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


def foreign(request: Request, hosts: Iterable[str] = ()) -> str | None:
    """Why a request may not come from this host's own pages or tools; None if it may. `hosts`: names besides loopback."""
    host = request.headers.get("host", "").lower()
    match = _HOST.fullmatch(host)
    if match is None or match[1] not in _LOOPBACK | {name.lower() for name in hosts}:
        return f"the Host {host!r} is not one of this broker's: ask 127.0.0.1, or start it with --admin-host NAME"
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
        return "the request comes from another site (Origin)"
    if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return "the request comes from another site (Sec-Fetch-Site)"
    return None


class Admin:
    """The page for Front. `hosts` are names, without port, that requests may be sent to besides loopback."""

    def __init__(self, faults: Faults, hosts: Iterable[str] = ()) -> None:
        self._faults = faults
        self._hosts = frozenset(hosts)

    def __call__(self, request: Request) -> Answer | None:
        """The answer to a request below `/_streamlet/faults`; None for all others."""
        match = _PATH.fullmatch(request.target)
        if match is None:
            return None
        why = foreign(request, self._hosts)
        if why is not None:
            return _refuse(403, why)
        wanted = match["id"]
        if request.method == "DELETE":
            return self._remove(wanted)
        if wanted is None and request.method in {"GET", "HEAD"}:
            return _answer(200, {"seed": self._faults.seed, "faults": self._faults.list()})
        if wanted is None and request.method == "POST":
            return self._add(request)
        return _refuse(405, f"{request.method} is not for this path: GET, POST or DELETE /_streamlet/faults, DELETE /_streamlet/faults/ID")

    def _add(self, request: Request) -> Answer:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != _JSON:
            return _refuse(415, f"send Content-Type: {_JSON}")
        if len(request.body) > _BODY_BYTES_MAX:
            return _refuse(413, f"the body is larger than {_BODY_BYTES_MAX} bytes")
        try:
            faults = decode_faults(request.body)
        except ValueError as error:
            return _refuse(400, str(error))
        if len(self._faults.active) + len(faults) > _FAULTS_MAX:
            return _refuse(400, f"more than {_FAULTS_MAX} faults would be armed: DELETE some first")
        return _answer(200, {"ids": [self._faults.add(fault) for fault in faults]})

    def _remove(self, wanted: str | None) -> Answer:
        if wanted is None:
            return _answer(200, {"removed": self._faults.clear()})
        try:
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) <= 18):
                raise KeyError(wanted)
            self._faults.remove(int(wanted))
        except KeyError:
            return _refuse(404, f"no fault has the id {wanted!r}")
        return _answer(200, {"removed": 1})


def _answer(status: int, content: Any) -> Answer:
    return Answer(status, (msgspec.json.encode(content),), _JSON, headers=_HEADERS)


def _refuse(status: int, why: str) -> Answer:
    return _answer(status, {"error": why})
