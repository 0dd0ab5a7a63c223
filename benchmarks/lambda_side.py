"""What does the Lambda side cost? CPU of a warm invocation per record, and of a cold start beside `import asyncio`.

    python -m benchmarks.lambda_side

Records of 1 KB, batches of 500, as dicts (Lambda's client has parsed the JSON before the handler is called). The least of several
rounds: whatever else the machine does can only add. Powertools is measured where it is installed. The cold start is that of the zip
of examples/lambda_minimal (a package index is needed): a development environment has more packages, which msgspec looks for.
"""

from __future__ import annotations

import base64
import compileall
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamlet import App, MemoryIdempotency, Record
from streamlet.codecs.json import decoder_for
from streamlet.runtimes.lambda_events import records_of

BUILD_ZIP = Path(__file__).parents[1] / "examples" / "lambda_minimal" / "build_zip.py"
BATCH, RECORD_BYTES, ROUNDS, CALLS, STARTS = 500, 1024, 7, 20, 25

FIRST_DECODE = """
from streamlet import App
app = App("a")
@app.on_record("s")
def handle(record): record.value
record = {"kinesis": {"partitionKey": "k", "sequenceNumber": "1", "data": "e30=", "approximateArrivalTimestamp": 1.5},
          "eventID": "shardId-000000000000:1", "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}
assert app.lambda_handler({"Records": [record]}, None) == {"batchItemFailures": []}
"""


def event() -> dict[str, Any]:
    first = 49590338271490256608559692538361571095921575989136588898
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": f"customer-{n % 50}",
                    "sequenceNumber": str(first + n),
                    "data": base64.b64encode(os.urandom(RECORD_BYTES)).decode(),
                    "approximateArrivalTimestamp": 1545084650.987,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"shardId-000000000000:{first + n}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
                "awsRegion": "us-east-1",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:123456789012:stream/orders",
            }
            for n in range(BATCH)
        ]
    }


def cpu_us_per_record(call: Callable[[], Any]) -> float:
    """Microseconds, which is also seconds per million."""
    least = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(CALLS):
            call()
        least = min(least, (time.process_time() - begun) / CALLS / BATCH * 1e6)
    return least


def cpu_ms(codes: list[str], tree: str) -> list[float]:
    """Of a new interpreter that runs each code with nothing but `tree` on its path; the least of many, taken in turns."""
    least = [float("inf")] * len(codes)
    for _ in range(STARTS):
        for place, code in enumerate(codes):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {tree!r})\n{code}"], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            least[place] = min(least[place], (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    return least


async def later(record: Record) -> None:
    pass


def at_once(record: Record) -> None:
    pass


def main() -> None:
    given, decoder = event(), decoder_for(None)
    rows: list[tuple[str, Callable[[], Any]]] = [
        ("event to records", lambda: records_of(given["Records"], "orders", "shardId-000000000000", decoder))
    ]

    def app(kind: str, handler: Any, **options: Any) -> Callable[[], Any]:
        made = App("bench")
        getattr(made, kind)("orders", **options)(handler)
        return lambda: made.lambda_handler(given, None)

    rows += [
        ("on_batch", app("on_batch", lambda batch: None)),
        ("on_record", app("on_record", at_once)),
        ("on_record, async", app("on_record", later)),
        ("on_record, async, concurrency=10", app("on_record", later, concurrency=10)),
        ("on_record, all spared by a MemoryIdempotency", app("on_record", at_once, idempotency=MemoryIdempotency())),
    ]
    try:
        from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
    except ImportError:
        print("Powertools is not installed")
    else:
        processor = BatchProcessor(event_type=EventType.KinesisDataStreams)
        handler: Any = lambda record: record.kinesis.data_as_bytes()  # noqa: E731
        context: Any = object()
        rows.append(
            (
                "Powertools' BatchProcessor, data_as_bytes",
                lambda: process_partial_response(event=given, record_handler=handler, processor=processor, context=context),
            )
        )
    for name, call in rows:
        print(f"{name:50} {cpu_us_per_record(call):6.2f} CPU-s per million records")
    with tempfile.TemporaryDirectory() as folder:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([sys.executable, str(BUILD_ZIP), "--out", f"{folder}/function.zip", "--python", python], check=True)
        with zipfile.ZipFile(f"{folder}/function.zip") as archive:
            archive.extractall(f"{folder}/tree")
        compileall.compile_dir(f"{folder}/tree", quiet=1)  # the least of many starts finds compiled files anyway
        asyncio_ms, first_ms = cpu_ms(["import asyncio", FIRST_DECODE], f"{folder}/tree")
    print(f"{'import asyncio':50} {asyncio_ms:6.1f} ms")
    print(f"{'import streamlet and a first decode':50} {first_ms:6.1f} ms, {first_ms / asyncio_ms:.2f} of it")


if __name__ == "__main__":
    main()
