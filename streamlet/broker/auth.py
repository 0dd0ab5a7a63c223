"""Whose call is it? Account and region from the credential scope, once the authorization is complete.

Signatures are not verified here (signatures.py does, when asked), but both read the same credential where there are two.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from streamlet.broker.errors import ApiError
from streamlet.broker.http import Request

__all__ = ["DEFAULT_ACCOUNT", "DEFAULT_REGION", "caller"]

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"

# A region is bounded, because it goes into iterators, which are.
_SCOPE: Final = re.compile(r"Credential=([^/\s,]+)/[^/\s,]*/([^/\s,]{1,64})/")
# What SDKs send, at one glance: with it nothing below can be missing.
_CREDENTIAL: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/\s,=]+)/[^/\s,=]+/([^/\s,=]{1,64})/[^\s,=]+")
_REST: Final = re.compile(r" ?SignedHeaders=[a-z0-9:;-]+, ?Signature=[0-9a-f]+")
_CREDENTIAL_PARTS: Final = ("Credential", "Signature", "SignedHeaders")
_QUERY_PARTS: Final = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")


def caller(request: Request) -> tuple[str, str]:
    """Account and region of a call; its signature is signatures.py's. Raises ApiError for an authorization that is incomplete.

    An access key of twelve digits is an account id, so that a test can play two accounts (as LocalStack does).
    """
    header = request.headers.get("authorization")
    if header is not None and "x-amz-date" in request.headers and "?" not in request.target:
        credential, _, rest = header.partition(",")
        if _REST.fullmatch(rest) and (found := _known(credential)) is not None:
            return found
    if header is None and "?" not in request.target:
        raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
    query = dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True)) if "?" in request.target else {}
    presigned = "X-Amz-Algorithm" in query
    if header is not None:
        if presigned:
            raise ApiError(
                "InvalidSignatureException", "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
            )
        scope = _SCOPE.match(f"Credential={_credential(header, request.headers)}")
    else:
        if not presigned:
            raise ApiError("MissingAuthenticationTokenException", "Missing Authentication Token")
        missing = "".join(f"AWS query-string parameters must include '{part}'. " for part in _QUERY_PARTS if not query.get(part))
        if missing:
            raise ApiError("IncompleteSignatureException", f"{missing}Re-examine the query-string parameters.")
        scope = _SCOPE.match(f"Credential={query['X-Amz-Credential']}")
    if scope is None:
        return DEFAULT_ACCOUNT, DEFAULT_REGION
    return _account(scope[1]), scope[2]


@lru_cache(maxsize=256)
def _known(credential: str) -> tuple[str, str] | None:
    """Account and region of a credential as SDKs write it: the same for all calls of a client for a day."""
    scope = _CREDENTIAL.fullmatch(credential)
    return None if scope is None else (_account(scope[1]), scope[2])


def _account(key: str) -> str:
    return key if len(key) == 12 and key.isascii() and key.isdigit() else DEFAULT_ACCOUNT


def _credential(header: str, headers: dict[str, str]) -> str:
    pieces = re.split(r"[, ]+", header)[1:]
    parts = dict(piece.split("=", 1) for piece in pieces if "=" in piece)
    missing = "".join(f"Authorization header requires '{part}' parameter. " for part in _CREDENTIAL_PARTS if not parts.get(part))
    if "x-amz-date" not in headers and "date" not in headers:
        missing += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
    if missing:
        raise ApiError("IncompleteSignatureException", f"{missing}Authorization={header}")
    return parts["Credential"]
