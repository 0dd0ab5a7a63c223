r"""How do machines, and Lambda functions, share which effects have been had? One DynamoDB table.

The table has one key, `id`, a string; name `expiration` as its TTL attribute, so that DynamoDB sweeps it (late: up to days after
the time, which is why every condition here compares it). Many apps may share a table: keys begin with the app's name.

    aws dynamodb create-table --table-name streamlet-idempotency --billing-mode PAY_PER_REQUEST \
        --attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH
    aws dynamodb update-time-to-live --table-name streamlet-idempotency \
        --time-to-live-specification Enabled=true,AttributeName=expiration

    attribute    holds
    id           app/stream/shard/sequence number/sub-sequence number, or app/stream#your key
    expiration   epoch seconds, a whole number as TTL needs it, rounded up
    status       INPROGRESS or COMPLETED
    token        whose it is, while in progress

A begin is one conditional write; its refusal brings the marker that is there (ReturnValuesOnConditionCheckFailure), so a record
costs two write units, or one if it is spared. Rights: dynamodb:PutItem and DeleteItem.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

from streamlet.destinations.aws import AwsClient
from streamlet.errors import ConfigurationError, RequestRefused
from streamlet.ports import Marker
from streamlet.stores.idempotency import BUSY, DAY_S, DONE, checked_seconds, new_token

__all__ = ["DynamoDBIdempotency"]

_REFUSED = "ConditionalCheckFailedException"


class DynamoDBIdempotency:
    """Markers in a table that is there already. Needs botocore, which Lambda brings; elsewhere `streamlet[worker]`."""

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
            there = getattr(error.__cause__, "response", {}).get("Item", {})
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
                Key={"id": {"S": key}},
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
        item = {"id": {"S": key}, "status": {"S": status}, "expiration": {"N": str(math.ceil(expires_s))}}
        return item if token is None else {**item, "token": {"S": token}}

    def _put(self, item: dict[str, Any], **condition: Any) -> None:
        self._client.call("put_item", TableName=self.table, Item=item, **condition)
