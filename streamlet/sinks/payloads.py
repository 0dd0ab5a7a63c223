"""How do JSON payloads become Arrow columns without passing through Python? Joined, and parsed once, in C++.

pyarrow.json reads objects one after the other and takes no interest in where one record ends: a blank payload is no row, two
objects in one payload are two rows, `null` is a row of nulls, broken UTF-8 goes through. A row blamed on, or counted for, the
wrong record would break the exactly-once bookkeeping, so it must be certain that each payload is one object:

    every payload begins with "{" and ends with "}"     then each gives a row of its own or an error: no joint of two such
                                                        texts is inside a value, since neither "}{" nor a line break in a
                                                        string is JSON
    and there are as many rows as payloads              then each gives exactly one

The first of these also keeps the process alive: a text that begins with `null` crashes pyarrow.json (26.0.1, apache/arrow
issue 47409), and a poison record must not take its worker down, again and again.

Line breaks inside a payload are harmless: all is one block, and there they are white space.

Schemas with types that pyarrow.json does not read (binary, map, …) go through orjson and `rows`: two to three times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from streamlet.errors import InternalError
from streamlet.sinks.rows import Misfit, check_required, relaxed, table_of_rows, with_types

__all__ = ["PayloadReader"]

# pyarrow.json's blocks are counted in 32 bits. Batches are a thousand times smaller.
_BLOCK_MAX: Final = 2**30


class PayloadReader:
    """Turns payloads into tables of one schema. Built once per sink."""

    def __init__(self, schema: pa.Schema, *, extra: str) -> None:
        import pyarrow.json

        self._json: Any = pyarrow.json
        self._schema, self._extra = schema, extra
        self._built = relaxed(schema)
        self._read_schema = pa.schema([field.with_type(with_types(field.type, _as_read)) for field in schema])
        self._casts = [number for number, field in enumerate(self._built) if field.type != self._read_schema.field(number).type]
        self._bulk = not any(_has_binary(field.type) for field in schema) and self._readable()

    def _readable(self) -> bool:
        try:
            self._read(b"{}")
        except pa.ArrowNotImplementedError:
            return False
        except pa.ArrowInvalid:  # a required field is absent; the types are known
            return True
        return True

    def table(self, payloads: Sequence[bytes]) -> pa.Table:
        """One row per payload. Raises Misfit for a payload that does not fit (one of them, not always the first)."""
        if not payloads:
            return self._built.empty_table()
        if not self._bulk:
            return self._one_by_one(payloads)
        if not _are_objects(payloads):
            payloads = [payload.strip() for payload in payloads]
            if not _are_objects(payloads):
                raise self._guilty(payloads, "")
        try:
            return self._parse(payloads)
        except (pa.ArrowException, ValueError) as error:
            raise self._guilty(payloads, str(error)) from None

    def _parse(self, payloads: Sequence[bytes]) -> pa.Table:
        joined = b"\n".join(payloads)
        if len(joined) > _BLOCK_MAX and len(payloads) > 1:
            middle = len(payloads) // 2
            return pa.concat_tables([self._parse(payloads[:middle]), self._parse(payloads[middle:])])
        if not joined.isascii():
            joined.decode()  # raises a ValueError
        table = self._read(joined)
        if table.num_rows != len(payloads):
            raise ValueError("there are several objects in one record")
        if self._casts:
            for number in self._casts:
                field = self._built.field(number)
                table = table.set_column(number, field, table.column(number).cast(field.type))
        for number, field in enumerate(self._schema):
            check_required(table.column(number).combine_chunks(), field)
        return pa.Table.from_arrays(table.columns, schema=self._built)

    def _read(self, joined: bytes) -> pa.Table:
        json = self._json
        return json.read_json(
            pa.BufferReader(joined),
            read_options=json.ReadOptions(use_threads=False, block_size=len(joined) + 1),
            parse_options=json.ParseOptions(
                explicit_schema=self._read_schema, unexpected_field_behavior="error" if self._extra == "error" else "ignore"
            ),
        )

    def _one_by_one(self, payloads: Sequence[bytes]) -> pa.Table:
        rows = []
        for position, payload in enumerate(payloads):
            try:
                row = orjson.loads(payload)
            except ValueError as error:
                raise Misfit(position, f"the payload is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise Misfit(position, f"the payload is {_json_kind(row)}, and a row is an object")
            rows.append(row)
        return table_of_rows(rows, self._schema, extra=self._extra, base64=True)

    # ── who is to blame ──────────────────────────────────────────────────────────────────────────────────────────

    def _guilty(self, payloads: Sequence[bytes], said: str) -> Misfit:
        """The first payload that does not go through by itself. pyarrow.json often names no row, or one of another count, and
        always the first that it met: so halve, which costs as much as two more parses."""
        low, high = 0, len(payloads)  # everything before low is good; something in [low, high) is not
        while high - low > 1:
            middle = (low + high) // 2
            if self._good(payloads[low:middle]):
                low = middle
            else:
                high = middle
        if self._good(payloads[low:high]):
            raise InternalError(f"each payload parses by itself, but not all together: {said}")
        return Misfit(low, self._explained(payloads[low], said))

    def _good(self, payloads: Sequence[bytes]) -> bool:
        if not _are_objects(payloads):
            return False
        try:
            self._parse(payloads)
        except (pa.ArrowException, ValueError, Misfit):
            return False
        return True

    def _explained(self, payload: bytes, said: str) -> str:
        try:
            row = orjson.loads(payload)
        except ValueError as error:
            return f"the payload is not JSON: {error}" if payload else "the payload is empty"
        if not isinstance(row, dict):
            return f"the payload is {_json_kind(row)}, and a row is an object"
        for name, value in row.items():
            if name not in self._schema.names:
                if self._extra == "error":
                    return f"column {name!r} is not in the schema (it has {', '.join(self._schema.names)}); add it, or set extra='drop'"
                continue
            field = self._schema.field(name)
            single = PayloadReader(pa.schema([field.with_nullable(True)]), extra=self._extra)
            if not single._good([orjson.dumps({name: value})]):
                text = orjson.dumps(value).decode()
                return f"column {name!r}: {text if len(text) <= 60 else text[:57] + '...'} ({_json_kind(value)}) does not fit {field.type}"
        for field in self._schema:
            if not field.nullable and row.get(field.name) is None:
                return f"column {field.name!r} is required, and is null or missing"
        return said.removeprefix("JSON parse error: ")


def _are_objects(payloads: Sequence[bytes]) -> bool:
    try:
        return all(payload[0] == 0x7B and payload[-1] == 0x7D for payload in payloads)
    except IndexError:
        return False


def _as_read(kind: pa.DataType) -> pa.DataType | None:
    # pyarrow.json takes a date only as a number of days; everybody writes text.
    return pa.string() if pa.types.is_date(kind) else None


def _has_binary(kind: pa.DataType) -> bool:
    # pyarrow.json would take the text's own bytes. Bytes in JSON are base64 by convention, and for msgspec and pydantic.
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_has_binary(kind.field(number).type) for number in range(kind.num_fields))


def _json_kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
