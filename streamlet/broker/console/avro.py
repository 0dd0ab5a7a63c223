"""What does an Avro payload say, within bounds?

A record is anybody's bytes, and a container brings its own schema: an array of 2**60 nulls is a dozen bytes, and a block
can inflate to a thousand times its size. The console decodes on the broker's loop, so all work is counted: values, depth,
bytes after decompression. A general decoder does not offer that.

Understood: object container files (codecs null, deflate, bzip2, xz), and bare values with a schema given from outside,
with or without the header of a single object, of Confluent or of Glue in front. Logical types are shown as what they are
stored as, but for decimals' bytes nothing is lost by it.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import struct
import zlib
from typing import Any, Final

__all__ = ["OCF_MAGIC", "AvroError", "read_container", "read_value"]

OCF_MAGIC: Final = b"Obj\x01"
_VALUES_MAX: Final = 20_000
_DEPTH_MAX: Final = 64
_INFLATED_MAX: Final = 4 * 1024 * 1024
_SCHEMA_NAMES_MAX: Final = 2_000
_PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_META_SCHEMA: Final = {"type": "map", "values": "bytes"}

Schema = Any  # a name, a list (union) or an object, as JSON has it


class AvroError(ValueError):
    """The bytes or the schema are not what they claim to be, or want more work than is done here. The text is for people."""


def read_container(data: bytes) -> tuple[Schema, list[Any], bool]:
    """Schema and values of an object container file, and whether there are more values than were decoded. Raises AvroError."""
    reader = _Reader(data, at=4)
    meta = reader.value(_META_SCHEMA, 0)
    try:
        schema = json.loads(meta["avro.schema"].encode("latin-1"))
    except (KeyError, ValueError, RecursionError):
        raise AvroError("the container has no schema that can be read") from None
    codec = meta.get("avro.codec", "null")
    names = _names(schema)
    sync = reader.take(16)
    values: list[Any] = []
    spent = 0
    while reader.at < len(data):
        count, size = reader.long(), reader.long()
        if count < 0 or size < 0:
            raise AvroError("a block has a negative size")
        block = _Reader(_inflate(reader.take(size), codec, _INFLATED_MAX - spent), names=names, spent=reader.spent)
        spent += len(block.data)
        for _ in range(count):
            if block.spent >= _VALUES_MAX // 2:
                return schema, values, True
            values.append(block.value(schema, 0))
        reader.spent = block.spent
        if reader.take(16) != sync:
            raise AvroError("the mark behind a block is not the container's")
    return schema, values, False


def read_value(data: bytes, schema_text: str) -> Any:
    """One value written with a schema; a framing in front is taken off. Raises AvroError."""
    try:
        schema = json.loads(schema_text)
    except (ValueError, RecursionError):
        raise AvroError("the schema is not JSON") from None
    names = _names(schema)
    errors = []
    for framing, body in _bodies(data):
        reader = _Reader(body, names=names)
        try:
            value = reader.value(schema, 0)
        except AvroError as error:
            errors.append(f"{framing}: {error}")
            continue
        if reader.at == len(body):
            return value
        errors.append(f"{framing}: {len(body) - reader.at} bytes are left over behind the value")
    raise AvroError("; ".join(errors))


def _bodies(data: bytes) -> list[tuple[str, bytes]]:
    """What may be the value's own bytes, likeliest first: the marks of a framing can also be the start of a bare value."""
    found = []
    if data[:2] == b"\xc3\x01" and len(data) >= 10:
        found.append(("as a single object", data[10:]))
    if data[:1] == b"\x00" and len(data) >= 5:
        found.append(("behind a Confluent header", data[5:]))
    if data[:2] == b"\x03\x00" and len(data) >= 18:
        found.append(("behind a Glue header", data[18:]))
    if data[:2] == b"\x03\x05" and len(data) >= 18:
        found.append(("behind a Glue header", _inflate(data[18:], "zlib", _INFLATED_MAX)))
    return [*found, ("as a bare value", data)]


def _inflate(data: bytes, codec: str, bytes_max: int) -> bytes:
    if codec == "null":
        return data
    try:
        if codec in {"deflate", "zlib"}:
            inflated = zlib.decompressobj(-15 if codec == "deflate" else 15).decompress(data, bytes_max + 1)
        elif codec == "bzip2":
            inflated = bz2.BZ2Decompressor().decompress(data, bytes_max + 1)
        elif codec == "xz":
            inflated = lzma.LZMADecompressor(memlimit=64 * 1024 * 1024).decompress(data, bytes_max + 1)
        else:
            raise AvroError(f"the codec {codec[:40]!r} is not understood here (null, deflate, bzip2 and xz are)")
    except (zlib.error, OSError, lzma.LZMAError, EOFError, MemoryError):
        raise AvroError(f"a block is not {codec}") from None
    if len(inflated) > bytes_max:
        raise AvroError(f"it inflates to more than {_INFLATED_MAX >> 20} MiB, which is not done here")
    return inflated


def _names(schema: Schema) -> dict[str, Any]:
    """Named types by full name and by short name."""
    names: dict[str, Any] = {}
    pending: list[tuple[Any, str, int]] = [(schema, "", 0)]
    seen = 0
    while pending:
        node, space, depth = pending.pop()
        seen += 1
        if depth > _DEPTH_MAX or seen > _SCHEMA_NAMES_MAX * 10 or len(names) > _SCHEMA_NAMES_MAX:
            raise AvroError("the schema is too large or too deep")
        if isinstance(node, list):
            pending += [(branch, space, depth + 1) for branch in node]
        elif isinstance(node, dict):
            name = node.get("name")
            if node.get("type") in {"record", "error", "enum", "fixed"} if isinstance(node.get("type"), str) else False:
                if not isinstance(name, str):
                    raise AvroError("a named type of the schema has no name")
                own = node.get("namespace")
                space = name.rpartition(".")[0] or (own if isinstance(own, str) else space)
                short = name.rpartition(".")[2]
                names.setdefault(short, node)
                names[f"{space}.{short}" if space else short] = node
            fields = node.get("fields")
            children = [field.get("type") for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []
            children += [node[part] for part in ("type", "items", "values") if not isinstance(node.get(part), str | None)]
            pending += [(child, space, depth + 1) for child in children]
    return names


class _Reader:
    """A cursor over Avro's binary encoding that counts what it does."""

    def __init__(self, data: bytes, *, at: int = 0, names: dict[str, Any] | None = None, spent: int = 0) -> None:
        self.data = data
        self.at = at
        self.names = names or {}
        self.spent = spent

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise AvroError("the bytes end too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def long(self) -> int:
        """Zigzag, low groups of seven bits first."""
        value = 0
        for place in range(10):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise AvroError("a number has more than 64 bits")

    def value(self, schema: Schema, depth: int) -> Any:
        self.spent += 1
        if self.spent > _VALUES_MAX:
            raise AvroError(f"it holds more than {_VALUES_MAX} values, which are not all decoded here")
        if depth > _DEPTH_MAX:
            raise AvroError(f"it is nested more than {_DEPTH_MAX} deep")
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                return self._primitive(schema)
            if schema not in self.names:
                raise AvroError(f"the schema does not say what {schema[:60]!r} is")
            return self.value(self.names[schema], depth + 1)
        if isinstance(schema, list):
            return self.value(_pick(schema, self.long(), "union"), depth + 1)
        if not isinstance(schema, dict):
            raise AvroError("the schema has something that is no type")
        return self._complex(schema, depth)

    def _primitive(self, name: str) -> Any:
        if name == "null":
            return None
        if name == "boolean":
            return self.take(1) != b"\x00"
        if name in {"int", "long"}:
            number = self.long()
            return number if abs(number) < 2**53 else str(number)  # a browser's numbers hold no more
        if name in {"float", "double"}:
            (real,) = struct.unpack("<f" if name == "float" else "<d", self.take(4 if name == "float" else 8))
            return real if math.isfinite(real) else str(real)
        raw = self.take(self.long())
        return raw.decode("latin-1") if name == "bytes" else raw.decode("utf-8", "replace")

    def _complex(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if kind in {"record", "error"} if isinstance(kind, str) else False:
            fields = schema.get("fields")
            if not isinstance(fields, list) or not all(isinstance(field, dict) and "type" in field for field in fields):
                raise AvroError("a record of the schema has no proper fields")
            return {str(field.get("name")): self.value(field["type"], depth + 1) for field in fields}
        if kind == "enum":
            return _pick(schema.get("symbols"), self.long(), "enum")
        if kind == "fixed":
            size = schema.get("size")
            return self.take(size if isinstance(size, int) else -1).decode("latin-1")
        if kind == "array":
            items: list[Any] = []
            for count in self._blocks():
                items += [self.value(schema.get("items"), depth + 1) for _ in range(count)]
            return items
        if kind == "map":
            entries = {}
            for count in self._blocks():
                for _ in range(count):
                    key = self._primitive("string")
                    entries[key] = self.value(schema.get("values"), depth + 1)
            return entries
        return self.value(kind, depth + 1)  # {"type": "long", "logicalType": ...}, {"type": {...}}

    def _blocks(self) -> Any:
        while count := self.long():
            if count < 0:
                count = -count
                self.long()  # the block's bytes, for readers that skip it
            yield count


def _pick(choices: Any, index: int, what: str) -> Any:
    if not isinstance(choices, list) or not 0 <= index < len(choices):
        raise AvroError(f"the {what} has no branch {index}")
    return choices[index]
