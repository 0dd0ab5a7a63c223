"""Does a client get the same answers however the network cuts its bytes, and is what it makes us hold bounded?"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker.connection import Client, Connection
from streamlet.broker.faults import Latency
from streamlet.broker.inline import AUTHORIZATION, InlineBroker
from streamlet.broker.limits import HEAD_BYTES_MAX

MIB = 1024 * 1024
CHANGING = re.compile(rb"(x-amzn-RequestId|x-amz-id-2|Date): [^\r]*\r\n")


class FarEnd(asyncio.Transport):
    """A transport whose other end is the test: it takes what is written, and says what it was asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()
        self.closing = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "nothing is written after the end"
        self.taken += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.taken += b"<broken>"

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def request(operation: str, members: object, *lines: str, first: str = "POST / HTTP/1.1", chunks: int = 0) -> bytes:
    body = b"" if members is None else json.dumps(members).encode()
    head = [
        first,
        "Host: localhost",
        f"X-Amz-Target: Kinesis_20131202.{operation}",
        "Content-Type: application/x-amz-json-1.1",
        "X-Amz-Date: 20260101T000000Z",
        f"Authorization: {AUTHORIZATION}",
        *lines,
    ]
    if chunks:
        head.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + chunks] for at in range(0, len(body), chunks)]
        body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"
    elif members is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answers(pieces: Sequence[bytes]) -> bytes:
    """What one client gets that sends these pieces, one after the other, without what is different in every answer."""
    world = InlineBroker()
    world.ask("CreateStream", StreamName="s", ShardCount=1)
    far = FarEnd()
    connection = Connection(world.front, set[Client]())
    connection.connection_made(far)
    for piece in pieces:
        if not far.closing:
            connection.data_received(piece)
    return CHANGING.sub(b"", bytes(far.taken)).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


WELL_FORMED = st.sampled_from(
    [
        request("ListStreams", {}),
        request("ListStreams", {}, chunks=1),
        request("PutRecord", {"StreamName": "s", "Data": "AAAA", "PartitionKey": "k"}),
        request("PutRecord", {"StreamName": "s", "Data": "AAAA", "PartitionKey": "k"}, chunks=7),
        request("DescribeStreamSummary", {"StreamName": "s"}, "Expect: 100-continue"),
        request("ListStreams", {}, "Connection: close"),
        request("ListStreams", {}, first="POST / HTTP/1.0"),
        request("ListStreams", {}, "Connection: keep-alive", first="POST / HTTP/1.0"),
        request("ListStreams", None),
        request("ListStreams", None, first="GET /x HTTP/1.1"),
        request("ListStreams", None, first="HEAD / HTTP/1.1"),
        request("ListStreams", {}, "X: a", "X: b"),
        request("DescribeStream", {"StreamName": "t"}, "Origin: http://x"),
        b"\r\n" + request("ListStreams", {}),
    ]
)
ILL_FORMED = st.sampled_from(
    [
        request("ListStreams", {}, "Content-Length: 2"),
        request("ListStreams", {}, "Content-Length: 5"),
        request("ListStreams", {}, "Transfer-Encoding: chunked"),
        request("ListStreams", None, "Transfer-Encoding: gzip"),
        request("ListStreams", None, "Content-Length: +2"),
        request("ListStreams", None, f"Content-Length: {10**12}"),
        request("ListStreams", {}, "Na me: x"),
        request("ListStreams", {}, " folded"),
        request("ListStreams", {}, "X: a\nb"),
        request("ListStreams", {}, first="POST / HTTP/3.0"),
        request("ListStreams", {}, first="POST  / HTTP/1.1"),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\r\r\n\r\n",
        request("ListStreams", None, "Transfer-Encoding: chunked") + b"g\r\n",
        request("ListStreams", None, "Transfer-Encoding: chunked") + b"1\r\nabc",
    ]
)
STREAMS = st.tuples(st.lists(WELL_FORMED, max_size=5), st.lists(ILL_FORMED | WELL_FORMED, max_size=1)).map(
    lambda two: b"".join(two[0] + two[1])
)


@given(STREAMS, st.data())
def test_the_answers_do_not_depend_on_how_the_bytes_are_cut(sent: bytes, data: st.DataObject) -> None:
    """In one piece, byte by byte, and cut anywhere: the way around the parser's buffer answers as the buffer does."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=12)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True) if a < b]
    slowly = answers([sent[at : at + 1] for at in range(len(sent))])
    assert answers(pieces) == slowly
    assert answers([sent]) == slowly


def test_the_longest_head_and_line_however_they_are_cut() -> None:
    """A bound holds for the head, not for how much of its end has come."""
    bare = request("ListStreams", {}, "X: ")
    head = request("ListStreams", {}, "X: " + "a" * (HEAD_BYTES_MAX - bare.index(b"\r\n\r\n")))
    at = head.index(b"\r\n\r\n")
    assert at == HEAD_BYTES_MAX
    line = request("ListStreams", None, "Transfer-Encoding: chunked") + b"2;" + b"x" * 8190
    for sent, end in ((head, at), (line + b"\r\n{}\r\n0\r\n\r\n", len(line))):
        whole = answers([sent])
        assert whole.startswith(b"HTTP/1.1 200 ")
        for cut in range(end - 1, end + 5):
            assert answers([sent[:cut], sent[cut:]]) == whole


async def test_a_client_that_does_not_read_is_not_read_from_behind_an_answer_that_waited() -> None:
    """The answer that was late fills the client's buffer: what else it sends stays in its own."""
    world = InlineBroker()
    world.faults.add(Latency(delay_s=0.001))
    far = FarEnd()
    connection = Connection(world.front, set[Client]())
    connection.connection_made(far)
    connection.data_received(request("ListStreams", {}))
    connection.pause_writing()
    while not far.taken:
        await asyncio.sleep(0.001)
    assert not far.reading
    connection.resume_writing()
    assert far.reading
