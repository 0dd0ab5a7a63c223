"""How do a shard's records become Parquet files that can be made again, to the byte?

    collect    one batch -> a chunk: an Arrow table of the rows, each with the position of its record
    build      the chunks of a range -> its files: one per partition, rows in the order of the records
    put        each under a key that follows from the range

Nothing here looks at a clock or draws a number. Of the same records, rows and range come the same keys, counts, digests, and,
with the same pyarrow, the same bytes: that is what lets a second worker complete what a first one prepared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

from streamlet.core.rolling import Roll
from streamlet.errors import ConfigurationError, RowError
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.ports import Chunk, SinkObject, Span
from streamlet.sinks.objects import ObjectStore
from streamlet.sinks.schema import load_pyarrow, resolve_schema, schema_of

__all__ = ["ParquetSink", "schema_of"]

SEQUENCE_NUMBER: Final = "_sequence_number"
SUB_SEQUENCE_NUMBER: Final = "_sub_sequence_number"
# Which of its record's rows it is; never stored.
ROW_NUMBER: Final = "_row_number"
_RESERVED: Final = (SEQUENCE_NUMBER, SUB_SEQUENCE_NUMBER, ROW_NUMBER)

_COMPRESSIONS: Final = ("zstd", "snappy", "gzip", "lz4", "brotli", "none")
# What Hive, Spark, Athena, DuckDB and Arrow read as null.
_NULL_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"
# File systems take 255 bytes for a name, S3 1,024 for a key: three directories of 200 with their slashes and a file of 248
# leave 173 for the URL's prefix.
_SEGMENT_MAX: Final = 200
_PARTITIONS_MAX: Final = 3
_NAME_MAX: Final = 240


@dataclass(frozen=True)
class ParquetSink:
    """Parquet files below `url` (s3://bucket/prefix, file:///directory, memory://name).

    schema          a pyarrow.Schema, {"name": "type text"}, or the type of the rows: see `streamlet.sinks.schema`
    partition_by    columns that become Hive-style directories, `day=2026-11-24/`, and are left out of the files. Strings,
                    integers, booleans, dates. Their values must follow from the record.
    roll            when a file closes; None takes the defaults of `Roll`
    compression     zstd, snappy, gzip, lz4, brotli or none
    extra           "error": a field that the schema does not have is that record's failure; "drop": it is left out
    storage         options for s3:// (region, endpoint_url, …; see ObjectStore)
    store           an ObjectStore to use instead of the one that `url` names

    A handler returns one item per record: a row (a mapping, dataclass, msgspec.Struct or pydantic model), a list of rows, or
    None. Missing fields are null. Without a handler the payloads are the rows: one JSON object each, parsed in bulk.

    Files are named `<partitions>/<stream>-<shard>-<first>-<last>.parquet`. A KPL aggregate, whose user records have a row each, is
    never in two ranges, unless a KCL had begun it and left the rest. The footer's metadata names the stream, the shard, and the
    first and last position.
    """

    url: str
    _: KW_ONLY
    schema: Any = field(default=None, repr=False)  # as long as the table is wide
    partition_by: Sequence[str] = ()
    roll: Roll | None = None
    compression: str = "zstd"
    extra: Literal["error", "drop"] = "error"
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    store: ObjectStore | None = field(default=None, repr=False, compare=False)
    _files: ObjectStore = field(init=False, repr=False, compare=False)
    _payloads: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        schema = resolve_schema(self.schema)
        partition_by = (self.partition_by,) if isinstance(self.partition_by, str) else tuple(self.partition_by)
        if self.compression not in _COMPRESSIONS:
            raise ConfigurationError(f"compression={self.compression!r}: use one of {', '.join(_COMPRESSIONS)}")
        if self.extra not in {"error", "drop"}:
            raise ConfigurationError(f"extra={self.extra!r}: use 'error' or 'drop'")
        given: object = self.roll
        if given is not None and not isinstance(given, Roll):
            raise ConfigurationError(f"roll={given!r}: use Roll(bytes_max=…, rows_max=…, age_max_s=…)")
        _check_columns(schema, partition_by)
        # Frozen, so that a sink can be shared and compared; what follows from the fields is set here, once.
        for name, value in {
            "schema": schema,
            "partition_by": partition_by,
            "_files": self.store or ObjectStore(self.url, **self.storage),
            "_payloads": None,
        }.items():
            object.__setattr__(self, name, value)
        from streamlet.sinks.payloads import PayloadReader

        object.__setattr__(self, "_payloads", PayloadReader(schema, extra=self.extra))

    def check(self) -> None:
        """Can files be written below `url`? Raises SinkError or ConfigurationError with what to do if not."""
        self._files.check()

    # ── collecting ───────────────────────────────────────────────────────────────────────────────────────────────

    def collect(self, records: Sequence[Record], rows: Sequence[Any] | None) -> Chunk:
        """One batch as a chunk. Raises RowError with the index of the first record whose row does not fit."""
        if rows is None:
            return self._chunk(self._payloads.table, [record.data for record in records], records, None, None)
        assert len(rows) == len(records), "one item per record"
        from streamlet.sinks.rows import table_of_rows

        def convert(items: Sequence[Any]) -> Any:
            return table_of_rows(items, self.schema, extra=self.extra)

        flat, origins, numbers = _flattened(rows)
        return self._chunk(convert, flat, records, origins, numbers)

    def _chunk(
        self,
        convert: Callable[[Sequence[Any]], Any],
        items: Sequence[Any],
        records: Sequence[Record],
        origins: Sequence[int] | None,
        numbers: Sequence[int] | None,
    ) -> _Chunk:
        """`items` are rows in the form that `convert` takes; row i is number `numbers[i]` of record `origins[i]` (None: each
        record has one)."""
        from streamlet.sinks.rows import Misfit

        try:
            return _Chunk(_with_positions(self._converted(convert, items), records, origins, numbers))
        except Misfit as error:
            misfit = error
        # Columns are converted one after the other, so the misfit found first need not be the first one: what stands before
        # it is converted again, until that goes through. The caller keeps those rows, so they must.
        while misfit.position:
            try:
                self._converted(convert, items[: misfit.position])
            except Misfit as earlier:
                misfit = earlier
            else:
                break
        index = misfit.position if origins is None else origins[misfit.position]
        raise RowError(f"{records[index].where}: {misfit.text}", index=index)

    def _converted(self, convert: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Any:
        """The table. Raises Misfit also for a value that no path can hold: after the prepare it would be too late."""
        table = convert(items)
        for name in self.partition_by:
            _check_partition(table.column(name), name)
        return table

    # ── building ─────────────────────────────────────────────────────────────────────────────────────────────────

    def build(self, chunks: Sequence[Chunk], span: Span, *, positions: bool = False) -> list[SinkObject]:
        """The files of a range, in the order of their keys. No rows, no files."""
        tables = []
        for chunk in chunks:
            assert isinstance(chunk, _Chunk), "chunks come from this sink's collect"
            if chunk.rows:
                tables.append(chunk.table)
        if not tables:
            return []
        table = load_pyarrow().concat_tables(tables)
        _assert_within(table, span)
        name = _file_name(span)
        parts = self._partitions(table) if self.partition_by else [("", table)]
        return sorted((self._file(directory + name, rows, span, positions) for directory, rows in parts), key=lambda item: item.key)

    def _partitions(self, table: Any) -> list[tuple[str, Any]]:
        """(directory, its rows in the order of the records), for each combination of values that there is."""
        import pyarrow.compute as pc

        pa = load_pyarrow()
        directories = None
        for name in self.partition_by:
            column = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
            texts = pa.array([_segment(name, value) for value in column.dictionary.to_pylist()], pa.string())
            part = texts.take(column.indices)
            directories = part if directories is None else pc.binary_join_element_wise(directories, part, "")
        assert directories is not None
        encoded = directories.dictionary_encode()
        # One stable sort, then slices: to filter once per partition would look at every row as often as there are partitions.
        ordered = table.take(pc.sort_indices(encoded.indices))
        counts = {entry["values"]: entry["counts"] for entry in encoded.indices.value_counts().to_pylist()}
        out, start = [], 0
        for code, directory in enumerate(encoded.dictionary.to_pylist()):
            out.append((directory, ordered.slice(start, counts[code])))
            start += counts[code]
        return out

    def _file(self, key: str, table: Any, span: Span, positions: bool) -> SinkObject:
        import pyarrow.parquet as pq

        stored = [name for name in self.schema.names if name not in self.partition_by]
        stored += (SEQUENCE_NUMBER, SUB_SEQUENCE_NUMBER) if positions else ()
        metadata = {
            "streamlet.stream": span.stream,
            "streamlet.shard": span.shard_id,
            "streamlet.first": _position_text(span.first),
            "streamlet.last": _position_text(span.last),
        }
        buffer = load_pyarrow().BufferOutputStream()
        pq.write_table(table.select(stored).replace_schema_metadata(metadata), buffer, compression=self.compression)
        return SinkObject(key=key, rows=table.num_rows, digest=_digest(table), data=buffer.getvalue().to_pybytes())

    # ── storing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def put_if_absent(self, item: SinkObject) -> bool:
        """Write the file unless its key is taken; False if it was. Raises SinkError."""
        return self._files.put_if_absent(item.key, item.data)

    def holds(self, item: SinkObject) -> bool:
        """Is the file under this key the very same, to the byte?"""
        return self._files.get(item.key) == item.data

    def put(self, item: SinkObject) -> None:
        """Write the file, over an older one. Raises SinkError."""
        self._files.put(item.key, item.data)


@dataclass(frozen=True)
class _Chunk:
    """Rows of consecutive records; the last three columns say where each comes from."""

    table: Any

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.table.num_rows)

    @property
    def size_bytes(self) -> int:
        """Memory of the Arrow buffers."""
        return int(self.table.nbytes)


def _flattened(rows: Sequence[Any]) -> tuple[Sequence[Any], list[int] | None, list[int] | None]:
    """(the rows, and for each the index of its record and its number within it). The lists are None if each record has one row."""
    if not any(issubclass(kind, list | tuple | type(None)) for kind in set(map(type, rows))):
        return rows, None, None
    flat: list[Any] = []
    origins: list[int] = []
    numbers: list[int] = []
    for index, item in enumerate(rows):
        for number, row in enumerate(item if isinstance(item, list | tuple) else (item,)):
            if row is not None:
                flat.append(row)
                origins.append(index)
                numbers.append(number)
    return flat, origins, numbers


def _with_positions(table: Any, records: Sequence[Record], origins: Sequence[int] | None, numbers: Sequence[int] | None) -> Any:
    pa = load_pyarrow()
    sequence = pa.array([record.sequence_number for record in records], pa.string())
    sub = pa.array([record.sub_sequence_number for record in records], pa.int32())
    if origins is None:
        number = pa.array([0] * len(records), pa.int32())
    else:
        index = pa.array(origins, pa.int64())
        sequence, sub, number = sequence.take(index), sub.take(index), pa.array(numbers, pa.int32())
    for name, column in zip(_RESERVED, (sequence, sub, number), strict=True):
        table = table.append_column(pa.field(name, column.type, nullable=False), column)
    return table


def _digest(table: Any) -> str:
    """BLAKE2b over `sequence/sub/row/` of each row, in order: which rows a file holds, whatever is in them."""
    import pyarrow.compute as pc

    pa = load_pyarrow()
    columns = [table.column(name).cast(pa.string()) for name in _RESERVED]
    lines = pc.binary_join_element_wise(*columns, "", "/")
    return hashlib.blake2b("".join(lines.to_pylist()).encode("ascii"), digest_size=16).hexdigest()


def _assert_within(table: Any, span: Span) -> None:
    # A span counts records of the stream; the rows of an aggregate's user records are all within it.
    for row in (0, table.num_rows - 1):
        sequence = int(table.column(SEQUENCE_NUMBER)[row].as_py())
        assert span.first.sequence <= sequence <= span.last.sequence, f"row {sequence} is outside {span.first} … {span.last}"


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _position_text(position: Position) -> str:
    # No "-", which stands between the parts of a file's name.
    return f"{position.text}.{position.sub}" if position.sub else position.text


def _file_name(span: Span) -> str:
    name = f"{span.stream}-{span.shard_id}-{_position_text(span.first)}-{_position_text(span.last)}"
    if len(name) > _NAME_MAX:
        # Only with very long stream names: a file system would refuse it. The hash keeps it one name for one range.
        name = f"{span.stream[:60]}-{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return name + ".parquet"


def _segment(name: str, value: Any) -> str:
    """One directory of a partition, with its slash. Two values never share one: everything unusual is percent-encoded, also
    the first letter of a string that looks like the mark for null."""
    if value is None:
        text = _NULL_PARTITION
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = quote(str(value), safe="")
        if text == _NULL_PARTITION:
            text = "%5F" + text[1:]
    return f"{quote(name, safe='')}={text}/"


def _check_partition(column: Any, name: str) -> None:
    """Raises Misfit for the first value whose directory would have too long a name."""
    import pyarrow.compute as pc

    from streamlet.sinks.rows import Misfit

    for value in pc.unique(column).to_pylist():
        if len(_segment(name, value)) > _SEGMENT_MAX:
            raise Misfit(pc.index(column, value).as_py(), f"column {name!r}: {value[:40]!r}… is too long for a partition's directory")


def _check_columns(schema: Any, partition_by: tuple[str, ...]) -> None:
    types = load_pyarrow().types
    if reserved := [name for name in schema.names if name in _RESERVED]:
        raise ConfigurationError(f"schema: the name {reserved[0]!r} is taken for the records' positions; use another")
    if len(set(partition_by)) < len(partition_by):
        raise ConfigurationError(f"partition_by={list(partition_by)}: a column stands there twice")
    for name in partition_by:
        if name not in schema.names:
            raise ConfigurationError(f"partition_by: there is no column {name!r} in the schema (it has {', '.join(schema.names)})")
        kind = schema.field(name).type
        if not any(is_kind(kind) for is_kind in (types.is_string, types.is_integer, types.is_boolean, types.is_date32)):
            raise ConfigurationError(f"partition_by: column {name!r} is {kind}; use a string, integer, boolean or date32 column")
    if len(partition_by) > _PARTITIONS_MAX:
        raise ConfigurationError(
            f"partition_by has {len(partition_by)} columns; {_PARTITIONS_MAX} at most, so that keys stay below 1,024 bytes"
        )
    if len(partition_by) == len(schema.names):
        raise ConfigurationError("partition_by names every column of the schema, and nothing would be left in the files")
