"""How is a request signed? AWS Signature Version 4 for one service, one host and one path, with everything fixed prepared.

Per request remain: the payload's SHA-256, the date (once a second), and two short hashes. The signing key is derived once a
day and secret. (AWS General Reference, "Signing AWS API requests"; the tests hold it against botocore's signer.)
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

__all__ = ["JSON_TYPE", "Credentials", "Signer"]

JSON_TYPE: Final = "application/x-amz-json-1.1"
_SERVICE: Final = "kinesis"


class Credentials(msgspec.Struct, frozen=True):
    """An access key, its secret, and the session token of temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key[:4]}…, secret_key=…)"


class Signer:
    """Makes the headers of a request to `url` (no query)."""

    def __init__(self, url: str, region: str) -> None:
        parts = urlsplit(url)
        default_port = {"https": 443, "http": 80}.get(parts.scheme)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        self.host: Final = host if parts.port in {None, default_port} else f"{host}:{parts.port}"
        path = quote(parts.path or "/", safe="/~")
        self._head = f"POST\n{path}\n\ncontent-type:{JSON_TYPE}\nhost:{self.host}\nx-amz-date:"
        self._region = region
        self._second = -1
        self._date = ""
        self._key_of: tuple[str, str] = ("", "")
        self._key = b""

    def headers(self, target: str, body: bytes, credentials: Credentials, now_s: float) -> dict[str, str]:
        """All headers of the request; `target` is the value of X-Amz-Target."""
        if int(now_s) != self._second:
            self._second = int(now_s)
            self._date = datetime.fromtimestamp(self._second, UTC).strftime("%Y%m%dT%H%M%SZ")
        date, token = self._date, credentials.token
        scope = f"{date[:8]}/{self._region}/{_SERVICE}/aws4_request"
        if token:
            signed = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
            lines = f"{date}\nx-amz-security-token:{token}\nx-amz-target:{target}"
        else:
            signed = "content-type;host;x-amz-date;x-amz-target"
            lines = f"{date}\nx-amz-target:{target}"
        canonical = f"{self._head}{lines}\n\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._signing_key(credentials.secret_key, date[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
        headers = {
            "Host": self.host,
            "Content-Type": JSON_TYPE,
            "Accept-Encoding": "identity",
            "X-Amz-Date": date,
            "X-Amz-Target": target,
            "Authorization": (
                f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
            ),
        }
        if token:
            headers["X-Amz-Security-Token"] = token
        return headers

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key_of != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, _SERVICE, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._key, self._key_of = key, (secret, day)
        return self._key
