"""Does a decoded request have the types and the limits of the model, and if not, in which words does the service say so?

This is the careful path: it walks a request member by member, first for types (SerializationException, the first
failure alone), then for constraints (ValidationException, up to ten at once). Well-formed calls of the hot operations
never come here: a typed decode with the same limits takes them (wire.py). Texts: reference/errors.md sections 5 and 6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

from streamlet.broker.errors import ApiError, validation

__all__ = [
    "HASH_KEY",
    "ITEMS_MAX",
    "NAME",
    "SEQUENCE",
    "STREAM_ARN",
    "STREAM_ID",
    "Member",
    "are_blobs",
    "blob_size",
    "check",
    "is_blob",
    "shard_id",
    "stream_arn",
    "stream_name",
]

NAME: Final = r"[a-zA-Z0-9_.-]+"
SEQUENCE: Final = r"0|([1-9]\d{0,128})"
HASH_KEY: Final = r"0|([1-9]\d{0,38})"
STREAM_ARN: Final = r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+"
STREAM_ID: Final = r"[a-z0-9]{20}-[a-z0-9]{3}"

ITEMS_MAX: Final = 10  # that one refusal tells
_BLOBS_AT_ONCE: Final = 16  # small enough to stay in the cache, and below what malloc gives back to the kernel each time
_INT_MAX: Final = 2**31 - 1
_NUMBER: Final = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber"
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Member(NamedTuple):
    """One member of a request. Bounds are characters, bytes, entries or the number's value, as the kind has it.

    A list has `element` (scalar) or `members` (structures). `lead` and `tail` go around a key's or value's bounds.
    """

    name: str
    kind: str
    required: bool = False
    low: int | None = None
    high: int | None = None
    pattern: str = ""
    enum: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    element: tuple[int, int] | None = None
    key: tuple[int, int] | None = None
    hidden: bool = False  # the value is left out of the text, as AWS does for record data since 2025
    unless: str = ""  # required where the member of this name is missing

    @property
    def path(self) -> str:
        """The name in a ValidationException: only the first letter is lower-cased."""
        return self.name[:1].lower() + self.name[1:]


def stream_name(*, required: bool = False) -> Member:
    """The member StreamName. Not required, it is still missed where no StreamARN takes its place."""
    return Member("StreamName", "string", required, 1, 128, NAME, unless="StreamARN")


def stream_arn(*, required: bool = False) -> Member:
    """The member StreamARN."""
    return Member("StreamARN", "string", required, 1, 2048, STREAM_ARN)


def shard_id(name: str, *, required: bool = False) -> Member:
    """A member that holds a shard's id."""
    return Member(name, "string", required, 1, 128, NAME)


def check(members: tuple[Member, ...], value: Any) -> dict[str, Any]:
    """The request with its known members only: nulls dropped, integers cut and clamped. Raises ApiError otherwise."""
    request: dict[str, Any] = _typed(Member("", "structure", members=members), value)
    items = list(islice(_violations(members, request, ""), ITEMS_MAX))
    if items:
        raise validation(items)
    return request


# --- types: step 10 ---------------------------------------------------------------------------------------------------


def _refused(text: str) -> ApiError:
    return ApiError("SerializationException", text, key="Message")


def _typed_structure(members: tuple[Member, ...], value: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for member in members:
        content = value.get(member.name)
        if content is not None:
            found[member.name] = _typed(member, content)
    return found


def _typed(member: Member, value: Any) -> Any:
    if isinstance(value, list):
        if member.kind != "list":
            raise _refused("Start of list found where not expected")
        return [_typed_element(member, element) for element in value]
    if isinstance(value, dict):
        if member.kind == "structure":
            return _typed_structure(member.members, value)
        if member.kind != "map":
            raise _refused("Start of structure or map found where not expected.")
        entry = Member("", "string")
        return {key: _typed(entry, content) for key, content in value.items() if content is not None}
    if member.kind in _CONTAINERS:
        raise _refused(_CONTAINERS[member.kind])
    return _SCALARS[member.kind](value)


def _typed_element(member: Member, value: Any) -> Any:
    if member.members:
        return _typed(Member("", "structure", members=member.members), {} if value is None else value)
    return None if value is None else _typed(Member("", "string"), value)


_CONTAINERS: Final = {"list": "Expected list or null", "map": "Expected map or null", "structure": "Expected null"}


def _class(value: Any) -> str:
    if isinstance(value, bool):
        return "class java.lang.Boolean"
    return "class java.lang.String" if isinstance(value, str) else _NUMBER


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _refused(f"{_class(value)} can not be converted to an String")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool | str):
        raise _refused(f"{_class(value)} can not be converted to an Integer")
    if math.isinf(value):
        return _INT_MAX if value > 0 else -_INT_MAX - 1
    return int(max(-_INT_MAX - 1, min(_INT_MAX, math.floor(value))))


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() not in {"true", "false", "1", "0", "yes", "no"}:
            raise _refused(f"'{value.upper()}' can not be converted to an Boolean")
        return value.lower() in {"true", "1", "yes"}
    if not isinstance(value, bool) and value % 1 == 0:  # a fraction passes
        raise _refused(f"{_NUMBER} can not be converted to an Boolean")
    return bool(value)


def _timestamp(value: Any) -> float:
    if isinstance(value, bool | str):
        raise _refused(f"{_class(value)} can not be converted to milliseconds since epoch")
    # Beyond this a double cannot count milliseconds; any such instant is "in the future" or "before everything" alike.
    return float(max(-1e15, min(1e15, value)))


def _blob(value: Any) -> str:
    if not isinstance(value, str):
        raise _refused(f"{_class(value)} can not be converted to a Blob")
    if is_blob(value):
        return value
    start = f"'{value}' can not be converted to a Blob: "
    # Java counts UTF-16 units, so a character beyond the basic plane counts twice.
    length = len(value.encode("utf-16-le", "surrogatepass")) // 2
    if length % 4:
        raise _refused(f"{start}Base64 encoded length is expected a multiple of 4 bytes but found: {length}")
    wrong = re.search(r"[^A-Za-z0-9+/=]|=(?=[^=])", value)
    if wrong:
        raise _refused(f"{start}Invalid Base64 character: '{wrong.group()}'")
    raise _refused(f"{start}Invalid last non-pad Base64 character dectected")


_SCALARS: Final[dict[str, Any]] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "blob": _blob,
}


def is_blob(text: str) -> bool:
    """True for canonical base64 with padding."""
    return _are_blobs([text])


def are_blobs(texts: list[str]) -> bool:
    """True if all are canonical base64 with padding. On the hot path: one pass over the bytes, nothing is decoded.

    Left over without the alphabet's characters must be exactly the padding that stands at the ends.
    """
    return all(_are_blobs(texts[start : start + _BLOBS_AT_ONCE]) for start in range(0, len(texts), _BLOBS_AT_ONCE))


def _are_blobs(texts: list[str]) -> bool:
    padding = 0
    for text in texts:
        if len(text) % 4:
            return False
        if text[-1:] == "=":
            # The last character before the padding has 2 (or 4) low bits that stand for nothing: they must be 0.
            one = text[-2] != "="
            padding += 1 if one else 2
            if text[-2 if one else -3] not in ("AEIMQUYcgkosw048" if one else "AQgw"):
                return False
    joined = "".join(texts)
    return joined.isascii() and joined.encode().translate(None, _ALPHABET) == b"=" * padding


def blob_size(text: str) -> int:
    """How many bytes a canonical base64 text stands for."""
    return len(text) // 4 * 3 - text.count("=", -2)


# --- constraints: step 11 ---------------------------------------------------------------------------------------------


def _violations(members: tuple[Member, ...], request: dict[str, Any], prefix: str) -> Iterator[str]:
    for member in members:
        path = prefix + member.path
        if member.name not in request:
            if member.required or (member.unless and member.unless not in request):
                yield _item("null", path, "Member must not be null")
            continue
        value = request[member.name]
        for constraint in _broken(member, value):
            yield _item("" if member.hidden else _shown(member, value), path, constraint)
        if member.kind == "structure":
            yield from _violations(member.members, value, f"{path}.")
        elif member.kind == "list" and member.members:
            for index, element in enumerate(value, 1):
                yield from _violations(member.members, element, f"{path}.{index}.member.")


def _item(shown: str, path: str, constraint: str) -> str:
    return f"Value {shown}{' ' * bool(shown)}at '{path}' failed to satisfy constraint: {constraint}"


def _broken(member: Member, value: Any) -> Iterator[str]:
    if member.enum:
        wrong = f"Member must satisfy enum value set: [{', '.join(member.enum)}]"
        if member.kind == "list" and not all(element in member.enum for element in value):
            yield f"Member must satisfy constraint: [{wrong}]"
        elif member.kind != "list" and value not in member.enum:
            yield wrong
    if member.pattern and not _compiled(member.pattern).fullmatch(value):
        yield f"Member must satisfy regular expression pattern: {member.pattern}"
    number = member.kind == "integer"
    measure = value if number else blob_size(value) if member.kind == "blob" else len(value) if member.low is not None else 0
    word = "value" if number else "length"
    if member.low is not None and measure < member.low:
        yield f"Member must have {word} greater than or equal to {member.low}"
    if member.high is not None and measure > member.high:
        yield f"Member must have {word} less than or equal to {member.high}"
    if member.key and not all(member.key[0] <= len(key) <= member.key[1] for key in value):
        yield f"Map keys must satisfy constraint: {_bracket(member.key)}"
    if member.element:
        low, high = member.element
        entries = value.values() if member.kind == "map" else value
        if not all(low <= len(entry or "") <= high for entry in entries):
            lead = "Map value must" if member.kind == "map" else "Member must"
            yield f"{lead} satisfy constraint: {_bracket(member.element)}"


def _bracket(bounds: tuple[int, int]) -> str:
    return f"[Member must have length less than or equal to {bounds[1]}, Member must have length greater than or equal to {bounds[0]}]"


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _shown(member: Member, value: Any) -> str:
    if member.kind == "blob":
        size = blob_size(value)
        return f"'java.nio.HeapByteBuffer[pos=0 lim={size} cap={size}]'"
    if member.kind == "list":
        return f"'[{', '.join('null' if element is None else str(element) for element in value)}]'"
    if member.kind == "map":
        return "'{" + ", ".join(f"{key}={entry}" for key, entry in value.items()) + "}'"
    return f"'{value}'"
