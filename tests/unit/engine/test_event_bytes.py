"""How large is the event that a batch becomes? With tumbling windows the state is in it, too."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import orjson
import pytest

from streamlet.core.windows import STATE_BYTES_MAX
from streamlet.destinations.document import event_record, window_fields
from streamlet.model.batch import Batch
from streamlet.model.record import Record
from streamlet.runtimes.esm.host import EVENT_BYTES_MAX
from streamlet.spec import ConsumerSpec, EventSourceMapping
from tests.unit.engine.chaos import EPOCH_S, SHARD, STREAM, ListSource, Store, pumping, run

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/numbers"


def event_of(batch: Batch, state: Any) -> bytes:
    entries = [event_record(record, ARN, SHARD, region="us-east-1", account_id="123456789012") for record in batch]
    event: dict[str, Any] = {"Records": entries}
    if batch.window is not None:
        event |= window_fields(batch.window, state, SHARD, ARN)
    return orjson.dumps(event)


@pytest.mark.parametrize("window_s", [0, 900])
def test_records_and_the_largest_state_fit_into_one_event(window_s: int) -> None:
    """A state of 1 MB beside records of 6 MB would be an event that no invocation takes: the batch would fail for ever."""
    sizes: list[int] = []
    largest = {"kept": "x" * (STATE_BYTES_MAX - len('{"kept":""}'))}
    assert len(json.dumps(largest, separators=(",", ":"))) == STATE_BYTES_MAX

    async def handle(batch: Batch, state: Any = None) -> Any:
        sizes.append(len(event_of(batch, state)))
        return largest

    spec = ConsumerSpec(
        name="sizes",
        stream=STREAM,
        kind="window" if window_s else "batch",
        handler=handle,
        decoder=bytes,
        mapping=EventSourceMapping(batch_size=10_000, batching_window_s=30, tumbling_window_s=window_s),
    )
    records = [Record(b"x" * 2000, "key", str(n + 1), 0, EPOCH_S, SHARD, STREAM) for n in range(4500)]

    async def main() -> None:
        pump = await pumping(spec, Store(), ListSource(records, Random(0), read_max=1000), Random(0), worker_id="worker")
        await pump.run()

    run(main())
    assert max(sizes) <= EVENT_BYTES_MAX
    assert max(sizes) > 0.9 * 6_000_000, "and as many go into it as do"
