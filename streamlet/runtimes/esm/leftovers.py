"""Who ends what a sandbox has started, when it has left the sandbox's process group, or when its host is gone?

A function may start processes in sessions of their own, and daemons that have lost their parent: a kill of the group does not
reach those. But all of them have inherited the sandbox's environment, and in it a mark that is unique. And a host that is killed
itself (SIGKILL, a second SIGTERM) can end nothing: that is left to a guard (guard.py), a process that waits until the host's end of a
pipe is closed. Where there is no /proc, only process groups are ended.

This file is also the guard's program. It runs without the rest of streamlet, and starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

__all__ = ["end"]

_PROC = Path("/proc")
_PASSES_MAX = 20


def end(group: int, mark: str) -> None:
    """Kill the process group, and every process of ours whose environment holds `mark`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    killed: set[int] = set()
    for _ in range(_PASSES_MAX):
        found = _marked(mark.encode()) - killed
        if not found:
            return
        for pid in found:  # each may have started another one just before
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def _marked(mark: bytes) -> set[int]:
    found = set()
    with contextlib.suppress(OSError):
        for process in _PROC.iterdir():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                if process.name.isdigit() and mark in (process / "environ").read_bytes():
                    found.add(int(process.name))
    return found


def _guard() -> None:
    """Lines say what there is: a mark and its group, or a mark alone when it has ended. At their end nothing of it may be left."""
    watched: dict[str, int] = {}
    for line in sys.stdin:
        mark, *group = line.split()
        if group:
            watched[mark] = int(group[0])
        else:
            watched.pop(mark, None)
    for mark, number in watched.items():
        end(number, mark)


if __name__ == "__main__":
    _guard()
