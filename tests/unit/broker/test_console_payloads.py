"""What a payload is taken for, and how it is shown: never more than was promised, and never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlet.broker.console.payloads import FORMATS, guess, preview, show

KPL = bytes.fromhex(
    "f3899ac20a03706b300a03706b311a0908001a0564617461301a0908011a0564617461311a0908001a05646174613226624d3494b832af0392a90d02c308ee"
)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"a": 1}', "json"),
        (b" \n[1, 2]", "json"),
        (b'{"a": 1', "text"),
        (b"plain\ttext\r\n", "text"),
        ("Ω".encode() * 3000, "text"),
        (b"", "text"),
        (b"a\0b", "binary"),
        (b"\xff\xfe", "binary"),
        (KPL, "kpl"),
        (KPL[:-1], "binary"),
        (b"Obj\x01whatever", "avro"),
    ],
)
def test_guesses(data: bytes, kind: str) -> None:
    """By content alone."""
    assert guess(data) == kind
    assert len(preview(data, kind)) <= 160


def test_json_is_laid_out_but_never_decoded() -> None:
    """Numbers stay as they were written, and members that are there twice stay two."""
    text = show(b'{"n":12345678901234567890.10,"n":1E2,"l":[1,{"x":"\xce\xa9"}]}', "auto", "")["text"]
    assert " ".join(text.split()) == '{ "n": 12345678901234567890.10, "n": 1E2, "l": [ 1, { "x": "Ω" } ] }'


def test_json_that_layout_would_blow_up_is_left_as_it_is() -> None:
    """A thousand levels times thousands of members would be megabytes of spaces."""
    data = b"[" * 400 + b"0" + b",0" * 20_000 + b"]" * 400
    assert show(data, "json", "")["text"] == data.decode()
    hidden = b'["' + b"]" * 400 + b'",' + b"[" * 400 + b"0" + b",0" * 20_000 + b"]" * 401
    assert show(hidden, "json", "")["text"] == hidden.decode()
    flat = b"[0" + b",0" * 20_000 + b"]"
    assert show(flat, "json", "")["text"].count("\n") > 20_000


@pytest.mark.parametrize(("wanted", "says"), [("json", "not JSON"), ("avro", "paste its writer's schema"), ("kpl", "not an aggregate")])
def test_what_cannot_be_shown_as_asked_says_so(wanted: str, says: str) -> None:
    """A reason instead of a view."""
    assert says in show(b"\xffplain", wanted, "")["problem"]


def test_an_aggregate_is_taken_apart() -> None:
    """Each user record with its own key and its own guess."""
    view = show(KPL, "auto", "")
    assert view["count"] == 3
    assert [(entry["key"], entry["kind"], entry["text"]) for entry in view["records"]] == [
        ("pk0", "text", "data0"),
        ("pk1", "text", "data1"),
        ("pk0", "text", "data2"),
    ]


def test_large_payloads_are_cut() -> None:
    """And say so."""
    for wanted in ("text", "hex", "json"):
        view = show(b'["' + b"7" * 900_000 + b'"]', wanted, "")
        assert view["cut"]
        assert len(view["text"]) <= 200_000
    assert "1 MiB" in show(b"[" + b"7" * (1 << 20) + b"]", "json", "")["problem"]


def test_hex_reads_as_a_dump() -> None:
    """Place, bytes, text."""
    assert show(b"0123456789abcdef\x00Z", "hex", "")["text"].splitlines()[1] == f"000010  {'00 5a':<47}  .Z"


@given(st.binary(max_size=300), st.sampled_from(FORMATS), st.text(max_size=30))
def test_any_bytes_in_any_form(data: bytes, wanted: str, schema: str) -> None:
    """A view or a problem, and always JSON."""
    view = show(data, wanted, schema)
    assert "problem" in view or "text" in view or "records" in view
    assert len(preview(data, guess(data))) <= 160
    json.dumps(view).encode()
