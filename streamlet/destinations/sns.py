"""Who is told of given-up records? Subscribers of a topic: Lambda's document, without the records (see `sqs`)."""

from __future__ import annotations

import re
from typing import Final

import orjson

from streamlet.destinations.aws import AwsClient, checked_size, parse_arn
from streamlet.destinations.document import failure_document
from streamlet.errors import ConfigurationError
from streamlet.ports import FailureDocument

__all__ = ["SnsDestination"]

MESSAGE_BYTES_MAX: Final = 262_144
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,256}(\.fifo)?")


class SnsDestination:
    """Publishes failure documents to a standard topic, named by its ARN. At least once.

    FIFO topics are refused, as by Lambda. Region and account come from the ARN; credentials, and another endpoint
    (AWS_ENDPOINT_URL_SNS), from where every AWS tool takes them. Needs sns:Publish.
    """

    def __init__(self, topic_arn: str) -> None:
        self.target = topic_arn
        given: object = topic_arn  # annotations bind nobody at run time
        arn = parse_arn(given) if isinstance(given, str) else None
        if arn is None or arn.service != "sns" or not arn.region or not arn.account or not _NAME.fullmatch(arn.resource):
            raise ConfigurationError(
                f"SnsDestination({given!r}): name a topic by its ARN, as in 'arn:aws:sns:eu-west-1:123456789012:failed'"
            )
        if arn.resource.endswith(".fifo"):
            raise ConfigurationError(f"SnsDestination({given!r}): a FIFO topic cannot be an on-failure destination; use a standard topic")
        self._arn = arn
        self._client = AwsClient("sns", str(self), "sns:Publish", region=arn.region, endpoint_url=None)

    def send(self, document: FailureDocument) -> None:
        """One message. Raises ServiceError or ConfigurationError with what to do."""
        made = failure_document(document, payload=False, region=self._arn.region, account_id=self._arn.account)
        self._client.call("publish", TopicArn=self.target, Message=checked_size(orjson.dumps(made), MESSAGE_BYTES_MAX, str(self)))

    def close(self) -> None:
        """Give the connections back. Idempotent; another document opens them anew."""
        self._client.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnsDestination) and other.target == self.target

    def __hash__(self) -> int:
        return hash((SnsDestination, self.target))

    def __repr__(self) -> str:
        return f"SnsDestination({self.target!r})"
