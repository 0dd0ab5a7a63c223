"""What does a conformance case work with? A broker's URL, requests with full control over their bytes, and comparisons that explain themselves.

It shares nothing with streamlet: HTTP by `http.client` and sockets, CBOR and event-stream frames by the few lines below, after
RFC 8949 and the framing of `application/vnd.amazon.eventstream` (reference/kinesis-api.md section 8).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

__all__ = [
    "CASES",
    "CBOR",
    "HASH_KEYS",
    "JSON",
    "Answer",
    "Case",
    "Differs",
    "Frame",
    "Kit",
    "Missing",
    "NotTried",
    "Stamp",
    "case",
    "cbor",
    "holds",
    "same",
    "uncbor",
    "unframe",
    "wait_until",
]

JSON: Final = "application/x-amz-json-1.1"
CBOR: Final = "application/x-amz-cbor-1.1"
EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
HASH_KEYS: Final = 2**128
TIMEOUT_S: Final = 15.0
PATIENCE_S = 15.0  # for what a broker does in its own time


class Differs(AssertionError):
    """The broker answers, but not as the service does."""


class Missing(Exception):
    """The broker does not do this at all: an unknown operation, a server error, no answer."""


class NotTried(Exception):
    """The case cannot be put to this broker, for instance because its clock cannot be moved. No verdict."""


class Answer(NamedTuple):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The body as a map, decoded as its content type says."""
        if not self.body:
            return {}
        try:
            found = uncbor(self.body) if self.headers.get("content-type", "").startswith(CBOR) else json.loads(self.body)
        except (ValueError, IndexError, struct.error) as error:
            raise Differs(f"the body cannot be decoded: {self.body[:60]!r}") from error
        holds("the body is a map", isinstance(found, dict), found)
        return dict(found)


class Case(NamedTuple):
    """One behaviour. `source` says how it is known: a section of reference/, and whether it was recorded on AWS."""

    area: str
    name: str
    source: str
    run: Callable[[Kit], None]


CASES: Final[list[Case]] = []


def case(area: str, name: str, source: str) -> Callable[[Callable[[Kit], None]], Callable[[Kit], None]]:
    """Registers a function as a case."""

    def register(function: Callable[[Kit], None]) -> Callable[[Kit], None]:
        CASES.append(Case(area, name, source, function))
        return function

    return register


def same(what: str, seen: Any, expected: Any) -> None:
    """Differs, unless equal."""
    if seen != expected:
        raise Differs(f"{what}: {_short(seen)}, not {_short(expected)}")


def holds(what: str, condition: object, seen: object = "") -> None:
    """Differs, unless true."""
    if not condition:
        raise Differs(f"not so: {what}" + (f" (seen: {_short(seen)})" if seen != "" else ""))


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Ask until true; Differs when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        holds(what, time.monotonic() < deadline)
        time.sleep(0.05)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 160 else f"{text[:150]}... ({len(text)})"


class Kit:
    """A broker and one case's own streams, which are deleted when the case is over."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        url: str,
        *,
        jump: Callable[[float], None] | None = None,
        limited: Callable[[], contextlib.AbstractContextManager[str]] | None = None,
    ) -> None:
        self.url = url
        self.host, self.port = urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80
        self._jump, self._limited = jump, limited
        self.ahead_s = 0.0
        self._streams: list[tuple[str, str, str]] = []
        self._connection: http.client.HTTPConnection | None = None
        self._account = ""

    # --- requests -----------------------------------------------------------------------------------------------------

    def headers(self, operation: str | None, *, key: str = "AKIAEXAMPLE", region: str = "us-east-1", kind: str = JSON) -> dict[str, str]:
        """Headers of a well-formed call; the signature is only complete, not right, which every local broker takes."""
        sent = {
            "Content-Type": kind,
            "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20260101/{region}/kinesis/aws4_request, "
            "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" + "ab" * 32,
        }
        if operation is not None:
            sent["X-Amz-Target"] = f"Kinesis_20131202.{operation}"
        return sent

    def http(self, method: str, headers: dict[str, str], body: bytes | None = b"", path: str = "/") -> Answer:
        """One request with exactly these headers (and Host, Content-Length)."""
        for attempt in (1, 2):
            connection = self._connection or http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
            fresh, self._connection = self._connection is None, None
            try:
                connection.putrequest(method, path, skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                if body is not None and method != "OPTIONS":
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body if body and method != "OPTIONS" else None)
                response = connection.getresponse()
                endless = response.status == 200 and response.getheader("Content-Type") == EVENT_STREAM
                content = b"" if endless else response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh or attempt == 2:
                    raise Missing(f"no answer: {type(error).__name__}") from error
                continue  # the server had closed a connection that was kept
            if response.will_close or endless:  # a subscription is not read to its end, five minutes later
                response.close()
                connection.close()
            else:
                self._connection = connection
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
        raise AssertionError("the second attempt answers or raises")

    def post(self, operation: str | None, body: Any, *, kind: str = JSON, **scope: str) -> Answer:
        """A call; `body` is bytes or text to send as it is, or members."""
        content = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else cbor(body) if kind == CBOR else _json(body)
        )
        return self.http("POST", self.headers(operation, kind=kind, **scope), content)

    def ask(self, operation: str, members: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        """The answer of a call that is to go through."""
        answer = self.post(operation, {**(members or {}), **more})
        _must_be_200(operation, answer)
        return answer.data

    def refused(self, operation: str, code: str, text: str | re.Pattern[str] | None = None, /, **members: Any) -> str:
        """The text of a call that is to be refused with HTTP 400."""
        return self.is_error(self.post(operation, members), code, text)

    def is_error(self, answer: Answer, code: str, text: str | re.Pattern[str] | None = None) -> str:
        """The text of a refusal with HTTP 400."""
        _not_unknown(answer)
        if answer.status == 200:
            raise Differs(f"accepted instead of {code}")
        found = answer.data if answer.body[:1] != b"<" else {"__type": answer.body[:60].decode("latin-1")}
        same("HTTP status and error", (answer.status, found.get("__type")), (400, code))
        message = str(found.get("message", found.get("Message", "")))
        if isinstance(text, str):
            same("text", message, text)
        elif text is not None:
            holds(f"text like {text.pattern!r}", text.fullmatch(message), message)
        return message

    def invalid(self, operation: str, *items: str, **members: Any) -> None:
        """A ValidationException with these items `PATH: CONSTRAINT`, in any order; values may be shown or left out, as the service did both."""
        text = self.refused(operation, "ValidationException", **members)
        head, _, rest = text.partition(" detected: ")
        same("count", head, f"{len(items)} validation error{'s' * (len(items) > 1)}")
        found = re.findall(r"Value (?:'.*?' |null )?at '([^']+)' failed to satisfy constraint: (.*?)(?=; Value |$)", rest)
        same("items", sorted(f"{path}: {constraint}" for path, constraint in found), sorted(items))

    @contextlib.contextmanager
    def socket(self) -> Iterator[socket.socket]:
        """A bare connection."""
        try:
            with socket.create_connection((self.host, self.port), timeout=TIMEOUT_S) as link:
                yield link
        except OSError as error:
            raise Missing(f"no answer: {type(error).__name__}") from error

    def wire(self, operation: str, members: dict[str, Any], *, length: bool = True, extra: str = "") -> tuple[bytes, bytes]:
        """Head and body of a call as bytes."""
        body = _json(members)
        lines = [f"POST / HTTP/1.1\r\nHost: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers(operation).items()]
        if length:
            lines.append(f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode(), body

    def boto3(self) -> Any:
        """An unmodified boto3 client that does not retry."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "kinesis",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S),
        )

    # --- what the broker can only do when its owner helps --------------------------------------------------------------

    def jump(self, seconds: float) -> None:
        """Move the broker's clock forward."""
        if self._jump is None:
            raise NotTried("its clock cannot be moved")
        self._move(self._jump, seconds)

    def wait(self, seconds: float) -> None:
        """Let time pass on the broker's clock: moved where it can be, else waited for."""
        if self._jump is None:
            time.sleep(seconds)
        else:
            self._move(self._jump, seconds)

    def _move(self, jump: Callable[[float], None], seconds: float) -> None:
        self.ahead_s += seconds
        jump(seconds)

    def now_s(self) -> float:
        """The time on the broker's clock, as far as it was moved."""
        return time.time() + self.ahead_s

    def limited(self) -> contextlib.AbstractContextManager[str]:
        """The URL of a broker of the same make that enforces quotas per second."""
        if self._limited is None:
            raise NotTried("cannot be told to enforce quotas per second")
        return self._limited()

    # --- streams ------------------------------------------------------------------------------------------------------

    def name(self) -> str:
        """A name that no other case uses."""
        name = f"case-{next(self._numbers):04d}"
        self._streams.append((name, "AKIAEXAMPLE", "us-east-1"))
        return name

    def stream(self, shards: int = 1, **more: Any) -> str:
        """A new stream, ACTIVE."""
        name = self.name()
        self.ask("CreateStream", StreamName=name, ShardCount=shards, **more)
        self.settle(name)
        return name

    def settle(self, name: str, **scope: str) -> None:
        """Wait until ACTIVE."""
        wait_until("the stream becomes ACTIVE", lambda: self._status(name, scope) == "ACTIVE")

    def _status(self, name: str, scope: dict[str, str]) -> str:
        answer = self.post("DescribeStreamSummary", {"StreamName": name}, **scope)
        summary = answer.data.get("StreamDescriptionSummary", {}) if answer.status == 200 else {}
        if not summary:
            answer = self.post("DescribeStream", {"StreamName": name}, **scope)
            _must_be_200("DescribeStream", answer)
            summary = answer.data["StreamDescription"]
        return str(summary["StreamStatus"])

    def own(self, name: str, key: str, region: str) -> None:
        """Delete this stream of another account or region, too, when the case is over."""
        self._streams.append((name, key, region))

    def arn(self, name: str) -> str:
        """The stream's ARN."""
        return str(self.ask("DescribeStream", StreamName=name)["StreamDescription"]["StreamARN"])

    def account(self, name: str) -> str:
        """The account id that this broker gives to this stream."""
        if not self._account:
            self._account = self.arn(name).split(":")[4]
        return self._account

    def shards(self, name: str, **more: Any) -> list[dict[str, Any]]:
        """All that ListShards tells."""
        return list(self.ask("ListShards", StreamName=name, **more)["Shards"])

    def iterator(self, name: str, shard: int = 0, kind: str = "TRIM_HORIZON", **more: Any) -> str:
        """A shard iterator."""
        members = {"StreamName": name, "ShardId": f"shardId-{shard:012d}", "ShardIteratorType": kind, **more}
        return str(self.ask("GetShardIterator", members)["ShardIterator"])

    def put(self, name: str, *values: bytes, key: str = "k", hash_key: int | None = None) -> list[dict[str, Any]]:
        """PutRecord for each value."""
        more = {} if hash_key is None else {"ExplicitHashKey": str(hash_key)}
        return [self.ask("PutRecord", StreamName=name, Data=b64(value), PartitionKey=key, **more) for value in values]

    def read(self, iterator: str, **more: Any) -> list[bytes]:
        """The payloads of one GetRecords."""
        return [base64.b64decode(record["Data"]) for record in self.ask("GetRecords", ShardIterator=iterator, **more)["Records"]]

    def end(self, name: str, shard: int = 0) -> tuple[list[bytes], dict[str, Any]]:
        """All payloads of a closed shard, and the answer that told its end."""
        token: str | None = self.iterator(name, shard)
        found: list[bytes] = []
        for _ in range(40):  # the service may send empty answers before the end shows
            page = self.ask("GetRecords", ShardIterator=token)
            found += [base64.b64decode(record["Data"]) for record in page["Records"]]
            token = page.get("NextShardIterator")
            if token is None:
                return found, page
            time.sleep(0.01)
        raise Differs("the closed shard never ends")

    def split(self, name: str, shard: int = 0, at: int | None = None) -> None:
        """Split in the middle unless told where; wait."""
        found = next(s for s in self.shards(name) if int(s["ShardId"][-12:]) == shard)["HashKeyRange"]
        middle = (int(found["StartingHashKey"]) + int(found["EndingHashKey"]) + 1) // 2
        self.ask("SplitShard", StreamName=name, ShardToSplit=f"shardId-{shard:012d}", NewStartingHashKey=str(at or middle))
        self.settle(name)

    def merge(self, name: str, lower: int = 0, upper: int = 1) -> None:
        """Merge; wait."""
        self.ask("MergeShards", StreamName=name, ShardToMerge=f"shardId-{lower:012d}", AdjacentShardToMerge=f"shardId-{upper:012d}")
        self.settle(name)

    def consumer(self, name: str, consumer: str = "c") -> str:
        """The ARN of a new consumer, ACTIVE."""
        arn = str(self.ask("RegisterStreamConsumer", StreamARN=self.arn(name), ConsumerName=consumer)["Consumer"]["ConsumerARN"])
        wait_until(
            "the consumer becomes ACTIVE",
            lambda: self.ask("DescribeStreamConsumer", ConsumerARN=arn)["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE",
        )
        return arn

    @contextlib.contextmanager
    def subscribed(self, consumer: str, shard: int = 0, **position: Any) -> Iterator[Iterator[Frame]]:
        """The frames of a subscription as they come."""
        members = {
            "ConsumerARN": consumer,
            "ShardId": f"shardId-{shard:012d}",
            "StartingPosition": position or {"Type": "TRIM_HORIZON"},
        }
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", "/", _json(members), self.headers("SubscribeToShard"))
            response = connection.getresponse()
            if response.status != 200:
                answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
                _must_be_200("SubscribeToShard", answer)
            same("content type", response.getheader("Content-Type"), EVENT_STREAM)
            yield unframe(response.read)
        except (OSError, http.client.HTTPException) as error:
            raise Missing(f"the subscription broke: {type(error).__name__}") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Delete the case's streams, so that a broker's memory stays as it was."""
        for name, key, region in self._streams:
            with contextlib.suppress(Missing):
                self.post("DeleteStream", {"StreamName": name, "EnforceConsumerDeletion": True}, key=key, region=region)
        self._streams.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def b64(value: bytes) -> str:
    """Base64 as text."""
    return base64.b64encode(value).decode()


def _json(members: Any) -> bytes:
    return json.dumps(members).encode()


def _not_unknown(answer: Answer) -> None:
    if b"UnknownOperation" in answer.body:
        raise Missing("unknown operation")
    if answer.status >= 500:
        raise Missing(f"HTTP {answer.status}")


def _must_be_200(operation: str, answer: Answer) -> None:
    _not_unknown(answer)
    if answer.status != 200:
        raise Differs(f"{operation} answers {answer.status} {answer.body[:160].decode('utf-8', 'replace')}")


# --- CBOR -------------------------------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """Tag 1 around what it holds: the service sends integer milliseconds, against RFC 8949's seconds."""

    value: int | float


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes([major << 5 | count])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if count < 1 << 8 * size:
            return bytes([major << 5 | code]) + count.to_bytes(size, "big")
    raise ValueError("too big for CBOR")


def cbor(value: Any) -> bytes:
    """A value as CBOR, definite lengths."""
    match value:
        case None | bool():
            return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
        case Stamp():
            return b"\xc1" + cbor(value.value)
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode("utf-8", "surrogatepass"))) + value.encode("utf-8", "surrogatepass")
        case list():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in value.items())
    raise TypeError(f"no CBOR for {type(value)}")


def uncbor(data: bytes) -> Any:
    """The one value that `data` holds. ValueError or IndexError when it is something else."""
    value, end = _uncbor(data, 0)
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


_STOP: Final = object()


def _uncbor(data: bytes, at: int) -> tuple[Any, int]:  # one branch per major type
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    count: int | None = info if info < 24 else None
    if 24 <= info <= 27:
        size = 1 << info - 24
        if at + size > len(data):
            raise ValueError("cut off")
        raw, at = data[at : at + size], at + size
        if major == 7 and size > 1:
            return struct.unpack({2: ">e", 4: ">f", 8: ">d"}[size], raw)[0], at
        count = int.from_bytes(raw, "big")
    if major == 7:
        return (_STOP if info == 31 else {20: False, 21: True, 22: None, 23: None}[info]), at
    if count is None and info != 31:
        raise ValueError("reserved")
    if major == 0 or major == 1:
        assert count is not None
        return (count if major == 0 else -1 - count), at
    if major == 6:
        value, at = _uncbor(data, at)
        return (Stamp(value) if count == 1 else value), at
    if count is not None and major in {2, 3}:
        if at + count > len(data):
            raise ValueError("cut off")
        raw = data[at : at + count]
        return (raw if major == 2 else raw.decode("utf-8", "surrogatepass")), at + count
    items: list[Any] = []
    while count is None or len(items) < count * (2 if major == 5 else 1):
        value, at = _uncbor(data, at)
        if value is _STOP:
            break
        items.append(value)
    if major in {2, 3}:
        return (b"" if major == 2 else "").join(items), at
    return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), at


# --- event stream -----------------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One message: headers, and the payload as JSON."""

    headers: dict[str, str]
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """The event's, exception's or error's name."""
        return self.headers.get(":event-type") or self.headers.get(":exception-type") or self.headers.get(":error-code") or ""


def unframe(read: Callable[[int], bytes]) -> Iterator[Frame]:
    """Frames from a function that reads exactly n bytes, fewer only at the end. Checks both checksums."""
    while prelude := read(12):
        same("prelude's bytes", len(prelude), 12)
        total, headers_size, crc = struct.unpack(">III", prelude)
        same("prelude's CRC", crc, zlib.crc32(prelude[:8]))
        rest = read(total - 12)
        same("frame's bytes", len(rest), total - 12)
        same("frame's CRC", int.from_bytes(rest[-4:], "big"), zlib.crc32(prelude + rest[:-4]))
        headers, at = {}, 0
        while at < headers_size:
            name = rest[at + 1 : at + 1 + rest[at]].decode()
            at += 1 + rest[at]
            same("header type", rest[at], 7)
            size = int.from_bytes(rest[at + 1 : at + 3], "big")
            headers[name] = rest[at + 3 : at + 3 + size].decode()
            at += 3 + size
        payload = rest[headers_size:-4]
        yield Frame(headers, json.loads(payload) if payload else {})
