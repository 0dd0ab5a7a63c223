"""Where are given-up records themselves kept? In a bucket: Lambda's document, with the records as `payload`.

Keys are AWS's: aws/lambda/<mapping's UUID>/<shard>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<UUID>, in UTC (Lambda developer guide,
kinesis-on-failure-destination). CHOICES: there is no mapping with a UUID here, so it follows from stream and function, and all
workers of one consumer write below one prefix. The last UUID follows from the records instead of being random, so a document
that is sent again (with the same time) replaces itself.

Why botocore, and not obstore as for Parquet files: one object per given-up run needs no throughput, and so the credentials, the
errors and the extra to install are those of the other two destinations.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Final

import orjson

from streamlet.destinations.aws import DEFAULT_ACCOUNT, AwsClient, parse_arn
from streamlet.destinations.document import failure_document
from streamlet.errors import ConfigurationError
from streamlet.ports import FailureDocument

__all__ = ["S3Destination", "object_key"]

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NAMESPACE: Final = uuid.UUID("9a0d5a44-8c56-5d0b-8e0a-3c1f7b6f2d48")  # ours; any fixed one would do


class S3Destination:
    """Writes failure documents, with the full event records, into a bucket: `arn:aws:s3:::failed` or `s3://failed`. At least once.

    Credentials, region, and another endpoint (AWS_ENDPOINT_URL_S3) come from where every AWS tool takes them. Needs
    s3:PutObject; with s3:ListBucket a missing bucket is told from a forbidden one.
    """

    def __init__(self, bucket_arn_or_url: str) -> None:
        self.target = bucket_arn_or_url
        given: object = bucket_arn_or_url  # annotations bind nobody at run time
        name = ""
        if isinstance(given, str):
            arn = parse_arn(given)
            if arn is not None and arn.service == "s3":
                name = arn.resource
            elif given.startswith("s3://"):
                name = given.removeprefix("s3://").removesuffix("/")
        if "/" in name:
            raise ConfigurationError(f"S3Destination({given!r}): name the bucket alone; the keys in it are laid out as Lambda does")
        if not _BUCKET.fullmatch(name):
            raise ConfigurationError(f"S3Destination({given!r}): name a bucket, as in 'arn:aws:s3:::failed' or 's3://failed'")
        self._bucket = name
        self._client = AwsClient("s3", str(self), "s3:PutObject", region=None, endpoint_url=None)

    def send(self, document: FailureDocument) -> None:
        """One object. Raises ServiceError or ConfigurationError with what to do."""
        made = failure_document(document, payload=True, region=self._client.region, account_id=DEFAULT_ACCOUNT)
        self._client.call(
            "put_object", Bucket=self._bucket, Key=object_key(document), Body=orjson.dumps(made), ContentType="application/json"
        )

    def close(self) -> None:
        """Give the connections back. Idempotent; another document opens them anew."""
        self._client.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Destination) and other.target == self.target

    def __hash__(self) -> int:
        return hash((S3Destination, self.target))

    def __repr__(self) -> str:
        return f"S3Destination({self.target!r})"


def object_key(document: FailureDocument) -> str:
    """Where the document of these records, given up at this time, is written."""
    at = datetime.fromtimestamp(document.timestamp_s, UTC)
    mapping = uuid.uuid5(_NAMESPACE, f"{document.stream}\n{document.function_name}")
    unique = uuid.uuid5(_NAMESPACE, document.document_id)
    return f"aws/lambda/{mapping}/{document.shard_id}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{unique}"
