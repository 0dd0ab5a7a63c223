"""How do Python rows become Arrow columns? Column by column: extract, look at the types once, convert in bulk.

A row is a mapping, or an object whose attributes are the columns (dataclass, msgspec.Struct, pydantic model).

pyarrow alone is too forgiving to be trusted with other people's data: it makes 1 of 1.5 in an integer column, 1.0 of True,
a day of a datetime. So the set of the values' types is compared with what the column takes first (20 ns a value); what is not
in the set is converted only where nothing can be lost:

    column      takes                                            and, one by one
    int         int                                              Enum of int
    float       float, int (exactly representable)
    string      str                                              Enum of str, UUID
    bool        bool
    binary      bytes, bytearray                                 memoryview
    timestamp   datetime (naive counts as UTC), ISO 8601 text
    date        date, ISO 8601 text
    decimal     Decimal, int                                     text, float (as it is written: 1.1 is 1.1)
    struct      mappings, objects                                list: list, tuple; map: dict
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from operator import attrgetter, itemgetter
from typing import Any, Final

import pyarrow as pa

__all__ = ["Misfit", "check_required", "fields_of", "relaxed", "table_of_rows", "with_types"]

_NONE: Final = type(None)


class Misfit(Exception):
    """A value does not fit. `position` is its index in what was handed over; the text says what is wrong."""

    def __init__(self, position: int, text: str) -> None:
        super().__init__(text)
        self.position = position
        self.text = text


def table_of_rows(rows: Sequence[Any], schema: pa.Schema, *, extra: str, base64: bool = False) -> pa.Table:
    """Rows to a table of `relaxed(schema)`, with the nulls checked that `schema` forbids. Raises Misfit for a row that does not
    fit (one of them, not always the first).

    `extra`: "error" refuses fields that the schema does not have, "drop" leaves them out. `base64`: text in a binary column is
    base64, as in JSON.
    """
    built = relaxed(schema)
    arrays = []
    for field, kind, values in zip(schema, built.types, _extract(rows, schema.names, extra, ""), strict=True):
        array = _convert(values, kind, field.name, extra=extra, base64=base64)
        check_required(array, field)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=built)


# ── taking rows apart ────────────────────────────────────────────────────────────────────────────────────────────


def fields_of(kind: type) -> tuple[str, ...] | None:
    """The attribute names of a type whose objects can be rows, or None."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    for attribute in ("__struct_fields__", "model_fields"):
        if (names := getattr(kind, attribute, None)) is not None:
            return tuple(names)
    return None


def _extract(values: Sequence[Any], names: Sequence[str], extra: str, path: str) -> list[Sequence[Any]]:
    """One list per name, with None where a value or its field is missing."""
    kinds = set(map(type, values))
    if kinds == {dict} and len(names) > 1 and (columns := _extract_full(values, names)):
        return columns
    if len(kinds) == 1 and (fields := fields_of(next(iter(kinds)))) is not None:
        return _extract_objects(values, names, fields, extra, path)
    mappings = [None if value is None else _mapping(position, value, path) for position, value in enumerate(values)]
    if extra == "error":
        known = frozenset(names)
        for position, mapping in enumerate(mappings):
            if mapping is not None and not known.issuperset(mapping):
                raise Misfit(position, _unknown(next(key for key in mapping if key not in known), names, path))
    return [[None if mapping is None else mapping.get(name) for mapping in mappings] for name in names]


def _extract_full(rows: Sequence[Any], names: Sequence[str]) -> list[Sequence[Any]] | None:
    """The common case, at half the price: every row has every column and no other. None if it is not so."""
    if set(map(len, rows)) != {len(names)}:
        return None
    try:
        return list(zip(*map(itemgetter(*names), rows), strict=True))
    except KeyError:
        return None


def _extract_objects(values: Sequence[Any], names: Sequence[str], fields: tuple[str, ...], extra: str, path: str) -> list[Sequence[Any]]:
    if extra == "error" and (unknown := [name for name in fields if name not in names]):
        raise Misfit(0, _unknown(unknown[0], names, path))
    return [list(map(attrgetter(name), values)) if name in fields else [None] * len(values) for name in names]


def _mapping(position: int, value: Any, path: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    fields = fields_of(type(value))
    if fields is None:
        what = f"column {path!r}: " if path else ""
        raise Misfit(position, f"{what}{_shown(value)} is no row; use a dict, dataclass, msgspec.Struct or pydantic model")
    return {name: getattr(value, name) for name in fields}


def _unknown(name: Any, names: Sequence[str], path: str) -> str:
    shown = f"{path}.{name}" if path else str(name)
    return f"column {shown!r} is not in the schema (it has {', '.join(names)}); add it, or set extra='drop'"


# ── converting a column ──────────────────────────────────────────────────────────────────────────────────────────


def _convert(values: Sequence[Any], kind: pa.DataType, path: str, *, extra: str, base64: bool) -> pa.Array:
    if pa.types.is_struct(kind):
        return _convert_struct(values, kind, path, extra=extra, base64=base64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _convert_list(values, kind, path, extra=extra, base64=base64)
    if pa.types.is_map(kind):
        return _convert_map(values, kind, path, extra=extra, base64=base64)
    takes, coerce = _rules(kind, base64=base64)
    found = set(map(type, values))
    found.discard(_NONE)
    if not found <= takes:
        values = [
            value if value is None or type(value) in takes else _coerced(position, value, kind, coerce, path)
            for position, value in enumerate(values)
        ]
    elif found == {str} and pa.types.is_temporal(kind):
        try:
            return pa.array(values, pa.string()).cast(kind)
        except (pa.ArrowException, ValueError):
            values = [None if value is None else _coerced(position, value, kind, coerce, path) for position, value in enumerate(values)]
    elif str in found and pa.types.is_temporal(kind):
        values = [_coerced(position, value, kind, coerce, path) if type(value) is str else value for position, value in enumerate(values)]
    try:
        array = pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        raise _first_misfit(values, kind, path) from None
    if pa.types.is_timestamp(kind) and kind.unit in {"s", "ms"}:
        _refuse_truncated(values, kind, path)
    # pa.array gives chunks when text is larger than 2 GB.
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _coerced(position: int, value: Any, kind: pa.DataType, coerce: Callable[[Any], Any], path: str) -> Any:
    try:
        return coerce(value.value if isinstance(value, enum.Enum) else value)
    except Exception:  # noqa: BLE001  whatever it is, the value does not fit
        raise Misfit(position, _does_not_fit(value, kind, path)) from None


def _first_misfit(values: Sequence[Any], kind: pa.DataType, path: str) -> Misfit:
    for position, value in enumerate(values):
        try:
            pa.array([value], kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return Misfit(position, _does_not_fit(value, kind, path))
    raise AssertionError(f"column {path}: no single value is at fault")


def _refuse_truncated(values: Sequence[Any], kind: pa.DataType, path: str) -> None:
    step = 1_000_000 if kind.unit == "s" else 1_000
    for position, value in enumerate(values):
        if isinstance(value, dt.datetime) and value.microsecond % step:
            raise Misfit(position, _does_not_fit(value, kind, path))


def _convert_struct(values: Sequence[Any], kind: pa.DataType, path: str, *, extra: str, base64: bool) -> pa.Array:
    names = [field.name for field in kind]
    # A struct's children have its own length: positions are the same.
    columns = _extract(values, names, extra, path)
    children = [
        _convert(column, field.type, f"{path}.{field.name}", extra=extra, base64=base64)
        for field, column in zip(kind, columns, strict=True)
    ]
    absent = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=absent)


def _convert_list(values: Sequence[Any], kind: pa.DataType, path: str, *, extra: str, base64: bool) -> pa.Array:
    for position, value in enumerate(values):
        if value is not None and not isinstance(value, list | tuple):
            raise Misfit(position, _does_not_fit(value, kind, path))
    ends = list(accumulate((0 if value is None else len(value) for value in values), initial=0))
    flat = list(chain.from_iterable(value for value in values if value is not None))
    items = _nested(flat, kind.value_type, f"{path}[]", ends, extra=extra, base64=base64)
    offsets = _offsets(values, ends, pa.int64() if pa.types.is_large_list(kind) else pa.int32())
    array_type = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    return array_type.from_arrays(offsets, items, type=kind)


def _convert_map(values: Sequence[Any], kind: pa.DataType, path: str, *, extra: str, base64: bool) -> pa.Array:
    for position, value in enumerate(values):
        if value is not None and not isinstance(value, Mapping):
            raise Misfit(position, _does_not_fit(value, kind, path))
    ends = list(accumulate((0 if value is None else len(value) for value in values), initial=0))
    pairs = [pair for value in values if value is not None for pair in value.items()]
    keys = _nested([key for key, _ in pairs], kind.key_type, f"{path} key", ends, extra=extra, base64=base64)
    items = _nested([item for _, item in pairs], kind.item_type, f"{path} value", ends, extra=extra, base64=base64)
    return pa.MapArray.from_arrays(_offsets(values, ends, pa.int32()), keys, items, type=kind)


def _nested(flat: list[Any], kind: pa.DataType, path: str, ends: list[int], *, extra: str, base64: bool) -> pa.Array:
    try:
        return _convert(flat, kind, path, extra=extra, base64=base64)
    except Misfit as error:
        # From the flat list back to the value that it came from.
        raise Misfit(bisect_right(ends, error.position) - 1, error.text) from None


def _offsets(values: Sequence[Any], ends: list[int], kind: pa.DataType) -> pa.Array:
    # A null offset is how from_arrays is told that the list itself is null.
    return pa.array([None if value is None else start for value, start in zip(values, ends, strict=False)] + [ends[-1]], kind)


# ── what a column takes ──────────────────────────────────────────────────────────────────────────────────────────


def _refuse(_value: Any) -> Any:
    raise ValueError


def _rules(kind: pa.DataType, *, base64: bool) -> tuple[frozenset[type], Callable[[Any], Any]]:
    """(types that go to pyarrow as they are, what to do with a value of another type)."""
    types = pa.types
    if types.is_boolean(kind):
        return frozenset({bool}), _refuse
    if types.is_integer(kind):
        return frozenset({int}), _exactly(int)
    if types.is_floating(kind):
        return frozenset({float, int}), _exactly(float)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return frozenset({str}), _to_text
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return frozenset({bytes, bytearray}), _from_base64 if base64 else _to_bytes
    if types.is_timestamp(kind):
        return frozenset({dt.datetime, str}), lambda value: _to_datetime(value, kind)
    if types.is_date(kind):
        return frozenset({dt.date, str}), dt.date.fromisoformat
    if types.is_decimal(kind):
        return frozenset({decimal.Decimal, int}), _to_decimal
    if types.is_time(kind):
        return frozenset({dt.time, str}), dt.time.fromisoformat
    return _Anything(), _refuse


class _Anything(frozenset[type]):
    """Rare types (dictionary, duration, …): pyarrow's own judgement."""

    def __ge__(self, other: object) -> bool:
        return True

    def __contains__(self, item: object) -> bool:
        return True


def _exactly(base: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        # A subclass (IntEnum was unwrapped before; numpy.float64 is a float) is its base's value. bool is an int by accident.
        if isinstance(value, base) and not isinstance(value, bool):
            return base(value)
        raise ValueError

    return convert


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    raise ValueError


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    raise ValueError


def _from_base64(value: Any) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(value, strict_mode=True) if isinstance(value, str) else _to_bytes(value)


def _to_datetime(value: Any, kind: pa.DataType) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value
    text = pa.scalar(value, pa.string())
    try:
        found = text.cast(pa.timestamp("us", tz=kind.tz)).as_py()
    except pa.ArrowException:
        # No zone in the text: UTC, as for a naive datetime.
        found = text.cast(pa.timestamp("us")).as_py()
    assert isinstance(found, dt.datetime)
    return found


def _to_decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, float | int | str | decimal.Decimal):
        raise ValueError  # noqa: TRY004  any refusal will do; it becomes a Misfit
    return decimal.Decimal(repr(value) if isinstance(value, float) else value)


# ── words and checks ─────────────────────────────────────────────────────────────────────────────────────────────


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _does_not_fit(value: Any, kind: pa.DataType, path: str) -> str:
    return f"column {path!r}: {_shown(value)} does not fit {kind}"


def check_required(array: pa.Array, field: pa.Field) -> None:
    """Raises Misfit if there is a null that the schema forbids."""
    missing = _first_null(array, field)
    if missing is not None:
        raise Misfit(missing, f"column {field.name!r}: it, or a required part of it, is null or missing")


def _first_null(array: pa.Array, field: pa.Field) -> int | None:
    """The first position where there is a null that `field` (or a field inside it) forbids."""
    import pyarrow.compute as pc

    found = []
    if not field.nullable and array.null_count:
        found.append(pc.index(pc.is_null(array), pa.scalar(True)).as_py())
    if pa.types.is_struct(field.type) and _forbids(field.type):
        # A child of a null struct is null by right: look only where the struct is there.
        there = pc.indices_nonzero(pc.is_valid(array))
        for number, child in enumerate(field.type):
            inner = _first_null(array.field(number).take(there), child)
            found.append(None if inner is None else there[inner].as_py())
    elif (pa.types.is_list(field.type) or pa.types.is_large_list(field.type)) and _forbids(field.type):
        inner = _first_null(array.flatten(), field.type.value_field)
        found.append(None if inner is None else pc.list_parent_indices(array)[inner].as_py())
    return min((position for position in found if position is not None), default=None)


def _forbids(kind: pa.DataType) -> bool:
    """Is there a field inside that must not be null?"""
    if pa.types.is_struct(kind):
        return any(not child.nullable or _forbids(child.type) for child in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return not kind.value_field.nullable or _forbids(kind.value_type)
    return False


def relaxed(schema: pa.Schema) -> pa.Schema:
    """`schema` with every field inside a column nullable.

    Arrow's Parquet writer refuses a required field in a struct that may itself be null, as soon as one is; so what is required
    inside is checked here, and stored as optional."""
    return pa.schema([field.with_type(with_types(field.type, lambda _: None)) for field in schema])


def with_types(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType | None]) -> pa.DataType:
    """`kind`, each part for which `change` gives another type replaced, and every field inside nullable."""
    replaced = change(kind)
    if replaced is not None:
        return replaced
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(with_types(child.type, change)).with_nullable(True) for child in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(with_types(kind.value_type, change)).with_nullable(True))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, with_types(kind.item_type, change))
    return kind
