"""What does a tree of processes cost, and how is it ended? Read from /proc, so on Linux only.

CPU seconds are user + system of every process of the tree, with those that ended and were waited for. Memory is the sum
of the resident sets: pages that two processes share count twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Stat", "cpu_s", "end_tree", "parse_stat", "rss_bytes", "tree"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_POLL_S: Final = 0.02


class Stat(NamedTuple):
    """What /proc/PID/stat says, as far as it is of use. `started` tells a process from a later one of the same number."""

    pid: int
    state: str
    parent: int
    cpu_ticks: int
    started: int
    rss_pages: int


def parse_stat(text: str) -> Stat:
    """The name, in parentheses, may hold anything, so fields are counted from its last closing one."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(
        pid=int(head.partition(" ")[0]),
        state=fields[0],
        parent=int(fields[1]),
        cpu_ticks=sum(map(int, fields[11:15])),
        started=int(fields[19]),
        rss_pages=int(fields[21]),
    )


def tree(pid: int) -> list[Stat]:
    """The process and all that it started, directly or not, that are still there."""
    stats = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                stat = parse_stat((path / "stat").read_text())
            except (OSError, ValueError):
                continue  # it ended in between
            stats[stat.pid] = stat
    found = [stats[pid]] if pid in stats else []
    for stat in found:  # grows while it is walked
        found += [child for child in stats.values() if child.parent == stat.pid]
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of the tree so far, in steps of 10 ms."""
    return sum(stat.cpu_ticks for stat in tree(pid)) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree."""
    return sum(stat.rss_pages for stat in tree(pid)) * _PAGE_BYTES


def end_tree(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """Ask the process to end, then end what is left of its tree. Only processes that it started are touched."""
    before = tree(process.pid)
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        before = tree(process.pid) or before
        process.kill()
        process.wait()
    left = [stat for stat in before if stat.pid != process.pid and _is_there(stat)]
    for stat in left:
        _signal(stat, signal.SIGTERM)
    give_up = time.monotonic() + patience_s
    while any(map(_is_there, left)) and time.monotonic() < give_up:
        time.sleep(_POLL_S)
    for stat in left:
        _signal(stat, signal.SIGKILL)


def _is_there(stat: Stat) -> bool:
    try:
        now = parse_stat(Path(f"/proc/{stat.pid}/stat").read_text())
    except (OSError, ValueError):
        return False
    return now.started == stat.started and now.state != "Z"


def _signal(stat: Stat, number: signal.Signals) -> None:
    if _is_there(stat):
        with contextlib.suppress(ProcessLookupError):  # it ended in between
            os.kill(stat.pid, number)
