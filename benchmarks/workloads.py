"""What is asked of a broker, and what is counted? One session is one run of one broker: every workload in turn, then it ends.

CPU seconds are those of the server's whole process tree, from just before the first request to just after the last answer.
Every answer is checked; one that is wrong ends the workload, and its reason stands where the figure would.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.load import Client, Load, closed_loop, percentile
from benchmarks.peers import Server
from benchmarks.wire import (
    CALL_RECORDS,
    RECORD_BYTES,
    BadAnswer,
    FrameReader,
    check_put,
    check_puts,
    payload,
    put_request,
    puts_request,
    read_records,
    refusal,
    request,
)

__all__ = ["WORKLOADS", "Pace", "Session", "Workload"]

SHARDS: Final = 4
_ACTIVE_TIMEOUT_S: Final = 30.0
_SETTLE_S: Final = 0.5
_READ_LIMIT: Final = 1_000
_PUSH_TIMEOUT_S: Final = 10.0
_US: Final = 1e6
_MS: Final = 1e3
_MB: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long it may take.

    seconds          for which a workload sends requests
    calls_max        PutRecords calls that fill the stream which is then drained
    warm_calls       PutRecords calls of the warm-up, after which loaded memory is read: 500 records each
    samples_max      of the two workloads that wait for single records
    million          records of the memory workload
    """

    seconds: float = 3.0
    calls_max: int = 400
    warm_calls: int = 8
    samples_max: int = 400
    million: int = 1_000_000


class Session:
    """A broker that runs, and what the workloads leave for each other."""

    def __init__(self, server: Server, pace: Pace) -> None:
        self.server = server
        self.pace = pace
        self.bulk_records = 0

    async def create(self, stream: str, shards: int) -> None:
        """Create a stream and wait until it is ACTIVE."""
        client = Client(self.server.address)
        try:
            await client.call("CreateStream", StreamName=stream, ShardCount=shards)
            give_up = time.monotonic() + _ACTIVE_TIMEOUT_S
            while (await client.call("DescribeStream", StreamName=stream))["StreamDescription"]["StreamStatus"] != "ACTIVE":
                if time.monotonic() > give_up:
                    raise BadAnswer(f"the stream is not ACTIVE {_ACTIVE_TIMEOUT_S:.0f} s after CreateStream")
                await asyncio.sleep(0.02)
        finally:
            client.close()

    async def load(
        self, requests: list[bytes], check: Callable[[int, bytes], int], connections: int, calls_max: int | None = None
    ) -> tuple[Load, float]:
        """Keep connections busy; answers the load and the server's CPU seconds."""
        before = self.server.cpu_s()
        load = await closed_loop(
            self.server.address, requests, check, connections=connections, seconds=self.pace.seconds, requests_max=calls_max
        )
        return load, self.server.cpu_s() - before


Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Workload:
    """A name for the command line, what is run, and for which targets (all, when empty)."""

    name: str
    run: Callable[[Session], Awaitable[Figures]]
    only: frozenset[str] = field(default_factory=frozenset)
    not_for: frozenset[str] = frozenset({"constant"})
    once: bool = False  # in the first round only, for it takes long and hardly varies

    def suits(self, target: str) -> bool:
        """Is it run against this target?"""
        return target in self.only if self.only else target not in self.not_for


# ── workloads ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def start(session: Session) -> Figures:
    """Cold start and idle memory; the start itself has been made."""
    server = session.server
    await asyncio.sleep(_SETTLE_S)
    figures = {"cold_start_s": server.first_answer_s, "idle_mb": server.rss_bytes() / _MB}
    if server.ready_line_s is not None:
        figures["ready_line_s"] = server.ready_line_s
    return figures


async def loaded(session: Session) -> Figures:
    """A fixed number of records, the same for all; warms up the server as well."""
    await session.create("warm", SHARDS)
    calls = session.pace.warm_calls
    load = await closed_loop(
        session.server.address,
        [puts_request("warm", n) for n in range(calls)],
        check_puts,
        connections=1,
        seconds=120.0,
        requests_max=calls,
    )
    if load.units != calls * CALL_RECORDS:
        raise BadAnswer(f"{load.units} of {calls * CALL_RECORDS} records were put in {load.wall_s:.0f} s")
    return {"loaded_mb": session.server.rss_bytes() / _MB}


async def put_record_1(session: Session) -> Figures:
    """PutRecord on one connection: latency."""
    await _stream_of(session, "single", SHARDS)
    load, cpu_s = await session.load([put_request("single", n) for n in range(256)], check_put, 1)
    return {
        "put_record_1_p50_ms": percentile(load.latencies, 0.5) * _MS,
        "put_record_1_p99_ms": percentile(load.latencies, 0.99) * _MS,
        "put_record_1_cpu_us": cpu_s / load.units * _US,
    }


async def put_record_64(session: Session) -> Figures:
    """PutRecord on 64 connections: throughput."""
    await _stream_of(session, "many", SHARDS)
    load, cpu_s = await session.load([put_request("many", n) for n in range(256)], check_put, 64)
    return _throughput("put_record_64", load, cpu_s)


async def put_records(session: Session) -> Figures:
    """PutRecords of 500 x 1 KB on 4 connections: throughput. Fills the stream that `drain` reads."""
    await session.create("bulk", SHARDS)
    load, cpu_s = await session.load([puts_request("bulk", n) for n in range(8)], check_puts, 4, session.pace.calls_max)
    session.bulk_records = load.units
    return _throughput("put_records", load, cpu_s)


async def put_records_64(session: Session) -> Figures:
    """PutRecords of 500 x 1 KB on 64 connections: what a durable broker's group commit makes of it."""
    await session.create("wide", SHARDS)
    load, cpu_s = await session.load([puts_request("wide", n) for n in range(8)], check_puts, 64, session.pace.calls_max)
    return _throughput("put_records_64", load, cpu_s)


async def drain(session: Session) -> Figures:
    """GetRecords of 1,000 from TRIM_HORIZON, a connection per shard, over and over; each pass must bring every record."""
    if session.bulk_records == 0:
        raise BadAnswer("put_records, which fills the stream, is not among the workloads or failed")
    cpu, started = session.server.cpu_s(), time.perf_counter()
    generator = time.process_time()
    stop_at = started + session.pace.seconds
    records = 0
    while True:
        passed, whole = await _drain_once(session, "bulk", stop_at + 3 * session.pace.seconds)
        records += passed
        if whole and passed != session.bulk_records:
            raise BadAnswer(f"{session.bulk_records} records were put and {passed} came back")
        if not whole or time.perf_counter() > stop_at:
            break
    load = Load(time.perf_counter() - started, time.process_time() - generator, records)
    cpu_s = session.server.cpu_s() - cpu
    return {**_throughput("drain", load, cpu_s), "drain_mb_s_core": records * RECORD_BYTES / _MB / cpu_s if cpu_s else 0.0}


async def put_to_get(session: Session) -> Figures:
    """PutRecord, then GetRecords until the record is there; from the start of the put to the arrival of the answer."""
    await session.create("hop", 1)
    client = Client(session.server.address)
    took: list[float] = []
    try:
        iterator = await _iterator(client, "hop", "LATEST")
        stop_at = time.perf_counter() + session.pace.seconds
        while len(took) < session.pace.samples_max and (time.perf_counter() < stop_at or len(took) < 3):
            started = time.perf_counter()
            check_put(*await client.send(put_request("hop", len(took))))
            while True:
                records, iterator = read_records(*await client.send(_get(iterator)))
                if records:
                    break
                if time.perf_counter() - started > _PUSH_TIMEOUT_S:
                    raise BadAnswer(f"a record that was put did not come within {_PUSH_TIMEOUT_S:.0f} s")
            took.append(time.perf_counter() - started)
            if records != 1:
                raise BadAnswer(f"one record was put and {records} came")
    finally:
        client.close()
    return {"put_to_get_p50_ms": percentile(took, 0.5) * _MS, "put_to_get_p99_ms": percentile(took, 0.99) * _MS}


async def put_to_push(session: Session) -> Figures:
    """PutRecord to the arrival of the record at a SubscribeToShard; from the start of the put."""
    await session.create("push", 1)
    putter, listener = Client(session.server.address), Client(session.server.address)
    listening: asyncio.Task[None] | None = None
    took: list[float] = []
    try:
        consumer_arn = await _consumer(putter, "push")
        reader, arrived = FrameReader(), asyncio.Queue[tuple[str, Any]]()

        def on_part(status: int, part: bytes) -> None:
            if status != 200:
                raise refusal(status, part)
            for frame in reader.feed(part):
                kind = frame.headers.get(":event-type") or frame.headers.get(":exception-type") or frame.headers.get(":error-code", "")
                arrived.put_nowait((kind, json.loads(frame.payload) if frame.payload else {}))

        body = {"ConsumerARN": consumer_arn, "ShardId": await _first_shard(putter, "push"), "StartingPosition": {"Type": "LATEST"}}
        listening = asyncio.ensure_future(listener.stream(request("SubscribeToShard", body), on_part))
        kind, _ = await _next_event(arrived, listening)
        if kind != "initial-response":
            raise BadAnswer(f"SubscribeToShard's first message is {kind!r}, not the initial response that clients need")
        stop_at = time.perf_counter() + session.pace.seconds
        while len(took) < session.pace.samples_max and (time.perf_counter() < stop_at or len(took) < 3):
            started = time.perf_counter()
            check_put(*await putter.send(put_request("push", len(took))))
            while not (records := (await _next_event(arrived, listening))[1].get("Records")):
                pass
            took.append(time.perf_counter() - started)
            if [record["Data"] for record in records] != [payload(len(took) - 1)]:
                raise BadAnswer("the record that was pushed is not the one that was put")
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        putter.close()
        listener.close()
    return {"put_to_push_p50_ms": percentile(took, 0.5) * _MS, "put_to_push_p99_ms": percentile(took, 0.99) * _MS}


async def million(session: Session) -> Figures:
    """What a million records of 1 KB cost in memory. Runs last, for it leaves a large process behind."""
    await session.create("million", SHARDS)
    before = session.server.rss_bytes()
    calls = session.pace.million // CALL_RECORDS
    load = await closed_loop(
        session.server.address, [puts_request("million", n) for n in range(8)], check_puts, connections=4, seconds=300.0, requests_max=calls
    )
    if load.units != calls * CALL_RECORDS:
        raise BadAnswer(f"{load.units} of {calls * CALL_RECORDS} records were put in {load.wall_s:.0f} s")
    return {"million_gb": (session.server.rss_bytes() - before) / 1e9 * 1_000_000 / load.units}


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _throughput(name: str, load: Load, cpu_s: float) -> Figures:
    if load.units == 0:
        raise BadAnswer("no answer came")
    return {
        f"{name}_cpu_us": cpu_s / load.units * _US,
        f"{name}_rate": load.units / load.wall_s,
        f"{name}_generator_busy": load.generator_cpu_s / load.wall_s,
    }


async def _stream_of(session: Session, stream: str, shards: int) -> None:
    if session.server.name != "constant":  # it has none
        await session.create(stream, shards)


def _get(iterator: str) -> bytes:
    return request("GetRecords", {"ShardIterator": iterator, "Limit": _READ_LIMIT})


async def _shards(client: Client, stream: str) -> list[str]:
    return [shard["ShardId"] for shard in (await client.call("DescribeStream", StreamName=stream))["StreamDescription"]["Shards"]]


async def _first_shard(client: Client, stream: str) -> str:
    return (await _shards(client, stream))[0]


async def _iterator(client: Client, stream: str, kind: str, shard: str | None = None) -> str:
    shard = shard or await _first_shard(client, stream)
    answer = await client.call("GetShardIterator", StreamName=stream, ShardId=shard, ShardIteratorType=kind)
    return str(answer["ShardIterator"])


async def _drain_once(session: Session, stream: str, give_up_at: float) -> tuple[int, bool]:
    async def read(shard: str) -> tuple[int, bool]:
        client = Client(session.server.address)
        try:
            iterator, total, empty = await _iterator(client, stream, "TRIM_HORIZON", shard), 0, 0
            while iterator and empty < 2:  # once may be a page without records
                if time.perf_counter() > give_up_at:
                    return total, False
                records, iterator = read_records(*await client.send(_get(iterator)))
                total += records
                empty = 0 if records else empty + 1
            return total, True
        finally:
            client.close()

    client = Client(session.server.address)
    try:
        shards = await _shards(client, stream)
    finally:
        client.close()
    results = await asyncio.gather(*map(read, shards))
    return sum(total for total, _ in results), all(whole for _, whole in results)


async def _consumer(client: Client, stream: str) -> str:
    summary = await client.call("DescribeStream", StreamName=stream)
    arn = summary["StreamDescription"]["StreamARN"]
    consumer = (await client.call("RegisterStreamConsumer", StreamARN=arn, ConsumerName="bench"))["Consumer"]
    give_up = time.monotonic() + _ACTIVE_TIMEOUT_S
    while True:
        answer = await client.call("DescribeStreamConsumer", ConsumerARN=consumer["ConsumerARN"])
        if answer["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE":
            return str(consumer["ConsumerARN"])
        if time.monotonic() > give_up:
            raise BadAnswer(f"the consumer is not ACTIVE {_ACTIVE_TIMEOUT_S:.0f} s after RegisterStreamConsumer")
        await asyncio.sleep(0.02)


async def _next_event(arrived: asyncio.Queue[tuple[str, Any]], listening: asyncio.Task[None]) -> tuple[str, Any]:
    """The next message, unless the stream ends or nothing comes."""
    waiting = asyncio.ensure_future(arrived.get())
    await asyncio.wait({waiting, listening}, timeout=_PUSH_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    if listening.done():
        listening.result()
        raise BadAnswer("the subscription ended before the record came")
    raise BadAnswer(f"nothing was pushed for {_PUSH_TIMEOUT_S:.0f} s")


_OWN: Final = frozenset({"streamlet", "streamlet-durable"})

# In this order: memory is read before much is stored, and the million comes last.
WORKLOADS: Final[Mapping[str, Workload]] = {
    workload.name: workload
    for workload in (
        Workload("start", start),
        Workload("loaded", loaded),
        Workload("put_record_1", put_record_1, not_for=frozenset()),
        Workload("put_record_64", put_record_64, not_for=frozenset()),
        Workload("put_records", put_records),
        Workload("drain", drain),
        Workload("put_to_get", put_to_get),
        Workload("put_to_push", put_to_push),
        Workload("put_records_64", put_records_64, only=_OWN),
        Workload("million", million, only=frozenset({"streamlet"}), once=True),
    )
}
