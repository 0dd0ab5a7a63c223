"""May this request see or change anything? The broker has no login, but a browser that visits it visits other pages, too.

What another page could try, and what stands against it:
- Read answers across origins: no CORS header is ever sent, and `Sec-Fetch-Site`, where the browser sends it, must say that
  the request comes from the console itself.
- Make its own name resolve to this machine, and be "the same origin" (DNS rebinding): `Host` must be an address or a
  name that the broker is known by. The port is not compared: a container's may be forwarded, and a name is what an
  attacker owns, not a port.
- Send a form or a script's simple request that changes something: changes need POST, a JSON content type (which no form
  can send), an `Origin` that is this host, and a token that only the console's own page carries and that is made anew
  at each start.
- Show the console within a frame and let a person click: `frame-ancestors 'none'`.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from streamlet.broker.http import Request

__all__ = ["HEADERS", "Guard", "Refused"]

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_LOOPBACK_NAMES: Final = ("localhost", "ip6-localhost")
_OWN_SITES: Final = frozenset({"same-origin", "none"})


class Refused(Exception):
    """The request gets nothing. The text says what to do about it."""


class Guard:
    """The checks of one broker that listens on the first of `hosts`, and is known by all of them."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.token = os.urandom(24).hex()
        self._hosts = {host.lower().strip("[]") for host in hosts}
        self._all = not self._hosts.isdisjoint({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to

    def check_host(self, request: Request) -> None:
        """Raises Refused where the client was led here by a name that is not the broker's."""
        name = _name_of(request.headers.get("host", ""))
        if name is None or not self._is_ours(name):
            raise Refused(
                "The console answers under an address that the broker listens on, or as localhost: open http://localhost:PORT/, "
                "or start the broker with --admin-host NAME for a name of your own."
            )

    def check_read(self, request: Request) -> None:
        """Raises Refused for a request that another page made."""
        self.check_host(request)
        if request.headers.get("sec-fetch-site", "same-origin") not in _OWN_SITES:
            raise Refused("This answers the console's own page alone.")

    def check_change(self, request: Request) -> None:
        """Raises Refused for anything but a call of the console's page as this broker has sent it."""
        self.check_read(request)
        origin = request.headers.get("origin")
        if origin is not None and not _same(origin, request.headers["host"]):
            raise Refused("This answers the console's own page alone.")
        if request.method != "POST" or request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused("Calls of the console are POST with a body of type application/json.")
        if not hmac.compare_digest(request.headers.get("x-streamlet-token", "").encode(), self.token.encode()):
            raise Refused("The broker was started anew since this page was loaded: reload the page.")

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts or name in _LOOPBACK_NAMES or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._all or address.is_loopback


def _name_of(host: str) -> str | None:
    """The name or address of a Host header, without port and brackets; None for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is no port
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname.rstrip(".")


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == host.lower()
