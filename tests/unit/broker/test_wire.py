"""Which check comes first, and what does each refusal look like on the wire? reference/errors.md sections 1 to 4."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from streamlet.broker import cbor
from streamlet.broker.http import Request
from streamlet.broker.inline import AUTHORIZATION, InlineBroker
from streamlet.broker.wire import Answer

DENIED = (
    b"<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"
)
JSON, CBOR = "application/x-amz-json-1.1", "application/x-amz-cbor-1.1"


def seen(answer: Answer) -> tuple[int, str, Any]:
    body = b"".join(answer.body)
    return answer.status, answer.content_type, json.loads(body) if body.startswith(b"{") else body


def test_other_methods(world: InlineBroker) -> None:
    for method in ("GET", "PUT", "OPTIONS", "DELETE"):
        assert seen(world.front.answer(Request(method, "/", {}, b"{}", keep_alive=True))) == (403, "", DENIED)


def test_an_empty_body_comes_before_everything_else(world: InlineBroker) -> None:
    assert seen(world.post("ListStreams", b"", authorization="")) == (400, JSON, {"__type": "SerializationException"})
    assert seen(world.post("Nothing", b"")) == (400, JSON, {"__type": "UnknownOperationException"})
    assert seen(world.post("ListStreams", b"", content_type="text/plain")) == (400, CBOR, b"\xbf\x66__type\x76SerializationException\xff")


def test_content_types(world: InlineBroker) -> None:
    assert seen(world.post("ListStreams", "{}", content_type=f" {JSON} ; charset=utf-8"))[0] == 200
    for content_type in ("", "text/plain", "application/x-amz-json-1.0", f"{JSON}x"):
        assert seen(world.post("ListStreams", "{}", content_type=content_type)) == (404, "", b"<UnknownOperationException/>\n")
        assert seen(world.post("", "{}", content_type=content_type)) == (403, "", DENIED)
        assert seen(world.post("x", "{}", content_type=content_type, x_amz_target="Kinesis_20131202")) == (403, "", DENIED)
    envelope = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
    assert seen(world.post("ListStreams", "{}", content_type="application/json")) == (404, "application/json", envelope)
    envelope["Output"] = {"__type": "com.amazon.coral.service#SerializationException"}
    assert seen(world.post("ListStreams", "x", content_type="application/json")) == (400, "application/json", envelope)


def test_errors_come_in_the_content_type_that_was_asked_for(world: InlineBroker) -> None:
    answer = world.post("DescribeStream", cbor.dumps({"StreamName": "t"}), content_type=CBOR)
    text = "Stream t under account 000000000000 not found."
    assert (answer.status, answer.content_type) == (400, CBOR)
    assert cbor.loads(b"".join(answer.body)) == {"__type": "ResourceNotFoundException", "message": text}


@pytest.mark.parametrize("body", ["hello", "{", "1", "null", '"x"', "{}x", b"\xff", '{"a":"\\ud800"}', "[" * 100_000, "NaN", '{"a":1e999}'])
def test_a_body_that_does_not_parse_wins_over_target_and_credentials(world: InlineBroker, body: Any) -> None:
    for operation in ("ListStreams", "PutRecords", "Nothing"):
        assert seen(world.post(operation, body, authorization="")) == (400, JSON, {"__type": "SerializationException"})


def test_an_unknown_target_wins_over_credentials(world: InlineBroker) -> None:
    for target in ("Kinesis_20131202.putRecord", "Kinesis_20131202.", "Kinesis_20131202", "DynamoDB_20120810.ListStreams", ""):
        answer = world.post("", "{}", x_amz_target=target, authorization="")
        assert seen(answer) == (400, JSON, {"__type": "UnknownOperationException"})


def test_credentials_win_over_members(world: InlineBroker) -> None:
    for body in ('{"Limit":"x"}', '{"StreamName":""}'):
        answer = world.post("DescribeStream", body, authorization="")
        missing = {"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"}
        assert seen(answer) == (400, JSON, missing)


@pytest.mark.parametrize(
    ("header", "date", "text"),
    [
        ("AWS4-HMAC-SHA256 Credential=k, SignedHeaders=host", "1", "Authorization header requires 'Signature' parameter. "),
        (
            "X",
            "",
            (
                "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. "
                "Authorization header requires 'SignedHeaders' parameter. "
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
            ),
        ),
    ],
)
def test_incomplete_authorization(world: InlineBroker, header: str, date: str, text: str) -> None:
    answer = world.post("ListStreams", "{}", authorization=header, x_amz_date=date)
    expected = {"__type": "IncompleteSignatureException", "message": f"{text}Authorization={header}"}
    assert seen(answer) == (400, JSON, expected)


def test_authorization_in_the_query(world: InlineBroker) -> None:
    def ask(query: str, **headers: str) -> tuple[int, str, Any]:
        sent = {"content-type": JSON, "x-amz-target": "Kinesis_20131202.ListStreams", **headers}
        return seen(world.front.answer(Request("POST", f"/x?{query}", sent, b"{}", keep_alive=True)))

    complete = (
        "X-Amz-Algorithm=a&X-Amz-Credential=123456789012%2F1%2Feu-south-1%2Fkinesis%2Faws4_request"
        "&X-Amz-Signature=s&X-Amz-SignedHeaders=h&X-Amz-Date=d"
    )
    assert ask(complete)[0] == 200
    assert ask("X-Amz-Credential=x")[2]["__type"] == "MissingAuthenticationTokenException"
    assert ask("X-Amz-Algorithm=", authorization=AUTHORIZATION)[2] == {
        "__type": "InvalidSignatureException",
        "message": "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.",
    }
    assert ask("X-Amz-Algorithm=&X-Amz-Credential=c&X-Amz-Date=d")[2]["message"] == (
        "AWS query-string parameters must include 'X-Amz-Algorithm'. AWS query-string parameters must include 'X-Amz-Signature'. "
        "AWS query-string parameters must include 'X-Amz-SignedHeaders'. Re-examine the query-string parameters."
    )


def test_types_win_over_constraints_and_those_over_existence(world: InlineBroker) -> None:
    assert world.refused("DescribeStream", StreamName="no!", Limit="x")[0] == "SerializationException"
    assert world.refused("DescribeStream", StreamName="no!", Limit=1)[0] == "ValidationException"
    assert world.refused("DescribeStream", StreamName="no", Limit=1)[0] == "ResourceNotFoundException"
    body = seen(world.post("DescribeStream", '{"Limit":"x"}'))[2]
    assert body == {"__type": "SerializationException", "Message": "class java.lang.String can not be converted to an Integer"}
    body = seen(world.post("DescribeStream", "[]"))[2]
    assert body == {"__type": "SerializationException", "Message": "Start of list found where not expected"}


def test_account_and_region_come_from_the_credential_scope(world: InlineBroker) -> None:
    authorization = AUTHORIZATION.replace("AKIAEXAMPLE", "123456789012").replace("eu-west-1", "ap-south-1")
    world.front.call("CreateStream", {"StreamName": "s", "ShardCount": 1})  # shared, beside the caller's own
    body = seen(world.post("DescribeStreamSummary", '{"StreamName":"s"}', authorization=authorization))[2]
    assert body["StreamDescriptionSummary"]["StreamARN"] == "arn:aws:kinesis:ap-south-1:123456789012:stream/s"
    body = seen(world.post("DescribeStreamSummary", '{"StreamName":"t"}', authorization=authorization))[2]
    assert body["message"] == "Stream t under account 123456789012 not found."
    odd = "AWS4-HMAC-SHA256 Credential=k, SignedHeaders=host, Signature=s"
    assert "us-east-1:000000000000" in str(seen(world.post("DescribeStreamSummary", '{"StreamName":"s"}', authorization=odd))[2])


def test_cors(world: InlineBroker) -> None:
    asked = {"origin": "x", "access-control-request-headers": "a, b", "access-control-request-method": "POST"}
    answer = world.front.answer(Request("OPTIONS", "/", asked, b"", keep_alive=True))
    assert (answer.status, answer.body, answer.content_type, answer.second_id) == (200, (), "", False)
    assert dict(answer.headers) == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Max-Age": "172800",
        "Access-Control-Allow-Headers": "a, b",
        "Access-Control-Allow-Methods": "POST",
    }
    answer = world.post("ListStreams", "{}", origin="x")
    assert dict(answer.headers).keys() == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}


@pytest.mark.parametrize("seed", range(8))
def test_no_garbage_makes_it_break(world: InlineBroker, seed: int) -> None:
    """Random values in place of any member, for every operation: always a 200 or a 400 with a type."""
    from streamlet.broker.ops import OPERATIONS

    rng = random.Random(seed)
    put = world.put("x")[0]["SequenceNumber"]
    iterator = world.iterator(0)
    pool: list[Any] = [
        None, True, False, 0, -1, 1, 10**6, 10**30, 1.5, -1e300, 1e300, "", "s", "t", "0", "é", "\u0000", SHARD_TEXT, put, iterator,
        "TRIM_HORIZON", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "UNIFORM_SCALING", "AT_LATEST", str(2**127), str(2**185 + 2), "9" * 129,
        "arn:aws:kinesis:eu-west-1:000000000000:stream/s", "YQ==", [], {}, ["a"], [None], [[]], {"a": "b"}, {"a": None}, {"a": 1},
        {"Type": "FROM_TIMESTAMP", "Timestamp": 1e300}, {"Type": "AT_TIMESTAMP"}, {"StreamMode": "ON_DEMAND"},
        [{"Data": "YQ==", "PartitionKey": "k"}], [{"Data": "YQ==", "PartitionKey": 1}], [{"Data": None}], [1],
    ]  # fmt: skip
    place = pool.index(iterator)
    for name, operation in OPERATIONS.items():
        for _ in range(60):
            members = {member.name: rng.choice(pool) for member in operation.members if rng.random() < 0.8}
            if rng.random() < 0.7:
                members["StreamName"] = "s"
                members.pop("StreamARN", None)
            if world.state.find_by_name("s", world.state.now_ms) is None:  # DeleteStream is among them
                world.ask("CreateStream", StreamName="s", ShardCount=1)
                pool[place] = world.iterator(0)
            answer = world.post(name, json.dumps(members))
            assert answer.status in {200, 400}, (name, members, answer)
            if answer.status == 400:
                assert json.loads(b"".join(answer.body))["__type"], (name, members)


SHARD_TEXT = "shardId-000000000000"
