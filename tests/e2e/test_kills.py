"""Real worker processes, killed with SIGKILL: nothing lost, nothing doubled in Parquet."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamlet.broker import Broker
from streamlet.model.position import Position
from streamlet.producer import Producer
from streamlet.stores import open_store

APP = '''
import os, sys, time
from streamlet import App, FileDestination, ParquetSink, Roll

class Slow:
    """The Parquet sink with a slow store: the gap between prepare and commit is wide enough to be hit."""
    def __init__(self, sink):
        self.sink = sink
    def __getattr__(self, name):
        return getattr(self.sink, name)
    def put_if_absent(self, item):
        time.sleep(0.02)
        return self.sink.put_if_absent(item)

app = App("killed")
sink = Slow(ParquetSink("file://" + os.environ["OUT"] + "/landed", schema={"n": "int64", "kind": "string"}, partition_by=("kind",),
                        roll=Roll(rows_max=150, age_max_s=0.5)))

@app.on_batch("kills", sink=sink, batch_size=50, bisect_batch_on_function_error=True, maximum_retry_attempts=0,
              on_failure=FileDestination(os.environ["OUT"] + "/failed.jsonl"))
def rows(batch):
    return [dict(n=value["n"], kind=value["kind"]) for value in batch.values]
'''
KILLS, PREPARED_MIN, TOTAL = 20, 5, 24_000
POISON = {0, 999, 5_000, 5_001, 12_345, 20_000}


@asynccontextmanager
async def worker(folder: Path, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamlet", "run", str(folder / "app.py") + ":app", "--endpoint-url", url),
        *("--state", f"sqlite:///{folder / 'leases.db'}", "--failover-s", "0.6", "--poll-interval-s", "0.1", "--log", "json"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OUT": str(folder)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # its pipe would outlive the loop otherwise


async def until(process: asyncio.subprocess.Process, name: str, times: int) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while times:
            line = await process.stdout.readline()
            assert line, "the worker ended by itself"
            times -= json.loads(line)["event"] == name


def pending(folder: Path) -> int:
    store = open_store(f"sqlite:///{folder / 'leases.db'}", "killed.kills")
    store.open()
    try:
        return sum(lease.pending is not None for lease in store.scan())
    finally:
        store.close()


async def feed(url: str, last: dict[str, int]) -> None:
    """A little at a time, so that there is work through all of the kills."""
    async with Producer("kills", endpoint_url=url) as producer:
        for begin in range(0, TOTAL, 200):
            bulk = [
                (b"broken" if n in POISON else json.dumps({"n": n, "kind": f"k{n % 5}"}).encode(), f"key-{n % 37}")
                for n in range(begin, begin + 200)
            ]
            for result in await producer.put_many(bulk):
                last[result.shard_id] = max(last.get(result.shard_id, 0), int(result.sequence_number))
            await asyncio.sleep(0.25)


async def caught_up(folder: Path, last: dict[str, int]) -> None:
    store = open_store(f"sqlite:///{folder / 'leases.db'}", "killed.kills")
    store.open()
    try:
        async with asyncio.timeout(90):
            while not all(lease.checkpoint >= Position(last.get(lease.key, 0)) for lease in store.scan()):
                await asyncio.sleep(0.1)
    finally:
        store.close()


@pytest.mark.slow
async def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """At least five of the kills hit between prepare and commit; the successor completes what was prepared."""
    import pyarrow.parquet as pq

    (tmp_path / "app.py").write_text(APP)
    last: dict[str, int] = {}
    kills = prepared = 0
    async with Broker(streams={"kills": 2}) as broker, asyncio.TaskGroup() as tg:
        feeding = tg.create_task(feed(broker.endpoint_url, last))
        while kills < KILLS or prepared < PREPARED_MIN:
            async with worker(tmp_path, broker.endpoint_url) as process:
                # By turns: right after a prepare, and at whatever point the first lease is taken or a range committed.
                name, times = [("RangePrepared", 1), ("RangePrepared", 2), ("RangeCommitted", 1), ("LeaseTaken", 1)][kills % 4]
                await until(process, name, times)
                process.kill()
            kills += 1
            prepared += pending(tmp_path) > 0
            assert kills < 60, f"only {prepared} of {kills} kills hit between prepare and commit"
        async with worker(tmp_path, broker.endpoint_url) as process:
            reading = tg.create_task(process.stdout.read())  # type: ignore[union-attr]
            await feeding
            await caught_up(tmp_path, last)
            process.terminate()
            await reading
            assert await process.wait() == 0
    landed: Counter[int] = Counter()
    for path in (tmp_path / "landed").rglob("*.parquet"):
        landed.update(pq.ParquetFile(path).read(columns=["n"])["n"].to_pylist())
    failed = {
        record["kinesis"]["sequenceNumber"]
        for line in (tmp_path / "failed.jsonl").read_text().splitlines()
        for record in json.loads(line)["payload"]["Records"]
    }
    assert sorted(n for n in range(TOTAL) if n not in POISON and landed[n] != 1) == []
    assert set(landed) & POISON == set()
    assert len(failed) == len(POISON)
