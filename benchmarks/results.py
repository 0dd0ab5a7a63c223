"""What does a run leave? One JSON file: settings, machine, versions, every sample, and why something is missing.

samples[metric][target]   one number per round
missing[metric][target]   the reason, for metrics that a target has none of
skipped[target]           the reason, for targets that did not run at all
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["METRICS", "Metric", "Results", "Spread", "machine", "spread"]

CLIENT: Final = "client:"  # before the name of a client library, to tell streamlet the SDK from streamlet the broker


class Spread(NamedTuple):
    """The middle of some rounds, and their ends."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Raises ValueError for no values."""
    if not values:
        raise ValueError("the spread of nothing")
    return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the report."""

    name: str
    title: str
    unit: str
    group: str
    digits: int = 1


_CPU: Final = "Server CPU, microseconds per record (user + system of the whole process tree)"
_WALL: Final = "Throughput as it was seen, records/s (both sides share the machine)"
_TIME: Final = "Latency on one connection, ms"
_SIZE: Final = "Start and memory"
_SDK: Final = "Client libraries: CPU of the client, microseconds per record (= CPU seconds per million)"
_FUNCTION: Final = "In Lambda: CPU, microseconds per record of 1 KB in batches of 500 (= CPU seconds per million); starts and zips"
_GENERATOR: Final = "Was the generator the limit? Its CPU seconds per second; near 1 the throughput is its own"

METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("put_record_64_cpu_us", "PutRecord, 64 connections", "us", _CPU),
        Metric("put_record_1_cpu_us", "PutRecord, 1 connection", "us", _CPU),
        Metric("put_records_cpu_us", "PutRecords of 500 x 1 KB, 4 connections", "us", _CPU, 2),
        Metric("put_records_64_cpu_us", "PutRecords of 500 x 1 KB, 64 connections", "us", _CPU, 2),
        Metric("drain_cpu_us", "GetRecords, 4 shards, 1,000 a call", "us", _CPU, 2),
        Metric("put_record_64_rate", "PutRecord, 64 connections", "/s", _WALL, 0),
        Metric("put_records_rate", "PutRecords of 500 x 1 KB, 4 connections", "/s", _WALL, 0),
        Metric("put_records_64_rate", "PutRecords of 500 x 1 KB, 64 connections", "/s", _WALL, 0),
        Metric("drain_rate", "GetRecords, 4 shards, 1,000 a call", "/s", _WALL, 0),
        Metric("drain_mb_s_core", "GetRecords, MB of payload per server core-second", "MB", _WALL, 0),
        Metric("put_record_1_p50_ms", "PutRecord p50", "ms", _TIME, 3),
        Metric("put_record_1_p99_ms", "PutRecord p99", "ms", _TIME, 3),
        Metric("put_to_get_p50_ms", "put to get p50", "ms", _TIME, 2),
        Metric("put_to_get_p99_ms", "put to get p99", "ms", _TIME, 2),
        Metric("put_to_push_p50_ms", "put to fan-out push p50", "ms", _TIME, 2),
        Metric("put_to_push_p99_ms", "put to fan-out push p99", "ms", _TIME, 2),
        Metric("cold_start_s", "start to first answer, s", "s", _SIZE, 2),
        Metric("ready_line_s", "start to ready line, s", "s", _SIZE, 3),
        Metric("idle_mb", "memory idle, MB", "MB", _SIZE, 0),
        Metric("loaded_mb", "memory after the warm-up's records, MB", "MB", _SIZE, 0),
        Metric("million_gb", "a million records of 1 KB, GB", "GB", _SIZE, 2),
        Metric("fixture_first_ms", "in process (`Broker.in_thread`), first of a process, ms", "ms", _SIZE, 1),
        Metric("fixture_ms", "in process, median of 20, ms", "ms", _SIZE, 2),
        Metric("consume_cpu_us", "consume, 4 shards, 1,000 a call", "us", _SDK),
        Metric("produce_cpu_us", "produce", "us", _SDK),
        Metric("consume_rate", "consume, records/s", "/s", _SDK, 0),
        Metric("produce_rate", "produce, records/s", "/s", _SDK, 0),
        Metric("consume_stub_cpu_us", "(the stub's own CPU while it is consumed from)", "us", _SDK),
        Metric("produce_stub_cpu_us", "(the stub's own CPU while it is produced to)", "us", _SDK),
        Metric("lambda_records_cpu_us", "event to records", "us", _FUNCTION, 2),
        Metric("lambda_on_batch_cpu_us", "an invocation, on_batch", "us", _FUNCTION, 2),
        Metric("lambda_on_record_cpu_us", "an invocation, on_record that reads the bytes", "us", _FUNCTION, 2),
        Metric("lambda_async_cpu_us", "on_record, async", "us", _FUNCTION, 2),
        Metric("lambda_concurrent_cpu_us", "on_record, async, concurrency=10", "us", _FUNCTION, 2),
        Metric("lambda_spared_cpu_us", "on_record, all spared by a MemoryIdempotency", "us", _FUNCTION, 2),
        Metric("lambda_start_ms", "a new process: import and a first decode, CPU ms", "ms", _FUNCTION, 0),
        Metric("lambda_asyncio_ms", "a new process: `import asyncio`, CPU ms", "ms", _FUNCTION, 0),
        Metric("lambda_start_ratio", "the former over the latter", "", _FUNCTION, 2),
        Metric("lambda_zip_mb", "zip of the smallest function, MB", "MB", _FUNCTION, 2),
        Metric("lambda_zip_parquet_mb", "zip with Parquet, MB", "MB", _FUNCTION),
        Metric("put_record_64_generator_busy", "PutRecord, 64 connections", "", _GENERATOR, 2),
        Metric("put_records_generator_busy", "PutRecords, 4 connections", "", _GENERATOR, 2),
        Metric("put_records_64_generator_busy", "PutRecords, 64 connections", "", _GENERATOR, 2),
        Metric("drain_generator_busy", "GetRecords", "", _GENERATOR, 2),
    )
}


class Results:
    """Collects a run, or is read from a file."""

    def __init__(self, name: str, when: str, settings: dict[str, Any], on: dict[str, Any]) -> None:
        self.name = name
        self.when = when
        self.settings = settings
        self.machine = on
        self.versions: dict[str, dict[str, str]] = {}
        self.skipped: dict[str, str] = {}
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.missing: dict[str, dict[str, str]] = {}

    def add(self, target: str, figures: dict[str, float]) -> None:
        """Figures of one round."""
        for metric, value in figures.items():
            if metric not in METRICS:
                raise KeyError(f"{metric} is not in METRICS: the report would not show it")
            self.samples.setdefault(metric, {}).setdefault(target, []).append(value)

    def miss(self, target: str, workload: str, reason: str) -> None:
        """This workload failed with this target; the last reason stays."""
        self.missing.setdefault(workload, {})[target] = reason

    def of(self, metric: str, target: str) -> Spread | None:
        """Median and ends over the rounds, or None."""
        values = self.samples.get(metric, {}).get(target)
        return spread(values) if values else None

    def targets(self, metric: str) -> list[str]:
        """Which have it."""
        return list(self.samples.get(metric, {}))

    @property
    def ran(self) -> bool:
        """Is there any figure?"""
        return bool(self.samples)

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read it back. Raises ValueError for a file that is none."""
        try:
            content = json.loads(path.read_text())
            results = cls(content["name"], content["when"], content["settings"], content["machine"])
            for part in ("versions", "skipped", "samples", "missing"):
                setattr(results, part, content[part])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a result of this suite: {error!r}") from error
        return results


def machine(folder: Path) -> dict[str, Any]:
    """CPU model, cores, memory, kernel, Python, and the file system on which a durable broker writes."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": platform.release(),
        "system": _distribution(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": _file_system(folder),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _file_system(folder: Path) -> str:
    """The type of the mount that holds the folder: the longest mount point that is a parent."""
    there = folder.resolve()
    mounts = [line.split() for line in _lines("/proc/mounts")]
    holding = [(len(mount[1]), mount[2]) for mount in mounts if len(mount) > 2 and there.is_relative_to(mount[1])]
    return max(holding)[1] if holding else "unknown"
