"""When does a batch close?

At the first of: enough records, enough bytes, the window's end. With a window of 0 a batch is whatever is there at once.

The window opens when a record is there and no invocation runs, as with Lambda. The caller says so by asking: the first
`next_batch` that finds a record waiting opens it, whenever that record came. (Were it opened by what arrives during a slow
invocation, it would be over when the handler returns, and the batch cut short of what a window would have gathered.) Times are of
a clock that does not go back, since a window is an interval.

Bytes are those of the JSON event that Lambda would be sent, since its 6 MB limit is on that. A record counts as

    4 * ceil(data / 3)      the payload as base64
    + the partition key     as JSON in UTF-8: a quote takes two bytes, a control character six
    + ENVELOPE_BYTES        the keys of the event record, its ids and ARNs, the comma

CHOICE: AWS does not document its exact arithmetic. The documented example event, with sequence numbers of 56 digits, takes
about 550 bytes beside data and key; 640 leaves room for longer names of role and stream. The longest name of a stream takes up to
20 bytes more, for which there is room between 6,000,000 and the 6,291,456 that an invocation takes. (reference: Lambda developer
guide, invocation-eventsourcemapping, with-kinesis.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import msgspec

from streamlet.model.record import Record

__all__ = ["ENVELOPE_BYTES", "PAYLOAD_BYTES_MAX", "Admit", "Batcher", "event_bytes"]

Admit = Callable[[Sequence[Record]], int]
"""How many of the records, from the front, may be one batch."""

PAYLOAD_BYTES_MAX: Final = 6_000_000
ENVELOPE_BYTES: Final = 640
_BESIDE: Final = ENVELOPE_BYTES - 2  # the quotes around the key are counted with it

_encode: Final = msgspec.json.Encoder().encode


def event_bytes(record: Record) -> int:
    """About how many bytes the record takes in a Lambda event."""
    return (len(record.data) + 2) // 3 * 4 + len(_encode(record.partition_key)) + _BESIDE


class Batcher:
    """Collects records of one shard and hands them out as batches. A record above the byte limit is a batch of its own.

    Each record is sized once. Where a batch ends is found by bisection over running totals, and the batch is a slice.
    """

    def __init__(self, batch_size: int, batching_window_s: float = 0.0, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        assert batch_size >= 1
        assert batching_window_s >= 0
        assert payload_bytes_max >= 1
        self._batch_size, self._window_s, self._bytes_max = batch_size, batching_window_s, payload_bytes_max
        # Records from `_head` on are waiting. `_totals[i]` is the bytes of all records before i, since the buffer was empty.
        self._records: list[Record] = []
        self._totals: list[int] = [0]
        self._head = 0
        self._opened_s: float | None = None

    def __len__(self) -> int:
        return len(self._records) - self._head

    @property
    def buffered_bytes(self) -> int:
        """Event bytes of the waiting records."""
        return self._totals[-1] - self._totals[self._head]

    @property
    def oldest(self) -> Record | None:
        """The record that has waited longest."""
        return self._records[self._head] if len(self) else None

    def add(self, records: Sequence[Record]) -> None:
        """Records in shard order."""
        self._records.extend(records)
        total = self._totals.pop()
        self._totals.extend(accumulate(map(event_bytes, records), initial=total))

    def next_batch(self, now_s: float, admit: Admit | None = None) -> list[Record] | None:
        """The next batch if one is due, else None. To ask is to say that the batch before is done with.

        `admit` says how many records from the front may be one batch; where it says 0 none is cut."""
        if not len(self):
            return None
        if self._opened_s is None:
            self._opened_s = now_s
        full = len(self) >= self._batch_size or self.buffered_bytes >= self._bytes_max
        if not full and now_s < self._opened_s + self._window_s:
            return None
        return self._cut(admit)

    def flush(self, admit: Admit | None = None) -> list[Record] | None:
        """The next batch whether due or not: the shard has ended. None once the buffer is empty."""
        return self._cut(admit) if len(self) else None

    def wake_at_s(self) -> float | None:
        """When the window ends; None while none is open."""
        return None if self._opened_s is None else self._opened_s + self._window_s

    def _cut(self, admit: Admit | None) -> list[Record] | None:
        head, totals = self._head, self._totals
        fitting = bisect_right(totals, totals[head] + self._bytes_max, head + 1) - 1
        stop = min(head + self._batch_size, max(fitting, head + 1), len(self._records))
        batch = self._records[head:stop]
        # Also where nothing is admitted, since an invocation then comes first: a tumbling window's final call.
        self._opened_s = None
        if admit is not None:
            stop = head + admit(batch)
            if stop == head:
                return None
            batch = batch[: stop - head]
        if stop == len(self._records):
            self._records, self._totals, self._head = [], [0], 0
            return batch
        self._head = stop
        if stop > len(self._records) // 2:
            # Fewer records are moved than were handed out since the last time: O(1) per record over all.
            del self._records[:stop], totals[:stop]
            self._head = 0
        return batch
