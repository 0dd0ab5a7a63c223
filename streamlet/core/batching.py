"""When does a batch close?

At the first of: enough records, enough bytes, the window's end. With a window of 0 a batch is whatever is there at once. The
window opens when the first record of an empty buffer arrives, or, while records are left over, when the batch before was
handed out: with Lambda, too, the next window starts when the previous invocation completes.

Bytes are those of the JSON event that Lambda would be sent, since its 6 MB limit is on that: base64 makes four bytes of every
three, and each record carries an envelope of keys and ids. CHOICE: AWS does not document its exact arithmetic; the envelope is
counted as 640 bytes plus the partition key, which is on the safe side of the documented example event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from streamlet.model.record import Record

__all__ = ["ENVELOPE_BYTES", "PAYLOAD_BYTES_MAX", "Batcher", "event_bytes"]

PAYLOAD_BYTES_MAX: Final = 6_000_000
ENVELOPE_BYTES: Final = 640


def event_bytes(record: Record) -> int:
    """About how many bytes the record takes in a Lambda event."""
    return (len(record.data) + 2) // 3 * 4 + len(record.partition_key) + ENVELOPE_BYTES


class Batcher:
    """Collects records of one shard and hands them out as batches. A record above the byte limit is a batch of its own."""

    def __init__(self, batch_size: int, batching_window_s: float = 0.0, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        assert batch_size >= 1
        self._batch_size, self._window_s, self._bytes_max = batch_size, batching_window_s, payload_bytes_max
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._opened_s: float | None = None

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Sequence[Record], now_s: float) -> None:
        """Records in shard order."""
        if records and self._opened_s is None:
            self._opened_s = now_s
        self._records.extend(records)
        self._bytes += sum(map(event_bytes, records))

    def next_batch(self, now_s: float) -> list[Record] | None:
        """The next batch if one is due, else None."""
        if self._opened_s is None:
            return None
        full = len(self._records) >= self._batch_size or self._bytes >= self._bytes_max
        if not full and now_s < self._opened_s + self._window_s:
            return None
        return self._cut(now_s)

    def flush(self) -> list[Record] | None:
        """The next batch whether due or not: the shard has ended. None once the buffer is empty."""
        return self._cut(0.0) if self._records else None

    def wake_at_s(self) -> float | None:
        """When the window ends; None while there is nothing to wait for."""
        return None if self._opened_s is None else self._opened_s + self._window_s

    def _cut(self, now_s: float) -> list[Record]:
        batch: list[Record] = []
        size = 0
        while self._records and len(batch) < self._batch_size:
            more = event_bytes(self._records[0])
            if batch and size + more > self._bytes_max:
                break
            size += more
            batch.append(self._records.popleft())
        self._bytes -= size
        self._opened_s = now_s if self._records else None
        return batch
