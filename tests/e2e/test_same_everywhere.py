"""One handler file, in Lambda and in a worker: the same records settled, the same failure documents."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from base64 import b64encode
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamlet.broker import Broker
from streamlet.clock import SystemClock, SystemRandom
from streamlet.destinations.file import FileDestination
from streamlet.hooks import BatchSettled, Event
from streamlet.kinesis.client import KinesisClient
from streamlet.model.record import Record
from streamlet.ports import FailureDocument, StartingPosition
from streamlet.producer import Producer
from streamlet.runtimes.worker import WorkerOptions, run_worker
from streamlet.sources.polling import PollingSource

HANDLER = """
from streamlet import App, FileDestination

handled = []
app = App("same")

def work(record):
    if record.value["n"] in POISON:
        raise ValueError(f"n = {record.value['n']}")
    handled.append(record.value["n"])

@app.on_record("things", batch_size=50, maximum_retry_attempts=RETRIES, bisect_batch_on_function_error=BISECT,
               on_failure=FileDestination(FAILED))
def each(record):
    work(record)

@app.on_batch("bundles", batch_size=50, maximum_retry_attempts=RETRIES, bisect_batch_on_function_error=BISECT,
              on_failure=FileDestination(FAILED))
async def whole(batch):
    for record in batch:
        if record.value["n"] in POISON:
            raise ValueError(f"n = {record.value['n']}")
    handled.extend(record.value["n"] for record in batch)

lambda_handler = app.lambda_handler
"""


def load(path: Path, **names: Any) -> ModuleType:
    """The handler file as a fresh module, as a new process would import it."""
    spec = importlib.util.spec_from_file_location("same_handler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    spec.loader.exec_module(module)
    return module


def event_of(records: list[Record]) -> dict[str, Any]:
    """The event that Lambda would get (reference: Lambda developer guide, with-kinesis, example event)."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": record.partition_key,
                    "sequenceNumber": record.sequence_number,
                    "data": b64encode(record.data).decode(),
                    "approximateArrivalTimestamp": record.arrived_at_s,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{record.shard_id}:{record.sequence_number}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::000000000000:role/lambda",
                "awsRegion": "us-east-1",
                "eventSourceARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/{record.stream}",
            }
            for record in records
        ]
    }


class EventSourceMappingByHand:
    """What AWS does with a batch, written for this test alone: it shares no code with core/failure."""

    def __init__(self, handler: Any, retries: int, *, bisect: bool, destination: FileDestination) -> None:
        self.handler, self.retries, self.bisect, self.destination = handler, retries, bisect, destination

    def settle(self, records: list[Record]) -> None:
        tries = 0
        while records:
            error: str | None = None
            try:
                answer = self.handler(event_of(records), None)
            except Exception:
                error, failed = "Unhandled", 0
            else:
                names = {entry["itemIdentifier"] for entry in answer["batchItemFailures"]}
                if not names:
                    return
                failed = min(i for i, record in enumerate(records) if record.sequence_number in names)
            if failed:
                records, tries = records[failed:], 0
                continue
            tries += 1
            if self.bisect and len(records) > 1:
                self.settle(records[: len(records) // 2])
                self.settle(records[len(records) // 2 :])
                return
            if tries > self.retries:
                self.tell(records, tries, error)
                return

    def tell(self, records: list[Record], tries: int, error: str | None) -> None:
        self.destination.send(
            FailureDocument("by-hand", "by-hand", "same", "RetryAttemptsExhausted", tries, error, records[0].stream,
                            records[0].shard_id, 0.0, records)
        )  # fmt: skip


def comparable(path: Path) -> list[dict[str, Any]]:
    """The documents without ids and times."""
    out = []
    for line in path.read_text().splitlines() if path.exists() else []:
        document = json.loads(line)
        del document["timestamp"], document["requestContext"]["requestId"]
        out.append(document)
    return out


@pytest.mark.parametrize("stream", ["things", "bundles"])
@pytest.mark.parametrize(("poison", "bisect", "retries"), [
    (set(), False, 0), ({7}, True, 0), ({0, 1, 29}, True, 1), ({3, 4, 17}, True, 0), ({11}, False, 0), ({0}, False, 1),
])  # fmt: skip
async def test_lambda_and_worker_settle_alike(tmp_path: Path, stream: str, poison: set[int], bisect: bool, retries: int) -> None:
    file = tmp_path / "handler.py"
    file.write_text(HANDLER)
    async with Broker(streams={"things": 1, "bundles": 1}) as broker:
        async with Producer(stream, endpoint_url=broker.endpoint_url) as producer:
            await producer.put_many([(json.dumps({"n": n}).encode(), f"key-{n % 3}") for n in range(30)])

        worker = load(file, POISON=poison, BISECT=bisect, RETRIES=retries, FAILED=str(tmp_path / "worker.jsonl"))
        stop, settled = asyncio.Event(), 0

        def listen(event: Event) -> None:
            nonlocal settled
            if isinstance(event, BatchSettled):
                settled += event.records
                if settled == 30:
                    stop.set()

        options = WorkerOptions(endpoint_url=broker.endpoint_url, state="memory://", poll_interval_s=0.05, listeners=(listen,))
        async with asyncio.timeout(60):
            assert await run_worker(worker.app, options, stop=stop) == []

        async with KinesisClient(None, broker.endpoint_url, clock=SystemClock()) as client:
            source = PollingSource(client, stream, clock=SystemClock(), random=SystemRandom(), decoder=json.loads, poll_interval_s=0.05)
            shard = (await source.list_shards())[0].shard_id
            records = list((await source.reader(shard, StartingPosition()).read()).records)
    assert len(records) == 30

    def in_lambda() -> ModuleType:
        # On a thread of its own: Lambda's runtime owns its event loop, as it does in an execution environment.
        module = load(file, POISON=poison, BISECT=bisect, RETRIES=retries, FAILED=str(tmp_path / "unused.jsonl"))
        destination = FileDestination(str(tmp_path / "lambda.jsonl"))
        EventSourceMappingByHand(module.lambda_handler, retries, bisect=bisect, destination=destination).settle(records)
        module.app.close()
        return module

    module = await asyncio.get_running_loop().run_in_executor(None, in_lambda)
    assert worker.handled == module.handled
    assert comparable(tmp_path / "worker.jsonl") == comparable(tmp_path / "lambda.jsonl")
    if bisect:
        assert sorted(worker.handled) == [n for n in range(30) if n not in poison]
        assert len(comparable(tmp_path / "worker.jsonl")) == len(poison)
