"""Which columns does a sink write? A schema is given as pyarrow's, as text, or as the type of the rows.

    pyarrow.Schema                                 as it is
    {"id": "int64", "price": "decimal(10,2)"}      name -> type text; nullable unless the text ends in "not null"
    a dataclass, msgspec.Struct, TypedDict or      its fields; what is Optional or has a default may be null or missing,
    pydantic model                                 the rest must be there

There is no guessing from the first rows: a replay might begin with other rows, and would make other files.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import re
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec.structs

from streamlet.errors import ConfigurationError

__all__ = ["load_pyarrow", "resolve_schema", "schema_of", "type_of_text"]


def load_pyarrow() -> Any:
    """The pyarrow module. Raises ConfigurationError, which says how to install it."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ConfigurationError("Parquet needs pyarrow and obstore: pip install 'streamlet[parquet]'") from error
    return pa


def resolve_schema(schema: Any) -> Any:
    """A pyarrow.Schema from any of the forms above. Raises ConfigurationError that says what to write instead."""
    pa = load_pyarrow()
    if schema is None:
        raise ConfigurationError(
            "a Parquet sink needs schema=: a pyarrow.Schema, a mapping such as {'id': 'int64', 'at': 'timestamp'}, or the type of the rows "
            "(a dataclass, msgspec.Struct, TypedDict or pydantic model). It is not guessed from data, so that a replay makes the same files"
        )
    if isinstance(schema, pa.Schema):
        resolved = schema
    elif isinstance(schema, Mapping):
        resolved = pa.schema([_field_of_text(name, text) for name, text in schema.items()])
    elif isinstance(schema, type):
        resolved = schema_of(schema)
    else:
        raise ConfigurationError(f"schema={schema!r}: use a pyarrow.Schema, a mapping of names to type texts, or the type of the rows")
    if len(resolved) == 0:
        raise ConfigurationError("the schema has no columns")
    if doubled := sorted({name for name in resolved.names if resolved.names.count(name) > 1}):
        raise ConfigurationError(f"the schema has column {doubled[0]!r} twice")
    _refuse_unwritable(resolved)
    return resolved.remove_metadata()


def _refuse_unwritable(schema: Any) -> None:
    """Find a type that Parquet does not have now, not when the first file is due."""
    pa = load_pyarrow()
    import pyarrow.parquet as pq

    for field in schema:
        if pa.types.is_dictionary(field.type):
            raise ConfigurationError(
                f"schema: column {field.name!r} is {field.type}; use its values' type, Parquet makes dictionaries by itself"
            )
        try:
            pq.write_table(pa.schema([field]).empty_table(), pa.BufferOutputStream())
        except (pa.ArrowException, ValueError) as error:
            raise ConfigurationError(f"schema: column {field.name!r} is {field.type}, which Parquet cannot hold: {error}") from error


# ── from text ────────────────────────────────────────────────────────────────────────────────────────────────────

# Names that pyarrow's own table of aliases lacks, or means otherwise. A time without a zone is the start of many errors, so
# plain "timestamp" is what Kinesis users mean: microseconds in UTC.
_ALIASES: Final = {"timestamp": "timestamp[us, UTC]", "int": "int64", "long": "int64", "float": "float64", "double": "float64"}
_TOKEN: Final = re.compile(
    r"\s*(?:(timestamp\s*\[\s*(s|ms|us|ns)\s*(?:,\s*(?:tz\s*=\s*)?([^\]\s]+)\s*)?\])|([A-Za-z_][\w.-]*(?:\[\w+\])?)|(\d+)|(\S))"
)


def _field_of_text(name: Any, text: Any) -> Any:
    pa = load_pyarrow()
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"schema: {name!r} is no column name")
    if isinstance(text, pa.DataType):
        return pa.field(name, text)
    if not isinstance(text, str):
        raise ConfigurationError(f"schema: column {name!r} has {text!r} for a type; write it as text, such as 'int64'")
    bare = re.sub(r"\s+not\s+null\s*$", "", text)
    try:
        return pa.field(name, type_of_text(bare), nullable=bare == text)
    except ValueError as error:
        raise ConfigurationError(f"schema: column {name!r}: {error}") from error


def type_of_text(text: str) -> Any:
    """A pyarrow type from text: int64, string, bool, float64, date32, binary, timestamp, timestamp[ms, UTC], decimal(10,2),
    list<int64>, struct<a: int64, b: string>, map<string, int64>. Raises ValueError."""
    tokens = [match for match in _TOKEN.finditer(text) if match.group().strip()]
    parser = _TypeParser(text, tokens)
    found = parser.type()
    parser.expect_end()
    return found


class _TypeParser:
    def __init__(self, text: str, tokens: list[re.Match[str]]) -> None:
        self._text, self._tokens, self._at = text, tokens, 0
        self._pa = load_pyarrow()

    def type(self) -> Any:
        token = self._next()
        if token.group(1):
            return self._pa.timestamp(token.group(2), tz=token.group(3))
        name = token.group(4) or self._refuse()
        match name:
            case "list" | "array":
                self._take("<")
                item = self.type()
                self._take(">")
                return self._pa.list_(item)
            case "map":
                self._take("<")
                key = self.type()
                self._take(",")
                item = self.type()
                self._take(">")
                return self._pa.map_(key, item)
            case "struct":
                return self._struct()
            case "decimal" | "decimal128":
                self._take("(")
                precision = self._number()
                scale = self._number() if self._maybe(",") else 0
                self._take(")")
                return self._pa.decimal128(precision, scale)
        alias = _ALIASES.get(name, name)
        if alias.startswith("timestamp["):
            return type_of_text(alias)
        try:
            return self._pa.type_for_alias(alias)
        except ValueError:
            raise ValueError(
                f"{name!r} is no type; use for instance int64, float64, string, bool, date32, timestamp, decimal(10,2), list<string>"
            ) from None

    def _struct(self) -> Any:
        self._take("<")
        fields = []
        while True:
            name = self._next().group(4) or self._refuse()
            self._take(":")
            fields.append(self._pa.field(name, self.type()))
            if not self._maybe(","):
                break
        self._take(">")
        return self._pa.struct(fields)

    def expect_end(self) -> None:
        if self._at != len(self._tokens):
            self._refuse()

    def _next(self) -> re.Match[str]:
        if self._at == len(self._tokens):
            self._refuse()
        self._at += 1
        return self._tokens[self._at - 1]

    def _maybe(self, symbol: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at].group(6) == symbol:
            self._at += 1
            return True
        return False

    def _take(self, symbol: str) -> None:
        if not self._maybe(symbol):
            self._refuse(f"there should be a {symbol!r}")

    def _number(self) -> int:
        return int(self._next().group(5) or self._refuse("there should be a number"))

    def _refuse(self, why: str = "") -> typing.NoReturn:
        raise ValueError(f"{self._text!r} is no type{': ' + why if why else ''}")


# ── from the type of the rows ────────────────────────────────────────────────────────────────────────────────────


def schema_of(row_type: type) -> Any:
    """The pyarrow.Schema of a dataclass, msgspec.Struct, TypedDict or pydantic model.

    int -> int64, float -> float64, str, Enum of str and UUID -> string, bool, bytes -> binary, date -> date32, datetime ->
    timestamp[us, UTC], list/tuple/Sequence -> list, dict -> map, a nested type -> struct. Raises ConfigurationError for a
    type that does not say enough (Decimal has no precision: write that schema out) or says too much (int | str).
    """
    pa = load_pyarrow()
    fields = _fields_of(row_type)
    if fields is None:
        raise ConfigurationError(f"schema={row_type.__name__}: use a dataclass, msgspec.Struct, TypedDict or pydantic model")
    return pa.schema(_arrow_fields(row_type, fields, ()))


def _arrow_fields(owner: type, fields: dict[str, tuple[Any, bool]], outer: tuple[type, ...]) -> list[Any]:
    pa = load_pyarrow()
    if owner in outer:
        raise ConfigurationError(f"schema: {owner.__name__} contains itself; a column cannot")
    out = []
    for name, (annotation, has_default) in fields.items():
        arrow, optional = _arrow_type(annotation, f"{owner.__name__}.{name}", (*outer, owner))
        out.append(pa.field(name, arrow, nullable=optional or has_default))
    return out


def _fields_of(row_type: Any) -> dict[str, tuple[Any, bool]] | None:
    """Name -> (annotation, has a default), or None for a type that has no fields."""
    if not isinstance(row_type, type):
        return None
    try:
        hints = typing.get_type_hints(row_type, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigurationError(f"schema={row_type.__name__}: its annotations cannot be read: {error}") from error
    if dataclasses.is_dataclass(row_type):
        return {
            f.name: (hints[f.name], f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING)
            for f in dataclasses.fields(row_type)
        }
    if hasattr(row_type, "__struct_fields__"):
        return {f.name: (hints[f.name], not f.required) for f in msgspec.structs.fields(row_type)}
    if typing.is_typeddict(row_type):
        optional: frozenset[str] = row_type.__dict__["__optional_keys__"]
        return {name: (hint, name in optional) for name, hint in hints.items()}
    if hasattr(row_type, "model_fields"):
        return {name: (hints[name], not field.is_required()) for name, field in row_type.model_fields.items()}
    return None


def _arrow_type(annotation: Any, where: str, outer: tuple[type, ...]) -> tuple[Any, bool]:
    """(type, may be null)."""
    pa = load_pyarrow()
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Annotated, typing.Required, typing.NotRequired, typing.Final}:
        return _arrow_type(args[0], where, outer)
    if origin in {typing.Union, types.UnionType}:
        rest = [arg for arg in args if arg is not types.NoneType]
        if len(rest) != 1:
            raise ConfigurationError(f"schema: {where} is {annotation}: a column has one type; write the schema out")
        return _arrow_type(rest[0], where, outer)[0], len(rest) < len(args)
    if origin is typing.Literal:
        kinds = {type(arg) for arg in args}
        if len(kinds) == 1:
            return _arrow_type(kinds.pop(), where, outer)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
        (key, _), (item, _) = (_arrow_type(arg, where, outer) for arg in args)
        return pa.map_(key, item), False
    if isinstance(origin, type) and issubclass(origin, typing.Collection) and args and (len(args) == 1 or args[1] is Ellipsis):
        item, nullable = _arrow_type(args[0], where, outer)
        return pa.list_(pa.field("item", item, nullable=nullable)), False
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            kinds = {type(member.value) for member in annotation}
            if len(kinds) == 1:
                return _arrow_type(kinds.pop(), where, outer)
        if (scalar := _scalar(annotation)) is not None:
            return scalar, False
        if (fields := _fields_of(annotation)) is not None:
            return pa.struct(_arrow_fields(annotation, fields, outer)), False
    if annotation is decimal.Decimal:
        raise ConfigurationError(
            f"schema: {where} is a Decimal, which does not say its precision; write the schema out with 'decimal(18,2)'"
        )
    raise ConfigurationError(
        f"schema: {where} is {getattr(annotation, '__name__', annotation)}: there is no column type for it; write the schema out"
    )


def _scalar(annotation: type) -> Any:
    pa = load_pyarrow()
    # Exact matches, in no order: bool is an int, and datetime is a date.
    known = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        bytes: pa.binary(),
        uuid.UUID: pa.string(),
        dt.datetime: pa.timestamp("us", tz="UTC"),
        dt.date: pa.date32(),
    }
    return known.get(annotation)
