"""What has an account agreed to? Its commitment to a minimum of throughput, which lasts for a day at least."""

from __future__ import annotations

from typing import Final

__all__ = ["Settings"]

_DAY_MS: Final = 24 * 3_600_000


class Settings:
    """One account's settings in one region."""

    def __init__(self) -> None:
        self.started_ms: int | None = None
        self.ended_ms: int | None = None  # when the commitment ends, or ended

    @property
    def earliest_end_ms(self) -> int | None:
        """Before this the commitment goes on, asked for or not."""
        return None if self.started_ms is None else self.started_ms + _DAY_MS

    def status(self, now_ms: int) -> str:
        """DISABLED, ENABLED, or ENABLED_UNTIL_EARLIEST_ALLOWED_END."""
        if self.started_ms is None or (self.ended_ms is not None and self.ended_ms <= now_ms):
            return "DISABLED"
        return "ENABLED" if self.ended_ms is None else "ENABLED_UNTIL_EARLIEST_ALLOWED_END"

    def committed(self, now_ms: int) -> bool:
        """True while the commitment holds, also until its end."""
        return self.status(now_ms) != "DISABLED"

    def enable(self, now_ms: int) -> None:
        """Begin a commitment, or take back that it is to end."""
        if not self.committed(now_ms):
            self.started_ms = now_ms
        self.ended_ms = None

    def disable(self, now_ms: int) -> None:
        """End it, at the earliest moment that is allowed."""
        if self.status(now_ms) == "ENABLED":
            assert self.earliest_end_ms is not None, "it has begun"
            self.ended_ms = max(now_ms, self.earliest_end_ms)
