"""What does the broker say to HTTP itself: order of checks, authorization, CORS, types, constraints, CBOR, HTTP/2?"""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any

from kit import CBOR, JSON, Answer, Kit, Missing, NotTried, Stamp, case, cbor, holds, same

WIRE = "errors.md 1"
TYPES = "errors.md 5"
RULES = "errors.md 6"
DENIED = (
    b"<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be authorized</Message>\n</AccessDeniedException>\n"
)
NUMBER = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"


def bare(answer: Answer, code: str) -> None:
    """HTTP 400 with nothing but the type."""
    if answer.status >= 500:
        raise Missing(f"HTTP {answer.status}")
    same("status and body", (answer.status, answer.data), (400, {"__type": code}))


# --- order of checks --------------------------------------------------------------------------------------------------


@case("order of checks", "GET is denied with 403 and XML, without a Content-Type", f"{WIRE} step 2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    answer = k.http("GET", {})
    same("status and body", (answer.status, answer.body), (403, DENIED))
    holds("no Content-Type", "content-type" not in answer.headers, answer.headers)


@case("order of checks", "an empty body is a SerializationException without a text", f"{WIRE} step 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    bare(k.post("PutRecord", b""), "SerializationException")


@case("order of checks", "an empty body of no content type is answered in CBOR", f"{WIRE} step 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    answer = k.http("POST", {})
    same("status and type", (answer.status, answer.headers.get("content-type")), (400, CBOR))
    bare(answer, "UnknownOperationException")


@case("order of checks", "a foreign content type without a target is denied with 403", f"{WIRE} step 4, recorded on AWS until 2020")
def _(k: Kit) -> None:
    answer = k.http("POST", {"Content-Type": "text/plain"}, b"{}")
    same("status and body", (answer.status, answer.body), (403, DENIED))


@case("order of checks", "a broken body wins over a wrong target and missing credentials", f"{WIRE} step 6, recorded on AWS until 2020")
def _(k: Kit) -> None:
    bare(k.http("POST", {"Content-Type": JSON, "X-Amz-Target": "Kinesis_20131202.No"}, b"{"), "SerializationException")


@case("order of checks", "a body that is a scalar is a SerializationException", f"{WIRE} step 6")
def _(k: Kit) -> None:
    for body in (b"1", b"null", b'"x"'):
        bare(k.post("ListStreams", body), "SerializationException")


@case(
    "order of checks", "application/json never reaches an operation: 404 in the old envelope", f"{WIRE} step 7, recorded on AWS until 2020"
)
def _(k: Kit) -> None:
    answer = k.post("ListStreams", b"{}", kind="application/json")
    same("status", answer.status, 404)
    expected = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
    same("body", answer.data, expected)


@case("order of checks", "an unknown operation, without a text", f"{WIRE} step 8")
def _(k: Kit) -> None:
    for target in ("Kinesis_20131202.NoSuch", "Kinesis_20131202.putRecord", "Kinesis_20131202.", "DynamoDB_20120810.ListStreams"):
        bare(k.http("POST", {**k.headers(None), "X-Amz-Target": target}, b"{}"), "UnknownOperationException")


@case("order of checks", "no credentials: 400 MissingAuthenticationToken", f"{WIRE} step 9 and 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    headers = k.headers("ListStreams")
    del headers["Authorization"]
    k.is_error(k.http("POST", headers, b"{}"), "MissingAuthenticationTokenException", "Missing Authentication Token")


@case("order of checks", "wrong credentials win over wrong members", f"{WIRE} consequences, recorded on AWS until 2020")
def _(k: Kit) -> None:
    headers = k.headers("PutRecord")
    del headers["Authorization"]
    k.is_error(k.http("POST", headers, b'{"Data":1}'), "MissingAuthenticationTokenException")


@case("order of checks", "a wrong type wins over every constraint", f"{WIRE} consequences, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.refused("GetRecords", "SerializationException", Limit=-1, ShardIterator=1)


@case("order of checks", "a constraint wins over a missing stream", f"{WIRE} consequences, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.refused("DescribeStream", "ValidationException", StreamName="no-such", Limit=0)


# --- authorization ----------------------------------------------------------------------------------------------------


@case("authorization", "each missing part of the header has its sentence", "errors.md 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    header = "AWS4-HMAC-SHA256 Credential=k, SignedHeaders=host"
    text = f"Authorization header requires 'Signature' parameter. Authorization={header}"
    k.is_error(k.http("POST", {**k.headers("ListStreams"), "Authorization": header}, b"{}"), "IncompleteSignatureException", text)


@case("authorization", "a header without any date", "errors.md 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    headers = k.headers("ListStreams")
    del headers["X-Amz-Date"]
    text = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
    found = k.is_error(k.http("POST", headers, b"{}"), "IncompleteSignatureException")
    same("text", found, f"{text}Authorization={headers['Authorization']}")


@case("authorization", "header and query string at once", "errors.md 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    text = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
    k.is_error(k.http("POST", k.headers("ListStreams"), b"{}", "/?X-Amz-Algorithm"), "InvalidSignatureException", text)


@case("authorization", "each missing part of the query string has its sentence", "errors.md 3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    headers = k.headers("ListStreams")
    del headers["Authorization"]
    parts = ("X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")
    text = "".join(f"AWS query-string parameters must include '{part}'. " for part in parts) + "Re-examine the query-string parameters."
    k.is_error(k.http("POST", headers, b"{}", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256"), "IncompleteSignatureException", text)


@case("authorization", "a signature in the query string goes through", "errors.md 3")
def _(k: Kit) -> None:
    headers = k.headers("ListStreams")
    del headers["Authorization"]
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F20260101%2Fus-east-1%2Fkinesis%2Faws4_request"
    query += f"&X-Amz-Signature={'ab' * 32}&X-Amz-SignedHeaders=host&X-Amz-Date=20260101T000000Z"
    same("status", k.http("POST", headers, b"{}", f"/?{query}").status, 200)


@case("authorization", "accounts do not see each other's streams (an access key of twelve digits is an account)", "LocalStack's convention")
def _(k: Kit) -> None:
    one, two = {"key": "111111111111", "region": "us-east-1"}, {"key": "222222222222", "region": "us-east-1"}
    name = k.name()
    k.own(name, **one)
    same("status", k.post("CreateStream", {"StreamName": name, "ShardCount": 1}, **one).status, 200)
    k.settle(name, **one)
    arn = k.post("DescribeStream", {"StreamName": name}, **one).data["StreamDescription"]["StreamARN"]
    same("account in the ARN", arn.split(":")[4], "111111111111")
    answer = k.post("DescribeStream", {"StreamName": name}, **two)
    k.is_error(answer, "ResourceNotFoundException")
    holds("not listed", name not in k.post("ListStreams", {}, **two).data["StreamNames"])


@case("authorization", "regions do not see each other's streams (by credential scope)", "kinesis-api.md 6; SigV4 scope")
def _(k: Kit) -> None:
    name = k.name()
    there = {"key": "AKIAEXAMPLE", "region": "eu-west-1"}
    k.own(name, **there)
    same("status", k.post("CreateStream", {"StreamName": name, "ShardCount": 1}, **there).status, 200)
    k.settle(name, **there)
    arn = k.post("DescribeStream", {"StreamName": name}, **there).data["StreamDescription"]["StreamARN"]
    same("region in the ARN", arn.split(":")[3], "eu-west-1")
    k.refused("DescribeStream", "ResourceNotFoundException", StreamName=name)


# --- HTTP -------------------------------------------------------------------------------------------------------------


@case("HTTP", "CORS preflight: what was asked for is echoed, a day or two of age", "errors.md 4, recorded on AWS until 2020")
def _(k: Kit) -> None:
    asked = {"Origin": "http://x", "Access-Control-Request-Headers": "a, b", "Access-Control-Request-Method": "post"}
    answer = k.http("OPTIONS", asked)
    same("status and body", (answer.status, answer.body), (200, b""))
    expected = {"origin": "*", "max-age": "172800", "headers": "a, b", "methods": "post"}
    for name, value in expected.items():
        header = "access-control-max-age" if name == "max-age" else f"access-control-allow-{name}"
        same(header, answer.headers.get(header), value)
    holds("a request id, no x-amz-id-2", "x-amzn-requestid" in answer.headers and "x-amz-id-2" not in answer.headers, answer.headers)


@case("HTTP", "OPTIONS without Origin is denied", f"{WIRE} step 2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    same("status", k.http("OPTIONS", {}).status, 403)


@case("HTTP", "every answer to a page exposes the service's headers", "errors.md 4, recorded on AWS until 2020")
def _(k: Kit) -> None:
    answer = k.http("POST", {**k.headers("ListStreams"), "Origin": "http://x"}, b"{}")
    same("origin", answer.headers.get("access-control-allow-origin"), "*")
    exposed = "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date"
    same("exposed", answer.headers.get("access-control-expose-headers"), exposed)


@case("HTTP", "request ids: a UUID, and 64 to 80 bytes of base64, on answers and refusals", f"{WIRE} headers, recorded on AWS until 2020")
def _(k: Kit) -> None:
    seen = set()
    for members in ({}, {"Limit": 0}):
        answer = k.post("ListStreams", members)
        same("a UUID", str(uuid.UUID(answer.headers.get("x-amzn-requestid", "0" * 32))), answer.headers.get("x-amzn-requestid"))
        seen.add(answer.headers["x-amzn-requestid"])
        second = base64.b64decode(answer.headers.get("x-amz-id-2", ""))
        holds("x-amz-id-2 of 64 to 80 bytes", 64 <= len(second) <= 80, len(second))
        holds("a Date", "date" in answer.headers)
    same("ids that differ", len(seen), 2)


@case("HTTP", "the Content-Type has no charset", f"{WIRE} headers, recorded on AWS until 2020")
def _(k: Kit) -> None:
    same("content type", k.post("ListStreams", {}).headers.get("content-type"), JSON)


@case("HTTP", "a Content-Type with parameters is understood", "errors.md 2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    same("status", k.post("ListStreams", {}, kind=f"{JSON}; charset=utf-8").status, 200)


@case("HTTP", "an operation without output answers 200 with an empty body", "errors.md 8, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    answer = k.post("AddTagsToStream", {"StreamName": name, "Tags": {"a": "b"}})
    same("status and body", (answer.status, answer.body), (200, b""))


@case("HTTP", "the path is never looked at", f"{WIRE} consequences, recorded on AWS until 2020")
def _(k: Kit) -> None:
    same("status", k.http("POST", k.headers("ListStreams"), b"{}", "/any/path").status, 200)


def answers(data: bytes) -> int:
    """How many whole answers stand in these bytes."""
    found = 0
    while True:
        head, gap, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not gap:
            return found
        if length is None:
            _body, gap, data = rest.partition(b"0\r\n\r\n")
            if not gap:
                return found
        elif len(rest) < int(length[1]):
            return found
        else:
            data = rest[int(length[1]) :]
        found += 1


def until(link: Any, wanted: int) -> bytes:
    """What comes until so many answers are there."""
    data = b""
    while answers(data) < wanted:
        piece = link.recv(65536)
        if not piece:
            raise Missing(f"closed after {answers(data)} of {wanted} answers")
        data += piece
    return data


@case("HTTP", "pipelined requests are answered in order", "RFC 9112 9.3.2")
def _(k: Kit) -> None:
    name = k.stream()
    one, two = k.wire("ListShards", {"StreamName": name}), k.wire("ListStreams", {})
    with k.socket() as link:
        link.sendall(b"".join(one + two) * 3)
        data = until(link, 6)
    found = re.findall(rb'\{"(Shards|StreamNames|HasMoreStreams|StreamSummaries)"', data)
    same("order", [piece == b"Shards" for piece in found], [True, False] * 3)


@case("HTTP", "a chunked request body", "RFC 9112 7.1")
def _(k: Kit) -> None:
    head, body = k.wire("ListStreams", {"Limit": 5}, length=False, extra="Transfer-Encoding: chunked\r\n")
    with k.socket() as link:
        link.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        holds("HTTP 200", until(link, 1).startswith(b"HTTP/1.1 200"))


@case("HTTP", "a client that waits for 100 Continue is told to go on", "RFC 9110 10.1.1")
def _(k: Kit) -> None:
    head, body = k.wire("ListStreams", {"Limit": 5}, extra="Expect: 100-continue\r\n")
    with k.socket() as link:
        link.sendall(head)
        link.settimeout(5)
        try:
            holds("100 Continue", link.recv(65536).startswith(b"HTTP/1.1 100"))
        except TimeoutError:
            raise Missing("no 100 Continue within 5 s") from None
        link.sendall(body)
        holds("HTTP 200", until(link, 1).startswith(b"HTTP/1.1 200"))


@case("HTTP", "HTTP/2 with prior knowledge", "kinesis-api.md 6; RFC 9113 3.3")
def _(k: Kit) -> None:
    try:
        import h2.config
        import h2.connection
        import h2.events
    except ImportError:
        raise NotTried("the Python package h2 is not installed") from None
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    with k.socket() as link:
        state.initiate_connection()
        for stream in (1, 3):  # two at once on one connection
            fields = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", f"{k.host}:{k.port}")]
            state.send_headers(stream, fields + [(name.lower(), value) for name, value in k.headers("ListStreams").items()])
            state.send_data(stream, b"{}", end_stream=True)
        link.sendall(state.data_to_send())
        status, body, ended = {}, {1: b"", 3: b""}, set()
        while ended != {1, 3}:
            data = link.recv(65536)
            if not data or data.startswith(b"HTTP/1"):
                raise Missing("speaks HTTP/1.1 only")
            try:
                happened = state.receive_data(data)
            except h2.exceptions.ProtocolError as error:
                raise Missing("speaks HTTP/1.1 only") from error
            for event in happened:
                if isinstance(event, h2.events.ResponseReceived):
                    status[event.stream_id] = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    body[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
                elif isinstance(event, h2.events.ConnectionTerminated | h2.events.StreamReset):
                    raise Missing("ends the HTTP/2 connection")
            link.sendall(state.data_to_send())
    same("status", status, {1: "200", 3: "200"})
    holds("answers", all("StreamNames" in json.loads(text) for text in body.values()), body)


# --- types ------------------------------------------------------------------------------------------------------------


def wrong(k: Kit, operation: str, text: str, **members: Any) -> None:
    """A SerializationException with this text, under the key Message."""
    answer = k.post(operation, members)
    k.is_error(answer, "SerializationException", text)
    holds("the key is Message", "Message" in answer.data, answer.data)


@case("types", "a number or boolean where a string is expected", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    wrong(k, "DescribeStream", f"{NUMBER} can not be converted to an String", StreamName=12)
    wrong(k, "DescribeStream", "class java.lang.Boolean can not be converted to an String", StreamName=True)


@case("types", "a string or boolean where an integer is expected", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    wrong(k, "ListStreams", "class java.lang.String can not be converted to an Integer", Limit="1")
    wrong(k, "ListStreams", "class java.lang.Boolean can not be converted to an Integer", Limit=False)


@case("types", "a list or map where a scalar is expected", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    wrong(k, "DescribeStream", "Start of list found where not expected", StreamName=[])
    wrong(k, "DescribeStream", "Start of structure or map found where not expected.", StreamName={})


@case("types", "a scalar where a list, map or structure is expected", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    wrong(k, "PutRecords", "Expected list or null", StreamName="s", Records="x")
    wrong(k, "AddTagsToStream", "Expected map or null", StreamName="s", Tags=1)
    wrong(k, "PutRecords", "Expected null", StreamName="s", Records=["x"])


@case("types", "a timestamp as text", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    members = {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP"}
    wrong(k, "GetShardIterator", "class java.lang.String can not be converted to milliseconds since epoch", Timestamp="2026", **members)


@case("types", "broken base64: length, character, stray low bits", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    for data, text in (
        ("abc", "Base64 encoded length is expected a multiple of 4 bytes but found: 3"),
        ("ab*d", "Invalid Base64 character: '*'"),
        ("=aaa", "Invalid Base64 character: '='"),
        ("YR==", "Invalid last non-pad Base64 character dectected"),
    ):
        wrong(k, "PutRecord", f"'{data}' can not be converted to a Blob: {text}", StreamName="s", PartitionKey="k", Data=data)


@case("types", "null means absent", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.ask("ListStreams", Limit=None, ExclusiveStartStreamName=None)
    k.invalid("GetRecords", "shardIterator: Member must not be null", ShardIterator=None)


@case("types", "unknown members are ignored", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.ask("ListStreams", NoSuchMember={"deep": [1]})


@case("types", "an integer beyond 32 bits is clamped, then judged", f"{TYPES}, recorded on AWS until 2020")
def _(k: Kit) -> None:
    text = k.refused("GetRecords", "ValidationException", ShardIterator="x", Limit=2**40)
    holds("at limit, at most 10000", "at 'limit'" in text and text.endswith("less than or equal to 10000"), text)
    holds("shown clamped, if shown", str(2**40) not in text, text)


# --- constraints ------------------------------------------------------------------------------------------------------


@case("validation", "two wrong members make two items", f"{RULES}.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    items = ("limit: Member must have value greater than or equal to 1", "shardIterator: Member must not be null")
    k.invalid("GetRecords", *items, Limit=-3)


@case("validation", "an empty name breaks the pattern and the minimum", f"{RULES}.2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    items = (
        "streamName: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+",
        "streamName: Member must have length greater than or equal to 1",
    )
    k.invalid("DescribeStreamSummary", *items, StreamName="")


@case("validation", "a name of 129 characters", f"{RULES}.3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.invalid("DescribeStreamSummary", "streamName: Member must have length less than or equal to 128", StreamName="a" * 129)


@case("validation", "an unknown iterator type names the set", f"{RULES}.2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    text = k.refused("GetShardIterator", "ValidationException", StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="NEVER")
    found = re.fullmatch(r".* at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: \[(.*)\]", text)
    holds("the set", found, text)
    assert found is not None
    expected = {"AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"}
    same("the set", set(found[1].split(", ")), expected)


@case("validation", "no record, and 501 records", f"{RULES}.3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    name = k.stream()
    k.invalid("PutRecords", "records: Member must have length greater than or equal to 1", StreamName=name, Records=[])
    records = [{"Data": "", "PartitionKey": "k"}] * 501
    k.invalid("PutRecords", "records: Member must have length less than or equal to 500", StreamName=name, Records=records)


@case("validation", "the path into a list counts from one", f"{RULES}.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    records = [{"Data": "", "PartitionKey": "k"}, {"Data": "", "PartitionKey": ""}]
    item = "records.2.member.partitionKey: Member must have length greater than or equal to 1"
    k.invalid("PutRecords", item, StreamName="s", Records=records)


@case("validation", "at most ten items are told", f"{RULES}.1, recorded on AWS until 2020")
def _(k: Kit) -> None:
    text = k.refused("PutRecords", "ValidationException", StreamName="s", Records=[{"Data": "", "PartitionKey": ""}] * 20)
    holds("10 validation errors", text.startswith("10 validation errors detected: "), text)
    same("items", text.count("failed to satisfy constraint"), 10)


@case("validation", "tag keys and values are reported on the map", f"{RULES}.2, recorded on AWS until 2020")
def _(k: Kit) -> None:
    bracket = "[Member must have length less than or equal to {}, Member must have length greater than or equal to {}]"
    key = f"tags: Map keys must satisfy constraint: {bracket.format(128, 1)}"
    value = f"tags: Map value must satisfy constraint: {bracket.format(256, 0)}"
    k.invalid("AddTagsToStream", key, value, StreamName="s", Tags={"k" * 129: "", "v": "v" * 257})


@case("validation", "an ExplicitHashKey that is no number", f"{RULES}.3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    item = r"explicitHashKey: Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})"
    k.invalid("PutRecord", item, StreamName="s", Data="", PartitionKey="k", ExplicitHashKey="-1")


@case("validation", "Limit of GetRecords above 10,000", f"{RULES}.3, recorded on AWS until 2020")
def _(k: Kit) -> None:
    k.invalid("GetRecords", "limit: Member must have value less than or equal to 10000", ShardIterator="x", Limit=10_001)


# --- CBOR -------------------------------------------------------------------------------------------------------------


def in_cbor(k: Kit, operation: str, members: dict[str, Any]) -> dict[str, Any]:
    answer = k.post(operation, members, kind=CBOR)
    if answer.status >= 500 or answer.status == 404:
        raise Missing(f"HTTP {answer.status}")
    same("status and content type", (answer.status, answer.headers.get("content-type")), (200, CBOR))
    return answer.data


@case("CBOR", "payloads are byte strings, both ways", "kinesis-api.md 6, recorded on AWS 2024-07")
def _(k: Kit) -> None:
    name = k.stream()
    in_cbor(k, "PutRecord", {"StreamName": name, "PartitionKey": "k", "Data": b"\x00\xff"})
    in_cbor(k, "PutRecords", {"StreamName": name, "Records": [{"PartitionKey": "k", "Data": b"two"}]})
    same("as JSON", k.read(k.iterator(name)), [b"\x00\xff", b"two"])
    page = in_cbor(k, "GetRecords", {"ShardIterator": k.iterator(name)})
    same("as CBOR", [record["Data"] for record in page["Records"]], [b"\x00\xff", b"two"])


@case("CBOR", "timestamps in answers are tag 1 with integer milliseconds", "kinesis-api.md 6, recorded on AWS 2024-07")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"x")
    stamp = in_cbor(k, "GetRecords", {"ShardIterator": k.iterator(name)})["Records"][0]["ApproximateArrivalTimestamp"]
    holds("tag 1, an integer", isinstance(stamp, Stamp) and type(stamp.value) is int, stamp)
    holds("milliseconds of this century", 1e12 < stamp.value < 1e13, stamp)
    made = in_cbor(k, "DescribeStream", {"StreamName": name})["StreamDescription"]["StreamCreationTimestamp"]
    holds("tag 1, an integer", isinstance(made, Stamp) and type(made.value) is int and made.value > 1e12, made)


@case("CBOR", "timestamps in requests are milliseconds, too", "kinesis-api.md 6")
def _(k: Kit) -> None:
    name = k.stream()
    k.put(name, b"old")
    old = k.ask("GetRecords", ShardIterator=k.iterator(name))["Records"][0]["ApproximateArrivalTimestamp"]
    k.wait(0.05)
    k.put(name, b"new")
    members = {"StreamName": name, "ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP"}
    token = in_cbor(k, "GetShardIterator", {**members, "Timestamp": Stamp(round(old * 1000) + 1)})["ShardIterator"]
    same("records", k.read(token), [b"new"])


@case("CBOR", "errors are CBOR maps with __type and message", "errors.md 1, recorded on AWS 2025-09")
def _(k: Kit) -> None:
    answer = k.post("DescribeStream", {"StreamName": "no-such"}, kind=CBOR)
    same("content type", answer.headers.get("content-type"), CBOR)
    text = k.is_error(answer, "ResourceNotFoundException")
    holds("text", re.fullmatch(r"Stream no-such under account \d{12} not found\.", text), text)


@case("CBOR", "indefinite lengths are read", "RFC 8949 3.2; the Java SDK 1.x sends them")
def _(k: Kit) -> None:
    name = k.stream()
    body = b"\xbf" + cbor("StreamName") + cbor(name) + cbor("Data") + b"\x5f" + cbor(b"a") + cbor(b"b") + b"\xff"
    body += cbor("PartitionKey") + b"\x7f" + cbor("k") + b"\xff" + b"\xff"
    same("status", k.post("PutRecord", body, kind=CBOR).status, 200)
    same("record", k.read(k.iterator(name)), [b"ab"])


@case("CBOR", "a body that is no CBOR is a SerializationException in CBOR", "errors.md 1 step 6")
def _(k: Kit) -> None:
    answer = k.post("ListStreams", b"\xbf\x61", kind=CBOR)
    same("content type", answer.headers.get("content-type"), CBOR)
    bare(answer, "SerializationException")


@case("CBOR", "wrong types get the same texts as in JSON", "errors.md 5")
def _(k: Kit) -> None:
    answer = k.post("DescribeStream", {"StreamName": 12}, kind=CBOR)
    k.is_error(answer, "SerializationException", f"{NUMBER} can not be converted to an String")


__all__: list[str] = []
