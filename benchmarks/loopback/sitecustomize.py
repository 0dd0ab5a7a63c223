"""How is a Python server kept on this machine that listens on every interface whatever it is told?

Python imports this module at its start wherever this folder is on PYTHONPATH. A bind to the wildcard address becomes one
to loopback, so that a server under measurement is never open to a network. Addresses that were chosen stay as they are.
"""

from __future__ import annotations

import socket
from typing import Any

_bind = socket.socket.bind


def _bind_to_loopback(self: socket.socket, address: Any) -> None:
    if isinstance(address, tuple) and address and address[0] in {"", "0.0.0.0", "::"}:  # the wildcards are what is replaced
        address = ("::1" if self.family == socket.AF_INET6 else "127.0.0.1", *address[1:])
    _bind(self, address)


socket.socket.bind = _bind_to_loopback  # type: ignore[method-assign,assignment]
