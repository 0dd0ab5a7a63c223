"""Can anything that a client sends break the broker? Requests made from the model's shapes, and bytes that are no requests at all.

A real `streamlet broker` process is asked over sockets. What must hold for every answer: it comes (no hang), it is no 5xx, its body
is what its content type says. In the end: nothing on the broker's stderr, and memory that stopped growing after the warm-up.

    make fuzz                                                100,000 requests and more
    python tests/e2e/test_fuzz.py --requests 5000 --seed 7   another run

The seed decides what is asked; only ids and tokens that the broker itself made differ from run to run. So an offending
request is cut down and printed as a line for the shell that sends it again.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import botocore.session

JSON: Final = "application/x-amz-json-1.1"
CBOR: Final = "application/x-amz-cbor-1.1"
AUTHORIZATION: Final = (
    "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260101/us-east-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + "ab" * 32
)
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT_S: Final = 20.0  # far above what any request may take on a busy machine: a hang, not a slow answer
BATCH: Final = 40  # requests that are sent at once on a connection
EPOCH: Final = 2_000  # requests between two clean-ups, after which memory is looked at
RAW_EVERY: Final = 25  # one connection of raw bytes for so many requests


class Offence(AssertionError):
    """What the broker must never do, with the line that shows it again."""


class Sent(NamedTuple):
    """One request: the operation, its members (None when the body is not made of any), all its bytes."""

    operation: str
    members: dict[str, Any] | None
    kind: str
    data: bytes


class Raw(NamedTuple):
    """A value that is put into the body as this text."""

    text: str


# --- values -----------------------------------------------------------------------------------------------------------

NUMBERS: Final = [
    0,
    1,
    -1,
    2,
    24,
    100,
    10_000,
    10_001,
    2**31 - 1,
    2**31,
    -(2**31),
    2**63,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.0,
    1e308,
    -1e308,
    1e-300,
]
TEXTS: Final = [
    *(
        "",
        " ",
        "a",
        "a" * 129,
        "a" * 3000,
        "\0",
        "\ud800",
        "é",
        "日本語" * 50,
        "𝔘",
        "\u202e",
        "../..",
        "'; DROP",
        "%s%n",
        "{}",
        "null",
        "0",
        "-1",
    ),
    *(
        "00",
        "1e5",
        "9" * 39,
        "9" * 129,
        "9" * 130,
        str(2**128),
        str(2**128 - 1),
        str(2**185),
        str(2**186),
        "²",
        "٣",
        "shardId-000000000000",
    ),
    *(
        "shardId--0000000001",
        "shardId-99999999999999",
        "x-7",
        "-07",
        "AAAA",
        "====",
        "AAA=AAA=",
        "YR==",
        "arn:aws:kinesis:us-east-1:000000000000:stream/a",
    ),
    *(
        "arn:aws:kinesis:us-east-1:000000000000:stream/a/consumer/b:1",
        "arn:aws:kinesis:::stream/",
        "TRIM_HORIZON",
        "latest",
        "AT_TIMESTAMP",
    ),
]
DEEP: Final = [
    Raw("[" * 400 + "]" * 400),
    Raw('{"a":' * 300 + "1" + "}" * 300),
    Raw("[" * 50_000),
    Raw("1" * 5_000),
    Raw("1e999"),
    Raw("NaN"),
    Raw("-"),
]


class Values:
    """Values for members: from the model's shapes, from what the broker told, or wrong on purpose."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.careful = False  # half of the requests are nearly right, or nothing behind the checks would be reached
        self.known: dict[str, list[str]] = {}

    def learn(self, name: str, value: str) -> None:
        """Keep a few of each kind."""
        kept = self.known.setdefault(name, [])
        if len(kept) < 40:
            kept.append(value)
        else:
            kept[self.rng.randrange(40)] = value

    def harvest(self, value: Any, name: str = "") -> None:
        """Learn ids and tokens from an answer."""
        if isinstance(value, dict):
            for key, entry in value.items():
                self.harvest(entry, key)
        elif isinstance(value, list):
            for entry in value[:4]:
                self.harvest(entry, name)
        elif isinstance(value, str) and name in KNOWN_AS:
            self.learn(KNOWN_AS[name], value)

    def mutated(self, text: str) -> str:
        """A real token with a blemish."""
        at = self.rng.randrange(len(text) + 1)
        return self.rng.choice((text[:at], text[:at] + "A" + text[at + 1 :], text[at:], text + "A", text[::-1], f'"{text}"', text.lower()))

    def member(self, name: str, shape: Any, depth: int) -> Any:
        """A value for a member: mostly right, sometimes not."""
        rng = self.rng
        if rng.random() < (0.01 if self.careful else 0.08):
            return self.wrong()
        kept = self.known.get(KNOWN_AS.get(name, name))
        if kept and rng.random() < (0.98 if self.careful else 0.85):
            value = rng.choice(kept)
            return value if rng.random() < (0.98 if self.careful else 0.85) else self.mutated(value)
        return self.of(shape, depth)

    def wrong(self) -> Any:
        """Of any type."""
        rng = self.rng
        kind = rng.randrange(8)
        if kind == 0:
            return rng.choice(DEEP)
        if kind == 1:
            return rng.choice(([], {}, [[]], [None], {"": None}, {"a": {"b": [{}]}}, [{}], [1, "a"]))
        if kind == 2:
            return rng.choice((None, True, False))
        return rng.choice(NUMBERS) if kind < 5 else rng.choice(TEXTS)

    def of(self, shape: Any, depth: int = 0) -> Any:
        """Near the shape."""
        rng, kind = self.rng, shape.type_name
        if kind == "structure":
            return self.structure(shape, depth)
        if kind == "list":
            count = rng.choice((0, 1, 1, 2, 3, 11)) if depth else rng.choice((0, 1, 1, 2, 5, 60))
            return [self.member(shape.member.name, shape.member, depth + 1) for _ in range(count)]
        if kind == "map":
            return {rng.choice(TEXTS): self.member("", shape.value, depth + 1) for _ in range(rng.choice((0, 1, 2, 12)))}
        if kind in {"integer", "long"}:
            low = shape.metadata.get("min", 1)
            if self.careful:
                return rng.choice((low, low + 1, 24, 48))
            return rng.choice((low, low + 1, low - 1, shape.metadata.get("max", 48), 24, 48, rng.choice(NUMBERS)))
        if kind == "timestamp":
            return rng.choice((time.time() - 5, time.time(), 0, -1, 1e15, rng.choice(NUMBERS)))
        if kind == "boolean":
            return rng.random() < 0.3
        if kind == "blob":
            return rng.randbytes(rng.choice((0, 1, 2, 3, 100, 1000)))
        if shape.enum and rng.random() < 0.95:
            return rng.choice(shape.enum)
        return rng.choice(TEXTS) if rng.random() < (0.1 if self.careful else 0.5) else f"name-{rng.randrange(6)}"

    def structure(self, shape: Any, depth: int = 0) -> dict[str, Any]:
        """Required members nearly always, others sometimes, one that nobody knows seldom."""
        required, found = set(shape.required_members), {}
        for name, member in shape.members.items():
            if self.careful and name in {"StreamName", "StreamARN", "StreamId"} and name not in required:
                # One of the two says which stream; both at once must agree.
                wanted = (name == "StreamARN") == ("ConsumerName" in shape.members or self.rng.random() < 0.3)
                if wanted and name != "StreamId" and "StreamName" not in found:
                    found[name] = self.member(name, member, depth + 1)
            elif (
                name in required
                or name in {"StreamName", "StreamARN", "PartitionKey", "ConsumerARN"}
                or self.rng.random() < (0.1 if self.careful else 0.3)
            ) and (self.careful or self.rng.random() < 0.96):
                found[name] = self.member(name, member, depth + 1)
        if not self.careful and self.rng.random() < 0.05:
            found[self.rng.choice(TEXTS)] = self.wrong()
        return found


KNOWN_AS: Final = {
    "StreamName": "StreamName",
    "StreamARN": "StreamARN",
    "ResourceARN": "StreamARN",
    "ConsumerARN": "ConsumerARN",
    "ConsumerName": "ConsumerName",
    "ShardId": "ShardId",
    "ShardToMerge": "ShardId",
    "ShardToSplit": "ShardId",
    "AdjacentShardToMerge": "ShardId",
    "ExclusiveStartShardId": "ShardId",
    "SequenceNumber": "SequenceNumber",
    "StartingSequenceNumber": "SequenceNumber",
    "SequenceNumberForOrdering": "SequenceNumber",
    "ShardIterator": "ShardIterator",
    "NextShardIterator": "ShardIterator",
    "NextToken": "NextToken",
    "StartingHashKey": "HashKey",
    "EndingHashKey": "HashKey",
    "NewStartingHashKey": "HashKey",
    "ExplicitHashKey": "HashKey",
}


def to_json(value: Any) -> str:
    """JSON that may hold what JSON must not."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


def to_cbor(value: Any) -> bytes:
    """CBOR, of lengths definite and not; what has no CBOR form becomes bytes that are none."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, Raw):
        return {"[": b"\x9f", "{": b"\xbf", "1": b"\xc2\x58\x20"}.get(value.text[:1], b"\x1c") * min(len(value.text), 5000)
    if isinstance(value, int):
        if not -(2**64) <= value < 2**64:
            return b"\xc2" + to_cbor(abs(value).to_bytes(40, "big"))
        return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
    if isinstance(value, float):
        return b"\xc1" * (value > 1e6) + b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return cbor_head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return cbor_head(3, len(raw)) + raw
    if isinstance(value, list):
        return b"\x9f" + b"".join(map(to_cbor, value)) + b"\xff"
    return cbor_head(5, len(value)) + b"".join(to_cbor(key) + to_cbor(entry) for key, entry in value.items())


def cbor_head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes([major << 5 | count])
    size = next(size for size in (1, 2, 4, 8) if count < 1 << 8 * size)
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[size]]) + count.to_bytes(size, "big")


def request(operation: str, body: bytes, kind: str = JSON, authorization: str = AUTHORIZATION) -> bytes:
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nX-Amz-Target: Kinesis_20131202.{operation}\r\nX-Amz-Date: 20260101T000000Z\r\n"
        f"Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


# --- bytes that are no requests ---------------------------------------------------------------------------------------


def raw_bytes(rng: random.Random) -> bytes:
    """Broken HTTP/1.1, broken HTTP/2, or noise."""
    good = request("ListStreams", b'{"Limit":1}')
    head, _, body = good.partition(b"\r\n\r\n")
    bare = head.replace(b"Content-Length: 11", b"X: 1")

    def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
        return (len(payload) if length is None else length).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def frames() -> bytes:
        some = [
            frame(rng.randrange(12), rng.randrange(256), rng.randrange(8), rng.randbytes(rng.randrange(40)))
            for _ in range(rng.randrange(1, 8))
        ]
        return PREFACE + frame(4, 0, 0, b"") * rng.randrange(2) + b"".join(some)

    def hpack() -> bytes:
        block = rng.choice((b"\x83\x84\x86", b"\x82", b"\x83\x86\x44\x7f", b"\x00" * 9)) + rng.randbytes(rng.randrange(30))
        data = frame(0, rng.randrange(2), 1, rng.randbytes(rng.randrange(60)))
        return PREFACE + frame(4, 0, 0, b"") + frame(1, rng.choice((4, 5, 0)), 1, block) + data * rng.randrange(3)

    def chunks() -> bytes:
        pieces = rng.choices(
            [
                b"5\r\nabcde\r\n",
                b"0\r\n\r\n",
                b"x\r\n",
                b"-1\r\n",
                b"1;a=b\r\n{\r\n",
                b"fffffffffffffffff\r\n",
                b"3\r\nab",
                b"0\r\nT: 1\r\n\r\n",
            ],
            k=rng.randrange(1, 6),
        )
        return bare + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)

    def flipped() -> bytes:
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)

    def lengths() -> bytes:
        return (
            bare
            + b"\r\nContent-Length: %b\r\n\r\n" % rng.choice((b"-1", b"1e3", b"99", b"9" * 30, b"0x10", b"1, 1", b"", b" 2 ", b"+5"))
            + body
        )

    makers = (
        lambda: good[: rng.randrange(len(good))],
        lambda: rng.randbytes(rng.randrange(1, 2000)),
        lambda: good * rng.randrange(2, 30) + good[: rng.randrange(len(good))],
        lambda: b"\r\n" * rng.randrange(1, 2000) + good,
        lambda: head + b"\r\nA: " + b"x" * rng.choice((10, 70_000)) + b"\r\n\r\n" + body,
        lambda: head + b"\r\n" + b"".join(b"H%d: v\r\n" % n for n in range(rng.choice((5, 3000)))) + b"\r\n" + body,
        lambda: (
            rng.choice((b"GET", b"OPTIONS", b"PUT", b"\xff", b"P" * 70_000))
            + b" /"
            + rng.randbytes(5).hex().encode()
            + b" HTTP/1.%d\r\nOrigin: x\r\n\r\n" % rng.randrange(3)
        ),
        lambda: good.replace(b"POST / ", b"POST /?%b " % rng.choice((b"X-Amz-Algorithm=1", b"%ff=%zz&&==", b"a" * 9000))),
        lambda: head + b"\r\nExpect: 100-continue\r\n\r\n" + body[: rng.randrange(len(body))],
        frames,
        hpack,
        lambda: frames()[: rng.randrange(1, 60)],
        chunks,
        flipped,
        lengths,
    )
    return rng.choice(makers)()


# --- the run ----------------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """The broker process."""

    process: subprocess.Popen[str]
    port: int
    errors: Path

    @property
    def rss_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def broker() -> Iterator[Peer]:
    """`streamlet broker`, its stderr in a file."""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr.txt"
        with errors.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamlet", "broker", "--port", "0"], stdout=subprocess.PIPE, stderr=sink, text=True
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            assert line.startswith("listening on "), line or errors.read_text()
            yield Peer(process, int(line.rpartition(":")[2]), errors)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=TIMEOUT_S)
            process.stdout.close()


class Link:
    """A connection whose answers are read whole."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer. EOFError when the connection ends, TimeoutError when nothing comes."""
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        head = self.buffer[:end]
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].partition(b"\r")[0]) if at >= 0 else 0
        while len(self.buffer) < end + 4 + length:
            self._more()
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        return int(head[9:12]), head, body

    def _more(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError
        self.buffer += data


class Report(NamedTuple):
    """What a run did."""

    requests: int
    raw: int
    seconds: float
    statuses: dict[int, int]
    accepted: dict[str, int]
    rss_mib: list[float]


class Fuzz:
    """One run against one broker."""

    def __init__(self, peer: Peer, seed: int, *, report: Any = None) -> None:
        self.peer, self.seed = peer, seed
        self.rng = random.Random(seed)
        self.values = Values(self.rng)
        model = botocore.session.get_session().get_service_model("kinesis")
        self.shapes = {name: model.operation_model(name).input_shape for name in model.operation_names}
        hot = ("PutRecord", "PutRecords", "GetRecords", "GetShardIterator", "ListShards", "DescribeStream")
        self.operations = [*self.shapes, *hot, *hot]
        self.link = Link(peer.port)
        self.statuses: dict[int, int] = {}
        self.accepted: dict[str, int] = {}
        self.rss_mib: list[float] = []
        self.raw = 0
        self.say = report or (lambda _text: None)

    def run(self, requests: int) -> Report:
        """So many requests, and raw connections in between. Raises Offence."""
        begun, done = time.monotonic(), 0
        while done < requests:
            self.renew()
            for _ in range(min(EPOCH, requests - done) // BATCH or 1):
                self.batch([self.make() for _ in range(BATCH)])
                done += BATCH
                for _ in range(max(1, BATCH // RAW_EVERY)):
                    self.send_raw(raw_bytes(self.rng))
                if self.rng.random() < 0.3:
                    self.subscribe()
            self.say(f"{done} requests, {done / (time.monotonic() - begun):.0f}/s, {self.rss_mib[-1]:.1f} MiB, statuses {self.statuses}")
        self.renew()
        self.finish()
        return Report(done, self.raw, time.monotonic() - begun, self.statuses, self.accepted, self.rss_mib)

    def make(self) -> Sent:
        """One request, mostly well-formed."""
        rng = self.rng
        operation = rng.choice(self.operations)
        if operation == "DeleteStream" and rng.random() < 0.9:
            operation = "CreateStream"  # or there would soon be nothing to play with
        shape = self.shapes[operation]
        self.values.careful = rng.random() < 0.5
        members = self.values.structure(shape) if shape is not None else {}
        if operation == "CreateStream" and rng.random() < 0.95:
            members |= {"ShardCount": rng.randrange(1, 5)}
            if self.values.careful:
                members["StreamName"] = f"name-{rng.randrange(9)}"
        if operation == "SubscribeToShard":  # an endless answer has a connection of its own; here it must be refused
            members.pop("ConsumerARN", None)
        return self.encode(operation, members, CBOR if rng.random() < 0.25 else JSON)

    def encode(self, operation: str, members: dict[str, Any], kind: str) -> Sent:
        rng = self.rng
        body = to_cbor(members) if kind == CBOR else to_json(members).encode("utf-8", "surrogatepass")
        if rng.random() < 0.03:
            body, members = body[: rng.randrange(len(body) + 1)] + rng.randbytes(rng.randrange(3)), None  # type: ignore[assignment]
        authorization = AUTHORIZATION
        if operation != "CreateStream" and rng.random() < 0.04:
            authorization = rng.choice(
                ("", "x", "AWS4-HMAC-SHA256 Credential=", AUTHORIZATION.replace("us-east-1", "é"), AUTHORIZATION[: rng.randrange(100)])
            )
        return Sent(operation, members, kind, request(operation, body, kind, authorization))

    def batch(self, requests: list[Sent]) -> None:
        """Pipeline them; look at each answer."""
        try:
            self.link.socket.sendall(b"".join(sent.data for sent in requests))
        except OSError as error:
            raise Offence(f"the connection broke while well-formed requests were sent: {error!r}; one of\n{lines(requests)}") from error
        for sent in requests:
            try:
                status, head, body = self.link.answer()
            except (EOFError, OSError) as error:
                raise Offence(f"no answer ({type(error).__name__}) to this, or to one pipelined before it:\n{self.shrunk(sent)}") from error
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status >= 500:
                raise Offence(f"HTTP {status} {body[:200]!r} to\n{self.shrunk(sent)}")
            if status == 200:
                self.accepted[sent.operation] = self.accepted.get(sent.operation, 0) + 1
            self.check(sent, status, head, body)

    def check(self, sent: Sent, status: int, head: bytes, body: bytes) -> None:
        """The body is what the head says; ids and tokens are learnt."""
        if b"x-amzn-requestid" not in head.lower():
            raise Offence(f"no request id in the answer to\n{line(sent.data)}")
        if not body:
            return
        if b"amz-json-1.1" in head:
            try:
                answer = json.loads(body)
            except ValueError as error:
                raise Offence(f"the answer is no JSON: {body[:200]!r} to\n{line(sent.data)}") from error
            if status == 200:
                self.values.harvest(answer)
        elif b"amz-cbor-1.1" in head and body[0] >> 5 != 5:
            raise Offence(f"the answer is no CBOR map: {body[:40]!r} to\n{line(sent.data)}")

    def shrunk(self, sent: Sent) -> str:
        """The line of the smallest request that still breaks it, found by leaving members out one by one."""
        members = sent.members
        if members is None or not self.breaks(sent):
            return line(sent.data)
        smallest = sent
        for name in list(members):
            fewer = {key: value for key, value in (smallest.members or {}).items() if key != name}
            body = to_cbor(fewer) if sent.kind == CBOR else to_json(fewer).encode("utf-8", "surrogatepass")
            candidate = Sent(sent.operation, fewer, sent.kind, request(sent.operation, body, sent.kind))
            if self.breaks(candidate):
                smallest = candidate
        return line(smallest.data)

    def breaks(self, sent: Sent) -> bool:
        """On a connection of its own: a 5xx, or no answer."""
        try:
            link = Link(self.peer.port)
        except OSError:
            return True
        try:
            link.socket.settimeout(3)
            link.socket.sendall(sent.data)
            return link.answer()[0] >= 500
        except (EOFError, OSError):
            return True
        finally:
            link.socket.close()

    def send_raw(self, data: bytes) -> None:
        """Bytes, in up to three pieces, then the end of ours: the broker must end its side, too."""
        self.raw += 1
        with socket.create_connection(("127.0.0.1", self.peer.port), timeout=TIMEOUT_S) as link:
            found = b""
            try:
                cuts = sorted(self.rng.randrange(len(data) + 1) for _ in range(self.rng.randrange(3)))
                for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                    link.sendall(data[start:end])
                link.shutdown(socket.SHUT_WR)
                while piece := link.recv(1 << 16):
                    found += piece
            except TimeoutError as error:
                raise Offence(f"the connection hangs after\n{line(data)}") from error
            except OSError:
                pass  # reset: it had seen enough
        for part in found.split(b"HTTP/1.1 ")[1:]:
            if part[:3].isdigit() and int(part[:3]) >= 500 and part[:3] not in {b"501", b"505"}:
                raise Offence(f"HTTP {part[:60]!r} to\n{line(data)}")

    def subscribe(self) -> None:
        """SubscribeToShard, right or not, left in the middle."""
        members = self.values.structure(self.shapes["SubscribeToShard"])
        sent = self.encode("SubscribeToShard", members, JSON if self.rng.random() < 0.8 else CBOR)
        with socket.create_connection(("127.0.0.1", self.peer.port), timeout=TIMEOUT_S) as link:
            try:
                link.sendall(sent.data)
                found = link.recv(1 << 16)
            except TimeoutError as error:
                raise Offence(f"the subscription says nothing\n{line(sent.data)}") from error
            except ConnectionError:
                found = b""
        if not found.startswith(b"HTTP/1.1 ") or found[9:10] == b"5":
            raise Offence(f"{found[:80]!r} to\n{line(sent.data)}")
        status = int(found[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.accepted["SubscribeToShard"] = self.accepted.get("SubscribeToShard", 0) + 1

    def ask(self, operation: str, members: dict[str, Any]) -> Any:
        """A call that must go through, if the operation is there."""
        self.link.socket.sendall(request(operation, to_json(members).encode()))
        status, _head, body = self.link.answer()
        if status >= 500:
            raise Offence(f"HTTP {status} to a plain {operation} {members}")
        answer = json.loads(body) if body else {}
        if status == 200:
            self.values.harvest(answer)
        return answer

    def renew(self) -> None:
        """Delete all streams, look at memory, then make streams, records, iterators and a consumer to play with."""
        while names := self.ask("ListStreams", {}).get("StreamNames"):
            for name in names:
                self.ask("DeleteStream", {"StreamName": name, "EnforceConsumerDeletion": True})
        self.rss_mib.append(self.peer.rss_bytes / 2**20)
        self.values.known.clear()
        for index in range(3):
            name = f"name-{index}"
            self.ask("CreateStream", {"StreamName": name, "ShardCount": index + 1})
            arn = self.ask("DescribeStream", {"StreamName": name})["StreamDescription"]["StreamARN"]
            self.ask("RegisterStreamConsumer", {"StreamARN": arn, "ConsumerName": "c"})
            self.ask("ListShards", {"StreamName": name, "MaxResults": 1})
            for shard in range(index + 1):
                where = {"StreamName": name, "ShardId": f"shardId-{shard:012d}"}
                self.ask("PutRecord", {"StreamName": name, "PartitionKey": f"k{shard}", "Data": b"x" * 50})
                self.ask("GetShardIterator", {**where, "ShardIteratorType": "TRIM_HORIZON"})

    def finish(self) -> None:
        """What must hold in the end."""
        self.link.socket.close()
        if self.peer.process.poll() is not None:
            raise Offence(f"the broker ended: {self.peer.errors.read_text()[-3000:]}")
        if said := self.peer.errors.read_text():
            raise Offence(f"the broker complained:\n{said[-3000:]}")
        if len(self.rss_mib) >= 12:  # fewer say nothing about a trend
            count = len(self.rss_mib)
            early, late = statistics.median(self.rss_mib[count // 3 : count // 2]), statistics.median(self.rss_mib[-count // 6 :])
            if late > early * 1.1 + 8:
                raise Offence(f"memory grows: {early:.1f} MiB, then {late:.1f} MiB: {[round(mib) for mib in self.rss_mib]}")


def line(data: bytes) -> str:
    """A line for the shell that sends these bytes again."""
    return f"printf %s {base64.b64encode(data).decode()} | base64 -d | nc -q 2 127.0.0.1 4567   # {data[-300:]!r}"


def lines(requests: list[Sent]) -> str:
    return "\n".join(line(sent.data) for sent in requests[:5])


def test_a_short_run_breaks_nothing() -> None:
    """Some thousands of requests from a fixed seed; most operations that are there were reached with success."""
    with broker() as peer:
        report = Fuzz(peer, seed=20131202).run(4_000)
    assert report.statuses[200] > 400
    assert len(report.accepted) >= 15, report.accepted


def main() -> int:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with broker() as peer:
        try:
            report = Fuzz(peer, options.seed, report=lambda text: print(text, flush=True)).run(options.requests)
        except Offence as offence:
            print(f"seed {options.seed}: {offence}\n{peer.errors.read_text()[-3000:]}", file=sys.stderr)
            return 1
    print(
        f"{report.requests} requests and {report.raw} raw connections in {report.seconds:.0f} s: {report.requests / report.seconds:.0f} requests/s"
    )
    print(f"statuses {report.statuses}; accepted {dict(sorted(report.accepted.items()))}")
    print(f"memory after each clean-up, MiB: {[round(mib, 1) for mib in report.rss_mib]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
