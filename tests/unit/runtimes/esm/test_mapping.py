"""A plain function behind our engine: what it is sent, what its answers lead to, and when a stream is drained."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamlet.broker import Broker
from streamlet.clock import SystemClock
from streamlet.destinations.document import failure_document
from streamlet.errors import NotFound, Unavailable
from streamlet.hooks import Event, RecordsFiltered, RecordsGivenUp
from streamlet.kinesis.client import KinesisClient
from streamlet.model.shard import Shard
from streamlet.ports import FailureDocument, Fetch, ShardReader, Source, StartingPosition
from streamlet.producer import Producer
from streamlet.runtimes.esm.mapping import Function, InvocationEnded, MappingOptions
from streamlet.runtimes.esm.once import Once
from streamlet.runtimes.esm.sandbox import SandboxSettings
from streamlet.runtimes.esm.tree import Tree
from streamlet.runtimes.worker import WorkerOptions, run_worker
from streamlet.spec import EventSourceMapping

FUNCTION = """
import base64, json, os, time

def _seen(event):
    values = [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
    with open("seen.jsonl", "a") as file:
        file.write(json.dumps([value["n"] for value in values]) + chr(10))
    return values

def plain(event, context):
    _seen(event)

def whole(event, context):
    with open("event.json", "w") as file:
        json.dump(event, file)

def poison(event, context):
    for value in _seen(event):
        if value["n"] == 5:
            raise ValueError("n = 5")

def reports(event, context):
    failed = [record["kinesis"]["sequenceNumber"] for record, value in zip(event["Records"], _seen(event)) if value["n"] == 5]
    return {"batchItemFailures": [{"itemIdentifier": number} for number in failed]}

def misreports(event, context):
    _seen(event)
    return {"batchItemFailures": [{"itemIdentifier": ""}]}

def windowed(event, context):
    seen = event["state"].get("seen", []) + _seen(event)
    with open("windows.jsonl", "a") as file:
        file.write(json.dumps({**event, "Records": len(event["Records"])}) + chr(10))
    return {"state": {"seen": seen}}

def sums(event, context):
    total = event["state"].get("total", 0) + sum(int(record["kinesis"]["sequenceNumber"]) for record in event["Records"])
    with open("sums.jsonl", "a") as file:
        file.write(json.dumps(total) + chr(10))
    return {"state": {"total": total}}

def stateless(event, context):
    _seen(event)

def slow(event, context):
    _seen(event)
    time.sleep(0.05)
"""


class Kept:
    """A destination that keeps what it is sent."""

    def __init__(self, refusals: int = 0) -> None:
        self.documents: list[FailureDocument] = []
        self._refusals = refusals

    def send(self, document: FailureDocument) -> None:
        if self._refusals:
            self._refusals -= 1
            raise OSError("not now")
        self.documents.append(document)


class World:
    def __init__(self, folder: Path) -> None:
        (folder / "function.py").write_text(FUNCTION)
        self.folder = folder
        self.events: list[Event] = []
        self.destination = Kept()

    async def run(
        self,
        broker: Broker,
        handler: str,
        *,
        reports: bool = False,
        concurrency: int | None = None,
        through: Callable[[Source], Source] = lambda source: source,
        failures: int = 0,
        **options: Any,
    ) -> Once:
        once = Once()
        listeners = (self.events.append, once.listen)
        if options.get("maximum_retry_attempts", -1) >= 0:
            options.setdefault("on_failure", self.destination)
        self.function = Function(
            MappingOptions(
                stream="orders",
                mapping=EventSourceMapping(**options),
                function=SandboxSettings(handler=f"function.{handler}", function_name="orders-fn", folder=self.folder, timeout_s=20),
                reports_failures=reports,
                concurrency=concurrency,
                endpoint_url=broker.endpoint_url,
                listeners=listeners,
            )
        )
        worker = WorkerOptions(endpoint_url=broker.endpoint_url, state="memory://", poll_interval_s=0.01, listeners=listeners)
        stop = asyncio.Event()

        async def drain() -> None:
            await once.drained()
            stop.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as tg:
            watching = tg.create_task(drain())
            failed = await run_worker(self.function, worker, stop=stop, through=lambda source: once.through(through(source)))
            assert len(failed) == failures
            watching.cancel()
        return once

    @property
    def seen(self) -> list[list[int]]:
        """The numbers of each invocation."""
        path = self.folder / "seen.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def ended(self) -> list[InvocationEnded]:
        return [event for event in self.events if isinstance(event, InvocationEnded)]

    @property
    def cold_starts(self) -> int:
        return sum(event.init_s is not None for event in self.ended)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def put(broker: Broker, numbers: range) -> list[str]:
    """Their sequence numbers."""
    async with Producer("orders", endpoint_url=broker.endpoint_url) as producer:
        return [(await (await producer.put(json.dumps({"n": n}).encode(), f"key {n}"))).sequence_number for n in numbers]


async def test_the_event_is_lambdas_key_for_key(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(1))
        await world.run(broker, "whole")
    event = json.loads((world.folder / "event.json").read_text())
    assert list(event) == ["Records"]
    (record,) = event["Records"]
    assert list(record) == [
        *("kinesis", "eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion", "eventSourceARN")
    ]
    kinesis = record["kinesis"]
    assert list(kinesis) == ["kinesisSchemaVersion", "partitionKey", "sequenceNumber", "data", "approximateArrivalTimestamp"]
    assert json.loads(b64decode(kinesis["data"])) == {"n": 0}
    assert record["eventID"] == f"shardId-000000000000:{kinesis['sequenceNumber']}"
    assert record["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    assert (record["awsRegion"], record["eventSource"], record["eventName"]) == ("us-east-1", "aws:kinesis", "aws:kinesis:record")


async def test_batches_come_in_order_and_once(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(7))
        once = await world.run(broker, "plain", batch_size=3)
    assert world.seen == [[0, 1, 2], [3, 4, 5], [6]]
    assert (once.given_up, once.stopped) == (0, False)
    assert world.cold_starts == 1


async def test_a_poison_record_is_bisected_to_and_given_up(world: World) -> None:
    world.destination = Kept(refusals=1)
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(8))
        once = await world.run(broker, "poison", bisect_batch_on_function_error=True, maximum_retry_attempts=0)
    assert world.seen == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert once.given_up == 1
    (document,) = world.destination.documents
    made = failure_document(document, payload=False)
    last = next(event for event in reversed(world.ended) if event.outcome == "failed")
    assert made["requestContext"] == {
        "requestId": last.request_id,
        "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:orders-fn",
        "condition": "RetryAttemptsExhausted",
        "approximateInvokeCount": 1,
    }
    assert made["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert made["KinesisBatchInfo"]["streamArn"] == "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    assert made["KinesisBatchInfo"]["batchSize"] == 1


async def test_what_is_dropped_is_not_remembered(world: World) -> None:
    """Which invocation failed last is for the documents alone. A function may fail for weeks."""
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(5, 6))
        await world.run(broker, "poison", maximum_retry_attempts=0, on_failure=None)
    assert sum(event.records for event in world.events if isinstance(event, RecordsGivenUp)) == 1
    assert world.function._hosted._failed == {}


async def test_a_partial_response_keeps_what_came_before_and_starts_the_count_anew(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(6))
        await world.run(broker, "reports", reports=True, batch_size=3, maximum_retry_attempts=1)
    assert world.seen == [[0, 1, 2], [3, 4, 5], [5], [5]]
    (document,) = world.destination.documents
    assert (document.invoke_count, document.function_error, len(document.records)) == (2, None, 1)


@pytest.mark.parametrize(("reports", "runs"), [(True, 2), (False, 1)])
async def test_an_invalid_response_fails_the_whole_batch_where_the_feature_is_on(world: World, reports: bool, runs: int) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(3))
        await world.run(broker, "misreports", reports=reports, maximum_retry_attempts=1)
    assert world.seen == [[0, 1, 2]] * runs
    assert [(one.function_error, len(one.records)) for one in world.destination.documents] == ([(None, 3)] if reports else [])


async def test_a_throttle_is_no_attempt(world: World) -> None:
    async with Broker(streams={"orders": 2}) as broker:
        await put(broker, range(12))
        once = await world.run(broker, "slow", concurrency=1, maximum_retry_attempts=0)
    assert "throttled" in {event.outcome for event in world.ended}
    assert once.given_up == 0
    assert sorted(n for batch in world.seen for n in batch) == [*range(12)]


async def test_slots_of_a_shard_run_side_by_side(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(12))
        await world.run(broker, "slow", parallelization_factor=3, batch_size=2)
    assert world.cold_starts == 3
    assert {event.lane for event in world.ended} == {0, 1, 2}
    assert sorted(n for batch in world.seen for n in batch) == [*range(12)]


async def test_filtered_records_are_never_sent(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(4))
        await world.run(broker, "plain", filters=[{"data": {"n": [2]}}])
    assert world.seen == [[2]]
    assert sum(event.records for event in world.events if isinstance(event, RecordsFiltered)) == 3


async def test_a_function_carries_its_state_through_a_tumbling_window(world: World) -> None:
    """Event 1: two records arrive in one window, a third in a later one. Event 2: the third is read, so the first window is over."""
    begin_s = (int(time.time()) // 10 - 10) * 10
    now_s = [begin_s + 1.0]
    async with Broker(streams={"orders": 1}, clock=lambda: now_s[0]) as broker:
        await put(broker, range(2))
        now_s[0] += 30
        await put(broker, range(2, 3))
        now_s[0] = time.time()
        await world.run(broker, "windowed", tumbling_window_s=10, batch_size=1)
    first, second, final, third = [json.loads(line) for line in (world.folder / "windows.jsonl").read_text().splitlines()][:4]
    shown = f"{datetime.fromtimestamp(begin_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert list(first) == ["Records", "window", "state", "shardId", "eventSourceARN", "isFinalInvokeForWindow", "isWindowTerminatedEarly"]
    assert first["window"]["start"] == second["window"]["start"] == final["window"]["start"] == shown
    assert first["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    assert (first["shardId"], first["isWindowTerminatedEarly"]) == ("shardId-000000000000", False)
    assert [(call["Records"], len(call["state"].get("seen", [])), call["isFinalInvokeForWindow"]) for call in (first, second, final, third)] == [
        (1, 0, False), (1, 1, False), (0, 2, True), (1, 0, False)
    ]  # fmt: skip
    tree = Tree()
    lines = [line.text for event in world.events for line in tree.feed(event, 0.0, "00:00:00")]
    assert any("final call" in line for line in lines)


async def test_a_state_may_hold_numbers_above_64_bits(world: World) -> None:
    """Sequence numbers have 186."""
    async with Broker(streams={"orders": 1}) as broker:
        numbers = [int(number) for number in await put(broker, range(2))]
        await world.run(broker, "sums", tumbling_window_s=900, batch_size=1)
    assert [json.loads(line) for line in (world.folder / "sums.jsonl").read_text().splitlines()] == [numbers[0], sum(numbers)]


async def test_an_answer_without_state_fails_in_a_window(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(1))
        await world.run(broker, "stateless", tumbling_window_s=900, maximum_retry_attempts=0)
    (given_up,) = [event for event in world.events if isinstance(event, RecordsGivenUp)]
    assert "must contain the state" in given_up.error


async def test_once_follows_a_reshard_to_its_children(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(3))
        async with KinesisClient(None, broker.endpoint_url, clock=SystemClock()) as client:
            await client.call(
                "SplitShard", {"StreamName": "orders", "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": str(2**127)}
            )
            while (await client.describe_stream_summary("orders")).stream_status != "ACTIVE":
                await asyncio.sleep(0.01)
        await put(broker, range(3, 12))
        await world.run(broker, "plain")
    assert sorted(n for batch in world.seen for n in batch) == [*range(12)]
    assert world.seen[0] == [0, 1, 2]


async def test_once_ends_on_an_empty_stream_and_at_latest(world: World) -> None:
    async with Broker(streams={"orders": 2}) as broker:
        await world.run(broker, "plain")
        await put(broker, range(3))
        await world.run(broker, "plain", starting_position="LATEST")
    assert world.seen == []
    assert not [event for event in world.events if isinstance(event, RecordsGivenUp)]


class Odd:
    """A source of a broker that is never behind, as kinesalite says, or whose list of shards is out of reach now and then."""

    def __init__(self, source: Source, *, listings_fail: int = 0) -> None:
        self.stream = source.stream
        self._source = source
        self.listings_fail, self.listings = listings_fail, 0

    async def list_shards(self) -> Sequence[Shard]:
        self.listings += 1
        if 1 < self.listings <= 1 + self.listings_fail:  # the first is that of the start
            raise Unavailable("not now")
        return await self._source.list_shards()

    def reader(self, shard_id: str, start: StartingPosition) -> ShardReader:
        return NeverBehind(self._source.reader(shard_id, start))


class NeverBehind:
    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader

    async def read(self) -> Fetch:
        return msgspec.structs.replace(await self._reader.read(), millis_behind_latest=0)


async def test_once_reads_to_where_nothing_comes_whatever_the_broker_says(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        async with Producer("orders", endpoint_url=broker.endpoint_url) as producer:
            for n in range(1_500):  # more than a first read asks for
                await producer.put(json.dumps({"n": n}).encode(), "key")
        await world.run(broker, "plain", batch_size=10_000, through=Odd)
    assert [n for batch in world.seen for n in batch] == [*range(1_500)]


async def test_once_asks_again_when_the_shards_cannot_be_listed(world: World) -> None:
    made: list[Odd] = []

    def odd(source: Source) -> Source:
        made.append(Odd(source, listings_fail=2))
        return made[0]

    async with Broker(streams={"orders": 1}) as broker:
        await put(broker, range(2))
        await world.run(broker, "plain", through=odd)
    assert sorted(n for batch in world.seen for n in batch) == [0, 1]
    assert made[0].listings == 4


class Gone(Odd):
    """A source whose stream was deleted after the shards were listed."""

    def reader(self, shard_id: str, start: StartingPosition) -> ShardReader:
        return self

    async def read(self) -> Fetch:
        raise NotFound("there is no such stream")


async def test_once_ends_when_a_shard_has_stopped(world: World) -> None:
    async with Broker(streams={"orders": 1}) as broker:
        once = await world.run(broker, "plain", through=Gone, failures=1)
    assert once.stopped
