"""Does the broker say, row by row, what the notes on the service say (reference/errors.md, kinesis-api.md section 5)?

Each case is named after its section and row. Sections 1 to 4 are asked over a socket, the others of a broker without one, in
JSON and in CBOR alike. What is left out on purpose:

- 1 row 0: a body over the limit is 413 with Content-Length 0, where the service sent an empty chunked body.
- 5: the model has no member of the kinds long, short and double.
- 6.3: the limits of around 2020 that today's model does not have.
- 7.3 row 5 and 7.1 "recreated": the service answers 500 InternalFailure; here a 500 always means a bug, so it is a 400.
- 7.4: a shared counter of neighbouring shards; here each shard counts for itself.
- 7.7: an iterator from the future is taken: a clock that is set back must not break a reader.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from hashlib import md5
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from streamlet.broker import Broker, cbor, sequence
from streamlet.broker.inline import AUTHORIZATION, EPOCH_S, InlineBroker
from streamlet.broker.ops import OPERATIONS, UNSUPPORTED

JSON: Final = "application/x-amz-json-1.1"
CBOR: Final = "application/x-amz-cbor-1.1"
A: Final = "000000000000"
ARN: Final = f"arn:aws:kinesis:eu-west-1:{A}:stream/"
ZERO: Final = "shardId-000000000000"
ONE: Final = "shardId-000000000001"
NINE: Final = "shardId-000000000009"
MAX: Final = 2**128 - 1
POLICY: Final = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kinesis:*", "Resource": "*"}})

# --- sections 1 to 4: over a socket -----------------------------------------------------------------------------------

DENIED: Final = (
    b"<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"
)
SHORT: Final = b"<UnknownOperationException/>\n"
EXPOSED: Final = "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date"
FOUND_BOTH: Final = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
COMPLETE: Final = "X-Amz-Algorithm=a&X-Amz-Credential=c&X-Amz-Signature=s&X-Amz-SignedHeaders=h&X-Amz-Date=d"


def envelope(name: str) -> bytes:
    return b'{"Output":{"__type":"com.amazon.coral.service#%b"},"Version":"1.0"}' % name.encode()


def refusal(code: str, text: str = "", key: str = "message") -> bytes:
    body = {"__type": code} | ({key: text} if text else {})
    return json.dumps(body, separators=(",", ":")).encode()


def in_cbor(code: str) -> bytes:
    return cbor.dumps({"__type": code})


def needs(*parts: str) -> str:
    return "".join(f"Authorization header requires '{part}' parameter. " for part in parts)


def must(*parts: str) -> str:
    return "".join(f"AWS query-string parameters must include '{part}'. " for part in parts)


NO_DATE: Final = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "


class Sent(NamedTuple):
    """A request; headers that are None are left out."""

    id: str
    status: int
    content_type: str | None
    body: bytes
    method: str = "POST"
    path: str = "/"
    sent: bytes = b"{}"
    headers: Mapping[str, str | None] = MappingProxyType({})
    cors: Mapping[str, str] = MappingProxyType({})
    second_id: bool = True


def incomplete(text: str, header: str) -> bytes:
    return refusal("IncompleteSignatureException", f"{text}Authorization={header}")


def header_case(name: str, header: str, text: str, **more: str | None) -> Sent:
    return Sent(f"3 header: {name}", 400, JSON, incomplete(text, header), headers={"authorization": header, **more})


def query_case(name: str, query: str, body: bytes, **headers: str | None) -> Sent:
    return Sent(f"3 query: {name}", 400, JSON, body, path=f"/?{query}", headers={"authorization": None, **headers})


def wrong_query(*parts: str) -> bytes:
    return refusal("IncompleteSignatureException", f"{must(*parts)}Re-examine the query-string parameters.")


UNKNOWN: Final = refusal("UnknownOperationException")
UNREADABLE: Final = refusal("SerializationException")
NO_TOKEN: Final = refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
ANY_ORIGIN: Final = {"access-control-allow-origin": "*"}
PREFLIGHT: Final = {**ANY_ORIGIN, "access-control-max-age": "172800"}
VISIBLE: Final = {**ANY_ORIGIN, "access-control-expose-headers": EXPOSED}
PARTS: Final = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")

WIRE: Final = [
    # 1: order of checks
    Sent("1.2 GET", 403, None, DENIED, method="GET", sent=b""),
    Sent("1.2 OPTIONS without Origin", 403, None, DENIED, method="OPTIONS", sent=b""),
    *[Sent(f"1.2 {method} with a body", 403, None, DENIED, method=method) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET")],
    Sent("1.3 empty, JSON, target known", 400, JSON, UNREADABLE, sent=b""),
    Sent("1.3 empty, JSON, target unknown", 400, JSON, UNKNOWN, sent=b"", headers={"x-amz-target": None}),
    Sent("1.3 empty, no authorization", 400, JSON, UNREADABLE, sent=b"", headers={"authorization": None}),
    *[
        Sent(f"1.3 empty, {kind}", 400, CBOR, in_cbor("SerializationException"), sent=b"", headers={"content-type": kind})
        for kind in (CBOR, None, "application/json", "application/x-amz-json-1.0", "text/plain")
    ],
    Sent("1.3 empty, CBOR, target unknown", 400, CBOR, in_cbor("UnknownOperationException"), sent=b"",
         headers={"content-type": CBOR, "x-amz-target": "Kinesis_20131202.putRecord"}),
    *[
        Sent(f"1.4 {kind}, target {target}", 403, None, DENIED, headers={"content-type": kind, "x-amz-target": target})
        for kind in (None, "text/plain")
        for target in (None, "Kinesis_20131202", "Kinesis_20131202.", ".ListStreams")
    ],
    Sent("1.5 unknown type, target with both parts", 404, None, SHORT, headers={"content-type": "text/plain"}),
    Sent("1.5 unknown type, any service", 404, None, SHORT, headers={"content-type": "text/plain", "x-amz-target": "a.b"}),
    *[
        Sent(f"1.6 {sent!r}", 400, JSON, UNREADABLE, sent=sent, headers={"authorization": None, "x-amz-target": target})
        for sent in (b"hello", b"{", b"1", b"null", b'"x"', b"true", b"\xff")
        for target in ("Kinesis_20131202.ListStreams", "x.y")
    ],
    Sent("1.6 CBOR", 400, CBOR, in_cbor("SerializationException"), sent=b"\xff", headers={"content-type": CBOR}),
    Sent("1.6 application/json", 400, "application/json", envelope("SerializationException"), sent=b"{",
         headers={"content-type": "application/json"}),
    *[
        Sent(f"1.7 application/json, target {target}", 404, "application/json", envelope("UnknownOperationException"),
             headers={"content-type": "application/json", "x-amz-target": target, "authorization": None})
        for target in (None, "Kinesis_20131202.ListStreams", "x.y")
    ],
    Sent("1.8 unknown operation before authorization", 400, JSON, UNKNOWN,
         headers={"x-amz-target": "Kinesis_20131202.Nothing", "authorization": None}),
    Sent("1.8 CBOR", 400, CBOR, in_cbor("UnknownOperationException"), sent=b"\xa0", headers={"x-amz-target": "x.y", "content-type": CBOR}),
    Sent("1.9 authorization before members", 400, JSON, NO_TOKEN, sent=b'{"Limit":"x"}', headers={"authorization": None}),
    Sent("1.10 types before constraints", 400, JSON,
         refusal("SerializationException", "class java.lang.String can not be converted to an Integer", "Message"),
         sent=b'{"Limit":"x","ExclusiveStartStreamName":""}'),
    Sent("1.11 constraints before existence", 400, JSON,
         refusal("ValidationException", "1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: "
                 "Member must have value greater than or equal to 1"),
         sent=b'{"Limit":0,"StreamName":"none"}', headers={"x-amz-target": "Kinesis_20131202.DescribeStream"}),
    Sent("1.12 existence", 400, JSON, refusal("ResourceNotFoundException", f"Stream none under account {A} not found."),
         sent=b'{"Limit":1,"StreamName":"none"}', headers={"x-amz-target": "Kinesis_20131202.DescribeStream"}),
    # 2: content type and target
    *[
        Sent(f"2 type {kind!r}", 400, JSON, UNKNOWN, headers={"content-type": kind, "x-amz-target": "x.y"})
        for kind in (f"{JSON};charset=utf-8", f"  {JSON} ; x", f"{JSON};")
    ],
    *[Sent(f"2 type {kind!r}", 404, None, SHORT, headers={"content-type": kind}) for kind in (f"{JSON}x", "application/x-amz-json-1.0", "")],
    *[
        Sent(f"2 target {target!r}", 400, JSON, UNKNOWN, headers={"x-amz-target": target})
        for target in (None, "", "Kinesis_20131202", "Kinesis_20131202.", "DynamoDB_20120810.ListStreams", "Kinesis_20131202.listStreams",
                       "Kinesis_20131202.ListStream", "Kinesis_20131202.ListStreams2", "kinesis_20131202.ListStreams", ".ListStreams")
    ],
    Sent("2 the path is never looked at", 400, JSON, NO_TOKEN, path="/x/y?z=1", headers={"authorization": None}),
    Sent("2 a third piece of the target", 400, JSON, NO_TOKEN,
         headers={"authorization": None, "x-amz-target": "Kinesis_20131202.ListStreams.x"}),
    # 3: authorization
    Sent("3 both", 400, JSON, refusal("InvalidSignatureException", FOUND_BOTH), path=f"/?{COMPLETE}"),
    Sent("3 both, the parameter empty", 400, JSON, refusal("InvalidSignatureException", FOUND_BOTH), path="/?X-Amz-Algorithm="),
    Sent("3 neither", 400, JSON, NO_TOKEN, headers={"authorization": None}),
    Sent("3 neither, in CBOR", 400, CBOR,
         cbor.dumps({"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"}), sent=b"\xa0",
         headers={"authorization": None, "content-type": CBOR}),
    query_case("another parameter does not count", "X-Amz-Credential=c&X-Amz-Date=d", NO_TOKEN),
    query_case("a misspelt name does not count", "X-Amz-algorithm=a", NO_TOKEN),
    header_case("example", "AWS4-HMAC-SHA256 Credential=k, SignedHeaders=host", needs("Signature")),
    header_case("all missing", "x", needs("Credential", "Signature", "SignedHeaders")),
    header_case("all missing, and the date", "x", needs("Credential", "Signature", "SignedHeaders") + NO_DATE, **{"x-amz-date": None}),
    header_case("Credential", "x Signature=a, SignedHeaders=b", needs("Credential")),
    header_case("SignedHeaders", "x Signature=a Credential=b", needs("SignedHeaders")),
    header_case("empty parts", "x Signature=,Credential=,SignedHeaders=", needs("Credential", "Signature", "SignedHeaders")),
    header_case("the first piece is dropped", "Credential=a Signature=a,SignedHeaders=b", needs("Credential")),
    header_case("a date is needed", AUTHORIZATION, NO_DATE, **{"x-amz-date": None}),
    query_case("all empty", "&".join(f"{part}=" for part in PARTS), wrong_query(*PARTS)),
    *[query_case(f"{part} missing", re.sub(f"{part}=[^&]*&?", "", COMPLETE), wrong_query(part)) for part in PARTS[1:]],
    query_case("two missing", "X-Amz-Algorithm=a&X-Amz-Signature=s&X-Amz-SignedHeaders=h",
               wrong_query("X-Amz-Credential", "X-Amz-Date")),
    # 4: CORS
    Sent("4 preflight", 200, None, b"", method="OPTIONS", sent=b"", headers={"origin": "x"}, cors=PREFLIGHT, second_id=False),
    Sent("4 preflight, not signed", 200, None, b"", method="OPTIONS", sent=b"", headers={"origin": "x", "authorization": None},
         cors=PREFLIGHT, second_id=False),
    Sent("4 preflight with headers", 200, None, b"", method="OPTIONS", sent=b"", second_id=False,
         headers={"origin": "x", "access-control-request-headers": "a, B;c"},
         cors={**PREFLIGHT, "access-control-allow-headers": "a, B;c"}),
    Sent("4 preflight with a method", 200, None, b"", method="OPTIONS", sent=b"", second_id=False,
         headers={"origin": "x", "access-control-request-method": "any"}, cors={**PREFLIGHT, "access-control-allow-methods": "any"}),
    Sent("4 error with Origin", 400, JSON, UNKNOWN, headers={"origin": "x", "x-amz-target": None}, cors=VISIBLE),
    Sent("4 other method with Origin", 403, None, DENIED, method="PUT", headers={"origin": "x"}, cors=VISIBLE),
    Sent("4 success with Origin", 200, JSON, b'{"HasMoreStreams":false,"StreamNames":[],"StreamSummaries":[]}', headers={"origin": "x"},
         cors=VISIBLE),
]  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[http.client.HTTPConnection]:
    with Broker.in_thread() as running:
        parts = urlsplit(running.endpoint_url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        yield connection
        connection.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in WIRE])
def test_on_the_wire(served: http.client.HTTPConnection, case: Sent) -> None:
    headers: dict[str, str | None] = {
        "content-type": JSON,
        "x-amz-target": "Kinesis_20131202.ListStreams",
        "x-amz-date": "20260101T000000Z",
        "authorization": AUTHORIZATION,
        **case.headers,
    }
    served.request(case.method, case.path, case.sent, {name: value for name, value in headers.items() if value is not None})
    answer = served.getresponse()
    body = answer.read()
    assert (answer.status, answer.getheader("content-type"), body) == (case.status, case.content_type, case.body)
    seen = {name.lower(): value for name, value in answer.getheaders()}
    assert uuid.UUID(seen.pop("x-amzn-requestid")).version == 4
    assert seen.pop("content-length") == str(len(body))
    assert seen.pop("date").endswith(" GMT")
    second = seen.pop("x-amz-id-2", None)
    assert (second is not None) is case.second_id
    if second is not None:
        assert 64 <= len(base64.b64decode(second, validate=True)) <= 80
    seen.pop("content-type", None)
    assert seen == dict(case.cors)


def test_ids_are_never_the_same(served: http.client.HTTPConnection) -> None:
    found = set()
    for _ in range(5):
        served.request("GET", "/")
        answer = served.getresponse()
        answer.read()
        found |= {answer.getheader("x-amzn-requestid"), answer.getheader("x-amz-id-2")}
    assert len(found) == 10


def test_a_body_over_the_limit(served: http.client.HTTPConnection) -> None:
    """1 row 0, but for the chunks."""
    other = http.client.HTTPConnection(served.host, served.port, timeout=30)
    other.putrequest("POST", "/")
    other.putheader("content-length", str(64 * 1024 * 1024))
    other.endheaders()
    answer = other.getresponse()
    assert (answer.status, answer.read(), answer.getheader("content-type")) == (413, b"", None)
    assert answer.getheader("x-amzn-requestid")
    other.close()


# --- sections 5 to 7: a refusal each, in JSON and in CBOR -------------------------------------------------------------


def make_world() -> InlineBroker:
    """Streams in every state: `s` of two shards, `split` with shard 0 closed, `full` with tags, `new`, `leaving`, `changing`, ..."""
    world = InlineBroker(shards_max=40)
    for name, shards in (("s", 2), ("split", 1), ("full", 1), ("leaving", 1), ("changing", 1), ("old", 2), ("fewer", 2), ("kept", 1)):
        world.ask("CreateStream", StreamName=name, ShardCount=shards)
    world.ask("CreateStream", StreamName="od", StreamModeDetails={"StreamMode": "ON_DEMAND"})
    world.ask("SplitShard", StreamName="split", ShardToSplit="0", NewStartingHashKey=str(2**127))
    world.ask("AddTagsToStream", StreamName="full", Tags={f"k{n}": "" for n in range(50)})
    world.ask("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    world.ask("RegisterStreamConsumer", StreamARN=f"{ARN}kept", ConsumerName="there")
    world.put("x", stream="s")
    world.state.control_delay_ms = 60_000
    world.ask("CreateStream", StreamName="new", ShardCount=1)
    world.ask("DeleteStream", StreamName="leaving")
    world.ask("SplitShard", StreamName="changing", ShardToSplit="0", NewStartingHashKey=str(2**127))
    world.ask("RegisterStreamConsumer", StreamARN=f"{ARN}kept", ConsumerName="coming")
    world.state.control_delay_ms = 0
    return world


Members = dict[str, Any] | Callable[[InlineBroker], dict[str, Any]]


class Refused(NamedTuple):
    """A call, and the refusal. Members may be made from the world, and so may the text."""

    id: str
    operation: str
    members: Members
    code: str
    text: str | Callable[[InlineBroker, dict[str, Any]], str]
    key: str = "message"


def check(case: Refused) -> None:
    """The same in both formats, each of a world of its own; status, type, text and headers."""
    for content_type in (JSON, CBOR):
        world = make_world()
        members = case.members if isinstance(case.members, dict) else case.members(world)
        text = case.text if isinstance(case.text, str) else case.text(world, members)
        body = json.dumps(members) if content_type == JSON else in_plain_cbor(members)
        answer = world.post(case.operation, body, content_type=content_type)
        told = b"".join(answer.body)
        if content_type == JSON:
            assert told.decode() == json.dumps({"__type": case.code, case.key: text}, separators=(",", ":"), ensure_ascii=False)
        else:
            assert cbor.loads(told) == {"__type": case.code, case.key: text}
        assert (answer.status, answer.content_type, answer.headers, answer.second_id) == (400, content_type, (), True)
        assert (answer.ready, answer.push, answer.dropped) == (None, None, False)


TBN: Final = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"
BOOL: Final = "class java.lang.Boolean"
TEXT: Final = "class java.lang.String"
LST: Final = "Start of list found where not expected"
STR: Final = "Start of structure or map found where not expected."
OK: Final = ""

# member type: a place for it, and what is said to a text, a number, a boolean, a list, a map
PLACES: Final[dict[str, tuple[str, Callable[[Any], dict[str, Any]]]]] = {
    "string": ("DescribeStream", lambda value: {"StreamName": value}),
    "string (enum)": ("GetShardIterator", lambda value: {"ShardId": "0", "ShardIteratorType": value}),
    "string (in a list)": ("RemoveTagsFromStream", lambda value: {"TagKeys": ["a", value]}),
    "string (in a map)": ("AddTagsToStream", lambda value: {"Tags": {"a": "b", "c": value}}),
    "string (in a structure in a list)": ("PutRecords", lambda value: {"Records": [{"PartitionKey": value}]}),
    "integer": ("ListStreams", lambda value: {"Limit": value}),
    "boolean": ("DeleteStream", lambda value: {"EnforceConsumerDeletion": value}),
    "timestamp": ("GetShardIterator", lambda value: {"Timestamp": value}),
    "timestamp (in a structure)": ("ListShards", lambda value: {"ShardFilter": {"Timestamp": value}}),
    "blob": ("PutRecord", lambda value: {"Data": value}),
    "blob (in a structure in a list)": ("PutRecords", lambda value: {"Records": [{}, {"Data": value}]}),
    "list": ("RemoveTagsFromStream", lambda value: {"TagKeys": value}),
    "list of structures": ("PutRecords", lambda value: {"Records": value}),
    "map": ("AddTagsToStream", lambda value: {"Tags": value}),
    "structure": ("ListShards", lambda value: {"ShardFilter": value}),
    "structure (in a list)": ("PutRecords", lambda value: {"Records": [value]}),
}


def converted(what: str) -> tuple[str, str]:
    return f"{TBN} can not be converted to {what}", f"{BOOL} can not be converted to {what}"


SAYS: Final[dict[str, tuple[str, str, str, str, str]]] = {
    "string": (OK, *converted("an String"), LST, STR),
    "integer": (f"{TEXT} can not be converted to an Integer", OK, converted("an Integer")[1], LST, STR),
    "boolean": ("'X Y' can not be converted to an Boolean", converted("an Boolean")[0], OK, LST, STR),
    "timestamp": (
        f"{TEXT} can not be converted to milliseconds since epoch",
        OK,
        converted("milliseconds since epoch")[1],
        LST,
        STR,
    ),
    "blob": (
        "'x y' can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 3",
        *converted("a Blob"),
        LST,
        STR,
    ),
    "list": ("Expected list or null", "Expected list or null", "Expected list or null", OK, STR),
    "map": ("Expected map or null", "Expected map or null", "Expected map or null", LST, OK),
    "structure": ("Expected null", "Expected null", "Expected null", LST, OK),
}
FOUND: Final[tuple[tuple[str, Any], ...]] = (("string", "x y"), ("number", 7), ("true", True), ("list", []), ("object", {}))


def check_type(operation: str, members: dict[str, Any], text: str) -> None:
    for answer in (
        InlineBroker().post(operation, json.dumps(members)),
        InlineBroker().post(operation, in_plain_cbor(members), content_type=CBOR),
    ):
        body = b"".join(answer.body)
        told: dict[str, Any] = (json.loads if answer.content_type == JSON else cbor.loads)(body) if body else {}
        if text:
            assert (answer.status, told) == (400, {"__type": "SerializationException", "Message": text})
        else:
            assert told.get("__type") != "SerializationException"


def in_plain_cbor(value: Any) -> bytes:
    """CBOR without a dialect: payloads and timestamps as they are."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, dict):
        return b"\xbf" + b"".join(in_plain_cbor(key) + in_plain_cbor(entry) for key, entry in value.items()) + b"\xff"
    if isinstance(value, list):
        return b"\x9f" + b"".join(map(in_plain_cbor, value)) + b"\xff"
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, int):
        assert abs(value) < 2**63
        return (b"\x1b" + value.to_bytes(8, "big")) if value >= 0 else b"\x3b" + (-1 - value).to_bytes(8, "big")
    text: bytes = value.encode()
    return b"\x7a" + len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize(
    ("place", "found"),
    [pytest.param(place, index, id=f"5 {place}: {FOUND[index][0]}") for place in PLACES for index in range(len(FOUND))],
)
def test_types(place: str, found: int) -> None:
    operation, members = PLACES[place]
    kind = place.split(maxsplit=1)[0]
    check_type(operation, members(FOUND[found][1]), SAYS[kind][found])


@pytest.mark.parametrize(
    ("operation", "members", "text"),
    [
        *[
            pytest.param("DeleteStream", {"EnforceConsumerDeletion": value}, text, id=f"5 boolean: {value!r}")
            for value, text in [
                *[(word, OK) for word in ("true", "False", "1", "0", "YES", "no")],
                ("maybe", "'MAYBE' can not be converted to an Boolean"),
                ("", "'' can not be converted to an Boolean"),
                (0, f"{TBN} can not be converted to an Boolean"),
                (-3, f"{TBN} can not be converted to an Boolean"),
                (1.5, OK),
            ]
        ],
        *[
            pytest.param("ListStreams", {"Limit": value}, OK, id=f"5 integer: {value!r}")
            for value in (1.5, -1.5, 0, 2**31, -(2**31) - 1, 1e300)
        ],
        *[
            pytest.param("PutRecord", {"Data": raw}, f"'{raw}' can not be converted to a Blob: {why}" if why else OK, id=f"5 blob: {raw!r}")
            for raw, why in [
                ("", ""),
                ("YWJj", ""),
                ("YQ==", ""),
                ("abc", "Base64 encoded length is expected a multiple of 4 bytes but found: 3"),
                ("a!c", "Base64 encoded length is expected a multiple of 4 bytes but found: 3"),
                ("abc\n", "Invalid Base64 character: '\n'"),
                ("ab!?", "Invalid Base64 character: '!'"),
                ("ab-_", "Invalid Base64 character: '-'"),
                ("a=bc", "Invalid Base64 character: '='"),
                ("YQ==YQ==", "Invalid Base64 character: '='"),
                ("YR==", "Invalid last non-pad Base64 character dectected"),
                ("YWJ=", "Invalid last non-pad Base64 character dectected"),
                ("A===", "Invalid last non-pad Base64 character dectected"),
                ("====", "Invalid last non-pad Base64 character dectected"),
            ]
        ],
        pytest.param("ListStreams", {"Limit": None, "NextToken": None}, OK, id="5 null is absent"),
        pytest.param("PutRecords", {"Records": [{"Data": None, "PartitionKey": None}]}, OK, id="5 null is absent in a structure"),
        pytest.param("ListStreams", {"Other": [1], "limit": "x"}, OK, id="5 unknown members are ignored"),
        pytest.param("PutRecords", {"Records": [{"Other": {"Data": 1}}]}, OK, id="5 unknown members are ignored, nested"),
        pytest.param("PutRecord", {"Data": 1, "PartitionKey": True}, converted("an String")[1], id="5 the first in member order"),
        pytest.param("PutRecord", {"StreamId": 1}, converted("an String")[0], id="5 StreamId"),
        pytest.param("UpdateStreamMode", {"StreamId": []}, LST, id="5 StreamId elsewhere"),
    ],
)
def test_forms_of_values(operation: str, members: dict[str, Any], text: str) -> None:
    check_type(operation, members, text)


# --- section 6 --------------------------------------------------------------------------------------------------------


def items(*found: tuple[str, str, str]) -> str:
    """Items of shown value (with quotes; empty: left out), path and constraint."""
    told = "; ".join(f"Value {value}{' ' if value else ''}at '{path}' failed to satisfy constraint: {text}" for value, path, text in found)
    return f"{len(found)} validation error{'' if len(found) == 1 else 's'} detected: {told}"


NULL: Final = "Member must not be null"
NAME: Final = "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+"
SEQ: Final = r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,128})"
HASH: Final = r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})"
METRICS: Final = (
    "IncomingBytes, IncomingRecords, OutgoingBytes, OutgoingRecords, WriteProvisionedThroughputExceeded, "
    "ReadProvisionedThroughputExceeded, IteratorAgeMilliseconds, ALL"
)
ARN_FORM: Final = r"Member must satisfy regular expression pattern: arn:aws.*:kinesis:.*:\d{12}:stream/\S+"
TYPES: Final = "Member must satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, AT_SEQUENCE_NUMBER, TRIM_HORIZON]"


def short(low: int = 1) -> str:
    return f"Member must have length greater than or equal to {low}"


def long(high: int) -> str:
    return f"Member must have length less than or equal to {high}"


def small(low: int = 1) -> str:
    return f"Member must have value greater than or equal to {low}"


def big(high: int) -> str:
    return f"Member must have value less than or equal to {high}"


def bracket(low: int, high: int) -> str:
    return f"[{long(high)}, {short(low)}]"


NO_NAME: Final = ("null", "streamName", NULL)
LONG_NAME: Final = "n" * 129
WRONG_NAME: Final = [("''", "streamName", NAME), ("''", "streamName", short())]


def invalid(name: str, operation: str, members: Members, *found: tuple[str, str, str]) -> Refused:
    return Refused(f"6 {name}", operation, members, "ValidationException", items(*found))


CONSTRAINTS: Final = [
    # 6.1
    invalid("1 one item", "DescribeStreamSummary", {}, NO_NAME),
    invalid("1 a value is not escaped", "DescribeStreamSummary", {"StreamName": "a'b\"\n"}, ("'a'b\"\n'", "streamName", NAME)),
    invalid("1 at most ten", "PutRecords", {"Records": [{}] * 11, "StreamName": ""},
            *[("null", f"records.{n}.member.data", NULL) for n in range(1, 11)]),
    invalid("1 the order is the model's, not the request's", "PutRecord",
            {"StreamName": "", "ExplicitHashKey": "x", "PartitionKey": "", "SequenceNumberForOrdering": ""},
            ("''", "sequenceNumberForOrdering", SEQ), ("''", "partitionKey", short()), ("'x'", "explicitHashKey", HASH),
            ("null", "data", NULL), *WRONG_NAME),
    invalid("1 nested, in order", "PutRecords",
            {"Records": [{"Data": "", "PartitionKey": ""}, {"ExplicitHashKey": "-1", "PartitionKey": "k"}], "StreamName": "s"},
            ("''", "records.1.member.partitionKey", short()), ("'-1'", "records.2.member.explicitHashKey", HASH),
            ("null", "records.2.member.data", NULL)),
    invalid("1 a container before its elements", "PutRecords", {"Records": [{"Data": "", "PartitionKey": ""}] * 501, "StreamName": "s"},
            ("", "records", long(500)), *[("''", f"records.{n}.member.partitionKey", short()) for n in range(1, 10)]),
    invalid("1 record data has no value", "PutRecord",
            lambda _: {"StreamName": "s", "PartitionKey": "k", "Data": base64.b64encode(bytes(1048577)).decode()}, ("", "data", long(1048576))),
    invalid("1 record data has no value, in every record", "PutRecords",
            lambda _: {"StreamName": "s", "Records": [{"PartitionKey": "k", "Data": base64.b64encode(bytes(n)).decode()}
                                                      for n in (1048577, 1, 1048577)]},
            ("", "records.1.member.data", long(1048576)), ("", "records.3.member.data", long(1048576))),
    invalid("1 a stringy value is shown", "GetShardIterator",
            {"StreamName": "s", "ShardId": "0", "ShardIteratorType": "LATEST", "StartingSequenceNumber": "x"},
            ("'x'", "startingSequenceNumber", SEQ)),
    # 6.2
    invalid("2 example", "GetRecords", {"Limit": -3}, ("'-3'", "limit", small()), ("null", "shardIterator", NULL)),
    invalid("2 nothing else for a missing member", "SplitShard", {"StreamName": None},
            ("null", "newStartingHashKey", NULL), NO_NAME, ("null", "shardToSplit", NULL)),
    invalid("2 too short", "GetRecords", {"ShardIterator": ""}, ("''", "shardIterator", short())),
    invalid("2 too long", "GetRecords", {"ShardIterator": "x" * 513}, (f"'{'x' * 513}'", "shardIterator", long(512))),
    invalid("2 a list too short", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": []}, ("'[]'", "tagKeys", short())),
    invalid("2 a list too long", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": ["a"] * 51},
            (f"'[{', '.join('a' * 51)}]'", "tagKeys", long(50))),
    invalid("2 a map too short", "AddTagsToStream", {"StreamName": "s", "Tags": {}}, ("'{}'", "tags", short())),
    invalid("2 a map too long", "AddTagsToStream", {"StreamName": "s", "Tags": {f"{n}": "v" for n in range(201)}},
            ("'{" + ", ".join(f"{n}=v" for n in range(201)) + "}'", "tags", long(200))),
    invalid("2 too small", "DescribeStream", {"StreamName": "s", "Limit": 0}, ("'0'", "limit", small())),
    invalid("2 too big", "DescribeStream", {"StreamName": "s", "Limit": 10001}, ("'10001'", "limit", big(10000))),
    invalid("2 a number is shown after clamping", "DescribeStream", {"StreamName": "s", "Limit": 2**40},
            ("'2147483647'", "limit", big(10000))),
    invalid("2 a pattern is for the whole value", "DescribeStreamSummary", {"StreamName": "s!"}, ("'s!'", "streamName", NAME)),
    invalid("2 enum", "GetShardIterator", {"StreamName": "s", "ShardId": "0", "ShardIteratorType": "latest"},
            ("'latest'", "shardIteratorType", TYPES)),
    invalid("2 an element of a list", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": ["a", "", "b", ""]},
            ("'[a, , b, ]'", "tagKeys", f"Member must satisfy constraint: {bracket(1, 128)}")),
    invalid("2 an element that is null", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": [None]},
            ("'[null]'", "tagKeys", f"Member must satisfy constraint: {bracket(1, 128)}")),
    invalid("2 a key of a map", "AddTagsToStream", {"StreamName": "s", "Tags": {"": "b"}},
            ("'{=b}'", "tags", f"Map keys must satisfy constraint: {bracket(1, 128)}")),
    invalid("2 a value of a map", "AddTagsToStream", {"StreamName": "s", "Tags": {"a": "b" * 257}},
            ("'{a=" + "b" * 257 + "}'", "tags", f"Map value must satisfy constraint: {bracket(0, 256)}")),
    invalid("2 an element of an enum list", "EnableEnhancedMonitoring", {"StreamName": "s", "ShardLevelMetrics": ["ALL", "x"]},
            ("'[ALL, x]'", "shardLevelMetrics",
             f"Member must satisfy constraint: [Member must satisfy enum value set: [{METRICS}]]")),
    invalid("2 pattern, then length", "DescribeStreamSummary", {"StreamName": ""}, *WRONG_NAME),
    # 6.3, each operation with all its members wrong at once
    invalid("3 CreateStream", "CreateStream", {"ShardCount": 0}, ("'0'", "shardCount", small()), NO_NAME),
    invalid("3 CreateStream, an ARN is no name", "CreateStream", {"ShardCount": 1, "StreamARN": f"{ARN}x"}, NO_NAME),
    *[
        invalid(f"3 {operation}", operation, {"StreamName": LONG_NAME}, (f"'{LONG_NAME}'", "streamName", long(128)))
        for operation in ("DeleteStream", "DescribeStreamSummary")
    ],
    *[
        invalid(f"3 {operation}, {name}", operation, {"Limit": 0, "ExclusiveStartShardId": "", **more}, ("'0'", "limit", small()),
                ("''", "exclusiveStartShardId", NAME), ("''", "exclusiveStartShardId", short()), *found)
        for operation in ("DescribeStream",)
        for name, more, found in (("no name", {}, [NO_NAME]), ("empty name", {"StreamName": ""}, WRONG_NAME))
    ],
    invalid("3 ListStreams", "ListStreams", {"Limit": 10001, "ExclusiveStartStreamName": "", "NextToken": ""},
            ("'10001'", "limit", big(10000)), ("''", "exclusiveStartStreamName", NAME), ("''", "exclusiveStartStreamName", short()),
            ("''", "nextToken", short())),
    invalid("3 ListShards", "ListShards", {"MaxResults": 0, "ExclusiveStartShardId": "", "StreamName": "", "NextToken": ""},
            ("'0'", "maxResults", small()), ("''", "exclusiveStartShardId", NAME), ("''", "exclusiveStartShardId", short()), *WRONG_NAME,
            ("''", "nextToken", short())),
    invalid("3 PutRecord", "PutRecord",
            {"SequenceNumberForOrdering": "01", "PartitionKey": "k" * 257, "ExplicitHashKey": "1" * 40},
            ("'01'", "sequenceNumberForOrdering", SEQ), (f"'{'k' * 257}'", "partitionKey", long(256)),
            (f"'{'1' * 40}'", "explicitHashKey", HASH), ("null", "data", NULL), NO_NAME),
    invalid("3 PutRecord, the key is missed once the stream is known", "PutRecord", {"StreamName": "s", "Data": ""},
            ("null", "partitionKey", NULL)),
    invalid("3 PutRecords", "PutRecords", {"Records": []}, ("", "records", short()), NO_NAME),
    invalid("3 PutRecords, all missing", "PutRecords", {}, ("null", "records", NULL), NO_NAME),
    invalid("3 PutRecords, keys are missed once the stream is known", "PutRecords",
            {"StreamName": "s", "Records": [{"Data": "", "ExplicitHashKey": str(2**128), "PartitionKey": "k"}, {"Data": ""}, {"Data": ""}]},
            ("null", "records.2.member.partitionKey", NULL), ("null", "records.3.member.partitionKey", NULL)),
    invalid("3 GetShardIterator", "GetShardIterator", {"ShardId": "", "ShardIteratorType": "", "StartingSequenceNumber": ""},
            ("''", "shardId", NAME), ("''", "shardId", short()), ("''", "shardIteratorType", TYPES),
            ("''", "startingSequenceNumber", SEQ), NO_NAME),
    invalid("3 GetShardIterator, all missing", "GetShardIterator", {}, ("null", "shardId", NULL), ("null", "shardIteratorType", NULL),
            NO_NAME),
    invalid("3 GetRecords", "GetRecords", {"Limit": 10001, "ShardIterator": ""}, ("'10001'", "limit", big(10000)),
            ("''", "shardIterator", short())),
    invalid("3 SplitShard", "SplitShard", {"NewStartingHashKey": "00", "ShardToSplit": "!"}, ("'00'", "newStartingHashKey", HASH), NO_NAME,
            ("'!'", "shardToSplit", NAME)),
    invalid("3 MergeShards", "MergeShards", {"ShardToMerge": "!"}, ("'!'", "shardToMerge", NAME), ("null", "adjacentShardToMerge", NULL),
            NO_NAME),
    *[
        invalid(f"3 {way}StreamRetentionPeriod", f"{way}StreamRetentionPeriod", {}, ("null", "retentionPeriodHours", NULL), NO_NAME)
        for way in ("Increase", "Decrease")
    ],
    invalid("3 AddTagsToStream", "AddTagsToStream", {"Tags": {}}, ("'{}'", "tags", short()), NO_NAME),
    invalid("3 RemoveTagsFromStream", "RemoveTagsFromStream", {}, ("null", "tagKeys", NULL), NO_NAME),
    invalid("3 ListTagsForStream", "ListTagsForStream", {"Limit": 51, "ExclusiveStartTagKey": ""}, ("'51'", "limit", big(50)),
            ("''", "exclusiveStartTagKey", short()), NO_NAME),
    invalid("3 consumers", "RegisterStreamConsumer", {"StreamARN": f"{ARN}s", "ConsumerName": ""}, ("''", "consumerName", NAME),
            ("''", "consumerName", short())),
    invalid("3 monitoring", "DisableEnhancedMonitoring", {"StreamName": "s", "ShardLevelMetrics": []},
            ("'[]'", "shardLevelMetrics", short())),
    invalid("3 encryption", "StartStreamEncryption", {"StreamName": "s", "EncryptionType": "KMS", "KeyId": ""}, ("''", "keyId", short())),
    *[
        invalid(f"3 StreamId of {operation}", operation, {**more, "StreamId": "x"},
                ("'x'", "streamId", "Member must satisfy regular expression pattern: [a-z0-9]{20}-[a-z0-9]{3}"))
        for operation, more in (
            ("PutRecord", {"StreamName": "s", "Data": "", "PartitionKey": "k"}), ("DescribeStreamSummary", {"StreamName": "s"}),
            ("PutRecords", {"StreamName": "s", "Records": [{"Data": "", "PartitionKey": "k"}]}),
            ("UpdateMaxRecordSize", {"StreamARN": f"{ARN}s", "MaxRecordSizeInKiB": 1024}),
            ("ListStreamConsumers", {"StreamARN": f"{ARN}s"}), ("GetResourcePolicy", {"ResourceARN": f"{ARN}s"}),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CONSTRAINTS])
def test_constraints(case: Refused) -> None:
    check(case)


# --- section 7 --------------------------------------------------------------------------------------------------------

GONE: Final = "ResourceNotFoundException"
BUSY: Final = "ResourceInUseException"
WRONG: Final = "InvalidArgumentException"
LIMIT: Final = "LimitExceededException"
NOBODY: Final = f"Stream none under account {A} not found."
RECORD: Final = {"Data": "", "PartitionKey": "k"}


def inside(stream: str) -> str:
    return f"stream {stream} under account {A}"


def unknown_shard(shard: str, stream: str = "s") -> str:
    return f"Could not find shard {shard} in {inside(stream)}."


def not_there(shard: str, stream: str = "s") -> str:
    return f"Shard {shard} in {inside(stream)} does not exist"


def not_active(stream: str, status: str) -> str:
    return f"Stream {stream} under account {A} not ACTIVE, instead in state {status}"


# Every operation on a stream, with members that are otherwise right.
ON_STREAM: Final[dict[str, dict[str, Any]]] = {
    "AddTagsToStream": {"Tags": {"a": "b"}},
    "DecreaseStreamRetentionPeriod": {"RetentionPeriodHours": 24},
    "DeleteStream": {},
    "DescribeStream": {},
    "DescribeStreamSummary": {},
    "DisableEnhancedMonitoring": {"ShardLevelMetrics": ["ALL"]},
    "EnableEnhancedMonitoring": {"ShardLevelMetrics": ["ALL"]},
    "IncreaseStreamRetentionPeriod": {"RetentionPeriodHours": 24},
    "ListShards": {},
    "ListTagsForStream": {},
    "MergeShards": {"ShardToMerge": ZERO, "AdjacentShardToMerge": ONE},
    "PutRecord": RECORD,
    "PutRecords": {"Records": [RECORD]},
    "RemoveTagsFromStream": {"TagKeys": ["a"]},
    "SplitShard": {"ShardToSplit": ZERO, "NewStartingHashKey": "7"},
    "StartStreamEncryption": {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
    "StopStreamEncryption": {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
    "UpdateShardCount": {"TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING"},
    "UpdateStreamWarmThroughput": {"WarmThroughputMiBps": 1},
}
BY_ARN: Final[dict[str, dict[str, Any]]] = {
    "ListStreamConsumers": {},
    "RegisterStreamConsumer": {"ConsumerName": "c"},
    "DescribeStreamConsumer": {"ConsumerName": "c"},
    "DeregisterStreamConsumer": {"ConsumerName": "c"},
    "UpdateMaxRecordSize": {"MaxRecordSizeInKiB": 1024},
    "UpdateStreamMode": {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}},
    "UpdateStreamRecordDistributionStrategy": {"RecordDistributionStrategy": "USER_PARTITION_KEY"},
}
# What needs an ACTIVE stream: all control calls that change more than labels.
NEED_ACTIVE: Final = sorted(
    {"MergeShards", "SplitShard", "UpdateShardCount", "StartStreamEncryption", "StopStreamEncryption", "EnableEnhancedMonitoring"}
    | {"DisableEnhancedMonitoring", "IncreaseStreamRetentionPeriod", "DecreaseStreamRetentionPeriod", "UpdateStreamWarmThroughput"}
    | {"UpdateMaxRecordSize", "UpdateStreamMode", "UpdateStreamRecordDistributionStrategy"}
)
STATES: Final = (("new", "CREATING"), ("leaving", "DELETING"), ("changing", "UPDATING"))


def naming(operation: str, stream: str) -> dict[str, Any]:
    if operation in ON_STREAM:
        return {"StreamName": stream, **ON_STREAM[operation]}
    return {"StreamARN": ARN + stream, **BY_ARN[operation]}


def iterate(kind: str = "LATEST", stream: str = "s", shard: str = "0", **more: Any) -> dict[str, Any]:
    return {"StreamName": stream, "ShardId": shard, "ShardIteratorType": kind, **more}


def must_either(end: str) -> str:
    return (
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) TRIM_HORIZON or LATEST "
        f"and no StartingSequenceNumber. Request specified {end}"
    )


def used(number: int | str, why: str = "is invalid.") -> str:
    return f"StartingSequenceNumber {number} used in GetShardIterator on shard {ZERO} in {inside('s')} {why}"


def encodes(shard: str) -> str:
    return f"Invalid StartingSequenceNumber. It encodes {shard}, while it was used in a call to a shard with {ZERO}"


FOREIGN: Final = "is invalid because it did not come from this stream."
T: Final = int(EPOCH_S)
BORN: Final = T - 2  # creation second of the shards of `s`


def at(number: int, **more: Any) -> dict[str, Any]:
    return iterate("AT_SEQUENCE_NUMBER", StartingSequenceNumber=str(number), **more)


def stale(world: InlineBroker) -> dict[str, Any]:
    iterator = world.iterator(0)
    world.now_s += 300.001
    return {"ShardIterator": iterator}


def after_deletion(world: InlineBroker) -> dict[str, Any]:
    iterator = world.iterator(0, stream="old")
    world.ask("DeleteStream", StreamName="old")
    return {"ShardIterator": iterator}


def after_recreation(shard: int) -> Callable[[InlineBroker], dict[str, Any]]:
    def prepare(world: InlineBroker) -> dict[str, Any]:
        iterator = world.iterator(shard, stream="fewer")
        world.ask("DeleteStream", StreamName="fewer")
        world.ask("CreateStream", StreamName="fewer", ShardCount=1)
        return {"ShardIterator": iterator}

    return prepare


def changed_iterator(change: Callable[[bytes], bytes]) -> Callable[[InlineBroker], dict[str, Any]]:
    return lambda world: {"ShardIterator": base64.b64encode(change(base64.b64decode(world.iterator(0)))).decode()}


def not_canonical(world: InlineBroker) -> dict[str, Any]:
    text = world.iterator(0)
    assert text.endswith("=")
    assert not text.endswith("==")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = letters[letters.index(text[-2]) + 1]
    assert base64.b64decode(text[:-2] + other + "=") == base64.b64decode(text)
    return {"ShardIterator": text[:-2] + other + "="}


def token_and(**more: Any) -> Callable[[InlineBroker], dict[str, Any]]:
    return lambda world: {"NextToken": world.ask("ListShards", StreamName="s", MaxResults=1)["NextToken"], **more}


def too_many(current: int, more: int) -> str:
    return (
        f"This request would exceed the shard limit for the account {A} in eu-west-1. Current shard count for the account: {current}. "
        f"Limit: 40. Number of additional shards that would have resulted from this request: {more}. Refer to the AWS Service Limits page "
        "(http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits and how to request higher limits."
    )


OPEN: Final = 17  # in make_world, before the reshard of `changing` shows


def fill(world: InlineBroker) -> dict[str, Any]:
    world.ask("CreateStream", StreamName="rest", ShardCount=40 - OPEN)
    return naming("SplitShard", "s")


def bounds(new: int, start: int, end: int) -> str:
    return (
        f"NewStartingHashKey {new} used in SplitShard() on shard {ZERO} in {inside('s')} is not both greater than one plus the shard's "
        f"StartingHashKey {start} and less than the shard's EndingHashKey {end}."
    )


def merge(lower: str, upper: str, stream: str = "s") -> dict[str, Any]:
    return {"StreamName": stream, "ShardToMerge": lower, "AdjacentShardToMerge": upper}


def split(shard: str, new: int | str, stream: str = "s") -> dict[str, Any]:
    return {"StreamName": stream, "ShardToSplit": shard, "NewStartingHashKey": str(new)}


def not_adjacent(lower: str, upper: str) -> str:
    return f"Shards {lower} and {upper} in {inside('s')} are not an adjacent pair of shards eligible for merging"


def done_before(shard: str) -> str:
    return f"Shard {shard} in {inside('split')} has already been merged or split, and thus is not eligible for merging or splitting."


def hours(count: int) -> dict[str, Any]:
    return {"StreamName": "s", "RetentionPeriodHours": count}


def too_short(count: int) -> str:
    return f"Minimum allowed retention period is 24 hours. Requested retention period ({count} hours) is too short."


def tag(key: str, value: str = "v") -> dict[str, Any]:
    return {"StreamName": "s", "Tags": {key: value}}


CHARACTERS: Final = "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @."
PERCENT: Final = (
    "because some tags contained illegal characters. The allowed characters are Unicode letters, white-spaces, '_',',','/','=','+','-','@'."
)
TOO_MANY_TAGS: Final = f"Failed to add tags to {inside('full')} because a given stream cannot have more than 10 tags associated with it."
HASH_RANGE: Final = "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was"


def ordering(number: int) -> dict[str, Any]:
    return {"StreamName": "s", **RECORD, "SequenceNumberForOrdering": str(number)}


def out_of_order(number: int) -> str:
    return f"ExclusiveMinimumSequenceNumber {number} used in PutRecord on {inside('s')} is invalid."


def consumer(world: InlineBroker, name: str) -> str:
    found = world.ask("DescribeStreamConsumer", StreamARN=f"{ARN}kept", ConsumerName=name)
    arn: str = found["ConsumerDescription"]["ConsumerARN"]
    return arn


def subscribing(name: str, **more: Any) -> Callable[[InlineBroker], dict[str, Any]]:
    return lambda world: {
        "ConsumerARN": consumer(world, name),
        "ShardId": "0",
        "StartingPosition": {"Type": "LATEST"},
        **more,
    }


def subscribed(world: InlineBroker) -> dict[str, Any]:
    members = subscribing("there")(world)
    assert world.post("SubscribeToShard", json.dumps(members)).push is not None
    world.now_s += 4.999
    return members


def expired_text(world: InlineBroker, _members: dict[str, Any]) -> str:
    return (
        "Iterator expired. The iterator was created at time Fri Jan 15 08:00:00 UTC 2027 while right now it is Fri Jan 15 08:05:00 UTC 2027 "
        "which is further in the future than the tolerated delay of 300000 milliseconds."
    )


WITH_CONSUMERS: Final = (
    f"DeleteStream can’t delete {A}:kept because there are consumers associated with this data stream. To delete kept anyway, "
    "set the EnforceConsumerDeletion parameter to true to force the deletion of all the consumers that are associated with it."
)

CONSUMER_FORM: Final = (
    "Member must satisfy regular expression pattern: "
    r"^(arn):aws.*:kinesis:.*:\d{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+"
)
QUEUE: Final = {"QueueARN": "q"}
HANDLE: Final = {"ReceiptHandle": "r"}
RECORDS: Final = {"StreamARN": f"{ARN}s", "RecordConfiguration": {"RecordFormatType": "JSON"}}
NOT_HERE: Final[dict[str, dict[str, Any]]] = {
    "CreateChannel": {
        "ChannelName": "c",
        "ServiceExecutionRoleARN": "r",
        "S3DestinationConfiguration": {},
        "StreamConfigurationList": [RECORDS],
    },
    "UpdateChannel": {"ChannelARN": "c"},
    "DescribeChannel": {"ChannelARN": "c"},
    "DeleteChannel": {"ChannelARN": "c"},
    "ListChannels": {},
    "ListQueues": {"MaxResults": 1},
    "CreateQueue": {"QueueName": "q", "StreamConfigurationList": [{"StreamARN": f"{ARN}s", "StartingPosition": {"Type": "LATEST"}}]},
    "UpdateQueue": {**QUEUE, "QueueAttributes": {"VisibilityTimeoutSeconds": 1}},
    "DescribeQueue": QUEUE,
    "DeleteQueue": QUEUE,
    "ReceiveQueueRecords": QUEUE,
    "ReceiveDeadLetterQueueRecords": QUEUE,
    "AcknowledgeQueueRecords": {**QUEUE, "Entries": [HANDLE]},
    "AcknowledgeDeadLetterQueueRecords": {**QUEUE, "Entries": [HANDLE]},
    "UpdateQueueRecordsVisibility": {**QUEUE, "Entries": [{**HANDLE, "VisibilityTimeoutSeconds": 0}]},
    "UpdateDeadLetterQueueRecordsVisibility": {**QUEUE, "Entries": [{**HANDLE, "VisibilityTimeoutSeconds": 0}]},
    "RestoreDeadLetterQueueRecords": {**QUEUE, "Entries": [HANDLE]},
}

STATE_RULES: Final = [
    # 7.1: shard ids and streams
    *[Refused(f"7.1 stream missing: {op}", op, naming(op, "none"), GONE, NOBODY) for op in (*ON_STREAM, *BY_ARN)],
    *[
        Refused(f"7.1 stream missing, by ARN: {op}", op, {"StreamARN": f"{ARN}none", **ON_STREAM[op]}, GONE, NOBODY)
        for op in ("DescribeStream", "PutRecord", "PutRecords", "SplitShard", "ListShards")
    ],
    *[
        Refused(f"7.1 {status}: {op}", op, naming(op, stream), GONE, f"Stream {stream} under account {A} not found.")
        for op in ("PutRecord", "PutRecords")
        for stream, status in STATES[:2]
    ],
    *[
        Refused(f"7.1 shard id not understood: {raw!r}", "GetShardIterator", iterate(shard=raw, stream="none"), GONE,
                unknown_shard(raw, "none"))
        for raw in ("shardId", "shardId-", "a-b", "x7", "shardId-2147483648", "-")
    ],
    Refused("7.1 shard id not understood, split", "SplitShard", split("a-b", 7, "none"), GONE, unknown_shard("a-b", "none")),
    Refused("7.1 shard id not understood, merge, first", "MergeShards", merge("a", "b", "none"), GONE, unknown_shard("a", "none")),
    Refused("7.1 shard id not understood, merge, second", "MergeShards", merge("1", "b", "none"), GONE, unknown_shard("b", "none")),
    Refused("7.1 iterator: stream missing", "GetShardIterator", iterate(stream="none", shard="7"), GONE,
            not_there("shardId-000000000007", "none")),
    Refused("7.1 iterator: stream CREATING", "GetShardIterator", iterate(stream="new"), GONE, not_there(ZERO, "new")),
    *[
        Refused(f"7.1 iterator: shard unknown, as {raw}", "GetShardIterator", iterate(shard=raw), GONE, not_there(NINE))
        for raw in ("9", "-09", "x-9", NINE)
    ],
    Refused("7.1 read: stream deleted", "GetRecords", after_deletion, GONE, not_there(ZERO, "old")),
    Refused("7.1 read: recreated with fewer shards", "GetRecords", after_recreation(1), GONE, not_there(ONE, "fewer")),
    Refused("7.1 read: recreated, shard exists (deliberate)", "GetRecords", after_recreation(0), WRONG, "Invalid ShardIterator."),
    Refused("7.1 split: shard unknown", "SplitShard", split("9", 7), GONE, unknown_shard(NINE)),
    Refused("7.1 merge: shard unknown", "MergeShards", merge("0", "9"), GONE, unknown_shard(NINE)),
    *[Refused(f"7.1 {status}: {op}", op, naming(op, stream), BUSY, not_active(stream, status)) for op in NEED_ACTIVE for stream, status in STATES],
    *[
        Refused(f"7.1 {status}: RegisterStreamConsumer", "RegisterStreamConsumer", naming("RegisterStreamConsumer", stream), BUSY,
                f"Stream {stream} under account {A} not ACTIVE or UPDATING, instead in state {status}")
        for stream, status in STATES[:2]
    ],
    *[
        Refused(f"7.1 name taken by one {name}", "CreateStream", {"StreamName": name, "ShardCount": 1}, BUSY,
                f"Stream {name} under account {A} already exists.")
        for name in ("s", "new", "leaving", "changing")
    ],
    # 7.2: two things are wrong at once, the earlier check answers
    Refused("7.2 CreateStream: exists, shard limit", "CreateStream", {"StreamName": "s", "ShardCount": 1000}, BUSY,
            f"Stream s under account {A} already exists."),
    Refused("7.2 GetShardIterator: id form, stream, rules", "GetShardIterator", at(2**140, stream="none", shard="x"), GONE,
            unknown_shard("x", "none")),
    Refused("7.2 GetShardIterator: stream, rules", "GetShardIterator", at(2**140, stream="none"), GONE, not_there(ZERO, "none")),
    Refused("7.2 GetShardIterator: shard, rules", "GetShardIterator", at(2**140, shard="9"), GONE, not_there(NINE)),
    Refused("7.2 PutRecord: stream, hash key", "PutRecord", {**naming("PutRecord", "none"), "ExplicitHashKey": str(2**128)}, GONE, NOBODY),
    Refused("7.2 PutRecord: hash key, ordering", "PutRecord", {**ordering(2**140), "ExplicitHashKey": str(2**128)}, WRONG,
            f"{HASH_RANGE} {2**128}"),
    Refused("7.2 PutRecords: stream, hash key", "PutRecords",
            {"StreamName": "none", "Records": [{**RECORD, "ExplicitHashKey": str(2**128)}]}, GONE, NOBODY),
    Refused("7.2 PutRecords: one bad key fails all", "PutRecords",
            {"StreamName": "s", "Records": [RECORD, {**RECORD, "ExplicitHashKey": str(2**128 + 1)}]}, WRONG, f"{HASH_RANGE} {2**128 + 1}"),
    Refused("7.2 SplitShard: id form, ACTIVE", "SplitShard", split("x", 7, "changing"), GONE, unknown_shard("x", "changing")),
    Refused("7.2 SplitShard: stream, shard", "SplitShard", split("9", 7, "none"), GONE, NOBODY),
    Refused("7.2 SplitShard: ACTIVE, shard", "SplitShard", split("9", 7, "changing"), BUSY, not_active("changing", "UPDATING")),
    Refused("7.2 SplitShard: shard, limit", "SplitShard", lambda world: {**fill(world), "ShardToSplit": "9"}, GONE, unknown_shard(NINE)),
    Refused("7.2 SplitShard: limit, bounds", "SplitShard", lambda world: {**fill(world), "NewStartingHashKey": "0"}, LIMIT, too_many(40, 1)),
    Refused("7.2 MergeShards: stream, shards", "MergeShards", merge("8", "9", "none"), GONE, NOBODY),
    Refused("7.2 MergeShards: ACTIVE, shards", "MergeShards", merge("8", "9", "changing"), BUSY, not_active("changing", "UPDATING")),
    Refused("7.2 MergeShards: shards, adjacency", "MergeShards", merge("1", "9"), GONE, unknown_shard(NINE)),
    Refused("7.2 retention: stream, hours", "IncreaseStreamRetentionPeriod", {"StreamName": "none", "RetentionPeriodHours": 1}, GONE, NOBODY),
    Refused("7.2 retention: below 24, comparison", "IncreaseStreamRetentionPeriod", hours(23), WRONG, too_short(23)),
    Refused("7.2 tags: stream, characters", "AddTagsToStream", {"StreamName": "none", "Tags": {";": ""}}, GONE, NOBODY),
    Refused("7.2 tags: characters, percent", "AddTagsToStream", {"StreamName": "s", "Tags": {"%": "", ";": ""}}, WRONG, CHARACTERS),
    Refused("7.2 tags: percent, count", "AddTagsToStream", {"StreamName": "full", "Tags": {"%": ""}}, WRONG,
            f"Failed to add tags to {inside('full')} {PERCENT}"),
    Refused("7.2 GetRecords: form, expired", "GetRecords", lambda world: {"ShardIterator": stale(world)["ShardIterator"][4:]}, WRONG,
            "Invalid ShardIterator."),
    Refused("7.2 GetRecords: expired, stream", "GetRecords",
            lambda world: {**stale(world), **(world.ask("DeleteStream", StreamName="s") or {})}, "ExpiredIteratorException", expired_text),
    Refused("7.2 ListShards: token rules, stream", "ListShards", token_and(StreamName="none"), WRONG,
            "NextToken and StreamName cannot be provided together."),
    # 7.3: rules of GetShardIterator
    *[
        Refused(f"7.3.1 {kind}", "GetShardIterator", iterate(kind, StartingSequenceNumber=str(2**140)), WRONG,
                must_either(f"{kind} and also a StartingSequenceNumber."))
        for kind in ("TRIM_HORIZON", "LATEST")
    ],
    *[
        Refused(f"7.3.2 {kind}", "GetShardIterator", iterate(kind, StartingSequenceNumber=str(2**140)), WRONG, used(2**140))
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER")
    ],
    Refused("7.3.3 another shard", "GetShardIterator", at(sequence.make(BORN, 1, 1, T)), WRONG, encodes(ONE)),
    Refused("7.3.3 before 7.3.4", "GetShardIterator", at(sequence.make(BORN - 9, 1, 1, T)), WRONG, encodes(ONE)),
    *[
        Refused(f"7.3.4 another creation second: {second}", "GetShardIterator", at(sequence.make(BORN + second, 0, 1, T)), WRONG,
                used(sequence.make(BORN + second, 0, 1, T), FOREIGN))
        for second in (-1, 1)
    ],
    Refused("7.3.4 another version", "GetShardIterator", at(sequence.make(BORN, 0, 1, T) - 1), WRONG,
            used(sequence.make(BORN, 0, 1, T) - 1, FOREIGN)),
    Refused("7.3.5 version 0 (deliberate)", "GetShardIterator", at(0), WRONG, used(0, FOREIGN)),
    *[
        Refused(f"7.3.6 {kind}", "GetShardIterator", iterate(kind), WRONG, must_either(f"{kind} and no StartingSequenceNumber."))
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER")
    ],
    Refused("7.3.7", "GetShardIterator", iterate("AT_TIMESTAMP"), WRONG,
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter."),
    *[
        Refused(f"7.3.8 {seconds}", "GetShardIterator", iterate("AT_TIMESTAMP", Timestamp=seconds), WRONG,
                "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
                f"timestampInMillis: {ms}, currentTimestampInMillis: {T}000")
        for seconds, ms in ((T + 1, f"{T}000"[:-4] + "1000"), (EPOCH_S + 0.001, f"{T}001"), (EPOCH_S + 86400.5, f"{T + 86400}500"))
    ],
    # 7.4: what makes a number parse
    *[
        Refused(f"7.4 invalid: {name}", "GetShardIterator", at(number), WRONG, used(number))
        for name, number in (
            ("2^129", 2**129), ("2^185", 2**185), ("2^185 - 1", 2**185 - 1), ("1.5 * 2^185", 3 * 2**184),
            ("another last digit", sequence.make(BORN, 0, 1, T) + 1), ("last digit 0", sequence.make(BORN, 0, 1, T) - 2),
            ("creation second", sequence.make(16_025_175_000, 0, 1, T)), ("version 0, creation second", 2**124 + (16_025_175_000 << 88)),
            ("counter", sequence.make(BORN, 0, 2**63, T)),
        )
    ],
    Refused("7.4 a small number names a shard", "GetShardIterator", at(7), WRONG, encodes("shardId-000000000007")),
    Refused("7.4 a small number modulo 65536", "GetShardIterator", at(65536 + 7), WRONG, encodes("shardId-000000000007")),
    Refused("7.4 a negative index", "GetShardIterator", at(sequence.make(BORN, 2**32 - 1, 1, T)), WRONG, encodes("shardId--00000000001")),
    Refused("7.4 ordering does not parse", "PutRecord", ordering(2**140), WRONG, out_of_order(2**140)),
    Refused("7.4 ordering of the future", "PutRecord", ordering(sequence.make(1, 0, 1, T + 1)), WRONG,
            out_of_order(sequence.make(1, 0, 1, T + 1))),
    Refused("7.4 hash key, PutRecord", "PutRecord", {"StreamName": "s", **RECORD, "ExplicitHashKey": str(MAX + 1)}, WRONG,
            f"{HASH_RANGE} {MAX + 1}"),
    # 7.5: split, merge, limits
    *[
        Refused(f"7.5 bounds: {new}", "SplitShard", split("0", new), WRONG, bounds(new, 0, 2**127 - 1))
        for new in (0, 1, 2**127 - 1, 2**127, MAX, 10**39 - 1)
    ],
    Refused("7.5 closed, split", "SplitShard", split("0", 7, "split"), WRONG, done_before(ZERO)),
    Refused("7.5 closed, merge, first", "MergeShards", merge("0", "1", "split"), WRONG, done_before(ZERO)),
    Refused("7.5 closed, merge, second", "MergeShards", merge("1", "0", "split"), WRONG, done_before(ZERO)),
    Refused("7.5 merge reversed", "MergeShards", merge("1", "0"), WRONG, not_adjacent(ONE, ZERO)),
    Refused("7.5 merge with itself", "MergeShards", merge("0", "0"), WRONG, not_adjacent(ZERO, ZERO)),
    Refused("7.5 shard limit, CreateStream", "CreateStream", {"StreamName": "n", "ShardCount": 41 - OPEN}, LIMIT,
            too_many(OPEN, 41 - OPEN)),
    Refused("7.5 shard limit, SplitShard", "SplitShard", fill, LIMIT, too_many(40, 1)),
    Refused("7.5 shard limit, UpdateShardCount", "UpdateShardCount",
            lambda world: fill(world) and {"StreamName": "s", "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"}, LIMIT,
            too_many(40, 2)),
    Refused("7.5 on-demand", "UpdateShardCount", {"StreamName": "od", **ON_STREAM["UpdateShardCount"]}, "ValidationException",
            f"Request is invalid. Stream od under account {A} is in On-Demand mode."),
    Refused("7.5 PutRecords in all (the figure of today: DOUBT)", "PutRecords",
            lambda _: {"StreamName": "s", "Records": [{"PartitionKey": "k", "Data": base64.b64encode(bytes(1048575)).decode()}] * 11}, WRONG,
            "Records size exceeds 10 MB limit"),
    # 7.6: retention, tags
    *[
        Refused(f"7.6 below 24: {way} {count}", f"{way}StreamRetentionPeriod", hours(count), WRONG, too_short(count))
        for way in ("Increase", "Decrease")
        for count in (1, 23, 0, -5)
    ],
    *[
        Refused(f"7.6 above 8760: {way}", f"{way}StreamRetentionPeriod", hours(8761), WRONG,
                "Maximum allowed retention period is 8760 hours. Requested retention period (8761 hours) is too long.")
        for way in ("Increase", "Decrease")
    ],
    Refused("7.6 increase to less", "IncreaseStreamRetentionPeriod", hours(47), WRONG,
            "Requested retention period (47 hours) for stream s can not be shorter than existing retention period (48 hours). "
            "Use DecreaseRetentionPeriod API."),
    Refused("7.6 decrease to more", "DecreaseStreamRetentionPeriod", hours(49), WRONG,
            "Requested retention period (49 hours) for stream s can not be longer than existing retention period (48 hours). "
            "Use IncreaseRetentionPeriod API."),
    *[
        Refused(f"7.6 characters: {character!r} in a {where}", "AddTagsToStream", tag(*pair), WRONG, CHARACTERS)
        for character in (",", ";", "\t", "\n", ":", "\u00bf", "\u2000", "\u2bff", "\uf900", "😀", "*")
        for where, pair in (("key", (f"a{character}", "v")), ("value", ("a", f"v{character}")))
    ],
    Refused("7.6 characters, remove", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": ["a", "b;"]}, WRONG, CHARACTERS),
    Refused("7.6 percent in a key", "AddTagsToStream", tag("a%"), WRONG, f"Failed to add tags to {inside('s')} {PERCENT}"),
    Refused("7.6 percent in a value", "AddTagsToStream", tag("a", "%"), WRONG, f"Failed to add tags to {inside('s')} {PERCENT}"),
    Refused("7.6 percent, remove", "RemoveTagsFromStream", {"StreamName": "s", "TagKeys": ["%"]}, WRONG,
            f"Failed to remove tags from {inside('s')} {PERCENT}"),
    Refused("7.6 more than 50", "AddTagsToStream", {"StreamName": "full", "Tags": {"k0": "", "more": ""}}, WRONG, TOO_MANY_TAGS),
    # 7.7: tokens
    *[
        Refused(f"7.7 broken iterator: {name}", "GetRecords", members, WRONG, "Invalid ShardIterator.")
        for name, members in (
            ("no base64", {"ShardIterator": "not base64!"}),
            ("too short", {"ShardIterator": base64.b64encode(b"\0\0\0\0\0\0\0\1" + bytes(143)).decode()}),
            ("too long", {"ShardIterator": base64.b64encode(b"\0\0\0\0\0\0\0\1" + bytes(288)).decode()}),
            ("first bytes", changed_iterator(lambda raw: bytes(8) + raw[8:])),
            ("undecipherable", changed_iterator(lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])),
            ("not canonical", not_canonical),
            ("quoted twice", lambda world: {"ShardIterator": f'""{world.iterator(0)}""'}),
            ("half quoted", lambda world: {"ShardIterator": f'"{world.iterator(0)}'}),
            ("not ASCII", {"ShardIterator": "é" * 200}),
        )
    ],
    Refused("7.7 expired", "GetRecords", stale, "ExpiredIteratorException", expired_text),
    Refused("7.7 ListShards without name and token", "ListShards", {}, WRONG, "Either NextToken or StreamName should be provided."),
    *[
        Refused(f"7.7 NextToken and {name}", "ListShards", token_and(**{name: value}), WRONG,
                f"NextToken and {name} cannot be provided together.")
        for name, value in (("StreamName", "s"), ("StreamARN", f"{ARN}s"), ("ExclusiveStartShardId", "0"),
                            ("ShardFilter", {"Type": "AT_LATEST"}), ("StreamCreationTimestamp", T))
    ],
    # 7.8: consumers, deletion, policies
    Refused("7.8 DeleteStream with consumers", "DeleteStream", {"StreamName": "kept"}, BUSY, WITH_CONSUMERS),
    Refused("7.8 DeleteStream with consumers, false", "DeleteStream", {"StreamName": "kept", "EnforceConsumerDeletion": False}, BUSY,
            WITH_CONSUMERS),
    Refused("7.8 DeleteStream while DELETING (wording: DOUBT)", "DeleteStream", {"StreamName": "leaving"}, BUSY,
            not_active("leaving", "DELETING")),
    Refused("7.8 consumer not ACTIVE, SubscribeToShard", "SubscribeToShard", subscribing("coming"), BUSY,
            f"Consumer coming with creation timestamp {T} under stream: kept , account {A} is not in ACTIVE status."),
    Refused("7.8 consumer not ACTIVE, PutResourcePolicy", "PutResourcePolicy",
            lambda world: {"ResourceARN": consumer(world, "coming"), "Policy": POLICY}, BUSY,
            f"Consumer coming with creation timestamp {T} under stream kept and account {A} is not in ACTIVE status."),
    Refused("7.8 second subscription within 5 s", "SubscribeToShard", subscribed, BUSY,
            f"Another active subscription exists for this consumer: {A}:kept:{ZERO}:there"),
    Refused("7.8 subscription with a foreign number", "SubscribeToShard",
            subscribing("there", StartingPosition={"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": str(sequence.make(BORN, 1, 1, T))}), WRONG,
            encodes(ONE)),
    *[
        Refused(f"7.8 consumer unknown, by name: {op}", op, {"StreamARN": f"{ARN}s", "ConsumerName": "c"}, GONE,
                f"Consumer c, account {A} not found.")
        for op in ("DescribeStreamConsumer", "DeregisterStreamConsumer")
    ],
    *[
        Refused(f"7.8 consumer unknown, by ARN: {op}", op, {"ConsumerARN": f"{ARN}{stream}/consumer/there:1", **more}, GONE,
                f"Consumer {ARN}{stream}/consumer/there:1, account {A} not found.")
        for stream in ("kept", "none")
        for op, more in (("DescribeStreamConsumer", {}), ("DeregisterStreamConsumer", {}),
                         ("SubscribeToShard", {"ShardId": "0", "StartingPosition": {"Type": "LATEST"}}))
    ],
    Refused("7.8 DeleteResourcePolicy, none set", "DeleteResourcePolicy", {"ResourceARN": f"{ARN}s"}, GONE,
            f"No resource policy found for resource ARN {ARN}s."),
    # moto shows the ARN; recorded errors of other operations keep the bare name.
    Refused("7.8 PutResourcePolicy on a missing stream", "PutResourcePolicy", {"ResourceARN": f"{ARN}none", "Policy": POLICY}, GONE, NOBODY),
    *[
        Refused(f"7.8 ARN with a wrong form: {op}", op, {"StreamARN": "arn:s", **more}, "ValidationException",
                items(("'arn:s'", "streamARN", ARN_FORM)))
        for op, more in (("DescribeStream", {}), ("ListStreamConsumers", {}), ("PutRecord", RECORD), ("PutRecords", {"Records": [RECORD]}))
    ],
    Refused("7.8 ConsumerARN with a wrong form", "DescribeStreamConsumer", {"ConsumerARN": "x"}, "ValidationException",
            items(("'x'", "consumerARN", CONSUMER_FORM))),
    Refused("7.8 ResourceARN with a wrong form", "GetResourcePolicy", {"ResourceARN": "x"}, "ValidationException",
            items(("'x'", "resourceARN",
                   r"Member must satisfy regular expression pattern: arn:aws.*:kinesis:.*:\d{12}:.*(stream|channel)/\S+"))),
    *[
        Refused(f"7.8 neither name nor ARN: {op}", op, members, "ValidationException", items(NO_NAME))
        for op, members in ON_STREAM.items()
        if op != "ListShards"
    ],
    # UNSUPPORTED.md: what is not here, asked in the shape of the model
    *[
        Refused(f"unsupported: {op}", op, members, "UnknownOperationException",
                f"This broker does not have {op}: it has no queues and no channels.")
        for op, members in NOT_HERE.items()
    ],
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in STATE_RULES])
def test_refusals(case: Refused) -> None:
    check(case)


def test_every_operation_was_refused() -> None:
    told = {case.operation for case in STATE_RULES + CONSTRAINTS} | {operation for operation, _ in PLACES.values()}
    assert UNSUPPORTED.keys() <= told
    assert OPERATIONS.keys() - told == {
        "DescribeAccountSettings", "DescribeLimits", "ListTagsForResource", "TagResource", "UntagResource", "UpdateAccountSettings",
    }  # fmt: skip


def test_rates() -> None:
    """7.5, rates: the service's forms for a write, a read, a control call of a stream, and one without a stream."""
    world = make_world()

    def throttled(operation: str, **members: Any) -> tuple[str, str]:
        world.faults.throttle(operation)
        return world.refused(operation, **members)

    fast = "ProvisionedThroughputExceededException"
    assert throttled("PutRecord", StreamName="s", **RECORD | {"ExplicitHashKey": "0"}) == (
        fast,
        f"Rate exceeded for shard {ZERO} in {inside('s')}.",
    )
    iterator = world.iterator(0)
    assert throttled("GetRecords", ShardIterator=iterator) == (fast, f"Rate exceeded for Shard - {A}/s/{ZERO}")
    assert throttled("DescribeStream", StreamName="s") == (LIMIT, f"Rate exceeded for {inside('s')}.")
    assert throttled("ListStreams") == (LIMIT, f"Rate exceeded for account {A}.")


def test_unsupported_operations_are_not_retried() -> None:
    with Broker.in_thread() as running:
        client = boto3.client(
            "kinesis",
            endpoint_url=running.endpoint_url,
            region_name="eu-west-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
            config=Config(retries={"mode": "standard", "total_max_attempts": 4}),
        )
        sent: list[str] = []
        client.meta.events.register("before-send.kinesis", lambda request, **_: sent.append(request.headers["X-Amz-Target"].decode()))
        with pytest.raises(client.exceptions.ClientError) as caught:
            client.list_channels()
        assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
        assert sent == ["Kinesis_20131202.ListChannels"]
        client.close()


# --- section 8: what a success looks like -----------------------------------------------------------------------------


@pytest.fixture
def states() -> InlineBroker:
    """The world of the refusals."""
    return make_world()


EMPTY: Final[dict[str, dict[str, Any]]] = {
    "CreateStream": {"StreamName": "n", "ShardCount": 1},
    "DeleteStream": {"StreamName": "s"},
    "SplitShard": split("0", 7),
    "MergeShards": merge("0", "1"),
    "AddTagsToStream": tag("a"),
    "RemoveTagsFromStream": {"StreamName": "s", "TagKeys": ["absent"]},
    "IncreaseStreamRetentionPeriod": hours(48),
    "DecreaseStreamRetentionPeriod": hours(48),
    "TagResource": {"ResourceARN": f"{ARN}s", "Tags": {"a": "b"}},
    "UntagResource": {"ResourceARN": f"{ARN}s", "TagKeys": ["a"]},
    "PutResourcePolicy": {"ResourceARN": f"{ARN}s", "Policy": POLICY},
    "UpdateStreamMode": naming("UpdateStreamMode", "s"),
    "UpdateMaxRecordSize": naming("UpdateMaxRecordSize", "s"),
    "StartStreamEncryption": naming("StartStreamEncryption", "s"),
    "StopStreamEncryption": naming("StopStreamEncryption", "s"),
    "UpdateStreamRecordDistributionStrategy": naming("UpdateStreamRecordDistributionStrategy", "s"),
    "DeregisterStreamConsumer": {"StreamARN": f"{ARN}kept", "ConsumerName": "there"},
}


@pytest.mark.parametrize("form", [JSON, CBOR])
@pytest.mark.parametrize("operation", EMPTY)
def test_no_output_is_an_empty_body(states: InlineBroker, operation: str, form: str) -> None:
    body = json.dumps(EMPTY[operation]) if form == JSON else in_plain_cbor(EMPTY[operation])
    answer = states.post(operation, body, content_type=form)
    assert (answer.status, b"".join(answer.body), answer.content_type, answer.headers) == (200, b"", form, ())


def test_accepted_although_it_looks_odd(states: InlineBroker) -> None:
    """7.1 forms of a shard id, 7.3, 7.4, 7.6: rows that end in 200."""
    for form in ("x-0", "0", "-00", ZERO, "shardId-00"):
        states.iterator(form)
    states.ask("SplitShard", **split("x-01", 2**127 + 2))  # the smallest that is allowed
    states.ask("SplitShard", **split("0", 2**127 - 2))  # the greatest
    iterator = states.iterator(0)
    states.ask("GetRecords", ShardIterator=f'"{iterator}"')
    states.now_s += 300
    states.ask("GetRecords", ShardIterator=iterator)  # not a millisecond too old
    for number in (sequence.make(1, 5, 9, T), 0, 7):  # shard and stream are not compared
        states.ask("PutRecord", **ordering(number))
    version_1 = int(f"2{1:09x}000{T:09x}{0:014x}{0:02x}{3:08x}1", 16)
    states.ask("PutRecord", **ordering(version_1))
    states.ask("PutRecord", StreamName="s", **RECORD, ExplicitHashKey=str(MAX))
    states.ask("IncreaseStreamRetentionPeriod", **hours(8760))
    states.ask("DecreaseStreamRetentionPeriod", **hours(24))
    states.ask("AddTagsToStream", **tag("aZ09_./=+-@ \u00c0\u1fff\u2c00\ud7ff", ""))
    states.ask("AddTagsToStream", StreamName="full", Tags={"k0": "again"})
    states.ask("DeleteStream", StreamName="new")
    states.ask("DeleteStream", StreamName="kept", EnforceConsumerDeletion=True)
    assert states.ask("GetResourcePolicy", ResourceARN=f"{ARN}s") == {"Policy": "{}"}


def test_form_of_an_iterator(states: InlineBroker) -> None:
    """7.7: standard base64 that encodes to itself, 8 bytes and a multiple of 16, growing with the stream's name."""
    sizes = []
    for name in ("n", "n" * 60, "n" * 128):
        states.ask("CreateStream", StreamName=name, ShardCount=1)
        text = states.iterator(0, stream=name)
        raw = base64.b64decode(text, validate=True)
        assert base64.b64encode(raw).decode() == text
        assert raw[:8] == b"\0\0\0\0\0\0\0\1"
        assert len(raw) >= 152
        assert (len(raw) - 152) % 16 == 0
        sizes.append(len(raw))
        assert states.read(text) == []
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] <= 280


def test_puts(states: InlineBroker) -> None:
    answer = states.ask("PutRecord", StreamName="s", **RECORD)
    assert answer.keys() == {"ShardId", "SequenceNumber"}
    records = [{**RECORD, "ExplicitHashKey": str(key)} for key in (MAX, 0, MAX)]
    answer = states.ask("PutRecords", StreamName="s", Records=records)
    assert answer.keys() == {"FailedRecordCount", "Records"}
    assert answer["FailedRecordCount"] == 0
    assert [entry["ShardId"] for entry in answer["Records"]] == [ONE, ZERO, ONE]
    assert all(entry.keys() == {"ShardId", "SequenceNumber"} for entry in answer["Records"])
    counters = [found.counter for found in map(sequence.parse, [int(entry["SequenceNumber"]) for entry in answer["Records"]]) if found]
    assert counters[2] == counters[0] + 1


def test_reads(world: InlineBroker) -> None:
    world.put("a")
    iterator = world.iterator(0)
    for text in (iterator, iterator, world.iterator(0, "LATEST")):
        answer = world.ask("GetRecords", ShardIterator=text)
        assert answer.keys() == {"MillisBehindLatest", "NextShardIterator", "Records"}
        assert answer["NextShardIterator"] != text
        for record in answer["Records"]:
            assert record.keys() == {"SequenceNumber", "ApproximateArrivalTimestamp", "Data", "PartitionKey"}
    assert answer["Records"] == []
    world.now_s += 0.125
    world.put("b")
    record = world.ask("GetRecords", ShardIterator=world.iterator(0))["Records"][1]
    assert record["ApproximateArrivalTimestamp"] == T + 0.125
    found = sequence.parse(int(record["SequenceNumber"]))
    assert found is not None
    assert 0 <= record["ApproximateArrivalTimestamp"] - found.second < 3


def test_the_end_of_a_closed_shard(world: InlineBroker) -> None:
    world.put("a")
    world.ask("SplitShard", **split("0", 2**127))
    answer = world.ask("GetRecords", ShardIterator=world.iterator(0))
    assert answer.keys() == {"ChildShards", "MillisBehindLatest", "Records"}
    assert answer["ChildShards"] == [
        {"ShardId": ONE, "ParentShards": [ZERO], "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(2**127 - 1)}},
        {
            "ShardId": "shardId-000000000002",
            "ParentShards": [ZERO],
            "HashKeyRange": {"StartingHashKey": str(2**127), "EndingHashKey": str(MAX)},
        },
    ]
    for kind in ("LATEST", "TRIM_HORIZON"):
        assert "ChildShards" in world.ask("GetRecords", ShardIterator=world.iterator(0, kind))
    part = world.ask("GetRecords", ShardIterator=world.iterator(2), Limit=1)
    assert "ChildShards" not in part


def test_descriptions(states: InlineBroker) -> None:
    states.now_s += 0.7
    states.ask("CreateStream", StreamName="n", ShardCount=1)
    common = {
        "StreamName": "n",
        "StreamARN": f"{ARN}n",
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": T,
        "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
        "EncryptionType": "NONE",
    }
    description = states.ask("DescribeStream", StreamName="n")["StreamDescription"]
    (shard,) = description.pop("Shards")
    assert description == {**common, "HasMoreShards": False}
    assert shard.keys() == {"ShardId", "HashKeyRange", "SequenceNumberRange"}
    assert shard["SequenceNumberRange"].keys() == {"StartingSequenceNumber"}
    summary = states.ask("DescribeStreamSummary", StreamName="n")["StreamDescriptionSummary"]
    assert summary == {**common, "OpenShardCount": 1, "ConsumerCount": 0, "MaxRecordSizeInKiB": 1024}


def test_descriptions_while_something_happens(states: InlineBroker) -> None:
    def seen(stream: str) -> tuple[str, int, bool, int, int]:
        description = states.ask("DescribeStream", StreamName=stream)["StreamDescription"]
        summary = states.ask("DescribeStreamSummary", StreamName=stream)["StreamDescriptionSummary"]
        assert summary["StreamStatus"] == description["StreamStatus"]
        listed = states.ask("ListShards", StreamName=stream)["Shards"]
        return (
            description["StreamStatus"],
            len(description["Shards"]),
            description["HasMoreShards"],
            summary["OpenShardCount"],
            len(listed),
        )

    assert seen("new") == ("CREATING", 0, False, 0, 0)
    assert seen("changing") == ("UPDATING", 1, False, 1, 1)
    states.state.control_delay_ms = 60_000
    states.ask("DeleteStream", StreamName="new")
    assert seen("new") == ("DELETING", 0, False, 0, 0)
    states.now_s += 59.999
    assert seen("changing") == ("UPDATING", 1, False, 1, 1)
    states.now_s += 0.001
    assert seen("changing") == ("ACTIVE", 3, False, 2, 3)
    names = states.ask("ListStreams")["StreamNames"]
    assert "new" not in names
    assert "leaving" not in names


def test_consumers(states: InlineBroker) -> None:
    names = {"ConsumerName", "ConsumerARN", "ConsumerStatus", "ConsumerCreationTimestamp"}
    made = states.ask("RegisterStreamConsumer", StreamARN=f"{ARN}s", ConsumerName="c")["Consumer"]
    assert made == {
        "ConsumerName": "c",
        "ConsumerARN": f"{ARN}s/consumer/c:{T}",
        "ConsumerStatus": "CREATING",
        "ConsumerCreationTimestamp": T,
    }
    (listed,) = states.ask("ListStreamConsumers", StreamARN=f"{ARN}s")["Consumers"]
    assert listed.keys() == names
    both = {"StreamARN": f"{ARN}s", "ConsumerARN": made["ConsumerARN"]}
    described = states.ask("DescribeStreamConsumer", **both)["ConsumerDescription"]
    assert described == {**made, "ConsumerStatus": "ACTIVE", "StreamARN": f"{ARN}s"}
    assert [consumer["ConsumerStatus"] for consumer in states.ask("ListStreamConsumers", StreamARN=f"{ARN}kept")["Consumers"]] == [
        "CREATING",
        "ACTIVE",
    ]


def test_timestamps_and_data_in_cbor(world: InlineBroker) -> None:
    """Tag 1 and whole milliseconds; payloads as bytes, both ways."""
    world.now_s += 0.25
    put = b"\xbf" + in_plain_cbor("StreamName") + in_plain_cbor("s") + in_plain_cbor("PartitionKey") + in_plain_cbor("k")
    put += in_plain_cbor("Data") + b"\x43\x00\xffa" + b"\xff"
    assert world.post("PutRecord", put, content_type=CBOR).status == 200
    body = b"".join(world.post("GetRecords", cbor.dumps({"ShardIterator": world.iterator(0)}), content_type=CBOR).body)
    assert b"ApproximateArrivalTimestamp\xc1\x1b" + (T * 1000 + 250).to_bytes(8, "big") in body
    assert b"Data\x43\x00\xffa" in body
    body = b"".join(world.post("DescribeStream", cbor.dumps({"StreamName": "s"}), content_type=CBOR).body)
    assert b"StreamCreationTimestamp\xc1\x1b" + (T * 1000).to_bytes(8, "big") in body


def test_listings(states: InlineBroker) -> None:
    """Tags, streams and shards: sorted, exclusive beginnings that need not be there, pages."""
    states.ask("AddTagsToStream", StreamName="s", Tags={"b": "2", "B": "1", "é": "3"})
    page = states.ask("ListTagsForStream", StreamName="s", Limit=2)
    assert page == {"Tags": [{"Key": "B", "Value": "1"}, {"Key": "b", "Value": "2"}], "HasMoreTags": True}
    page = states.ask("ListTagsForStream", StreamName="s", ExclusiveStartTagKey="b;")
    assert page == {"Tags": [{"Key": "é", "Value": "3"}], "HasMoreTags": False}
    page = states.ask("ListStreams", ExclusiveStartStreamName="o", Limit=2)
    assert page.keys() == {"StreamNames", "HasMoreStreams", "StreamSummaries", "NextToken"}
    assert (page["StreamNames"], page["HasMoreStreams"]) == (["od", "old"], True)
    page = states.ask("ListStreams", NextToken=page["NextToken"])
    assert page.keys() == {"StreamNames", "HasMoreStreams", "StreamSummaries"}
    assert (page["StreamNames"], page["HasMoreStreams"]) == (["s", "split"], False)
    assert states.ask("ListShards", StreamName="split").keys() == {"Shards"}
    assert states.shards("split") == [0, 1, 2]
    assert states.shards("split", ExclusiveStartShardId="shardId-0000000000005") == [1, 2]  # as text


def test_pages_of_shards() -> None:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=1001)
    description = world.ask("DescribeStream", StreamName="s", Limit=10_000)["StreamDescription"]
    assert (len(description["Shards"]), description["HasMoreShards"]) == (100, True)
    page = world.ask("ListShards", StreamName="s")
    assert (len(page["Shards"]), set(page)) == (1000, {"Shards", "NextToken"})
    rest = world.ask("ListShards", NextToken=page["NextToken"])
    assert ([shard["ShardId"] for shard in rest["Shards"]], set(rest)) == (["shardId-000000001000"], {"Shards"})
    for start in range(101):
        world.ask("CreateStream", StreamName=f"t{start}", ShardCount=1)
    page = world.ask("ListStreams")
    assert (len(page["StreamNames"]), page["HasMoreStreams"]) == (100, True)


def numbers(shard: dict[str, Any]) -> list[int]:
    found = shard["SequenceNumberRange"]
    return [int(found[name]) for name in ("StartingSequenceNumber", "EndingSequenceNumber") if name in found]


def test_numbers_of_shards(states: InlineBroker) -> None:
    zero, one = states.ask("ListShards", StreamName="s")["Shards"]
    assert len(str(numbers(zero)[0])) == 56
    assert numbers(one)[0] - numbers(zero)[0] == 2**144 + 16
    born = sequence.parse(numbers(zero)[0])
    assert born is not None
    assert (born.counter, born.second) == (0, born.creation_s)
    assert 2 <= T - born.creation_s <= 7
    states.now_s += 100
    states.ask("MergeShards", **merge("0", "1"))
    states.now_s += 100
    states.ask("SplitShard", **split("2", 2**126))
    parents = [sequence.parse(numbers(shard)[1]) for shard in states.ask("ListShards", StreamName="s")["Shards"][:3]]
    starts = [sequence.parse(numbers(shard)[0]) for shard in states.ask("ListShards", StreamName="s")["Shards"][2:]]
    for parent, creation_s, moment in zip(parents, (BORN, BORN, T + 101), (T + 100, T + 100, T + 200), strict=True):
        assert parent is not None
        assert (parent.creation_s, parent.counter, parent.second) == (creation_s, 0x7FFF_FFFF_FFFF_FFFF, moment)
    for start, creation_s in zip(starts, (T + 101, T + 201, T + 201), strict=True):
        assert start is not None
        assert (start.creation_s, start.counter, start.second) == (creation_s, 0, creation_s)
    merged, lower, upper = states.ask("ListShards", StreamName="s")["Shards"][2:]
    assert (merged["ParentShardId"], merged["AdjacentParentShardId"]) == (ZERO, ONE)
    for child, start_key, end_key in ((lower, 0, 2**126 - 1), (upper, 2**126, MAX)):
        assert child["HashKeyRange"] == {"StartingHashKey": str(start_key), "EndingHashKey": str(end_key)}
        assert child["ParentShardId"] == merged["ShardId"]
        assert "AdjacentParentShardId" not in child


# --- section 9 and kinesis-api.md section 5 ---------------------------------------------------------------------------


def test_what_is_newer(states: InlineBroker) -> None:
    states.ask("CreateStream", StreamName="n")
    assert len(states.shards("n")) == 4
    assert len(states.shards("od")) == 4
    by_arn = states.ask("DescribeStream", StreamARN=f"{ARN}s")
    assert by_arn == states.ask("DescribeStream", StreamName="s")
    answer = states.post("DescribeStream", cbor.dumps({"StreamARN": f"{ARN}s"}), content_type=CBOR)
    assert answer.status == 200


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_initial_ranges(count: int) -> None:
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=count)
    ranges = [shard["HashKeyRange"] for shard in world.ask("ListShards", StreamName="s")["Shards"]]
    starts = [2**128 // count * index for index in range(count)]
    assert [int(found["StartingHashKey"]) for found in ranges] == starts
    assert [int(found["EndingHashKey"]) for found in ranges] == [start - 1 for start in starts[1:]] + [MAX]


def test_a_key_finds_its_shard(states: InlineBroker) -> None:
    """MD5 of the key's UTF-8, big-endian; an explicit hash replaces it, and the key is stored all the same."""
    for key in ("a", "é", "漢字", "x" * 256, "\u0000"):
        value = int.from_bytes(md5(key.encode(), usedforsecurity=False).digest(), "big")
        answer = states.ask("PutRecord", StreamName="s", Data="", PartitionKey=key)
        assert answer["ShardId"] == (ONE if value >= 2**127 else ZERO)
    for value, shard in ((0, ZERO), (2**127 - 1, ZERO), (2**127, ONE), (MAX, ONE)):
        answer = states.ask("PutRecord", StreamName="s", Data="", PartitionKey="own", ExplicitHashKey=str(value))
        assert answer["ShardId"] == shard
        position = states.iterator(shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=answer["SequenceNumber"])
        (record,) = states.ask("GetRecords", ShardIterator=position)["Records"]
        assert record["PartitionKey"] == "own"


def test_reads_and_writes_while_updating(states: InlineBroker) -> None:
    iterator = states.iterator(0, stream="changing")
    assert states.put("a", stream="changing")[0]["ShardId"] == ZERO
    answer = states.ask("GetRecords", ShardIterator=iterator)
    assert (len(answer["Records"]), "NextShardIterator" in answer) == (1, True)
    states.now_s += 60
    assert states.put("b", stream="changing")[0]["ShardId"] != ZERO
    answer = states.ask("GetRecords", ShardIterator=answer["NextShardIterator"])
    assert (answer["Records"], "NextShardIterator" in answer, len(answer["ChildShards"])) == ([], False, 2)


def reshard_history() -> InlineBroker:
    """Shard 0 from T; at T + 1 h split into 1 and 2; at T + 2 h merged to 3. Now it is T + 3 h."""
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    world.now_s += 3600
    world.ask("SplitShard", **split("0", 2**127))
    world.now_s += 3600
    world.ask("MergeShards", **merge("1", "2"))
    world.now_s += 3600
    return world


HOUR: Final = 3600


@pytest.mark.parametrize(
    ("shard_filter", "later_h", "expected"),
    [
        pytest.param(shard_filter, later_h, expected, id=f"kinesis-api 5 {shard_filter} at +{3 + later_h} h")
        for shard_filter, later_h, expected in (
            ({"Type": "AT_LATEST"}, 0, [3]),
            ({"Type": "AT_TRIM_HORIZON"}, 0, [0]),
            ({"Type": "AT_TRIM_HORIZON"}, 21.999, [0]),
            ({"Type": "AT_TRIM_HORIZON"}, 22, [1, 2]),  # the horizon has come to the split
            ({"Type": "AT_TRIM_HORIZON"}, 23, [3]),
            ({"Type": "FROM_TRIM_HORIZON"}, 0, [0, 1, 2, 3]),
            ({"Type": "FROM_TRIM_HORIZON"}, 22, [0, 1, 2, 3]),  # ended at the horizon: still in retention
            ({"Type": "FROM_TRIM_HORIZON"}, 22.001, [1, 2, 3]),
            ({"Type": "FROM_TRIM_HORIZON"}, 24, [3]),
            (None, 0, [0, 1, 2, 3]),
            (None, 22.001, [1, 2, 3]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T - 1}, 0, [0]),  # before the stream: its beginning
            ({"Type": "AT_TIMESTAMP", "Timestamp": T}, 0, [0]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T + HOUR - 0.001}, 0, [0]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T + HOUR}, 0, [1, 2]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T + 2 * HOUR - 0.001}, 0, [1, 2]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T + 2 * HOUR}, 0, [3]),
            ({"Type": "AT_TIMESTAMP", "Timestamp": T + 9 * HOUR}, 0, [3]),  # in the future
            ({"Type": "AT_TIMESTAMP", "Timestamp": T}, 22, [1, 2]),  # before the horizon: the horizon
            ({"Type": "FROM_TIMESTAMP", "Timestamp": T - 1}, 0, [0, 1, 2, 3]),
            ({"Type": "FROM_TIMESTAMP", "Timestamp": T + HOUR}, 0, [0, 1, 2, 3]),  # ended at it
            ({"Type": "FROM_TIMESTAMP", "Timestamp": T + HOUR + 0.001}, 0, [1, 2, 3]),
            ({"Type": "FROM_TIMESTAMP", "Timestamp": T + 2 * HOUR + 0.001}, 0, [3]),
            ({"Type": "FROM_TIMESTAMP", "Timestamp": T + 9 * HOUR}, 0, [3]),
            ({"Type": "AFTER_SHARD_ID", "ShardId": ONE}, 0, [2, 3]),
            ({"Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000003"}, 0, []),
            ({"Type": "AFTER_SHARD_ID", "ShardId": NINE}, 0, []),
        )
    ],
)
def test_shard_filters(shard_filter: dict[str, Any] | None, later_h: float, expected: list[int]) -> None:
    world = reshard_history()
    world.now_s += later_h * HOUR
    more: dict[str, Any] = {"ShardFilter": shard_filter} if shard_filter else {}
    assert world.shards(**more) == expected
    if len(expected) > 1:
        page = world.ask("ListShards", StreamName="s", MaxResults=1, **more)
        rest = world.ask("ListShards", NextToken=page["NextToken"])
        assert [int(shard["ShardId"][-12:]) for shard in page["Shards"] + rest["Shards"]] == expected


def test_positions_by_time(world: InlineBroker) -> None:
    """AT_TIMESTAMP: the first record at or after, to the millisecond; older than the horizon is the horizon; now is no future."""
    for ms in (0, 1, 5):
        world.now_s = EPOCH_S + ms / 1000
        world.put(str(ms))
    read = {ms: world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S + ms / 1000)) for ms in (-86_400_000, 0, 1, 2, 5)}
    assert list(read.values()) == [["0", "1", "5"], ["0", "1", "5"], ["1", "5"], ["5"], ["5"]]
    world.now_s = EPOCH_S + 24 * HOUR + 0.001  # the first has just expired
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=EPOCH_S)) == ["1", "5"]
    assert world.read(world.iterator(0, "AT_TIMESTAMP", Timestamp=world.now_s)) == []
    world.ask("SplitShard", **split("0", 2**127))
    assert "ChildShards" in world.ask("GetRecords", ShardIterator=world.iterator(0, "AT_TIMESTAMP", Timestamp=world.now_s))


def test_a_number_that_has_expired_reads_from_the_horizon(world: InlineBroker) -> None:
    number = world.put("a")[0]["SequenceNumber"]
    world.now_s += 24 * HOUR + 1
    world.put("b")
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        assert world.read(world.iterator(0, kind, StartingSequenceNumber=number)) == ["b"]
    assert world.read(world.iterator(0)) == ["b"]


def test_closed_shards_vanish_with_their_records() -> None:
    world = reshard_history()
    world.now_s = EPOCH_S + 25 * HOUR
    world.iterator(0)  # ended at the horizon
    world.now_s += 0.001
    gone = (GONE, not_there(ZERO))
    assert world.refused("GetShardIterator", **iterate()) == gone
    assert world.shards() == [1, 2, 3]
    assert world.refused("SplitShard", **split("0", 7)) == (GONE, unknown_shard(ZERO))


def test_how_far_behind(world: InlineBroker) -> None:
    world.put("a", "b")
    world.now_s += 7
    iterator = world.iterator(0)
    assert world.ask("GetRecords", ShardIterator=iterator, Limit=1)["MillisBehindLatest"] == 7000
    assert world.ask("GetRecords", ShardIterator=iterator)["MillisBehindLatest"] == 0


def test_warm_throughput_while_updating(world: InlineBroker) -> None:
    """The new target is told at once, the current one when the stream is ACTIVE again."""
    world.ask("UpdateAccountSettings", MinimumThroughputBillingCommitment={"Status": "ENABLED"})
    world.ask("CreateStream", StreamName="od", StreamModeDetails={"StreamMode": "ON_DEMAND"}, WarmThroughputMiBps=3)

    def warm() -> tuple[str, dict[str, int]]:
        summary = world.ask("DescribeStreamSummary", StreamName="od")["StreamDescriptionSummary"]
        return summary["StreamStatus"], summary["WarmThroughput"]

    assert warm() == ("ACTIVE", {"TargetMiBps": 3, "CurrentMiBps": 3})
    world.state.control_delay_ms = 1000
    answer = world.ask("UpdateStreamWarmThroughput", StreamName="od", WarmThroughputMiBps=9)
    assert answer["WarmThroughput"] == {"TargetMiBps": 9, "CurrentMiBps": 3}
    assert warm() == ("UPDATING", {"TargetMiBps": 9, "CurrentMiBps": 3})
    world.now_s += 1
    assert warm() == ("ACTIVE", {"TargetMiBps": 9, "CurrentMiBps": 9})


def test_tokens_of_a_broker_that_was_started_anew_are_foreign() -> None:
    """A position in records that are gone would skip those that came since, without a word."""

    def start(now_s: float) -> InlineBroker:
        made = InlineBroker(now_s=now_s)
        made.ask("CreateStream", StreamName="s", ShardCount=2)
        return made

    before, after = start(EPOCH_S), start(EPOCH_S + 1)
    before.put("a", "b")
    iterator = before.iterator(0, "LATEST")
    token = before.ask("ListShards", StreamName="s", MaxResults=1)["NextToken"]
    assert before.read(iterator) == []
    assert after.refused("GetRecords", ShardIterator=iterator) == (WRONG, "Invalid ShardIterator.")
    assert after.refused("ListShards", NextToken=token) == (GONE, f"Stream s under account {A} not found.")


@pytest.mark.parametrize(("stream", "status"), STATES)
def test_tags_in_every_state(states: InlineBroker, stream: str, status: str) -> None:
    """The model has ResourceInUseException for these calls; nothing recorded says when. Tags are taken in every state."""
    assert states.ask("DescribeStreamSummary", StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] == status
    states.ask("AddTagsToStream", StreamName=stream, Tags={"a": "b", "c": "d"})
    states.ask("RemoveTagsFromStream", StreamName=stream, TagKeys=["a"])
    assert states.ask("ListTagsForStream", StreamName=stream)["Tags"] == [{"Key": "c", "Value": "d"}]


def test_a_moment_as_a_double_is_that_moment(world: InlineBroker) -> None:
    """Arithmetic on seconds may end a hair below the millisecond that was meant, in filters as in positions."""
    for ms in (0, 1, 999):
        world.now_s = EPOCH_S + ms + ms / 1000
        world.ask("CreateStream", StreamName=f"t{ms}", ShardCount=1)
        world.now_s += 10
        world.put("before", stream=f"t{ms}")
        world.now_s += 10
        world.put("at", stream=f"t{ms}")
        world.ask("SplitShard", **split("0", 2**127, f"t{ms}"))
        moment = math.nextafter(world.state.now_ms / 1000, 0)
        assert world.shards(f"t{ms}", ShardFilter={"Type": "AT_TIMESTAMP", "Timestamp": moment}) == [1, 2]
        assert world.shards(f"t{ms}", ShardFilter={"Type": "FROM_TIMESTAMP", "Timestamp": moment + 0.001}) == [1, 2]
        assert world.read(world.iterator(0, "AT_TIMESTAMP", f"t{ms}", Timestamp=moment)) == ["at"]
