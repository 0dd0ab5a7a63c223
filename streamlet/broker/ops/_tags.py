"""Which tags does the service take? Character sets, counts and texts, shared by the calls that add or remove tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final

from streamlet.broker.errors import invalid_argument
from streamlet.broker.limits import TAGS_MAX
from streamlet.broker.ops._base import Call
from streamlet.broker.schema import Member

__all__ = ["TAGS", "TAG_KEYS", "add_tags", "check_characters", "remove_tags"]

TAGS: Final = Member("Tags", "map", required=True, low=1, high=200, key=(1, 128), element=(0, 256))
TAG_KEYS: Final = Member("TagKeys", "list", required=True, low=1, high=50, element=(1, 128))

_ALLOWED: Final = re.compile("[\u00c0-\u1fff\u2c00-\ud7ffa-zA-Z0-9_./=+\\-%@ ]*")


def add_tags(call: Call, name: str, there: MutableMapping[str, str], tags: Mapping[str, str]) -> None:
    """Add or overwrite. Raises InvalidArgumentException; the text for more than 50 tags says 10, as the service's does."""
    check_characters(call, name, [*tags.keys(), *tags.values()], "add tags to")
    if len(there.keys() | tags.keys()) > TAGS_MAX:
        raise invalid_argument(
            f"Failed to add tags to stream {name} under account {call.account} "
            "because a given stream cannot have more than 10 tags associated with it."
        )
    there.update(tags)


def remove_tags(call: Call, name: str, there: MutableMapping[str, str], keys: Iterable[str]) -> None:
    """Remove what is there of these. Raises InvalidArgumentException."""
    keys = list(keys)
    check_characters(call, name, keys, "remove tags from")
    for key in keys:
        there.pop(key, None)


def check_characters(call: Call, name: str, texts: Iterable[str], verb: str) -> None:
    """Raises InvalidArgumentException: `%` is in the set that the first text names, and refused by the second check."""
    texts = list(texts)
    if not all(_ALLOWED.fullmatch(text) for text in texts):
        raise invalid_argument(
            "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . / = + - % @."
        )
    if any("%" in text for text in texts):
        raise invalid_argument(
            f"Failed to {verb} stream {name} under account {call.account} because some tags contained illegal characters. "
            "The allowed characters are Unicode letters, white-spaces, '_',',','/','=','+','-','@'."
        )
