"""Are consumers registered, listed and removed as the service does it? All through calls, on a clock that stands still."""

from __future__ import annotations

from typing import Any

import pytest

from streamlet.broker.inline import InlineBroker

ARN = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"


def register(world: InlineBroker, name: str = "c", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.ask("RegisterStreamConsumer", StreamARN=ARN, ConsumerName=name, **more)["Consumer"]
    return found


def statuses(world: InlineBroker) -> list[tuple[str, str]]:
    found = world.ask("ListStreamConsumers", StreamARN=ARN)["Consumers"]
    return [(consumer["ConsumerName"], consumer["ConsumerStatus"]) for consumer in found]


def count(world: InlineBroker) -> int:
    number: int = world.ask("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["ConsumerCount"]
    return number


def test_a_consumer_is_described_and_counted(world: InlineBroker) -> None:
    made = register(world)
    second = int(world.now_s)
    assert made == {
        "ConsumerName": "c",
        "ConsumerARN": f"{ARN}/consumer/c:{second}",
        "ConsumerStatus": "CREATING",
        "ConsumerCreationTimestamp": second,
    }
    described = {**made, "ConsumerStatus": "ACTIVE", "StreamARN": ARN}
    for members in (
        {"ConsumerARN": made["ConsumerARN"]},
        {"StreamARN": ARN, "ConsumerName": "c"},
        {"StreamARN": ARN, "ConsumerARN": made["ConsumerARN"]},
    ):
        assert world.ask("DescribeStreamConsumer", **members)["ConsumerDescription"] == described
    assert count(world) == 1


def test_the_states_take_the_control_delay() -> None:
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    text = "Stream s under account 000000000000 not ACTIVE or UPDATING, instead in state CREATING"
    assert world.refused("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c") == ("ResourceInUseException", text)
    world.now_s += 1
    made = register(world)
    assert statuses(world) == [("c", "CREATING")]
    world.now_s += 1
    assert statuses(world) == [("c", "ACTIVE")]
    world.ask("DeregisterStreamConsumer", ConsumerARN=made["ConsumerARN"])
    assert (statuses(world), count(world)) == ([("c", "DELETING")], 1)
    world.now_s += 0.5
    world.ask("DeregisterStreamConsumer", ConsumerARN=made["ConsumerARN"])  # changes nothing, not even the time
    world.now_s += 0.5
    assert (statuses(world), count(world)) == ([], 0)


def test_one_that_is_made_anew_has_another_arn(world: InlineBroker) -> None:
    first = register(world)
    world.ask("DeregisterStreamConsumer", StreamARN=ARN, ConsumerName="c")
    second = register(world)
    assert second["ConsumerARN"] != first["ConsumerARN"]
    gone = ("ResourceNotFoundException", f"Consumer {first['ConsumerARN']}, account 000000000000 not found.")
    assert world.refused("DescribeStreamConsumer", ConsumerARN=first["ConsumerARN"]) == gone
    assert world.refused("DeregisterStreamConsumer", ConsumerARN=first["ConsumerARN"]) == gone
    assert statuses(world) == [("c", "ACTIVE")]


def test_pages_tokens_and_their_rules(world: InlineBroker) -> None:
    for index in range(7):
        register(world, f"c{6 - index}")
    names: list[str] = []
    token: dict[str, Any] = {}
    pages = 0
    while True:
        answer = world.ask("ListStreamConsumers", StreamARN=ARN, MaxResults=3, **token)
        names += [consumer["ConsumerName"] for consumer in answer["Consumers"]]
        pages += 1
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
    assert (names, pages) == ([f"c{index}" for index in range(7)], 3)
    both = world.refused("ListStreamConsumers", StreamARN=ARN, StreamCreationTimestamp=1, **token)
    assert both == ("InvalidArgumentException", "NextToken and StreamCreationTimestamp cannot be provided together.")
    world.ask("CreateStream", StreamName="other", ShardCount=1)
    other = world.refused("ListStreamConsumers", StreamARN=ARN.replace("/s", "/other"), **token)
    assert other == ("InvalidArgumentException", "Invalid NextToken.")
    assert world.refused("ListStreamConsumers", StreamARN=ARN, StreamCreationTimestamp=1)[0] == "ResourceNotFoundException"
    world.now_s += 301
    assert world.refused("ListStreamConsumers", StreamARN=ARN, **token)[0] == "ExpiredNextTokenException"


def test_names_are_taken_once_and_there_are_twenty(world: InlineBroker) -> None:
    register(world)
    assert world.refused("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="c")[0] == "ResourceInUseException"
    for index in range(19):
        register(world, f"c{index}")
    assert world.refused("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="more")[0] == "LimitExceededException"


def test_five_may_be_creating() -> None:
    world = InlineBroker(control_delay_ms=1000)
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 1
    for index in range(5):
        register(world, f"c{index}")
    assert world.refused("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="more")[0] == "LimitExceededException"
    world.now_s += 1
    register(world, "more")


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, "InvalidArgumentException"),
        ({"StreamARN": ARN}, "InvalidArgumentException"),
        ({"ConsumerName": "c"}, "InvalidArgumentException"),
        ({"StreamARN": ARN, "ConsumerName": "no"}, "ResourceNotFoundException"),
        ({"StreamARN": ARN + "x", "ConsumerName": "c"}, "ResourceNotFoundException"),
        ({"ConsumerARN": f"{ARN}/consumer/c:1"}, "ResourceNotFoundException"),
        ({"ConsumerARN": f"{ARN}/consumer/c"}, "ValidationException"),
        ({"ConsumerARN": f"{ARN}x/consumer/c:1"}, "ResourceNotFoundException"),
        ({"StreamARN": ARN, "ConsumerName": "no!"}, "ValidationException"),
    ],
)
@pytest.mark.parametrize("operation", ["DescribeStreamConsumer", "DeregisterStreamConsumer"])
def test_who_is_not_there(world: InlineBroker, operation: str, members: dict[str, str], code: str) -> None:
    register(world)
    assert world.refused(operation, **members)[0] == code
    assert count(world) == 1
