"""`streamlet demo`: the whole path on real data, with everything going wrong that may.

336,776 flights from New York in 2013 are replayed as JSON events, keyed by tail number, into a broker with four shards. Some
are damaged on the way in. A worker in its own process lands them as Parquet by month. It is killed (SIGKILL) between prepare
and commit, again if the kill missed, and another takes over; a shard is split and two are merged while records flow. Then
the Parquet is read back and every flight is accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from calendar import month_name
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamlet.cli.commands import exit_codes
from streamlet.clock import SystemClock
from streamlet.errors import ConfigurationError, StreamletError, UsageError
from streamlet.model.position import SHARD_END, Position
from streamlet.stores import open_store

__all__ = ["Account", "command", "damage", "reconcile"]

STREAM: Final = "flights"
APP: Final = Path("examples/flights/app.py")
DATA: Final = Path("examples/data/nycflights13-flights.parquet")
UNKNOWN_TAIL: Final = "unknown"
BULK: Final = 2_000
FAILOVER_S: Final = 3.0
KILLS_MAX: Final = 40
SETTLE_TIMEOUT_S: Final = 240.0
# Which events are damaged, and how: at these places of the replay, far apart, in different months and on different shards.
DAMAGED: Final = {
    7: "torn",
    40_001: "torn",
    40_002: "word for a number",
    99_999: "not JSON",
    150_000: "word for a number",
    200_123: "empty",
    260_777: "torn",
    300_000: "no carrier",
    336_775: "not JSON",
}


class DemoFailed(StreamletError):
    """The demo did not end as it must."""


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────


def events(data: Path, limit: int | None) -> Iterator[list[tuple[int, bytes, str]]]:
    """(event number, JSON, tail number) in bulks, in the order of the data set. No row is invented."""
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(data) as file:
        for batch in file.iter_batches(batch_size=BULK):
            rows = batch.slice(0, None if limit is None else limit - number).to_pylist()
            if not rows:
                return
            bulk = []
            for row in rows:
                payload = orjson.dumps({"event": number, **row}, option=orjson.OPT_NAIVE_UTC)
                bulk.append((number, damage(number, payload), row["tailnum"] or UNKNOWN_TAIL))
                number += 1
            yield bulk


def damage(number: int, payload: bytes) -> bytes:
    """The event as it goes in: damaged in a known way if it is one of the known few."""
    match DAMAGED.get(number):
        case None:
            return payload
        case "torn":
            return payload[: len(payload) // 2]
        case "word for a number":
            return payload.replace(b'"distance":', b'"distance":"far","was":', 1)
        case "not JSON":
            return b"flight " + payload
        case "no carrier":
            return payload.replace(b'"carrier":', b'"carrier_":', 1)
        case _:
            return b""


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """One worker process; its events, as it prints them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Follow what it prints until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            event = orjson.loads(line)
            if event["event"] != "BatchSettled":
                self.seen.append(event)
                self._news.set()
        self._news.set()

    async def first(self, name: str, *, after: int = 0) -> bool:
        """Wait for an event of this name among those from index `after` on. False if the process ends first."""
        while True:
            if any(event["event"] == name for event in self.seen[after:]):
                return True
            if self.process.returncode is not None:
                return False
            self._news.clear()
            await self._news.wait()
            if self.process.stdout is not None and self.process.stdout.at_eof():
                return any(event["event"] == name for event in self.seen[after:])

    def count(self, name: str, **fields: Any) -> int:
        """How many events of this name with these fields."""
        return sum(event["event"] == name and all(event[k] == v for k, v in fields.items()) for event in self.seen)


@contextlib.asynccontextmanager
async def _broker() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamlet", "broker", "--port", "0", "--shards", f"{STREAM}:4", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if not line.startswith("listening on "):
            raise DemoFailed("the broker did not start; its own message is above")
        yield line.removeprefix("listening on ")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


class Fleet:
    """Starts workers one after the other, and kills them."""

    def __init__(self, root: Path, url: str, out: Path, state: str, group: asyncio.TaskGroup) -> None:
        self._root, self._url, self._out, self._state, self._group = root, url, out, state, group
        self.workers: list[Worker] = []
        self.kills = 0

    async def start(self) -> Worker:
        """A new worker process."""
        environment = {**os.environ, "FLIGHTS_OUT": str(self._out)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamlet", "run", f"{self._root / APP}:app", "--endpoint-url", self._url, "--state", self._state),
            *("--failover-s", str(FAILOVER_S), "--poll-interval-s", "0.2", "--log", "json"),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self._root,
            limit=1 << 20,
        )
        worker = Worker(process)
        self.workers.append(worker)
        self._group.create_task(worker.read())
        return worker

    async def kill_between_prepare_and_commit(self) -> None:
        """SIGKILL the worker right after it prepared a range; another kill until a prepared range was left behind."""
        worker = self.workers[-1]
        # One range in good order first, so that the kill is midway.
        await worker.first("RangeCommitted")
        while self.kills < KILLS_MAX:
            if not await worker.first("RangePrepared", after=len(worker.seen)):
                raise DemoFailed("the worker ended by itself; its own message is above")
            worker.process.kill()
            await worker.process.wait()
            self.kills += 1
            if any(lease.pending is not None for lease in _leases(self._state)):
                await self.start()
                return
            worker = await self.start()
        raise DemoFailed(f"{self.kills} kills, and none left a prepared range behind")

    async def stop(self) -> None:
        """SIGTERM: drain."""
        worker = self.workers[-1]
        if worker.process.returncode is None:
            worker.process.terminate()
        code = await worker.process.wait()
        if code != 0:
            raise DemoFailed(f"the worker ended with exit code {code} after SIGTERM; its own message is above")

    def end(self) -> None:
        """Leave no process behind, however the demo ends."""
        for worker in self.workers:
            if worker.process.returncode is None:
                worker.process.kill()


def _leases(state: str) -> list[Any]:
    store = open_store(state, f"flights.{STREAM}")
    store.open()
    try:
        return store.scan()
    finally:
        store.close()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def _reshard(client: Any, step: str) -> str:
    shards = {shard.shard_id: shard for shard in await client.list_shards(STREAM) if not shard.closed}
    ids = sorted(shards)
    if step == "split":
        shard = shards[ids[0]]
        middle = (shard.starting_hash_key + shard.ending_hash_key) // 2 + 1
        await client.call("SplitShard", {"StreamName": STREAM, "ShardToSplit": shard.shard_id, "NewStartingHashKey": str(middle)})
        return f"split {shard.shard_id}"
    # The two oldest neighbours: they have landed rows already, as parents must.
    first, second = ids[0], ids[1]
    assert shards[first].ending_hash_key + 1 == shards[second].starting_hash_key
    await client.call("MergeShards", {"StreamName": STREAM, "ShardToMerge": first, "AdjacentShardToMerge": second})
    return f"merged {first} and {second}"


async def _produce(
    data: Path, limit: int | None, total: int, url: str, progress: Progress, said: list[str]
) -> tuple[Counter[str], dict[str, int]]:
    """Replay the flights. Returns how many went into each shard, and the last sequence number of each."""
    from streamlet.kinesis.client import KinesisClient
    from streamlet.producer import Producer

    counts: Counter[str] = Counter()
    last: dict[str, int] = {}
    task = progress.add_task("flights put", total=total)
    steps = {total // 3: "split", total // 2: "merge"}
    async with KinesisClient(None, url, clock=SystemClock()) as client, Producer(STREAM, endpoint_url=url) as producer:
        for bulk in events(data, limit):
            for result in await producer.put_many([(payload, key) for _, payload, key in bulk]):
                counts[result.shard_id] += 1
                last[result.shard_id] = max(last.get(result.shard_id, 0), int(result.sequence_number))
            progress.advance(task, len(bulk))
            for at in [at for at in steps if at <= bulk[-1][0]]:
                said.append(await _reshard(client, steps.pop(at)))
                progress.console.print(f"  {said[-1]} after {bulk[-1][0] + 1:,} flights")
    return counts, last


async def _settled(state: str, last: dict[str, int], fleet: Fleet, clock: SystemClock) -> None:
    """Wait until every shard that took records is consumed to its last one."""
    until_s = clock.monotonic() + SETTLE_TIMEOUT_S
    while clock.monotonic() < until_s:
        done = {
            lease.key for lease in _leases(state) if lease.checkpoint == SHARD_END or lease.checkpoint >= Position(last.get(lease.key, 0))
        }
        if set(last) <= done:
            return
        if fleet.workers[-1].process.returncode is not None and fleet.kills == 0:
            raise DemoFailed("the worker ended by itself; its own message is above")
        await asyncio.sleep(0.2)
    raise DemoFailed(f"after {SETTLE_TIMEOUT_S:g} s some shards are still not consumed to their end: {sorted(set(last) - done)}")


async def _run(root: Path, data: Path, out: Path, limit: int | None, console: Console) -> Account:
    import pyarrow.parquet as pq

    clock = SystemClock()
    rows = pq.ParquetFile(data).metadata.num_rows
    total = rows if limit is None else min(limit, rows)
    state = f"sqlite:///{out / 'leases.db'}"
    said: list[str] = []
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with _broker() as url:
        console.print(f"  broker {url}, stream {STREAM!r} with 4 shards")
        begun_s = clock.monotonic()
        async with asyncio.TaskGroup() as group:
            fleet = Fleet(root, url, out, state, group)
            try:
                await fleet.start()
                with Progress(*columns, console=console) as progress:
                    killing = group.create_task(fleet.kill_between_prepare_and_commit())
                    counts, last = await _produce(data, limit, total, url, progress, said)
                await killing
                console.print(f"  worker killed {fleet.kills}x; the last kill left a prepared range for its successor")
                await _settled(state, last, fleet, clock)
                took_s = clock.monotonic() - begun_s
                await fleet.stop()
            finally:
                fleet.end()
    replayed = sum(worker.count("RangeCommitted", replayed=True) for worker in fleet.workers)
    return reconcile(data, limit, out, counts, kills=fleet.kills, replayed=replayed, took_s=took_s, resharded=said)


# ── the reckoning ────────────────────────────────────────────────────────────────────────────────────────────────


class Account(msgspec.Struct, kw_only=True):
    """What became of every flight."""

    produced: int
    landed: int
    failed: int
    lost: int
    duplicated: int
    out_of_order: int
    wrongly_failed: int
    files: int
    by_shard: dict[str, tuple[int, int]]
    kills: int
    replayed: int
    took_s: float
    resharded: list[str]
    worst: list[tuple[int, float, int]]

    @property
    def faults(self) -> list[str]:
        """Why the demo fails; empty if it does not."""
        out = [
            f"{count:,} flights {what}"
            for count, what in (
                (self.lost, "lost"),
                (self.duplicated, "doubled"),
                (self.out_of_order, "out of order"),
                (self.wrongly_failed, "in the failure file that should not be, or the other way round"),
            )
            if count
        ]
        out += [f"{shard} took {put:,} records and landed no rows" for shard, (put, rows) in self.by_shard.items() if put and not rows]
        if len(self.by_shard) < 7:
            out.append(f"only {len(self.by_shard)} of 7 shards (4, 2 of the split, 1 of the merge) took records")
        if not self.replayed:
            out.append("no worker completed a range that a killed one had prepared")
        return out


def reconcile(
    data: Path, limit: int | None, out: Path, counts: Counter[str], *, kills: int, replayed: int, took_s: float, resharded: Sequence[str]
) -> Account:
    """Read everything back and account for every event number. Order is judged per tail number: within a file by row, and
    between ranges by their first sequence number."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    seen: Counter[int] = Counter()
    rows_by_shard: Counter[str] = Counter()
    ranges: dict[int, dict[str, tuple[int, int]]] = {}
    out_of_order = files = 0
    delays: dict[int, tuple[float, int]] = {}
    for path in sorted((out / "landed").rglob("*.parquet")):
        files += 1
        with pq.ParquetFile(path) as file:
            footer = {
                key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items() if key.startswith(b"streamlet.")
            }
            table = file.read(columns=["event", "tailnum", "dep_delay"])
        numbers, tails = table["event"].to_pylist(), table["tailnum"].to_pylist()
        seen.update(numbers)
        rows_by_shard[footer["streamlet.shard"]] += len(numbers)
        spans = ranges.setdefault(int(footer["streamlet.first"].split(".")[0]), {})
        here: dict[str, tuple[int, int]] = {}
        for number, tail in zip(numbers, tails, strict=True):
            key = tail or UNKNOWN_TAIL
            low, high = here.get(key, (number, -1))
            out_of_order += number <= high
            here[key] = (low, max(high, number))
        for key, (low, high) in here.items():
            known = spans.get(key, (low, high))
            spans[key] = (min(low, known[0]), max(high, known[1]))
        month = int(path.parent.name.split("=")[1])
        minutes, flights = delays.get(month, (0.0, 0))
        valid = table["dep_delay"].drop_null()
        delays[month] = (minutes + (pc.sum(valid).as_py() or 0), flights + len(valid))
    latest: dict[str, int] = {}
    for _, spans in sorted(ranges.items()):
        for key, (low, high) in spans.items():
            out_of_order += low <= latest.get(key, -1)
            latest[key] = max(high, latest.get(key, -1))

    produced = {number: payload for bulk in events(data, limit) for number, payload, _ in bulk if number in DAMAGED}
    total = sum(counts.values())
    failed_payloads = _failed(out / "failed.jsonl")
    expected = Counter(produced.values())
    lost = sum(1 for number in range(total) if number not in seen and number not in produced)
    lost += sum((expected - failed_payloads).values())
    return Account(
        produced=total,
        landed=sum(seen.values()),
        failed=sum(failed_payloads.values()),
        lost=lost,
        duplicated=sum(count - 1 for count in seen.values()) + sum(number in produced for number in seen),
        out_of_order=out_of_order,
        wrongly_failed=sum((failed_payloads - expected).values()) + sum((expected - failed_payloads).values()),
        files=files,
        by_shard={shard: (count, rows_by_shard[shard]) for shard, count in sorted(counts.items())},
        kills=kills,
        replayed=replayed,
        took_s=took_s,
        resharded=list(resharded),
        worst=sorted(
            ((month, minutes / flights, flights) for month, (minutes, flights) in delays.items() if flights), key=lambda row: -row[1]
        ),
    )


def _failed(path: Path) -> Counter[bytes]:
    """Payloads in the failure file. A document may be there twice after a crash (they are at least once): its id tells."""
    from binascii import a2b_base64

    documents: dict[str, list[bytes]] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            document = orjson.loads(line)
            records = document["payload"]["Records"]
            documents[document["requestContext"]["requestId"]] = [a2b_base64(record["kinesis"]["data"]) for record in records]
    return Counter(payload for payloads in documents.values() for payload in payloads)


def _show(account: Account, console: Console) -> None:
    table = Table(title="What became of every flight", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("produced", account.produced),
        ("landed in Parquet, exactly once", account.landed),
        ("in the failure file", account.failed),
        ("lost", account.lost),
        ("duplicated", account.duplicated),
        ("out of order", account.out_of_order),
    ):
        table.add_row(name, f"{value:,}")
    console.print(table)
    shards = Table(title="By shard", title_justify="left")
    for heading in ("shard", "records", "rows landed"):
        shards.add_column(heading, justify="left" if heading == "shard" else "right")
    for shard, (put, rows) in account.by_shard.items():
        shards.add_row(shard, f"{put:,}", f"{rows:,}")
    console.print(shards)
    completed = f"{account.replayed} prepared range{'s' if account.replayed != 1 else ''} completed by a successor"
    console.print(f"On the way: {'; '.join(account.resharded)}; {account.kills} SIGKILL, {completed}; {account.files:,} Parquet files")
    rate = account.produced / account.took_s
    console.print(f"{account.produced:,} flights in {account.took_s:.1f} s: {rate:,.0f} records/s from put to Parquet, with the incidents")
    month, delay, flights = account.worst[0]
    console.print(f"Worst month for departure delays: {month_name[month]}, {delay:.1f} minutes on average over {flights:,} flights")


def _root() -> Path:
    """The checkout that holds the example and its data."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        if (folder / APP).is_file() and (folder / DATA).is_file():
            return folder
    raise UsageError(f"the demo needs {APP} and {DATA}: run it from a checkout of streamlet (make demo)")


@click.command("demo", short_help="the whole path on real data")
@click.option(
    "--keep", type=click.Path(file_okay=False), metavar="DIR", help="Keep Parquet, failure file and leases in DIR (must be empty)."
)
@click.option("--limit", type=click.IntRange(10_000), metavar="N", help="Only the first N flights (the checks stay the same).")
@exit_codes
def command(keep: str | None, limit: int | None) -> int:
    """Replay 336,776 flights through broker, worker and Parquet, kill the worker midway, reshard, and account for every record.

    Example: streamlet demo --keep demo-out
    """
    console = Console(width=max(100, Console().width))
    root = _root()
    out = Path(keep).resolve() if keep else Path(tempfile.mkdtemp(prefix="streamlet-demo-"))
    if keep:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigurationError(f"--keep {keep}: the folder is not empty; the demo starts from nothing")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        console.print("[bold]streamlet demo[/bold]: New York's flights of 2013, producer -> broker -> worker -> Parquet")
        account = asyncio.run(_run(root, root / DATA, out, limit, console))
        _show(account, console)
        for fault in account.faults:
            console.print(f"[bold red]FAILED[/bold red]: {fault}")
        if not account.faults:
            console.print("[bold green]lost 0, duplicated 0, out of order 0[/bold green]")
        if keep:
            console.print(f"Kept in {out}")
        return 1 if account.faults else 0
    finally:
        if not keep:
            shutil.rmtree(out, ignore_errors=True)
