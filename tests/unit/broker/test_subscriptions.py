"""What does a subscription say, and when? The synchronous core on a clock that stands still, and frames for botocore's own parser."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from unittest.mock import ANY

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker import eventstream
from streamlet.broker.errors import ApiError
from streamlet.broker.faults import DuplicateRead, EndSubscription, FailSubscription, StallSubscription
from streamlet.broker.formats import JSON
from streamlet.broker.inline import InlineBroker
from streamlet.broker.subscriptions import EVENT_BYTES_MAX, Due, EventPush, Subscription

ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"
SHARD = "shardId-000000000000"


@pytest.fixture
def consumer(world: InlineBroker) -> str:
    arn: str = world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")["Consumer"]["ConsumerARN"]
    return arn


def subscribe(world: InlineBroker, arn: str, kind: str = "TRIM_HORIZON", shard: str = SHARD, **more: Any) -> Subscription:
    found = world.front.call("SubscribeToShard", {"ConsumerARN": arn, "ShardId": shard, "StartingPosition": {"Type": kind, **more}})
    assert isinstance(found, Subscription)
    return found


def due(world: InlineBroker, subscription: Subscription, *, idle: bool = False) -> Due | None:
    found = subscription.due(world.state.now_ms, idle=idle)
    if found is not None and found.last:
        subscription.leave()  # as a push does
    return found


def values(found: Due | None) -> list[str]:
    assert found is not None
    return [b64decode(json.loads(record)["Data"]).decode() for record in found.records]


def test_records_come_once_and_then_the_place_when_asked(world: InlineBroker, consumer: str) -> None:
    world.put("a", "b")
    subscription = subscribe(world, consumer)
    assert values(due(world, subscription)) == ["a", "b"]
    assert due(world, subscription) is None
    idle = due(world, subscription, idle=True)
    assert idle is not None
    assert (idle.records, idle.behind_ms, idle.last) == ([], 0, False)
    world.put("c")
    assert values(due(world, subscription)) == ["c"]


def test_a_continuation_moves_without_records_and_reads_on_exactly_behind(world: InlineBroker, consumer: str) -> None:
    world.put("a")
    subscription = subscribe(world, consumer)
    continuations = []
    for _ in range(3):
        found = due(world, subscription, idle=True)
        assert found is not None
        assert found.continuation is not None
        continuations.append(found.continuation)
        world.now_s += 1
    assert sorted(set(continuations), key=int) == continuations
    world.put("b")
    subscription.leave()
    for number in continuations:
        assert values(due(world, subscribe_again(world, consumer, number))) == ["b"]


def subscribe_again(world: InlineBroker, arn: str, number: str) -> Subscription:
    subscription = subscribe(world, arn, "AFTER_SEQUENCE_NUMBER", SequenceNumber=number)
    subscription.leave()
    subscription.ended = False
    return subscription


def test_a_continuation_of_an_empty_shard(world: InlineBroker, consumer: str) -> None:
    subscription = subscribe(world, consumer, "LATEST")
    found = due(world, subscription, idle=True)
    assert found is not None
    subscription.leave()
    world.put("a")
    assert values(due(world, subscribe(world, consumer, "AFTER_SEQUENCE_NUMBER", SequenceNumber=found.continuation))) == ["a"]


def test_every_starting_position(world: InlineBroker, consumer: str) -> None:
    first = world.put("a")[0]["SequenceNumber"]
    world.now_s += 10
    world.put("b")

    def read(kind: str, **more: Any) -> list[str]:
        subscription = subscribe(world, consumer, kind, **more)
        found = due(world, subscription, idle=True)
        subscription.leave()
        return values(found)

    start = world.ask("ListShards", StreamName="s")["Shards"][0]["SequenceNumberRange"]["StartingSequenceNumber"]
    assert read("TRIM_HORIZON") == ["a", "b"]
    assert read("LATEST") == []
    assert read("AT_SEQUENCE_NUMBER", SequenceNumber=first) == ["a", "b"]
    assert read("AT_SEQUENCE_NUMBER", SequenceNumber=start) == ["a", "b"]
    assert read("AFTER_SEQUENCE_NUMBER", SequenceNumber=first) == ["b"]
    assert read("AT_TIMESTAMP", Timestamp=world.now_s) == ["b"]
    assert read("AT_TIMESTAMP", Timestamp=1) == ["a", "b"]


@pytest.mark.parametrize(
    ("position", "code"),
    [
        ({"Type": "AT_SEQUENCE_NUMBER"}, "InvalidArgumentException"),
        ({"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": "5"}, "InvalidArgumentException"),
        ({"Type": "LATEST", "SequenceNumber": "5"}, "InvalidArgumentException"),
        ({"Type": "AT_TIMESTAMP"}, "InvalidArgumentException"),
        ({"Type": "AT_TIMESTAMP", "Timestamp": 1e11}, "InvalidArgumentException"),
        ({"Type": "SOON"}, "ValidationException"),
        ({}, "ValidationException"),
    ],
)
def test_positions_that_are_none(world: InlineBroker, consumer: str, position: dict[str, Any], code: str) -> None:
    assert world.refused("SubscribeToShard", ConsumerARN=consumer, ShardId=SHARD, StartingPosition=position)[0] == code
    subscribe(world, consumer)  # nothing was left behind


def test_refusals(world: InlineBroker, consumer: str) -> None:
    def refused(**more: Any) -> tuple[str, str]:
        return world.refused(
            "SubscribeToShard", **{"ConsumerARN": consumer, "ShardId": SHARD, "StartingPosition": {"Type": "LATEST"}, **more}
        )

    assert refused(ShardId="shardId-000000000009")[0] == "ResourceNotFoundException"
    assert refused(ConsumerARN=consumer + "1")[0] == "ResourceNotFoundException"
    assert refused(DryRun=True)[0] == "DryRunOperationException"
    subscribe(world, consumer)
    text = f"Another active subscription exists for this consumer: 000000000000:s:{SHARD}:c"
    assert refused() == ("ResourceInUseException", text)


def test_only_an_active_consumer_subscribes() -> None:
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 1
    made = world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")["Consumer"]
    ask = {"ConsumerARN": made["ConsumerARN"], "ShardId": SHARD, "StartingPosition": {"Type": "LATEST"}}
    second = made["ConsumerCreationTimestamp"]
    text = f"Consumer c with creation timestamp {second} under stream: s , account 000000000000 is not in ACTIVE status."
    assert world.refused("SubscribeToShard", **ask) == ("ResourceInUseException", text)
    world.now_s += 1
    subscription = subscribe(world, made["ConsumerARN"])
    world.ask("DeregisterStreamConsumer", ConsumerARN=made["ConsumerARN"])
    assert world.refused("SubscribeToShard", **ask)[0] == "ResourceInUseException"
    assert due(world, subscription, idle=True) is not None
    world.now_s += 1
    found = due(world, subscription)
    assert found is not None
    assert found.error is not None
    assert found.error.code == "ResourceNotFoundException"


def test_a_later_one_takes_over(world: InlineBroker, consumer: str) -> None:
    old = subscribe(world, consumer)
    world.now_s += 4.999
    with pytest.raises(ApiError, match="Another active subscription"):
        subscribe(world, consumer)
    world.now_s += 0.001
    new = subscribe(world, consumer)
    found = due(world, old)
    assert found is not None
    assert found.error is not None
    assert (found.error.code, found.last) == ("ResourceInUseException", True)
    world.put("a")
    assert due(world, old) is None
    assert values(due(world, new)) == ["a"]
    with pytest.raises(ApiError, match="Another active subscription"):
        subscribe(world, consumer)  # the old one's end did not free the new one's place


def test_a_clock_set_back_does_not_keep_a_later_one_out(world: InlineBroker, consumer: str) -> None:
    world.now_s += 3600
    first = subscribe(world, consumer)
    world.now_s -= 1800
    second = subscribe(world, consumer)
    assert due(world, first, idle=True) == Due([], error=ANY, last=True)
    assert due(world, second, idle=True) is not None


class _Pipe:
    def __init__(self) -> None:
        self.said: list[str] = []

    def write(self, data: bytes) -> None:
        self.said.append("write")

    def end(self) -> None:
        self.said.append("end")

    def abort(self) -> None:
        self.said.append("abort")


async def test_a_client_that_never_reads_is_broken_off_once_it_is_over(world: InlineBroker, consumer: str) -> None:
    """Event 1: a client stops to read. Event 2: its subscription expires. Its end cannot be sent, and waiting for that would
    keep the consumer's place, and a deleted stream's records, for ever."""
    subscription, pipe = subscribe(world, consumer), _Pipe()
    push = EventPush(subscription, JSON, lambda: world.state.now_ms)
    push.opened(pipe)
    push.paused()
    push._tick()
    assert "abort" not in pipe.said
    world.now_s += 301
    push._tick()
    assert pipe.said[-1] == "abort"
    assert subscription.ended


def test_it_ends_after_five_minutes_by_the_brokers_clock(world: InlineBroker, consumer: str) -> None:
    subscription = subscribe(world, consumer)
    world.state.ahead_s += 299.999
    assert due(world, subscription, idle=True) is not None
    world.state.ahead_s += 0.001
    world.put("late")
    found = due(world, subscription)
    assert found is not None
    assert (found.last, found.silent, found.records) == (True, True, [])
    subscribe(world, consumer)


def test_how_long_it_lasts_can_be_told() -> None:
    world = InlineBroker(subscription_s=2)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    subscription = subscribe(world, world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")["Consumer"]["ConsumerARN"])
    world.now_s += 2
    found = due(world, subscription)
    assert found is not None
    assert found.silent


def test_the_end_of_a_shard_is_an_event_of_its_own(world: InlineBroker, consumer: str) -> None:
    subscription = subscribe(world, consumer)
    world.put("a")
    world.ask("SplitShard", StreamName="s", ShardToSplit=SHARD, NewStartingHashKey="100")
    found = due(world, subscription)
    assert values(found) == ["a"]
    assert found is not None
    assert (found.more, found.last) == (True, False)
    end = due(world, subscription)
    assert end is not None
    assert (end.records, end.continuation, end.last) == ([], None, True)
    assert [child.index for child in end.children] == [1, 2]
    assert due(world, subscription, idle=True) is None


@pytest.mark.parametrize(
    ("operation", "members"),
    [("DeleteStream", {"StreamName": "s", "EnforceConsumerDeletion": True}), ("DeregisterStreamConsumer", {})],
)
def test_what_goes_away_ends_it(world: InlineBroker, consumer: str, operation: str, members: dict[str, Any]) -> None:
    subscription = subscribe(world, consumer)
    woken: list[None] = []
    subscription.watch(lambda: woken.append(None))
    world.ask(operation, **(members or {"ConsumerARN": consumer}))
    assert woken, "it is told at once, and does not wait for its next turn"
    found = due(world, subscription)
    assert found is not None
    assert found.error is not None
    assert found.error.code == "ResourceNotFoundException"


def test_events_are_of_a_sane_size(world: InlineBroker, consumer: str) -> None:
    for _ in range(5):
        world.put("x" * 400_000, "y" * 300_000)
    subscription = subscribe(world, consumer)
    sizes = []
    while (found := due(world, subscription)) is not None:
        sizes.append(sum(map(len, values(found))))
        assert found.more == (found.behind_ms > 0)
    assert sum(sizes) == 3_500_000
    assert max(sizes) <= EVENT_BYTES_MAX
    assert len(sizes) < 6


def test_watchers_leave_with_it(world: InlineBroker, consumer: str) -> None:
    subscription = subscribe(world, consumer)
    subscription.watch(lambda: None)
    watchers = subscription.shard.watchers
    assert len(watchers) == 1
    subscription.leave()
    subscription.leave()
    assert watchers == []


def test_faults(world: InlineBroker, consumer: str) -> None:
    world.put("a", "b")
    subscription = subscribe(world, consumer)
    world.faults.add(StallSubscription(stall_s=5))
    assert due(world, subscription) is None
    world.now_s += 4
    assert due(world, subscription, idle=True) is None
    world.now_s += 1
    assert values(due(world, subscription)) == ["a", "b"]
    world.faults.add(DuplicateRead(back=1))
    world.put("c")
    assert values(due(world, subscription)) == ["b", "c"]
    assert due(world, subscription) is None
    world.faults.add(FailSubscription(error="KMSThrottlingException"))
    world.put("d")
    found = due(world, subscription)
    assert found is not None
    assert found.error is not None
    assert (found.error.code, found.last) == ("KMSThrottlingException", True)
    again = subscribe(world, consumer)
    world.faults.add(EndSubscription())
    found = due(world, again)
    assert found is not None
    assert (found.last, found.silent) == (True, True)


# --- frames -------------------------------------------------------------------------------------------------------------


def parsed(data: bytes) -> list[Any]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return list(buffer)


@given(st.binary(max_size=2000), st.dictionaries(st.text(min_size=1, max_size=60), st.text(max_size=300), max_size=5))
def test_frames_are_what_botocore_reads(payload: bytes, headers: dict[str, str]) -> None:
    data = eventstream.encode(eventstream.headers(headers), (payload[:7], payload[7:]))
    (message,) = parsed(data)
    assert (message.payload, message.headers) == (payload, headers)
    assert eventstream.decode(data + b"more") == (eventstream.Message(headers, payload), len(data))
    assert eventstream.decode(data[:-1]) is None


def test_a_broken_frame_is_seen() -> None:
    data = eventstream.encode(eventstream.event("SubscribeToShardEvent", "application/json"), (b'{"Records":[]}',))
    for at in range(len(data)):
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(eventstream.FrameError):
            eventstream.decode(broken)
