"""SubscribeToShard: what comes next in a shard, pushed?

Rules and oddities:
- Order: consumer -> its state -> shard -> starting position -> DryRun -> another subscription.
- The same consumer and shard again: within 5 s of the open subscription's beginning ResourceInUseException, later the
  new one takes over, and the old one ends with that exception within its stream. One that has ended is in nobody's way.
- LATEST and AT_TIMESTAMP are resolved here, so what is put afterwards is seen.
- A consumer that is DELETING cannot subscribe; its open subscriptions go on until it is gone.
- The answer is a stream of events: what they look like and when they come, subscriptions.py says.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import ApiError, shard_not_there
from streamlet.broker.ops._base import Call, Operation, Request, dry_run, shard_index
from streamlet.broker.ops._consumer import by_arn, consumer_arn_member
from streamlet.broker.ops._position import TYPES, position
from streamlet.broker.schema import SEQUENCE, Member, shard_id
from streamlet.broker.shard import shard_name
from streamlet.broker.subscriptions import TAKEOVER_MS, Subscription, consumer_not_found

__all__ = ["OPERATION"]


class _Start(Request, kw_only=True, gc=False):
    type: str
    sequence_number: str | None = None
    timestamp: float | None = None


class _Request(Request, kw_only=True, gc=False):
    consumer_arn: str
    shard_id: str
    starting_position: _Start
    dry_run: bool | None = None


_MEMBERS: Final = (
    consumer_arn_member(required=True),
    shard_id("ShardId", required=True),
    Member(
        "StartingPosition",
        "structure",
        True,
        members=(
            Member("Type", "string", required=True, enum=TYPES),
            Member("SequenceNumber", "string", pattern=SEQUENCE),
            Member("Timestamp", "timestamp"),
        ),
    ),
    Member("DryRun", "boolean"),
)


def _run(call: Call, request: _Request) -> Subscription:
    arn, now_ms = request.consumer_arn, call.now_ms
    found = by_arn(call, arn)
    if found is None:
        raise consumer_not_found(arn, call.account)
    stream, consumer = found
    account = stream.account or call.account
    if consumer.status(now_ms) != "ACTIVE":
        text = (
            f"Consumer {consumer.name} with creation timestamp {consumer.creation_s} under stream: {stream.name} , "
            f"account {account} is not in ACTIVE status."
        )
        raise ApiError("ResourceInUseException", text)
    index = shard_index(request.shard_id, stream.name, account)
    stream.expire(now_ms)
    shard = stream.shards.get(index)
    if shard is None:
        raise shard_not_there(shard_name(index), stream.name, account)
    start = request.starting_position
    place = position(
        call,
        shard,
        start.type,
        start.sequence_number,
        start.timestamp,
        operation="SubscribeToShard",
        stream=stream.name,
        account=account,
    )
    if request.dry_run:
        raise dry_run()
    if call.state.quotas is not None:
        call.state.quotas.subscribe(stream, arn, index, now_ms, account)
    earlier = consumer.subscriptions.get(index)
    if earlier is not None:
        text = f"Another active subscription exists for this consumer: {account}:{stream.name}:{shard.id}:{consumer.name}"
        error = ApiError("ResourceInUseException", text)
        # A clock that was set back says nothing of how long ago it was.
        if 0 <= now_ms - earlier.began_ms < TAKEOVER_MS:
            raise error
        earlier.fail(error)
    return Subscription(call.state, call.faults, stream, consumer, shard, place, account=account, consumer_arn=arn, now_ms=now_ms)


OPERATION: Final = Operation("SubscribeToShard", _MEMBERS, _Request, _run)
