"""Is a call signed with the secret that belongs to its access key? Signature version 4, as header or as query.

The wordings are those that AWS services share; for Kinesis they were not recorded (reference/errors.md section 3).
A request's session token needs no rule of its own: it is a header or a query parameter that is signed like the others.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

from streamlet.broker.errors import ApiError
from streamlet.broker.http import Request
from streamlet.errors import ConfigurationError

__all__ = ["Verifier", "read_secrets"]

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SKEW_S: Final = 300
_EXPIRES_S_MAX: Final = 7 * 24 * 3600
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_SIGNATURE: Final = "X-Amz-Signature"


class _Claim(NamedTuple):
    """What a request says about its signature."""

    credential: str
    signed: str
    signature: str
    stamp: str
    expires_s: int | None  # presigned: how long it may be used


def read_secrets(path: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Access keys and secrets of all profiles of an AWS credentials file; without a path, the environment's one.

    Raises ConfigurationError.
    """
    import configparser  # for whoever has a file

    if path is None:
        key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            raise ConfigurationError(
                "--verify-signatures needs to know secrets: give --credentials-file FILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return {key: secret}
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--credentials-file {path}: {error.strerror or error}") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        # Not the parser's own text: it quotes lines, which may be secrets.
        raise ConfigurationError(f"--credentials-file {path}: not an AWS credentials file ({type(error).__name__})") from None
    secrets = {
        parser[profile]["aws_access_key_id"]: parser[profile]["aws_secret_access_key"]
        for profile in parser.sections()
        if {"aws_access_key_id", "aws_secret_access_key"} <= parser[profile].keys()
    }
    if not secrets:
        raise ConfigurationError(f"--credentials-file {path}: no profile has aws_access_key_id and aws_secret_access_key")
    return secrets


class Verifier:
    """Checks signatures against known secrets: access key to secret key. It comes after the check for completeness."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = dict(secrets)

    def check(self, request: Request, now_ms: int) -> None:
        """Raises ApiError: UnrecognizedClientException for an unknown key, else InvalidSignatureException."""
        path, _, raw_query = request.target.partition("?")
        query = parse_qsl(raw_query, keep_blank_values=True)
        claim = _from_header(request.headers) if "authorization" in request.headers else _from_query(dict(query))
        parts = claim.credential.split("/")
        if len(parts) != 5 or parts[4] != "aws4_request":
            raise ApiError(
                "IncompleteSignatureException",
                f"Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{claim.credential}'",
            )
        key, date, region, service, _term = parts
        secret = self._secrets.get(key)
        if secret is None:
            raise ApiError("UnrecognizedClientException", "The security token included in the request is invalid.")
        if service != "kinesis":
            raise _invalid("Credential should be scoped to correct service: 'kinesis'. ")
        _check_time(claim, date, now_ms)
        if {"host", ":authority"}.isdisjoint(claim.signed.split(";")):
            raise _invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
        canonical = "\n".join(
            (
                request.method,
                quote(path or "/", safe="/-_.~"),
                _canonical_query(query),
                *_canonical_headers(request.headers, claim.signed.split(";")),
                "",
                claim.signed,
                hashlib.sha256(request.body).hexdigest(),
            )
        )
        digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
        text = "\n".join((_ALGORITHM, claim.stamp, f"{date}/{region}/{service}/aws4_request", digest))
        signature = hmac.new(_signing_key(secret, date, region, service), text.encode("latin-1", "replace"), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), claim.signature.encode("utf-8", "replace")):
            # The service shows what it signed: nothing of it is secret, and a signer's author needs it.
            raise _invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
                "and signing method. Consult the service documentation for details.\n\n"
                f"The Canonical String for this request should have been\n'{canonical}'\n\n"
                f"The String-to-Sign should have been\n'{text}'\n"
            )


def _invalid(text: str) -> ApiError:
    return ApiError("InvalidSignatureException", text)


def _from_header(headers: Mapping[str, str]) -> _Claim:
    header = headers["authorization"]
    algorithm, *pieces = re.split(r"[, ]+", header)
    if algorithm != _ALGORITHM:
        raise ApiError("IncompleteSignatureException", f"Unsupported AWS 'algorithm': '{algorithm}'. Authorization={header}")
    parts = dict(piece.split("=", 1) for piece in pieces if "=" in piece)
    stamp = headers.get("x-amz-date", "")
    if not stamp:
        try:
            stamp = parsedate_to_datetime(headers.get("date", "")).astimezone(UTC).strftime(_STAMP)
        except (ValueError, OverflowError):  # no date, or a zone that leads out of the calendar
            stamp = headers.get("date", "")
    return _Claim(parts["Credential"], parts["SignedHeaders"].lower(), parts["Signature"], stamp, None)


def _from_query(query: Mapping[str, str]) -> _Claim:
    if query["X-Amz-Algorithm"] != _ALGORITHM:
        raise ApiError(
            "IncompleteSignatureException",
            f"Unsupported AWS 'algorithm': '{query['X-Amz-Algorithm']}'. Re-examine the query-string parameters.",
        )
    expires = query.get("X-Amz-Expires", "")
    valid = re.fullmatch(r"[0-9]{1,9}", expires) is not None and 0 < int(expires) <= _EXPIRES_S_MAX
    if expires and not valid:
        raise _invalid("X-Amz-Expires must be a number of seconds, above 0 and not above 604800.")
    return _Claim(
        query["X-Amz-Credential"],
        query["X-Amz-SignedHeaders"].lower(),
        query[_SIGNATURE],
        query["X-Amz-Date"],
        int(expires) if expires else _SKEW_S,
    )


def _check_time(claim: _Claim, date: str, now_ms: int) -> None:
    try:
        at = datetime.strptime(claim.stamp, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ApiError(
            "IncompleteSignatureException",
            f"Date must be in ISO-8601 'basic format'. Got '{claim.stamp}'. See http://en.wikipedia.org/wiki/ISO_8601",
        ) from None
    if date != claim.stamp[:8]:
        raise _invalid(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{date}' != '{claim.stamp[:8]}', from '{claim.stamp}'."
        )
    now = now_ms / 1000
    life_s = _SKEW_S if claim.expires_s is None else claim.expires_s
    if now - at > life_s:
        raise _invalid(f"Signature expired: {claim.stamp} is now earlier than {_stamp(now - life_s)} ({_stamp(now)} - {life_s // 60} min.)")
    if at - now > _SKEW_S:
        raise _invalid(
            f"Signature not yet current: {claim.stamp} is still later than {_stamp(now + _SKEW_S)} ({_stamp(now)} + {_SKEW_S // 60} min.)"
        )


def _stamp(at_s: float) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).strftime(_STAMP)


def _canonical_query(query: Iterable[tuple[str, str]]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query if name != _SIGNATURE)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _canonical_headers(headers: Mapping[str, str], signed: Iterable[str]) -> list[str]:
    # Signers for HTTP/2 (the JavaScript SDK's) sign :authority, which stands in the place of Host.
    return [f"{name}:{' '.join(headers.get('host' if name == ':authority' else name, '').split())}" for name in signed]


@lru_cache(maxsize=64)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
