"""How much memory do a process and everything that it started take? Linux's /proc, read in a few system calls.

Resident pages are counted per process: what is shared among several counts once for each, as a container's own account would
not. Where there is no /proc the answer is 0, and a memory limit is not enforced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["is_measurable", "tree_bytes"]

_PROC: Final = Path("/proc")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PROCESSES_MAX: Final = 1_000


def is_measurable() -> bool:
    """Can memory be measured on this machine?"""
    return (_PROC / "self" / "statm").exists()


def tree_bytes(pid: int) -> int:
    """Resident bytes of `pid` and its descendants; 0 if it has ended."""
    total, waiting, seen = 0, [pid], 0
    while waiting and seen < _PROCESSES_MAX:
        one = _PROC / str(waiting.pop())
        seen += 1
        try:
            total += int((one / "statm").read_bytes().split()[1]) * _PAGE_BYTES
            for task in os.listdir(one / "task"):  # noqa: PTH208  names alone are wanted
                waiting += map(int, (one / "task" / task / "children").read_bytes().split())
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
    return total
