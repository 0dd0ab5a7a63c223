"""Where do given-up records go in production? Into a queue: Lambda's document, without the records.

As on AWS the document tells shard and sequence numbers, with which the records can be read again from the stream while it
keeps them; S3Destination keeps the records themselves.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import orjson

from streamlet.destinations.aws import DEFAULT_ACCOUNT, DEFAULT_REGION, AwsClient, checked_size, parse_arn
from streamlet.destinations.document import failure_document
from streamlet.errors import ConfigurationError
from streamlet.ports import FailureDocument

__all__ = ["SqsDestination"]

BODY_BYTES_MAX: Final = 1_048_576
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}(\.fifo)?")
# sqs.eu-west-1.amazonaws.com, the older eu-west-1.queue.amazonaws.com, LocalStack's of either form, and a VPC endpoint's, which has
# a name of its own before it.
_REGION: Final = re.compile(r"(?:(?:.+\.)?sqs\.([a-z]{2,4}-[a-z-]+-\d)|([a-z]{2,4}-[a-z-]+-\d)\.queue)\..+")
_EXAMPLE: Final = "'arn:aws:sqs:eu-west-1:123456789012:failed' or 'https://sqs.eu-west-1.amazonaws.com/123456789012/failed'"


class SqsDestination:
    """Sends failure documents to a standard queue, named by its ARN or its URL. At least once.

    FIFO queues are refused, as by Lambda. Region and account come from the name; credentials, and another endpoint
    (AWS_ENDPOINT_URL_SQS), from where every AWS tool takes them; a URL of another host, or of a VPC endpoint, is its own endpoint. Needs
    sqs:SendMessage.

    The document names function and stream by ARNs with the region and account of the queue, unless it got whole ARNs.
    """

    def __init__(self, url_or_arn: str) -> None:
        self.target = url_or_arn
        given: object = url_or_arn  # annotations bind nobody at run time
        arn = parse_arn(given) if isinstance(given, str) else None
        self._url: str | None = None
        endpoint_url = None
        region: str | None
        if arn is not None and arn.service == "sqs" and arn.region and arn.account:
            region, self._account, self._name = arn.region, arn.account, arn.resource
        elif isinstance(given, str) and given.startswith(("https://", "http://")):
            region, self._account, self._name, endpoint_url = _of_url(given)
            self._url = given
        else:
            raise ConfigurationError(f"SqsDestination({given!r}): name a queue by its ARN or its URL, as in {_EXAMPLE}")
        if not _NAME.fullmatch(self._name):
            raise ConfigurationError(f"SqsDestination({given!r}): {self._name!r} cannot be the name of a queue; give one as in {_EXAMPLE}")
        if self._name.endswith(".fifo"):
            raise ConfigurationError(f"SqsDestination({given!r}): a FIFO queue cannot be an on-failure destination; use a standard queue")
        self._region = region
        self._client = AwsClient("sqs", str(self), "sqs:SendMessage", region=region, endpoint_url=endpoint_url)

    def send(self, document: FailureDocument) -> None:
        """One message. Raises ServiceError or ConfigurationError with what to do."""
        made = failure_document(document, payload=False, region=self._region or DEFAULT_REGION, account_id=self._account)
        body = checked_size(orjson.dumps(made), BODY_BYTES_MAX, str(self))
        # Made instead of asked for: GetQueueUrl is a right of its own, which a role that may only send does not have.
        url = self._url or f"{self._client.endpoint_url.rstrip('/')}/{self._account}/{self._name}"
        self._client.call("send_message", QueueUrl=url, MessageBody=body)

    def close(self) -> None:
        """Give the connections back. Idempotent; another document opens them anew."""
        self._client.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SqsDestination) and other.target == self.target

    def __hash__(self) -> int:
        return hash((SqsDestination, self.target))

    def __repr__(self) -> str:
        return f"SqsDestination({self.target!r})"


def _of_url(url: str) -> tuple[str | None, str, str, str | None]:
    """Region, account, name, and the endpoint if it is not AWS's public one."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.query or parts.username:
        raise ConfigurationError(f"SqsDestination({url!r}): this is no queue's URL; give one as in {_EXAMPLE}")
    *before, name = parts.path.strip("/").split("/")
    account = before[-1] if before and re.fullmatch(r"\d{12}", before[-1]) else DEFAULT_ACCOUNT
    found = _REGION.fullmatch(host)
    region = (found[1] or found[2]) if found else None
    if host == "queue.amazonaws.com":
        region = DEFAULT_REGION
    # The client finds these by itself. A VPC endpoint must be told: from within the VPC the public one may not answer.
    known = host.endswith((".amazonaws.com", ".amazonaws.com.cn")) and ".vpce." not in host
    return region, account, name, None if known else f"{parts.scheme}://{parts.netloc}"
