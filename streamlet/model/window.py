"""Which tumbling window is a call made for?"""

from __future__ import annotations

from datetime import datetime

import msgspec

__all__ = ["Window"]


class Window(msgspec.Struct, frozen=True):
    """[start, end), UTC, aligned. `is_final`: the window's last call; usually without records, and the state that it returns is
    dropped. `is_terminated_early`: the state had grown above 1 MB, and the window goes on with an empty one."""

    start: datetime
    end: datetime
    is_final: bool = False
    is_terminated_early: bool = False
