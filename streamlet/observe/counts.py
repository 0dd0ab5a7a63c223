"""How much came, was handled, failed and was dropped? The event counts of AWS's event source mapping, under its names.

A listener: `App.run(listeners=(log, counts))`, or `WorkerOptions(listeners=...)`. Alarms written for CloudWatch can be kept:

    PolledEventCount                          records read
    FilteredOutEventCount                     records that passed no filter
    InvokedEventCount                         records that the handler was called with; each attempt counts
    FailedInvokeEventCount                    records that a call did not get done; each attempt counts
    DroppedEventCount                         records given up without a destination
    OnFailureDestinationDeliveredEventCount   records given up for the destination; with a sink before the document is sent
    IteratorAge                               milliseconds: how old the last record of the latest call was when that call ended

(Lambda developer guide, monitoring-metrics-types.) CHOICE: AWS does not say whether a function that raises counts as a failed
invoke; here it does, since it does so for a partial batch response. What was throttled counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamlet.hooks import Event, Invoked, RecordsFiltered, RecordsGivenUp, RecordsRead

__all__ = ["NAMES", "EventCounts"]

NAMES: Final = (
    *("PolledEventCount", "FilteredOutEventCount", "InvokedEventCount", "FailedInvokeEventCount"),
    *("DroppedEventCount", "OnFailureDestinationDeliveredEventCount", "IteratorAge"),
)


class EventCounts:
    """Counts since it was made, by stream and name: `counts.by_stream["orders"]["DroppedEventCount"]`. A stream is there from its first
    read on, with every name. `now_s` is `time.time`."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.by_stream: dict[str, dict[str, int]] = {}

    def __call__(self, event: Event) -> None:
        """A listener."""
        match event:
            case RecordsRead(records=records):
                self._of(event)["PolledEventCount"] += records
            case RecordsFiltered(records=records):
                self._of(event)["FilteredOutEventCount"] += records
            case RecordsGivenUp(records=records, delivered_to=target):
                self._of(event)["OnFailureDestinationDeliveredEventCount" if target else "DroppedEventCount"] += records
            case Invoked(records=called) if called:
                counts = self._of(event)
                counts["InvokedEventCount"] += len(called)
                counts["FailedInvokeEventCount"] += len(called) - event.done
                counts["IteratorAge"] = max(0, round((self._now_s() - called[-1].arrived_at_s) * 1000))

    def _of(self, event: Event) -> dict[str, int]:
        return self.by_stream.setdefault(event.stream, dict.fromkeys(NAMES, 0))
