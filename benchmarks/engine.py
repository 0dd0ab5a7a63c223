"""What does the engine cost per record? CPU between a source that has the records ready and a handler that does nothing with them.

    python -m benchmarks.engine

Records of 1 KB of JSON with 1,000 keys, in batches of 500 (for each parallel slot), on one shard. Measured is one pump with its
lanes: numbering, splitting by key, filters, batching, the failure machine, checkpoints and events without a listener. Not in it:
reading (the source answers from memory), leases (in memory), decoding (`value` is not touched). The variants take turns; told are the
median and the least of the rounds, in microseconds a record, which is also CPU-seconds per million.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from streamlet.clock import SystemClock, ThreadExecutor
from streamlet.core.rolling import MemoryBudget
from streamlet.engine.leases import Acquired, LeaseEvent, LeaseKeeper
from streamlet.engine.pump import Pump
from streamlet.model.batch import Batch
from streamlet.model.position import TRIM_HORIZON
from streamlet.model.record import Record
from streamlet.model.shard import HASH_KEY_MAX, Shard
from streamlet.ports import Fetch, StartingPosition
from streamlet.spec import ConsumerSpec, EventSourceMapping, Kind
from streamlet.stores.memory import MemoryLeaseStore

RECORDS, BATCH, KEYS, ROUNDS = 60_000, 500, 1_000, 9
STREAM, SHARD = "orders", "shardId-000000000000"


def records() -> list[Record]:
    first, dice = 49590338271490256608559692538361571095921575989136588898, random.Random(1)
    made = []
    for n in range(RECORDS):
        value: dict[str, object] = {
            "id": n,
            "kind": "order" if n % 10 else "refund",
            "amount": dice.randrange(1000),
            "items": [],
            "note": "x" * 900,
        }
        made.append(Record(orjson.dumps(value), f"customer-{dice.randrange(KEYS)}", str(first + n), 0, 1545084650.987, SHARD, STREAM))
    return made


class Ready:
    """A source, and its reader, whose records are there already."""

    stream = STREAM

    def __init__(self, given: Sequence[Record], read: int) -> None:
        self._given, self._read, self._at = given, read, 0

    async def list_shards(self) -> Sequence[Shard]:
        return [Shard(SHARD, 0, HASH_KEY_MAX)]

    def reader(self, shard_id: str, start: StartingPosition) -> Ready:
        return self

    async def read(self) -> Fetch:
        await asyncio.sleep(0)
        found = self._given[self._at : self._at + self._read]
        self._at += len(found)
        return Fetch(found, 0, ended=self._at == len(self._given))


class Inline:
    """Lease calls at once."""

    async def call(self, function: Callable[..., Any], /, *args: Any) -> Any:
        return function(*args)


async def pumped(given: Sequence[Record], spec: ConsumerSpec, executor: ThreadExecutor) -> float:
    """CPU seconds of one pump from the first record to the last."""
    events: list[LeaseEvent] = []
    keeper = LeaseKeeper(MemoryLeaseStore(), "bench", clock=SystemClock(), random=random.Random(1), notify=events.append)
    keeper.sync([Shard(SHARD, 0, HASH_KEY_MAX)], TRIM_HORIZON)
    keeper.start_taking()
    (acquired,) = (event for event in events if isinstance(event, Acquired))
    pump = Pump(
        spec,
        acquired,
        source=Ready(given, BATCH * spec.mapping.parallelization_factor),
        keeper=keeper,
        leases=Inline(),
        executor=executor,
        clock=SystemClock(),
        emit=lambda event: None,
        budget=MemoryBudget(1 << 30),
    )
    begun_s = time.process_time()
    await pump.run()
    return time.process_time() - begun_s


def spec(kind: Kind, handler: Callable[..., Any], **options: Any) -> ConsumerSpec:
    mapping = EventSourceMapping(batch_size=BATCH, **options)
    return ConsumerSpec(name="bench", stream=STREAM, kind=kind, handler=handler, decoder=orjson.loads, mapping=mapping)


async def take(_: Batch | Record) -> None:
    pass


async def carry(_: Batch, state: Any) -> Any:
    return state


def plain(_: Record) -> None:
    pass


VARIANTS = {
    "on_batch": spec("batch", take),
    "on_batch, parallelization_factor=4": spec("batch", take, parallelization_factor=4),
    "on_batch, parallelization_factor=10": spec("batch", take, parallelization_factor=10),
    "on_batch, maximum_record_age_s": spec("batch", take, maximum_record_age_s=604_800, maximum_retry_attempts=0),
    "on_batch, a filter on a text (9 of 10 pass)": spec("batch", take, filters=[{"data": {"kind": ["order"]}}]),
    "on_batch, a filter on a text (1 of 10 passes)": spec("batch", take, filters=[{"data": {"kind": ["refund"]}}]),
    "on_batch, a filter on a number (half pass)": spec("batch", take, filters=[{"data": {"amount": [{"numeric": ["<", 500]}]}}]),
    "on_window": spec("window", carry, tumbling_window_s=900),
    "on_record, async": spec("record", take),
    "on_record": spec("record", plain),
}


def main() -> None:
    given, executor = records(), ThreadExecutor()
    took: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, variant in VARIANTS.items():
            if variant.mapping.maximum_record_age_s != -1:
                now_s = time.time()
                fresh = [Record(r.data, r.partition_key, r.sequence_number, 0, now_s, SHARD, STREAM) for r in given]
            else:
                fresh = given
            took[name].append(asyncio.run(pumped(fresh, variant, executor)) / RECORDS * 1e6)
    executor.close()
    for name, rounds in took.items():
        print(f"{name:48} {statistics.median(rounds):6.2f} us a record (least {min(rounds):.2f})")


if __name__ == "__main__":
    main()
