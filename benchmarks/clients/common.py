"""What do all client programs share? How they are called, and how they count: `python X.py consume|produce URL RECORDS`.

Each runs in its own environment, so nothing of the suite is imported. CPU seconds are those of the process. The first tenth of
the records warms it up and is not counted: imports on first use, connections, the service's model.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable

RECORD_BYTES = 1_024
SEED = 20131202
CONNECT = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}


def payloads() -> list[bytes]:
    """256 payloads of 1 KB."""
    source = random.Random(SEED)
    return [source.randbytes(RECORD_BYTES) for _ in range(256)]


class Meter:
    """Is told how many records there are so far; counts from a tenth of them to the last, then prints one line of JSON."""

    def __init__(self, records: int) -> None:
        self.warm = records // 10
        self._records = records
        self._from = 0

    def at(self, records: int) -> None:
        """So many are done."""
        if not self._from and records >= self.warm:
            self._from, self._wall, self._cpu = records, time.perf_counter(), _cpu_s()

    def end(self, records: int) -> None:
        """All is done. Exits with 1 when it was not all."""
        counted = records - self._from
        result = {"records": counted, "wall_s": time.perf_counter() - self._wall, "cpu_s": _cpu_s() - self._cpu}
        print(json.dumps(result), flush=True)
        if records != self._records:
            sys.exit(f"{self._records} records were to be handled, and {records} were")


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(consume: Callable[[str, int], None], produce: Callable[[str, int], None]) -> None:
    """Run one of the two."""
    os.environ.update(CONNECT)
    what, url, records = sys.argv[1:]
    {"consume": consume, "produce": produce}[what](url, int(records))
