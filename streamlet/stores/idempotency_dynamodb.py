"""How do machines, and Lambda functions, share which effects have been had? One DynamoDB table, which `DynamoDBIdempotency` describes.

    attribute    holds
    id           app/stream/shard/sequence number/sub-sequence number, or app/stream#your key; a key of more than 2,048 bytes,
                 which is all that DynamoDB takes: its beginning, and a digest of all of it
    expiration   epoch seconds, a whole number as TTL needs it, rounded up; an item without it counts for ever
    status       INPROGRESS or COMPLETED
    token        whose it is, while in progress

TTL deletes late, up to days after the time; so every condition here compares the time itself. A begin is one conditional write, whose
refusal brings the marker that is there (ReturnValuesOnConditionCheckFailure). A record of ours costs two write units, one that is
spared costs one.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable
from typing import Any, Final

from streamlet.destinations.aws import AwsClient
from streamlet.errors import ConfigurationError, RequestRefused
from streamlet.ports import Marker
from streamlet.stores.idempotency import BUSY, DAY_S, DONE, checked_seconds, new_token

__all__ = ["DynamoDBIdempotency"]

_REFUSED: Final = "ConditionalCheckFailedException"
_ID_BYTES_MAX: Final = 2048  # DynamoDB's limit for a partition key


class DynamoDBIdempotency:
    r"""Markers in a table that is there already. Needs botocore, which Lambda brings; elsewhere `streamlet[worker]`.

    The table's only key is `id`, a string, and `expiration` should be its TTL attribute, so that it does not grow for ever:

        aws dynamodb create-table --table-name my-markers --billing-mode PAY_PER_REQUEST \
            --attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH
        aws dynamodb update-time-to-live --table-name my-markers \
            --time-to-live-specification Enabled=true,AttributeName=expiration

    or in CloudFormation:

        Markers:
          Type: AWS::DynamoDB::Table
          Properties:
            BillingMode: PAY_PER_REQUEST
            AttributeDefinitions: [{AttributeName: id, AttributeType: S}]
            KeySchema: [{AttributeName: id, KeyType: HASH}]
            TimeToLiveSpecification: {AttributeName: expiration, Enabled: true}

    The role needs dynamodb:PutItem and dynamodb:DeleteItem on that table (arn:aws:dynamodb:REGION:ACCOUNT:table/my-markers), and nothing
    else. Many apps may share a table: keys begin with the app's name and the stream's. Stages, regions and accounts with the same names
    need a table each where `idempotency_key` is used.

    `region` and `endpoint_url` default to AWS's own settings (AWS_REGION, AWS_ENDPOINT_URL_DYNAMODB, the profile). `in_progress_s`
    (seconds, default 60): how long a marker blocks its record where the handler never came to an end; choose it above the longest
    time that a handler takes, since one that takes longer may be run beside itself. In Lambda a marker lasts as long as its
    invocation may, whatever is said here. `done_s` (seconds, default a day): how long an effect is remembered. Both up to ten years.
    Times are rounded up to whole seconds: an invocation that was cut off may still block the next one for a second.

    Raises ConfigurationError for a table's name or times that cannot be."""

    def __init__(
        self,
        table: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        in_progress_s: float = 60,
        done_s: float = DAY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(table, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table):
            raise ConfigurationError(f"table={table!r} cannot be the name of a DynamoDB table: 3 to 255 letters, digits, '_', '.' and '-'")
        self.table = table
        self._in_progress_s = checked_seconds("in_progress_s", in_progress_s)
        self._done_s = checked_seconds("done_s", done_s)
        self._clock = clock
        self._client = AwsClient(
            "dynamodb", f"table {table!r}", "dynamodb:PutItem and dynamodb:DeleteItem", region=region, endpoint_url=endpoint_url
        )

    def __repr__(self) -> str:
        return f"DynamoDBIdempotency({self.table!r})"

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        """See ports.IdempotencyStore."""
        now_s, token = self._clock(), new_token()
        try:
            self._put(
                self._item(key, "INPROGRESS", now_s + (self._in_progress_s if for_s is None else for_s), token),
                # Event 1: the write is applied, its answer lost. Event 2: botocore writes again, and would find its own marker.
                ConditionExpression="attribute_not_exists(id) OR expiration <= :now OR #token = :token",
                ExpressionAttributeNames={"#token": "token"},
                ExpressionAttributeValues={":now": {"N": str(math.floor(now_s))}, ":token": {"S": token}},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except RequestRefused as error:
            if error.code != _REFUSED:
                raise
            there = getattr(error.__cause__, "response", {}).get("Item")
            if there is None:
                # To call it busy would block a record that is done for as long as that is remembered.
                raise RequestRefused(
                    f"table {self.table!r}: the service does not tell which marker is there (ReturnValuesOnConditionCheckFailure); "
                    "use DynamoDB, or a newer version of its look-alike and of botocore",
                    code=error.code,
                    status=error.status,
                    operation=error.operation,
                ) from error
            return DONE if there.get("status", {}).get("S") == "COMPLETED" else BUSY
        return Marker("mine", token)

    def finish(self, key: str) -> None:
        """See ports.IdempotencyStore."""
        self._put(self._item(key, "COMPLETED", self._clock() + self._done_s))

    def release(self, key: str, token: str) -> None:
        """See ports.IdempotencyStore."""
        try:
            self._client.call(
                "delete_item",
                TableName=self.table,
                Key={"id": _id(key)},
                ConditionExpression="#token = :token",
                ExpressionAttributeNames={"#token": "token"},
                ExpressionAttributeValues={":token": {"S": token}},
            )
        except RequestRefused as error:
            if error.code != _REFUSED:
                raise  # else it is another's by now

    def close(self) -> None:
        """See ports.IdempotencyStore."""
        self._client.close()

    @staticmethod
    def _item(key: str, status: str, expires_s: float, token: str | None = None) -> dict[str, Any]:
        item = {"id": _id(key), "status": {"S": status}, "expiration": {"N": str(math.ceil(expires_s))}}
        return item if token is None else {**item, "token": {"S": token}}

    def _put(self, item: dict[str, Any], **condition: Any) -> None:
        self._client.call("put_item", TableName=self.table, Item=item, **condition)


def _id(key: str) -> dict[str, str]:
    raw = key.encode()
    return {"S": key if len(raw) <= _ID_BYTES_MAX else f"{key[:256]}#sha256={hashlib.sha256(raw).hexdigest()}"}
