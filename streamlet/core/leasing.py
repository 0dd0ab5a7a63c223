"""Which leases should this worker take?

No worker tells another anything; each looks at the table and decides alone, as KCL 2 does:

    available    no owner, or its counter has stood still for `failover_s` by this worker's own monotonic clock
    fair share   leases / workers, rounded up; workers are the owners seen among leases that are not available, and this one
    need > 0     take available leases, in random order, so that workers which look at once do not all want the same
    none left    steal one from the most loaded worker, if it has more than its share

The first sight of an owned lease counts as a renewal: its holder gets a whole `failover_s` before it is called dead. Leases at
SHARD_END are done and belong to nobody; leases in a hand-over (`checkpoint_owner`) are not ours yet.
(reference: amazon-kinesis-client, DynamoDBLeaseTaker.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from streamlet.model.position import SHARD_END, Position

__all__ = ["LeaseRow", "Plan", "Sightings", "plan"]


class LeaseRow(Protocol):
    """What this module reads of a lease."""

    @property
    def key(self) -> str:
        """Shard id."""
        ...

    @property
    def owner(self) -> str | None:
        """Worker id."""
        ...

    @property
    def counter(self) -> int:
        """Moves with every write."""
        ...

    @property
    def checkpoint(self) -> Position:
        """How far it is."""
        ...

    @property
    def checkpoint_owner(self) -> str | None:
        """Set during a hand-over."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """Lease keys: free ones to take, and at most one to steal."""

    take: tuple[str, ...] = ()
    steal: tuple[str, ...] = ()


class Sightings:
    """When was each lease's counter last seen to move?"""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def see(self, key: str, counter: int, now_s: float) -> None:
        """Note one look at the lease; `now_s` is monotonic."""
        known = self._seen.get(key)
        if known is None or known[0] != counter:
            self._seen[key] = (counter, now_s)

    def still_for_s(self, key: str, now_s: float) -> float:
        """How long its counter has not moved; 0 at first sight."""
        known = self._seen.get(key)
        return 0.0 if known is None else now_s - known[1]


def plan(
    leases: Sequence[LeaseRow], me: str, now_s: float, sightings: Sightings, *, failover_s: float, random: Callable[[], float]
) -> Plan:
    """What to take now, of the leases that may be read (`core/lineage`)."""
    active = [lease for lease in leases if lease.checkpoint != SHARD_END]
    loads: Counter[str] = Counter({me: 0})
    available: list[str] = []
    for lease in active:
        if lease.owner is not None and sightings.still_for_s(lease.key, now_s) <= failover_s:
            loads[lease.owner] += 1
        elif lease.checkpoint_owner is None or lease.owner is None or sightings.still_for_s(lease.key, now_s) > failover_s:
            available.append(lease.key)
    share = -(-len(active) // len(loads))
    need = share - loads[me]
    if need <= 0:
        return Plan()
    if available:
        available.sort()
        order = sorted(available, key=lambda _: random())
        return Plan(take=tuple(order[:need]))
    owner, most = max(loads.items(), key=lambda item: (item[1], item[0]))
    if owner == me or (most <= share and not (need > 1 and most > 1)):
        return Plan()
    theirs = sorted(lease.key for lease in active if lease.owner == owner and lease.checkpoint_owner is None)
    return Plan(steal=(theirs[int(random() * len(theirs))],)) if theirs else Plan()
