"""Does streamlet keep its promises on speed? Each goal with what was measured; "not measured" is not "met"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.results import Results

__all__ = ["GOALS", "Goal", "Verdict", "judge"]

_OURS: Final = "streamlet"
_IN_LAMBDA: Final = "lambda:streamlet"


@dataclass(frozen=True, slots=True)
class Goal:
    """`measure` answers a number, or None when the run has not what it takes. Met: at least `bound`, or at most."""

    title: str
    bound: float
    at_least: bool
    unit: str
    measure: Callable[[Results], float | None]

    @property
    def target(self) -> str:
        """In words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:,g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what became of it: `met` is None when it was not measured."""

    goal: Goal
    measured: float | None
    met: bool | None


def judge(results: Results) -> list[Verdict]:
    """Every goal, by the medians."""
    verdicts = []
    for goal in GOALS:
        measured = goal.measure(results)
        met = None if measured is None else (measured >= goal.bound if goal.at_least else measured <= goal.bound)
        verdicts.append(Verdict(goal, measured, met))
    return verdicts


def _median(metric: str, target: str = _OURS, scale: float = 1.0) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        found = results.of(metric, target)
        return None if found is None else found.median * scale

    return measure


def _per_core_s(metric: str) -> Callable[[Results], float | None]:
    """Microseconds per record as records per core-second."""

    def measure(results: Results) -> float | None:
        found = results.of(metric, _OURS)
        return None if found is None or found.median == 0 else 1e6 / found.median

    return measure


def _ratio(metric: str, above: str, below: str) -> Callable[[Results], float | None]:
    """One target's median over another's."""

    def measure(results: Results) -> float | None:
        first, second = results.of(metric, above), results.of(metric, below)
        return None if first is None or second is None or second.median == 0 else first.median / second.median

    return measure


def _faster(metric: str, peer: str) -> Callable[[Results], float | None]:
    return _ratio(metric, peer, _OURS)


GOALS: Final = (
    Goal("PutRecords, records per core-second", 150_000, True, "/s", _per_core_s("put_records_cpu_us")),
    Goal("PutRecords, CPU of ministack over ours", 5, True, "x", _faster("put_records_cpu_us", "ministack")),
    Goal("PutRecords, CPU of kinesalite over ours", 20, True, "x", _faster("put_records_cpu_us", "kinesalite")),
    Goal("PutRecords, CPU of kinesis-local over ours", 150, True, "x", _faster("put_records_cpu_us", "kinesis-local")),
    Goal("PutRecord, our CPU over a constant answer's", 3, False, "x", _ratio("put_record_64_cpu_us", _OURS, "constant")),
    Goal("GetRecords, MB of payload per core-second", 600, True, " MB/s", _median("drain_mb_s_core")),
    Goal("GetRecords, CPU of ministack over ours", 10, True, "x", _faster("drain_cpu_us", "ministack")),
    Goal("GetRecords, CPU of kinesalite over ours", 25, True, "x", _faster("drain_cpu_us", "kinesalite")),
    Goal("PutRecord p50, one connection", 0.3, False, " ms", _median("put_record_1_p50_ms")),
    Goal("put to get p50", 1, False, " ms", _median("put_to_get_p50_ms")),
    Goal("put to fan-out push p50", 5, False, " ms", _median("put_to_push_p50_ms")),
    Goal("PutRecord at 64 connections, durable over in memory", 0.5, True, "x", _ratio("put_record_64_rate", "streamlet-durable", _OURS)),
    Goal("PutRecords at 64 connections, durable over in memory", 0.5, True, "x", _ratio("put_records_64_rate", "streamlet-durable", _OURS)),
    Goal("`streamlet broker`, start to ready line", 300, False, " ms", _median("ready_line_s", scale=1e3)),
    Goal("in-process fixture, once imported", 20, False, " ms", _median("fixture_first_ms")),
    Goal("memory idle", 60, False, " MB", _median("idle_mb")),
    Goal("a million records of 1 KB in memory", 1.6, False, " GB", _median("million_gb")),
    Goal("Lambda, event to records, CPU seconds per million", 2.2, False, " s", _median("lambda_records_cpu_us", _IN_LAMBDA)),
    Goal("Lambda, start and first decode over `import asyncio`", 1.5, False, "x", _median("lambda_start_ratio", _IN_LAMBDA)),
    Goal("Lambda, zip of the smallest function", 3, False, " MB", _median("lambda_zip_mb", _IN_LAMBDA)),
    Goal("Lambda, zip with Parquet", 50, False, " MB", _median("lambda_zip_parquet_mb", _IN_LAMBDA)),
)
