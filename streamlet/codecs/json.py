"""How do a record's bytes become the value that the handler asked for? `decoder_for` turns `decode=` into one function.

    decode=                                     record.value is
    None                                        plain JSON: dict, list, str, int, float, bool, None
    bytes                                       the payload itself
    str                                         the payload as UTF-8 text
    a dataclass, msgspec.Struct, TypedDict,     JSON checked against the type: what does not fit raises, and the text names
    or another annotation (list[Order], …)      the field (msgspec: strict, extra fields are ignored)
    a pydantic model                            whatever the model's own validation makes of the JSON
    a callable that is no type                  what it returns for the bytes

The decoder is built once, when the handler is registered, so that a type which cannot be decoded is found then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NewType, get_origin

import msgspec
import orjson

from streamlet.errors import ConfigurationError

__all__ = ["decoder_for"]


def decoder_for(decode: Any) -> Callable[[bytes], Any]:
    """The function from payload to value. Raises ConfigurationError for a `decode=` that is none of the above.

    What the returned function raises says what is wrong with the bytes; `Record.value` turns it into a DecodeError that
    names the record.
    """
    if decode is None:
        return orjson.loads
    if decode is bytes:
        return _as_it_is
    if decode is str:
        return _text
    if isinstance(decode, type) and _is_pydantic(decode):
        return _pydantic(decode)
    if isinstance(decode, type | NewType) or get_origin(decode) is not None:
        return _typed(decode)
    if callable(decode):
        function: Callable[[bytes], Any] = decode
        return function
    raise ConfigurationError(
        f"decode={decode!r}: use a dataclass, msgspec.Struct, TypedDict or pydantic model, bytes, str, "
        "a function that takes bytes, or leave it out for plain JSON"
    )


def _as_it_is(data: bytes) -> bytes:
    return data


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _is_pydantic(cls: type) -> bool:
    # Whoever made a model has imported pydantic; asking sys.modules costs a Lambda without pydantic nothing.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _pydantic(model: Any) -> Callable[[bytes], Any]:
    validate: Callable[[bytes], Any] = model.model_validate_json
    return validate


def _typed(annotation: Any) -> Callable[[bytes], Any]:
    # msgspec takes any class, and finds out only at the first record that it cannot make one: ask it now.
    try:
        unsupported = _unsupported(msgspec.inspect.type_info(annotation), set())
    except (TypeError, NameError, AttributeError) as error:
        raise ConfigurationError(f"decode={_name(annotation)}: its fields cannot be read: {error}") from error
    if unsupported is not None:
        raise ConfigurationError(
            f"decode={_name(annotation)}: {_name(unsupported)} cannot be made from JSON; use a dataclass, msgspec.Struct, TypedDict or "
            "pydantic model, or pass a function that takes bytes"
        )
    try:
        return msgspec.json.Decoder(annotation).decode
    except TypeError as error:
        raise ConfigurationError(f"decode={_name(annotation)}: {error}") from error


def _unsupported(info: Any, seen: set[int]) -> Any:
    """The first class inside `info` that msgspec knows nothing about, or None."""
    if isinstance(info, msgspec.inspect.CustomType):
        return info.cls
    if not isinstance(info, msgspec.inspect.Type) or id(info) in seen:
        return None
    seen.add(id(info))  # a type may contain itself
    for name in info.__struct_fields__:
        part = getattr(info, name)
        for child in part if isinstance(part, tuple) else (part,):
            child_info = child.type if isinstance(child, msgspec.inspect.Field) else child
            if (found := _unsupported(child_info, seen)) is not None:
                return found
    return None


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
