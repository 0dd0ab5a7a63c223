"""The demo's app: flights come in as JSON events, land as Parquet partitioned by month.

Run it by hand against a broker that `streamlet broker --shards flights:4` started:

    FLIGHTS_OUT=/tmp/flights streamlet run examples/flights/app.py:app --endpoint-url http://127.0.0.1:4567
"""

import os
from datetime import datetime
from pathlib import Path

import msgspec

from streamlet import App, Batch, FileDestination, ParquetSink, Roll

OUT = Path(os.environ.get("FLIGHTS_OUT", "flights-out")).resolve()


class Flight(msgspec.Struct):
    """One departure from New York in 2013. Times are local, hhmm; delays are minutes, negative is early."""

    event: int
    year: int
    month: int
    day: int
    dep_time: int | None
    sched_dep_time: int
    dep_delay: int | None
    arr_time: int | None
    sched_arr_time: int
    arr_delay: int | None
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    air_time: int | None
    distance: int
    hour: int
    minute: int
    time_hour: datetime


app = App("flights")


@app.on_batch(
    "flights",
    decode=Flight,
    sink=ParquetSink(f"file://{OUT}/landed", schema=Flight, partition_by=("month",), roll=Roll(rows_max=20_000, age_max_s=2)),
    batch_size=5_000,
    bisect_batch_on_function_error=True,
    maximum_retry_attempts=0,
    on_failure=FileDestination(f"{OUT}/failed.jsonl"),
)
def to_rows(batch: Batch) -> list[Flight]:
    """One row per event. An event that is no Flight fails its batch, and bisecting finds it."""
    return batch.values


lambda_handler = app.lambda_handler
