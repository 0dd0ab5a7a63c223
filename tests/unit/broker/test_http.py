"""Does the parser find where requests end, however the bytes come?"""

from __future__ import annotations

import pytest

from streamlet.broker.http import CONTINUE, HttpError, Request, RequestReader
from streamlet.broker.limits import BODY_BYTES_MAX, HEAD_BYTES_MAX

SIZED = b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:2 \r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
BARE = b"GET / HTTP/1.0\r\n\r\n"


def events(*pieces: bytes) -> list[Request | str]:
    reader, found = RequestReader(), []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            found.append(event)
    return found


def check_three(found: list[Request | str]) -> None:
    sized, chunked, bare = (event for event in found if isinstance(event, Request))
    assert (sized.method, sized.target, sized.body, sized.headers["x-two"]) == ("POST", "/a?b", b"hello", "1, 2")
    assert (chunked.body, chunked.keep_alive) == (b"abcde", True)
    assert (bare.method, bare.body, bare.keep_alive) == ("GET", b"", False)


def test_pipelined_requests_come_out_in_order() -> None:
    check_three(events(SIZED + b"\r\n" + CHUNKED + BARE))


def test_every_cut_gives_the_same_requests() -> None:
    whole = SIZED + CHUNKED + BARE
    for cut in range(1, len(whole)):
        check_three(events(whole[:cut], whole[cut:]))
    check_three(events(*(whole[i : i + 1] for i in range(len(whole)))))


def test_a_client_that_waits_for_100_is_told_once() -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert events(head)[0] == CONTINUE
    found = events(head, b"ok")
    assert found[0] == CONTINUE
    assert isinstance(found[1], Request)
    assert [type(event) for event in events(head + b"ok")] == [Request]  # the body is already here


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # a TLS hello
        (b"POST / HTTP/1.1 x\r\n\r\n", 400),
        (b"POST  HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / FTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: 1\r\n folded: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 9000, 400),
        (b"x" * (HEAD_BYTES_MAX + 4), 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        events(data)
    assert caught.value.status == status
