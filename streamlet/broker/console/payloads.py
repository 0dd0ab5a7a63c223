"""What does a payload say to a person? A guess for a line in a list, and the whole of it, each with an upper bound.

Nothing here raises for any bytes: what cannot be shown as asked for comes back as a `problem` with a text.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from streamlet.broker.console.avro import OCF_MAGIC, AvroError, read_container, read_value
from streamlet.kpl.deaggregate import MAGIC, UserRecord, deaggregate

__all__ = ["FORMATS", "guess", "preview", "show"]

FORMATS: Final = ("auto", "text", "json", "avro", "kpl", "hex")
_PREVIEW_CHARS: Final = 160
_TEXT_CHARS_MAX: Final = 200_000
_HEX_BYTES_MAX: Final = 16_384
_JSON_BYTES_MAX: Final = 1024 * 1024
_INDENTED_MAX: Final = 2 * 1024 * 1024
_USER_RECORDS_MAX: Final = 200
_USER_CHARS_MAX: Final = 8_000
_AVRO_SCHEMA_CHARS_MAX: Final = 4_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SPACES: Final = re.compile(r"\s+")
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def guess(data: bytes) -> str:
    """What the bytes most likely are: kpl, avro, json, text or binary."""
    if data.startswith(MAGIC) and deaggregate(data) is not None:
        return "kpl"
    if data.startswith(OCF_MAGIC):
        return "avro"
    if data[:64].lstrip()[:1] in {b"{", b"["} and len(data) <= _JSON_BYTES_MAX and _is_json(data):
        return "json"
    return "binary" if _text(data[:4096], cut=len(data) > 4096) is None else "text"


def preview(data: bytes, kind: str) -> str:
    """One line of it."""
    if kind == "kpl":
        records = deaggregate(data) or []
        keys = ", ".join(record.partition_key[:40] for record in records[:4])
        return f"{len(records)} user records: {keys}{', …' if len(records) > 4 else ''}"[:_PREVIEW_CHARS]
    if kind in {"json", "text"}:
        text = data[: _PREVIEW_CHARS * 4].decode("utf-8", "replace")
        return _CONTROL.sub("·", _SPACES.sub(" ", text))[:_PREVIEW_CHARS]
    return data[:48].hex(" ")


def show(data: bytes, wanted: str, schema: str) -> dict[str, Any]:
    """The payload as `wanted`: {"as", "text", "cut"}, for aggregates {"as": "kpl", "records", "more"}, or {"as", "problem"}."""
    form = guess(data) if wanted == "auto" else wanted
    if form == "kpl":
        return _kpl(data)
    if form == "json":
        return _json(data)
    if form == "avro":
        return _avro(data, schema)
    if form == "text":
        return _cut("text", data[: _TEXT_CHARS_MAX * 4].decode("utf-8", "replace"))
    return {"as": "hex", "text": _hex(data[:_HEX_BYTES_MAX]), "cut": len(data) > _HEX_BYTES_MAX}


def _cut(form: str, text: str) -> dict[str, Any]:
    return {"as": form, "text": text[:_TEXT_CHARS_MAX], "cut": len(text) > _TEXT_CHARS_MAX}


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _text(data: bytes, *, cut: bool) -> str | None:
    """The bytes as text, or None where they are none. A character that the cut went through is no fault."""
    for back in range(4 if cut else 1):
        try:
            text = data[: len(data) - back].decode()
        except UnicodeDecodeError:
            continue
        return None if _CONTROL.search(text) else text
    return None


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > _JSON_BYTES_MAX:
        return {"as": "json", "problem": f"more than {_JSON_BYTES_MAX >> 20} MiB, which is not laid out here: show it as text"}
    if not _is_json(data):
        return {"as": "json", "problem": "this is not JSON: show it as text or hex"}
    if (data.count(b",") + 1) * _depth(data) * 2 > _INDENTED_MAX:  # indenting would make it many times as long
        return _cut("json", data.decode("utf-8", "replace"))
    # Laid out as text, never decoded: numbers stay as they were written, and so do members that are there twice.
    return _cut("json", msgspec.json.format(data, indent=2).decode("utf-8", "replace"))


def _depth(data: bytes) -> int:
    depth = most = 0
    for match in _BRACKETS.finditer(data):
        mark = match[0]
        if mark in {b"[", b"{"}:
            depth += 1
            most = max(most, depth)
        elif mark in {b"]", b"}"}:
            depth -= 1
    return most


def _avro(data: bytes, schema: str) -> dict[str, Any]:
    try:
        if data.startswith(OCF_MAGIC):
            found, values, more = read_container(data)
            text = json.dumps(values, indent=2, ensure_ascii=False)
            described = json.dumps(found)
            return {**_cut("avro", text), "schema": described[:_AVRO_SCHEMA_CHARS_MAX], "more": more}
        if not schema.strip():
            return {"as": "avro", "problem": "a bare Avro value does not say what it is: paste its writer's schema (JSON)"}
        return _cut("avro", json.dumps(read_value(data, schema), indent=2, ensure_ascii=False))
    except (AvroError, RecursionError) as error:
        return {"as": "avro", "problem": f"not read as Avro: {error}"[:1000]}


def _kpl(data: bytes) -> dict[str, Any]:
    records = deaggregate(data)
    if records is None:
        return {"as": "kpl", "problem": "this is not an aggregate of the Kinesis Producer Library (magic, check sum, or message)"}
    return {"as": "kpl", "records": [_user_record(record) for record in records[:_USER_RECORDS_MAX]], "count": len(records)}


def _user_record(record: UserRecord) -> dict[str, Any]:
    kind = guess(record.data)
    shown = show(record.data, "hex" if kind in {"kpl", "avro", "binary"} else kind, "")
    text = shown.get("text", "")
    return {
        "key": record.partition_key[:256],
        "hash": None if record.explicit_hash_key is None else record.explicit_hash_key[:64],
        "size": len(record.data),
        "kind": kind,
        "text": text[:_USER_CHARS_MAX],
        "cut": shown.get("cut", False) or len(text) > _USER_CHARS_MAX,
    }


def _hex(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:06x}  {row.hex(' '):<47}  {text}")
    return "\n".join(lines)
