"""CPU of a warm Lambda invocation per record, in microseconds: `lambda_calls.py streamlet` or `lambda_calls.py powertools`. Prints JSON.

Records of 1 KB, batches of 500, as dicts: Lambda's client has parsed the JSON before the handler is called. Rounds, in each of which
every row runs; medians.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, RECORD_BYTES, ROUNDS, CALLS = 500, 1024, 7, 20
Rows = dict[str, Callable[[], Any]]


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


def streamlet(given: dict[str, Any]) -> Rows:
    from streamlet import App, MemoryIdempotency, Record
    from streamlet.codecs.json import decoder_for
    from streamlet.runtimes.lambda_events import records_of

    decoder = decoder_for(None)

    def app(kind: str, handler: Any, **options: Any) -> Callable[[], Any]:
        made = App("bench")
        getattr(made, kind)("orders", **options)(handler)
        return lambda: _all_done(made.lambda_handler(given, None))

    async def later(record: Record) -> None:
        pass

    return {
        "lambda_records_cpu_us": lambda: records_of(given["Records"], "orders", "shardId-000000000000", decoder),
        "lambda_on_batch_cpu_us": app("on_batch", lambda batch: None),
        "lambda_on_record_cpu_us": app("on_record", lambda record: record.data),
        "lambda_async_cpu_us": app("on_record", later),
        "lambda_concurrent_cpu_us": app("on_record", later, concurrency=10),
        "lambda_spared_cpu_us": app("on_record", lambda record: None, idempotency=MemoryIdempotency()),
    }


def powertools(given: dict[str, Any]) -> Rows:
    # A package of one of the benchmark's own environments.
    from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

    processor = BatchProcessor(event_type=EventType.KinesisDataStreams)
    handler: Any = lambda record: record.kinesis.data_as_bytes()  # noqa: E731
    context: Any = object()
    return {
        "lambda_on_record_cpu_us": lambda: _all_done(
            process_partial_response(event=given, record_handler=handler, processor=processor, context=context)
        )
    }


def _all_done(answer: Any) -> None:
    if answer != {"batchItemFailures": []}:
        raise SystemExit(f"a wrong answer: {str(answer)[:200]}")


def main(target: str) -> None:
    rows = {"streamlet": streamlet, "powertools": powertools}[target](event())
    took: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, call in rows.items():
            begun = time.process_time()
            for _ in range(CALLS):
                call()
            took[name].append((time.process_time() - begun) / CALLS / BATCH * 1e6)
    print(json.dumps({name: statistics.median(values) for name, values in took.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
