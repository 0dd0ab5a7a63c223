"""How does a request get there? One aiohttp session behind a Protocol of one method, so that a simulation can put its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = ["AiohttpTransport", "Transport"]

CONNECT_S: Final = 5.0
# A GetRecords answer is at most 10 MiB; a connection that brings nothing for this long is dead.
READ_S: Final = 30.0
TOTAL_S: Final = 90.0
CONNECTIONS_MAX: Final = 512
READ_BUFFER_BYTES: Final = 1 << 20


class Transport(Protocol):
    """Sends a POST and brings the answer."""

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """(status, body). Raises OSError (of which TimeoutError is one) when no complete answer came, and nothing else."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class AiohttpTransport:
    """Keeps connections open; bounds every wait. `ca_bundle` is a file of certificates to trust instead of the system's."""

    def __init__(self, *, ca_bundle: str | None = None) -> None:
        self._ca_bundle = ca_bundle
        self._session: ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """POST `body`."""
        import aiohttp

        session = self._session or self._open()
        # A body over 1 MiB makes aiohttp warn that it "might lock the event loop". It is in memory already, and the
        # BytesIO that the warning proposes costs a thread hop per 64 KiB. The filter covers this one synchronous line.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            payload = aiohttp.BytesPayload(body)
        try:
            async with session.post(url, data=payload, headers=headers, proxy=self._proxy(url), allow_redirects=False) as response:
                return response.status, await response.read()
        except aiohttp.ClientError as error:
            if isinstance(error, OSError):
                raise
            raise ConnectionError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> ClientSession:
        import aiohttp

        options: dict[str, Any] = {}
        if self._ca_bundle:
            import ssl

            options["ssl"] = ssl.create_default_context(cafile=self._ca_bundle)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, **options),
            timeout=aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S, sock_read=READ_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "streamlet"},
            skip_auto_headers=("Accept", "Accept-Encoding"),
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self._session

    def _proxy(self, url: str) -> str | None:
        # Looked up once per origin: with trust_env aiohttp would go to a thread for .netrc at every request.
        parts = urlsplit(url)
        if parts.netloc not in self._proxies:
            bypass = bool(proxy_bypass(parts.hostname or ""))
            self._proxies[parts.netloc] = None if bypass else getproxies().get(parts.scheme)
        return self._proxies[parts.netloc]
