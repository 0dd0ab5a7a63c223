"""How is a run put together? Rounds, in each of which every target runs once; the order turns with the round.

What disturbs the machine for a while then disturbs all targets alike, and no target always runs first. A target that cannot be
set up, or does not start, is skipped with its reason; a workload that fails leaves its reason where the figure would be.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.environments import CACHE, Unavailable
from benchmarks.lambda_side import LAMBDA_TARGETS
from benchmarks.peers import PEERS, Peer, python_command
from benchmarks.results import CLIENT, Results, machine
from benchmarks.sdk import SDKS, measure, measure_fixture
from benchmarks.wire import BadAnswer
from benchmarks.workloads import WORKLOADS, Pace, Session

__all__ = ["BROKERS", "CLIENT_WORKLOADS", "FIXTURE", "FULL", "FUNCTION", "QUICK", "Plan", "choose", "rotated", "run"]

T = TypeVar("T")

BROKERS: Final = {**PEERS, "constant": Peer("constant", lambda _cache: lambda _scratch: python_command("benchmarks.constant"))}
CLIENT_WORKLOADS: Final = ("consume", "produce")
FIXTURE: Final = "fixture"
FUNCTION: Final = "lambda"
_WHAT_FAILS: Final = (BadAnswer, OSError, KeyError, ValueError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run: names of BROKERS, SDKS and workloads; rounds; how long each takes; no new round begins after `minutes`."""

    brokers: tuple[str, ...] = tuple(BROKERS)
    sdks: tuple[str, ...] = tuple(SDKS)
    workloads: tuple[str, ...] = (*WORKLOADS, FIXTURE, *CLIENT_WORKLOADS, FUNCTION)
    rounds: int = 5
    minutes: float = 25.0
    sdk_records: int = 100_000
    pace: Pace = field(default_factory=Pace)


FULL: Final = Plan()
QUICK: Final = replace(
    FULL, rounds=1, minutes=6.0, sdk_records=20_000, pace=Pace(seconds=1.0, calls_max=200, warm_calls=4, samples_max=100, million=100_000)
)


def choose(wanted: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names in the order in which they are known; all, when none is wanted. Raises ValueError that names what there is."""
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise ValueError(f"{what} {', '.join(strangers)}: there is {', '.join(known)}")
    return tuple(name for name in known if not wanted or name in wanted)


def rotated(names: Sequence[T], turn: int) -> list[T]:
    """Another one first with every round."""
    at = turn % len(names) if names else 0
    return [*names[at:], *names[:at]]


def run(plan: Plan, name: str, cache: Path = CACHE) -> Results:
    """The whole run. What it does is told on standard error."""
    cache.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = asdict(plan)
    results = Results(name, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), settings, machine(cache))
    targets = _set_up(plan, results, cache)
    give_up = time.monotonic() + plan.minutes * 60
    done = 0
    longest = 0.0
    for turn in range(plan.rounds):
        started = time.monotonic()
        if turn and started + longest > give_up:
            _tell(f"no time for round {turn + 1} of {plan.rounds} within {plan.minutes:g} minutes")
            break
        for target, measure_target in rotated(targets, turn):
            _tell(f"round {turn + 1}/{plan.rounds}: {target}")
            measure_target(turn)
        longest = max(longest, time.monotonic() - started)
        done += 1
    results.settings["rounds_done"] = done
    return results


def _set_up(plan: Plan, results: Results, cache: Path) -> list[tuple[str, Callable[[int], None]]]:
    """Installs what is to be measured, before any clock starts. Answers the targets that there are."""
    targets: list[tuple[str, Callable[[int], None]]] = []
    if any(workload in WORKLOADS for workload in plan.workloads):
        for name in plan.brokers:
            _tell(f"setting up {name}")
            try:
                BROKERS[name].setup(cache)
            except Unavailable as error:
                _skip(results, name, error.reason)
            else:
                targets.append((name, lambda turn, name=name: _broker(plan, results, name, turn, cache)))  # type: ignore[misc]
    if FIXTURE in plan.workloads and "streamlet" in plan.brokers:
        targets.append(("streamlet in process", lambda _turn: _guarded(results, "streamlet", FIXTURE, lambda: measure_fixture(cache))))
    if any(workload in CLIENT_WORKLOADS for workload in plan.workloads):
        for name in plan.sdks:
            _tell(f"setting up {CLIENT}{name}")
            try:
                SDKS[name].interpreter(cache)
            except Unavailable as error:
                _skip(results, CLIENT + name, error.reason)
            else:
                targets.append((CLIENT + name, lambda _turn, name=name: _sdk(plan, results, name, cache)))  # type: ignore[misc]
    if FUNCTION in plan.workloads:
        for name, function in LAMBDA_TARGETS.items():
            _tell(f"setting up {name}")
            try:
                function.setup(cache)
            except Unavailable as error:
                _skip(results, name, error.reason)
            else:
                results.versions[name] = function.versions
                measure_it = lambda function=function: function.measure(cache)  # noqa: E731
                targets.append((name, lambda _turn, name=name, it=measure_it: _guarded(results, name, FUNCTION, it)))  # type: ignore[misc]
    return targets


def _broker(plan: Plan, results: Results, name: str, turn: int, cache: Path) -> None:
    if name in results.skipped:
        return
    try:
        with BROKERS[name].start(cache) as server:
            results.versions[name] = server.versions
            session = Session(server, plan.pace)
            for workload in WORKLOADS.values():
                if workload.name in plan.workloads and workload.suits(name) and not (workload.once and turn):
                    _guarded(results, name, workload.name, lambda workload=workload: _on_loop(workload.run(session)))  # type: ignore[misc]
                    if server.process.poll() is not None:
                        raise Unavailable(f"it ended with code {server.process.returncode} during {workload.name}: {server.log_tail()}")
    except Unavailable as error:
        _skip(results, name, error.reason)


def _sdk(plan: Plan, results: Results, name: str, cache: Path) -> None:
    target = CLIENT + name
    results.versions[target] = SDKS[name].versions()
    for what in CLIENT_WORKLOADS:
        if what in plan.workloads:
            _guarded(results, target, what, lambda what=what: measure(SDKS[name], what, plan.sdk_records, cache))  # type: ignore[misc]


def _guarded(results: Results, target: str, workload: str, measure_it: Callable[[], dict[str, float]]) -> None:
    try:
        results.add(target, measure_it())
    except (*_WHAT_FAILS, Unavailable) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        _tell(f"  {workload}: {reason[:200]}")
        results.miss(target, workload, reason[:200])


def _on_loop(work: Awaitable[dict[str, float]]) -> dict[str, float]:
    import uvloop

    async def main() -> dict[str, float]:
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _skip(results: Results, target: str, reason: str) -> None:
    reason = " ".join(reason.split())
    results.skipped[target] = reason[:400]
    _tell(f"SKIPPED {target}: {reason[:400]}")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
