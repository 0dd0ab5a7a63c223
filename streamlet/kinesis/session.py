"""Whose credentials, which region, which endpoint? aiobotocore decides; this only asks it.

So a profile, environment variables, SSO, a container's or an instance's role, AWS_ENDPOINT_URL(_KINESIS), FIPS and dual-stack
settings all mean here what they mean to every other AWS tool.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from streamlet.errors import AccessRefused, ConfigurationError
from streamlet.kinesis.retry import is_loopback
from streamlet.kinesis.sigv4 import Credentials

__all__ = ["LOCAL_CREDENTIALS", "Identity", "resolve"]

# A local broker takes any key. The real ones, if there are any, still win, so that a proxy on this machine works.
LOCAL_CREDENTIALS: Final = Credentials("local", "local")
_LOCAL_REGION: Final = "us-east-1"


class Identity(msgspec.Struct, frozen=True):
    """Where to ask, and as whom. `credentials` is called before each request: temporary ones refresh by themselves."""

    url: str
    region: str
    credentials: Callable[[], Awaitable[Credentials]]
    ca_bundle: str | None = None


async def resolve(region: str | None, endpoint_url: str | None, credentials: Credentials | None) -> Identity:
    """Ask aiobotocore's session. Raises ConfigurationError or AccessRefused with what to do."""
    from aiobotocore.session import AioSession
    from botocore.exceptions import BotoCoreError

    try:
        session = AioSession()
        # botocore itself reads AWS_DEFAULT_REGION only; the other SDKs, and Lambda's own environment, say AWS_REGION.
        region = region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        endpoint_url = endpoint_url or _configured_endpoint(session)
        if endpoint_url is not None:
            _check_url(endpoint_url)
        local = endpoint_url is not None and is_loopback(urlsplit(endpoint_url).hostname or "")
        if region is None:
            if not local:
                raise ConfigurationError(
                    "no AWS region is set: pass --region (region=), or set AWS_REGION, AWS_DEFAULT_REGION, or a region in your profile"
                )
            region = _LOCAL_REGION
        if endpoint_url is None:
            endpoint_url = await _service_endpoint(session, region)
        _check_url(endpoint_url)
        provider = _fixed(credentials) if credentials is not None else await _provider(session, local=local)
        return Identity(endpoint_url, region, provider, session.get_config_variable("ca_bundle"))
    except BotoCoreError as error:
        # An unknown profile, a broken config file, half a key pair: botocore's sentence names it.
        raise ConfigurationError(f"the AWS configuration cannot be used: {error}") from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in {"http", "https"} or not parts.hostname or bool(parts.query) or parts.port == 0
    except ValueError:
        bad = True
    if bad:
        raise ConfigurationError(f"endpoint_url={url!r} is not of the form http://HOST:PORT or https://HOST")


def _configured_endpoint(session: Any) -> str | None:
    from botocore.configprovider import ConfiguredEndpointProvider

    # AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL, and the same in the profile, in botocore's own order.
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    url: str | None = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="kinesis"
    ).provide()
    return url


async def _service_endpoint(session: Any, region: str) -> str:
    from botocore import UNSIGNED
    from botocore.config import Config

    async with session.create_client("kinesis", region_name=region, config=Config(signature_version=UNSIGNED)) as client:
        return str(client.meta.endpoint_url)


async def _provider(session: Any, *, local: bool) -> Callable[[], Awaitable[Credentials]]:
    if local:
        # Off AWS the instance metadata address does not answer, and finding that out takes seconds.
        session.get_component("credential_provider").remove("iam-role")
    found = await session.get_credentials()
    if found is None:
        if not local:
            raise AccessRefused(
                "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use a role"
            )
        return _fixed(LOCAL_CREDENTIALS)

    async def current() -> Credentials:
        frozen = await found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    return current


def _fixed(credentials: Credentials) -> Callable[[], Awaitable[Credentials]]:
    async def current() -> Credentials:
        return credentials

    return current
