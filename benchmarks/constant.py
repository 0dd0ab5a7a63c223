"""What is the least that an HTTP server in Python costs? It answers every request with one constant PutRecord answer.

It finds where a request ends and looks at nothing else. Run as `python -m benchmarks.constant`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

__all__ = ["main"]

_BODY: Final = b'{"ShardId":"shardId-000000000000","SequenceNumber":"49590338271490256608559692538361571095921575989136588898"}'
_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nx-amzn-RequestId: 00000000-0000-0000-0000-000000000000\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class _Constant(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while data:
            end = data.find(b"\r\n\r\n")
            at = data.find(b"Content-Length: ", 0, end)
            if end < 0 or at < 0:
                break
            total = end + 4 + int(data[at + 16 : data.find(b"\r", at)])
            if len(data) < total:
                break
            self._transport.write(_ANSWER)
            data = data[total:]
        self._buffer = data


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Constant, "127.0.0.1", 0)
    sys.stdout.write(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
