"""Is every event a line of JSON? One that is not would stop the shard whose listener raises."""

from __future__ import annotations

import json
import typing
from typing import Any

import msgspec
import pytest

from streamlet import hooks
from streamlet.hooks import Event, Invoked
from streamlet.model.record import Record
from streamlet.model.window import Window
from streamlet.observe.logs import json_line, words

EVENTS = sorted(
    (kind for name in hooks.__all__ if isinstance(kind := getattr(hooks, name), type) and issubclass(kind, Event) and kind is not Event),
    key=lambda kind: kind.__name__,
)


def made(kind: type[Event]) -> Event:
    values: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if name == "records" and hint is not int:
            values[name] = [Record(b"\xff", "k", str(n), 0, 1.0, "s", "t") for n in (7, 8, 9)]
        elif hint == Window | None:
            values[name] = msgspec.convert({"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:01:00Z"}, Window)
        else:
            values[name] = {str: "text", int: 1, float: 1.0, bool: True}[hint]
    return kind(**values)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_a_line_of_json_and_has_words_or_none(kind: type[Event]) -> None:
    event = made(kind)
    line = json_line(event)
    assert line.count(b"\n") == 1
    assert json.loads(line)["event"] == kind.__name__
    assert words(event) is None or isinstance(words(event), str)


def test_an_invocations_line_has_a_count_and_the_ends() -> None:
    line = json.loads(json_line(made(Invoked)))
    assert (line["records"], line["first"], line["last"]) == (3, "7", "9")
    assert json.loads(json_line(Invoked(stream="s", records=[], attempt=1, done=0)))["first"] is None
