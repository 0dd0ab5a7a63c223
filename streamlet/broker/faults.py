"""What goes wrong on purpose? Counted one-shots that a test sets before it calls.

Every fault says how often it strikes and is then used up; nothing is random. Faults of one kind queue behind each
other: `throttle("GetRecords", 2)` twice makes four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from streamlet.broker.state import State

__all__ = ["Faults"]


class Faults:
    """The faults that are waiting. Operations are named as the service names them: `PutRecords`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._throttled: Counter[str] = Counter()
        self._reset_before: Counter[str] = Counter()
        self._reset_after: Counter[str] = Counter()
        self._failing: list[Callable[[int, int], bool]] = []

    def throttle(self, operation: str, times: int = 1) -> None:
        """Refuse the next calls: ProvisionedThroughputExceededException on the data plane, LimitExceededException elsewhere."""
        self._throttled[operation] += times

    def fail_records(self, which: float | Iterable[int], times: int = 1) -> None:
        """Let records of the next PutRecords calls fail with ProvisionedThroughputExceededException.

        `which` is a fraction (spread evenly over the request, rounded down, but at least one) or the indices.
        """
        if isinstance(which, float | int):
            share = float(which)
            if not 0 < share <= 1:
                raise ValueError(f"a fraction lies above 0 and up to 1, not {share}")

            def strikes(index: int, count: int) -> bool:
                failing = max(1, int(count * share))
                return (index + 1) * failing // count > index * failing // count

        else:
            chosen = frozenset(which)

            def strikes(index: int, count: int) -> bool:
                return index in chosen

        self._failing.extend([strikes] * times)

    def reset_before(self, operation: str, times: int = 1) -> None:
        """Drop the connection of the next calls before anything is done."""
        self._reset_before[operation] += times

    def reset_after(self, operation: str, times: int = 1) -> None:
        """Drop the connection of the next calls after they were applied, instead of answering."""
        self._reset_after[operation] += times

    def expire_iterators(self) -> None:
        """Make every shard iterator that was given out so far an expired one."""
        self._state.iterators_void_before = self._state.next_serial()

    # --- asked by the broker ------------------------------------------------------------------------------------------

    def take_throttle(self, operation: str) -> bool:
        """Is this call to be refused?"""
        return _take(self._throttled, operation)

    def take_reset_before(self, operation: str) -> bool:
        """Is this call's connection to be dropped before the call?"""
        return _take(self._reset_before, operation)

    def take_reset_after(self, operation: str) -> bool:
        """Is this call's connection to be dropped in place of the answer?"""
        return _take(self._reset_after, operation)

    def take_failing(self, count: int) -> frozenset[int]:
        """The indices of a request of `count` records that are to fail."""
        if not self._failing:
            return frozenset()
        strikes = self._failing.pop(0)
        return frozenset(index for index in range(count) if strikes(index, count))


def _take(waiting: Counter[str], operation: str) -> bool:
    if not waiting[operation]:
        return False
    waiting[operation] -= 1
    return True
