"""Which tags does the service take? Character sets and texts of AddTagsToStream and RemoveTagsFromStream."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from streamlet.broker.errors import invalid_argument
from streamlet.broker.ops._base import Call
from streamlet.broker.stream import Stream

__all__ = ["check_characters"]

_ALLOWED: Final = re.compile("[\u00c0-\u1fff\u2c00-\ud7ffa-zA-Z0-9_./=+\\-%@ ]*")


def check_characters(call: Call, stream: Stream, texts: Iterable[str], verb: str) -> None:
    """Raises InvalidArgumentException: `%` is in the set that the first text names, and refused by the second check."""
    texts = list(texts)
    if not all(_ALLOWED.fullmatch(text) for text in texts):
        raise invalid_argument(
            "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @."
        )
    if any("%" in text for text in texts):
        raise invalid_argument(
            f"Failed to {verb} stream {stream.name} under account {call.account} because some tags contained illegal characters. "
            "The allowed characters are Unicode letters, white-spaces, '_',',','/','=','+','-','@'."
        )
