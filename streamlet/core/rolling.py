"""When does a sink's open range close?

A range closes at the first of: its bytes, its rows, its age, a record given up in it (so that its failure document does not
wait), the memory that all open ranges share, the shard's end, a drain. The last two are the engine's to say; the rest is here.
Age counts from the first row and is watched by a timer, so that an idle file does not stay open.
"""

from __future__ import annotations

import msgspec

from streamlet.errors import ConfigurationError

__all__ = ["MemoryBudget", "OpenRange", "Roll"]


class Roll(msgspec.Struct, frozen=True, kw_only=True):
    """When files close: at the first bound reached.

    `bytes_max` counts rows in memory (a Parquet file is smaller, often by five to ten), `rows_max` rows over all partitions,
    `age_max_s` seconds since the first row. The defaults make a file a minute or 64 MiB: fresh enough to query, and large
    enough that listing and opening files does not dominate reading them.
    """

    bytes_max: int = 64 * 1024 * 1024
    rows_max: int = 1_000_000
    age_max_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("bytes_max", "rows_max", "age_max_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigurationError(f"Roll({name}={value!r}): must be a number above 0")


class OpenRange:
    """Keeps count of one shard's open range."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self.clear()

    def clear(self) -> None:
        """The range was closed; the next one is empty."""
        self.rows = 0
        self.bytes = 0
        self._opened_s: float | None = None
        self._hasty = False

    def add(self, rows: int, size_bytes: int, now_s: float) -> None:
        """Records were settled into the range; they may have had no rows."""
        self.rows += rows
        self.bytes += size_bytes
        if self._opened_s is None:
            self._opened_s = now_s

    def gave_up(self, now_s: float) -> None:
        """A record in the range was given up: close early."""
        self.add(0, 0, now_s)
        self._hasty = True

    def due(self, now_s: float) -> bool:
        """Should it close now? Never true of an empty range."""
        if self._opened_s is None:
            return False
        roll = self._roll
        return self._hasty or self.rows >= roll.rows_max or self.bytes >= roll.bytes_max or now_s - self._opened_s >= roll.age_max_s

    def wake_at_s(self) -> float | None:
        """When its age will close it; None while it is empty."""
        return None if self._opened_s is None else self._opened_s + self._roll.age_max_s


class MemoryBudget:
    """One bound on the bytes of all open ranges of a process. When it is passed, the largest range closes."""

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max > 0
        self._bytes_max = bytes_max
        self._held: dict[str, int] = {}
        self._total = 0

    @property
    def held_bytes(self) -> int:
        """What all open ranges hold together."""
        return self._total

    def set(self, shard_id: str, size_bytes: int) -> None:
        """What the shard's open range holds now."""
        assert size_bytes >= 0
        self._total += size_bytes - self._held.get(shard_id, 0)
        self._held[shard_id] = size_bytes

    def forget(self, shard_id: str) -> None:
        """The shard is gone."""
        self._total -= self._held.pop(shard_id, 0)

    def to_roll(self) -> str | None:
        """The shard whose range is the largest, while the total is over the bound (of two equals, the first by name)."""
        if self._total <= self._bytes_max:
            return None
        return min(self._held, key=lambda shard_id: (-self._held[shard_id], shard_id))

    def should_roll(self, shard_id: str) -> bool:
        """Is the total over the bound, and no other range larger than this shard's?"""
        if self._total <= self._bytes_max:
            return False
        return self._held.get(shard_id, 0) >= max(self._held.values())
