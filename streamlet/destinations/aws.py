"""How does a failure document reach an AWS service? One botocore client, opened at the first document, for any thread.

Synchronous, as the port asks: documents are rare, and they are sent on the executor. botocore comes with aiobotocore, so that
a profile, a role, SSO or AWS_ENDPOINT_URL_SQS mean here what they mean to every other AWS tool. It tries a call twice; the
engine goes on trying for ever, and shows why.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from streamlet.errors import (
    AccessRefused,
    ConfigurationError,
    NotFound,
    RequestRefused,
    ServiceError,
    SinkError,
    StreamletError,
    Throttled,
    Unavailable,
)

__all__ = ["DEFAULT_ACCOUNT", "DEFAULT_REGION", "Arn", "AwsClient", "checked_size", "parse_arn"]

# What a document's ARNs say where the destination does not tell: LocalStack's account, and AWS's first region.
DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
_LOOPBACK: Final = re.compile(r"localhost|::1|127\..*|.*\.localhost|.*\.localhost\.localstack\.cloud")
_ARN: Final = re.compile(r"arn:(aws[a-z-]*):([a-z0-9-]+):([a-z0-9-]*):(\d{12}|):(.+)", re.ASCII)

_NOT_FOUND: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException", "NoSuchBucket"}
    | {"ResourceNotFoundException"}
)
_BAD_CREDENTIALS: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"}
    | {"InvalidSecurity", "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)
_THROTTLED: Final = frozenset(
    {
        "KMS.ThrottlingException",
        "KMSThrottling",
        "KmsThrottled",
        "RequestThrottled",
        "SlowDown",
        "Throttled",
        "Throttling",
        "ThrottlingException",
    }
    | {"ProvisionedThroughputExceededException", "RequestLimitExceeded"}
)


class Arn(msgspec.Struct, frozen=True):
    """The parts of an ARN."""

    partition: str
    service: str
    region: str
    account: str
    resource: str


def parse_arn(text: str) -> Arn | None:
    """None for what is no ARN."""
    match = _ARN.fullmatch(text)
    return Arn(*match.groups()) if match else None


def checked_size(body: bytes, limit: int, target: str) -> str:
    """The document as text. Raises SinkError above the service's limit: no retry would help, but nothing may be dropped either."""
    if len(body) > limit:
        raise SinkError(f"{target}: the failure document has {len(body):,} bytes, {limit:,} are allowed; send it to S3 instead")
    return body.decode()


class AwsClient:
    """Calls one service. `right` is the IAM action to ask for, and `target` what messages call the destination."""

    def __init__(self, service: str, target: str, right: str, *, region: str | None, endpoint_url: str | None) -> None:
        self._service, self._target, self._right = service, target, right
        self._region, self._endpoint_url = region, endpoint_url
        self._lock = threading.Lock()
        self._client: Any = None

    def call(self, operation: str, **parameters: Any) -> Any:
        """One call, by its name in botocore (`send_message`). Raises ServiceError, or ConfigurationError, with what to do."""
        client = self._opened()
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(client, operation)(**parameters)
        except ClientError as error:
            raise self._refused(error, operation) from error
        except BotoCoreError as error:
            raise self._failed(error, operation) from error

    @property
    def endpoint_url(self) -> str:
        """Where the service is. Raises as `call` does."""
        return str(self._opened().meta.endpoint_url)

    @property
    def region(self) -> str:
        """Where the client signs for. Raises as `call` does."""
        region = str(self._opened().meta.region_name)
        return DEFAULT_REGION if region == "aws-global" else region  # S3 without a region

    def close(self) -> None:
        """Give the connections back. Idempotent; another call opens anew."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> Any:
        try:
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise ConfigurationError(f"{self._target} needs aiobotocore: pip install 'streamlet[worker]'") from error
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._open()
                except BotoCoreError as error:
                    raise self._failed(error, "open") from error
                except ValueError as error:  # an endpoint that is no URL
                    raise ConfigurationError(f"{self._target}: the AWS configuration cannot be used: {error}") from error
            return self._client

    def _open(self) -> Any:
        import botocore.session
        from botocore.config import Config
        from botocore.configprovider import ConfiguredEndpointProvider

        session = botocore.session.get_session()
        endpoint_url = None
        if not session.get_config_variable("ignore_configured_endpoint_urls"):
            endpoint_url = ConfiguredEndpointProvider(
                full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name=self._service
            ).provide()
        endpoint_url = endpoint_url or self._endpoint_url
        local = endpoint_url is not None and _LOOPBACK.fullmatch(urlsplit(endpoint_url).hostname or "") is not None
        # botocore itself reads AWS_DEFAULT_REGION only; the other SDKs, and Lambda's own environment, say AWS_REGION.
        region = self._region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        keys = {}
        if local:
            region = region or DEFAULT_REGION
            # Off AWS the instance metadata address does not answer, and finding that out takes seconds.
            session.get_component("credential_provider").remove("iam-role")
            if session.get_credentials() is None:
                keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        return session.create_client(
            self._service,
            region_name=region,
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                retries={"total_max_attempts": 2, "mode": "standard"},
                # Look-alikes have no names per bucket.
                s3={"addressing_style": "auto" if endpoint_url is None else "path"},
            ),
            **keys,
        )

    def _refused(self, error: Any, operation: str) -> ServiceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = str(error.response.get("Error", {}).get("Message", "")).strip() or code
        kind: type[ServiceError]
        if code in _NOT_FOUND:
            kind, what = NotFound, "does not exist; create it, or correct its name, account or region"
        elif code in _BAD_CREDENTIALS:
            kind, what = AccessRefused, "the credentials are wrong or have expired; check AWS_ACCESS_KEY_ID and the other AWS_* variables"
        elif code in _THROTTLED or status == 429:
            kind, what = Throttled, "asked too fast; it is tried again"
        elif status >= 500:
            kind, what = Unavailable, f"the service failed ({said}); it is tried again"
        elif code.lower().startswith(("kmsaccessdenied", "kms.accessdenied")):  # SQS says it in two ways, SNS in a third
            kind, what = AccessRefused, f"its encryption key refuses; allow kms:GenerateDataKey and kms:Decrypt on it ({said})"
        elif status == 403 or code.startswith(("AccessDenied", "Authorization")):
            kind, what = AccessRefused, f"access is refused; allow {self._right}, or use other credentials ({said})"
        else:
            kind, what = RequestRefused, f"refused it: {code}: {said}"
        return kind(f"{self._target}: {what}", code=code, status=status, operation=operation)

    def _failed(self, error: Exception, operation: str) -> StreamletError:
        from botocore.exceptions import (
            ConnectionError as UnreachableError,
        )
        from botocore.exceptions import (
            CredentialRetrievalError,
            HTTPClientError,
            NoCredentialsError,
            NoRegionError,
            PartialCredentialsError,
            TokenRetrievalError,
        )

        text = str(error).partition("\n")[0]
        match error:
            case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError() | TokenRetrievalError():
                what = f"there are no credentials ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role"
                return AccessRefused(f"{self._target}: {what}", operation=operation)
            case NoRegionError():
                return ConfigurationError(f"{self._target}: no AWS region is set; set AWS_REGION, or give region= or an ARN")
            case UnreachableError() | HTTPClientError():
                return Unavailable(f"{self._target}: cannot be reached ({text}); it is tried again", operation=operation)
            case _:
                return ConfigurationError(f"{self._target}: the AWS configuration cannot be used: {text}")
