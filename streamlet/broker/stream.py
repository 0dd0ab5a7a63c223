"""What is a stream? Its shards by index, its open shards by hash key, its settings, and the changes that are on their way.

What "happens later" (a reshard with a delay, a stream being deleted) is a pending change with a due time, applied by
the first call at or after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from hashlib import md5
from itertools import pairwise
from typing import Final

from streamlet.broker import limits
from streamlet.broker.consumers import Consumers
from streamlet.broker.shard import Keeper, Shard
from streamlet.model.shard import HASH_KEY_MAX

__all__ = ["Stream"]

_HOUR_MS: Final = 3_600_000


class Stream:
    """One stream: its shards by index, its open shards by hash key, its settings."""

    def __init__(
        self,
        name: str,
        shards: int,
        *,
        account: str,
        region: str,
        creation_s: int,
        now_ms: int,
        incarnation: int,
        record_bytes_max: int,
        keeper: Keeper | None = None,
    ) -> None:
        self._keeper = keeper
        self.name = name
        self.account = account  # both empty: everybody's
        self.region = region
        self.status = "ACTIVE"
        self.has_shards = False  # to be seen: not before it was ACTIVE for the first time
        self.mode = "PROVISIONED"
        self.created_ms = now_ms
        self.incarnation = incarnation
        self.retention_hours = limits.RETENTION_HOURS_MIN
        self.record_bytes_max = record_bytes_max
        self.tags: dict[str, str] = {}
        self.consumers = Consumers()
        self.policy = ""
        self.metrics: tuple[str, ...] = ()  # that are switched on for each shard
        self.key_id = ""  # of the key that records are said to be encrypted with
        self.warm_mibps: int | None = None
        self.warm_target_mibps: int | None = None  # the one to come, while UPDATING
        self.distribution = "USER_PARTITION_KEY"
        self._turn = 0
        self.shards: dict[int, Shard] = {}
        self.open: list[Shard] = []
        self.newest_second = creation_s
        self._starts: list[bytes] = []
        self._next_index = 0
        self._pending: list[tuple[int, Callable[[int], None]]] = []
        self.settled = 0  # how many of these have been applied, ever
        bounds = [2**128 // shards * index for index in range(shards)] + [HASH_KEY_MAX + 1]
        for start, stop in pairwise(bounds):
            self._add(start, stop - 1, creation_s=creation_s, created_ms=now_ms)
        self._reindex()

    @property
    def identity(self) -> int:
        """What tokens know it by. Incarnations alone begin anew with each start of a broker that keeps nothing."""
        return (self.created_ms << 20 | self.incarnation & 0xFFFFF) & 0xFFFF_FFFF_FFFF_FFFF

    def route(self, key: str, explicit_hash: str | None) -> Shard:
        """The open shard that a partition key, or the hash key in its place, belongs to."""
        digest = md5(key.encode(), usedforsecurity=False).digest() if explicit_hash is None else int(explicit_hash).to_bytes(16, "big")
        return self.open[bisect_right(self._starts, digest) - 1]

    def next_in_turn(self, _key: str, _explicit_hash: str | None) -> Shard:
        """The open shard that takes the next record of a stream that distributes by itself: keys do not count."""
        self._turn += 1
        return self.open[self._turn % len(self.open)]

    def horizon_ms(self, now_ms: int) -> int:
        """What arrived before this has expired. It may lie before the stream: a clock that goes back lets records do so, too."""
        return now_ms - self.retention_hours * _HOUR_MS

    def expire(self, now_ms: int) -> None:
        """Trim records, and forget closed shards that have nothing left within the retention."""
        horizon = self.horizon_ms(now_ms)
        gone = []
        for shard in self.shards.values():
            shard.trim(horizon)
            if shard.closed_ms is not None and shard.closed_ms < horizon:
                gone.append(shard.index)
        for index in gone:
            del self.shards[index]

    def later(self, delay_ms: int, now_ms: int, status: str, change: Callable[[int], None]) -> None:
        """Apply a change after a delay, with `status` shown until then. Without a delay it happens here."""
        if delay_ms <= 0:
            change(now_ms)
            return
        self.status = status
        self._pending.append((now_ms + delay_ms, change))

    def settle(self, now_ms: int) -> None:
        """Apply the changes that are due, each as of the time when it was: whoever asks first makes no difference."""
        while self._pending and self._pending[0][0] <= now_ms:
            self.settle_next()

    def settle_next(self) -> None:
        """Apply the next change on its way, whenever it is due."""
        due_ms, change = self._pending.pop(0)
        self.settled += 1
        if self._keeper is not None:
            self._keeper.settles(self.settled)
        change(due_ms)

    def split(self, parent: Shard, new_start: int, now_ms: int) -> None:
        """Close a shard; two children take its range."""
        second, at_ms = self._close([parent], now_ms)
        self._add(parent.start, new_start - 1, creation_s=second + 1, created_ms=at_ms, parents=(parent,))
        self._add(new_start, parent.end, creation_s=second + 1, created_ms=at_ms, parents=(parent,))
        self._reindex()

    def merge(self, lower: Shard, upper: Shard, now_ms: int) -> None:
        """Close two shards side by side; one child takes both ranges."""
        second, at_ms = self._close([lower, upper], now_ms)
        self._add(lower.start, upper.end, creation_s=second + 1, created_ms=at_ms, parents=(lower, upper))
        self._reindex()

    def rescale(self, count: int, now_ms: int) -> None:
        """Split at every boundary that is missing for `count` equal ranges, then merge across every other one."""
        wanted = {2**128 // count * index for index in range(count)}
        for start in sorted(wanted):
            shard = self.open[bisect_right(self._starts, start.to_bytes(16, "big")) - 1]
            if shard.start != start:
                self.split(shard, start, now_ms)
        while len(self.open) > count:
            upper = next(shard for shard in self.open if shard.start not in wanted)
            lower = next(shard for shard in self.open if shard.end + 1 == upper.start)
            self.merge(lower, upper, now_ms)

    def _close(self, parents: list[Shard], now_ms: int) -> tuple[int, int]:
        """The moment of a reshard, in seconds for numbers and in ms for listings; both parents of a merge share it.

        Both lie after the parents' own beginning, even if the clock did not move: a child is a second (a millisecond)
        younger than its parent, and so "open at T" is true of either the parent or the child, never of both.
        """
        second = max(now_ms // 1000, *(shard.second for shard in parents))
        at_ms = max(now_ms, *(shard.created_ms + 1 for shard in parents))
        for shard in parents:
            shard.close(second, at_ms)
        self.newest_second = max(self.newest_second, second + 1)
        return second, at_ms

    def _add(self, start: int, end: int, *, creation_s: int, created_ms: int, parents: tuple[Shard, ...] = ()) -> None:
        indexes = tuple(shard.index for shard in parents)
        shard = Shard(self._next_index, start, end, creation_s=creation_s, created_ms=created_ms, parents=indexes, keeper=self._keeper)
        self._next_index += 1
        self.shards[shard.index] = shard
        for parent in parents:
            parent.children = (*parent.children, shard)

    def _reindex(self) -> None:
        self.open = sorted((shard for shard in self.shards.values() if shard.is_open), key=lambda shard: shard.start)
        self._starts = [shard.start.to_bytes(16, "big") for shard in self.open]
