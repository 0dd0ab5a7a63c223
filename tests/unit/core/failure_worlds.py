"""Small worlds for the failure machine: drivers that share no code, and an oracle that is not the machine.

The oracle is written from the reference (Lambda developer guide: batch failure reporting, on-failure destinations) as a
recursion over intervals; it knows nothing of pieces or steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import combinations
from types import ModuleType
from typing import Any

NOW_S = 1_000_000.0

Call = tuple[int, int]
Doc = tuple[int, int, str, int, str | None]
# What the handler makes of records [start, stop): None for success, or the index from which it failed.
Handler = Callable[[int, int], int | None]


class World:
    """n records of which some are poison; `reports` handlers name the lowest failure, others raise for the whole batch."""

    def __init__(
        self, n: int, poison: frozenset[int], retries: int, *, bisect: bool, reports: bool, healing: frozenset[int] = frozenset()
    ) -> None:
        self.n, self.poison, self.retries, self.bisect, self.reports = n, poison, retries, bisect, reports
        self.healing = healing  # poison that fails once and works from then on

    def __repr__(self) -> str:
        style = f"bisect={self.bisect}, reports={self.reports}, healing={sorted(self.healing)}"
        return f"World(n={self.n}, poison={sorted(self.poison)}, retries={self.retries}, {style})"

    def handler(self) -> Handler:
        tries = dict.fromkeys(range(self.n), 0)

        def handle(start: int, stop: int) -> int | None:
            failing = []
            for index in range(start, stop):
                if index in self.poison:
                    tries[index] += 1
                    if index not in self.healing or tries[index] == 1:
                        failing.append(index)
            if not failing:
                return None
            return failing[0] if self.reports else start

        return handle


def all_worlds(n_max: int) -> Iterator[World]:
    for n in range(1, n_max + 1):
        for count in range(n + 1):
            for poison in combinations(range(n), count):
                for retries in (0, 1, 2):
                    for bisect in (False, True):
                        for reports in (False, True):
                            yield World(n, frozenset(poison), retries, bisect=bisect, reports=reports)
                            # All of it heals, and only the first of it does: progress after a failed attempt.
                            for healing in {frozenset(poison), frozenset(poison[:1])} - {frozenset()}:
                                yield World(n, frozenset(poison), retries, bisect=bisect, reports=reports, healing=healing)


def oracle(world: World) -> tuple[list[Call], list[Doc]]:
    """Which calls are made, and what is given up."""
    handle, calls, docs = world.handler(), [], []

    def settle(start: int, stop: int) -> None:
        tries = 0
        while start < stop:
            calls.append((start, stop))
            failed = handle(start, stop)
            if failed is None:
                return
            if failed > start:
                start, tries = failed, 0
                continue
            tries += 1
            if world.bisect and stop - start > 1:
                settle(start, start + (stop - start) // 2)
                settle(start + (stop - start) // 2, stop)
                return
            if tries == world.retries + 1:
                docs.append((start, stop, "RetryAttemptsExhausted", tries, None if world.reports else "Unhandled"))
                return

    settle(0, world.n)
    return calls, docs


class Run:
    """What a driver saw."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.docs: list[Doc] = []
        self.settled: list[int] = []  # every record in the order in which it was settled
        self.trouble: list[str] = []

    def settle(self, start: int, stop: int) -> None:
        self.settled.extend(range(start, stop))


def outcome_of(core: ModuleType, world: World, failed: int | None) -> Any:
    return core.Succeeded() if failed is None else core.FailedFrom(failed, None if world.reports else "Unhandled", "why")


def by_loop(core: ModuleType, world: World) -> Run:
    """The plainest driver: do what is asked, jump to when there is something to do."""
    policy = core.FailurePolicy(maximum_retry_attempts=world.retries, bisect_batch_on_function_error=world.bisect)
    machine, run, handle, now_s = core.FailureMachine([NOW_S] * world.n, policy), Run(), world.handler(), NOW_S
    attempt = 0
    for _ in range(1000):
        step = machine.next_step(now_s)
        if isinstance(step, core.Finished):
            return run
        if isinstance(step, core.Wait):
            if step.until_s <= now_s:
                run.trouble.append("a wait that is over")
            now_s = step.until_s
        elif isinstance(step, core.Invoke):
            again = bool(run.calls) and run.calls[-1] == (step.start, step.stop)
            attempt = attempt + 1 if again else 1
            if step.attempt != attempt:
                run.trouble.append(f"attempt {step.attempt} at [{step.start}, {step.stop}), it is number {attempt}")
            run.calls.append((step.start, step.stop))
            failed = handle(step.start, step.stop)
            machine.feed(step.step_id, outcome_of(core, world, failed), now_s)
            run.settle(step.start, step.stop if failed is None else failed)
        else:
            run.docs.append((step.start, step.stop, step.condition, step.invoke_count, step.function_error))
            machine.feed(step.step_id, core.Delivered(), now_s)
            run.settle(step.start, step.stop)
        if machine.settled != len(run.settled):
            run.trouble.append(f"settled says {machine.settled}, {len(run.settled)} are")
    run.trouble.append("does not come to an end")
    return run


def by_messages(core: ModuleType, world: World) -> Run:
    """Tasks that talk over queues, on time that ticks: impatient (asks again and again before a wait is over), with a handler
    that is throttled at every other call and a destination that refuses at first."""
    policy = core.FailurePolicy(
        maximum_retry_attempts=world.retries, bisect_batch_on_function_error=world.bisect, backoff_base_s=2.0, backoff_cap_s=3.0
    )
    machine, run, handle = core.FailureMachine([NOW_S] * world.n, policy), Run(), world.handler()

    async def main() -> None:
        work: asyncio.Queue[Any] = asyncio.Queue()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        ticks = iter(range(100_000))

        async def worker() -> None:
            throttled = refused = False
            while True:
                step = await work.get()
                if isinstance(step, core.GiveUp):
                    refused = not refused
                    if refused:
                        await answers.put((step, core.NotDelivered(), None))
                    else:
                        run.docs.append((step.start, step.stop, step.condition, step.invoke_count, step.function_error))
                        await answers.put((step, core.Delivered(), step.stop))
                    continue
                throttled = not throttled
                if throttled:
                    await answers.put((step, core.Throttled(), None))
                    continue
                run.calls.append((step.start, step.stop))
                failed = handle(step.start, step.stop)
                await answers.put((step, outcome_of(core, world, failed), step.stop if failed is None else failed))

        async with asyncio.TaskGroup() as tg:
            working = tg.create_task(worker())
            asked: set[int] = set()
            while True:
                now_s = NOW_S + next(ticks) * 0.5
                step = machine.next_step(now_s)
                if machine.next_step(now_s) != step:
                    run.trouble.append("asking twice gives two answers")
                match step:
                    case core.Finished():
                        break
                    case core.Wait():
                        continue
                if step.step_id in asked:
                    run.trouble.append("a step id twice")
                asked.add(step.step_id)
                await work.put(step)
                _, outcome, upto = await answers.get()
                machine.feed(step.step_id, outcome, now_s)
                if upto is not None:
                    run.settle(step.start, upto)
                if machine.settled != len(run.settled):
                    run.trouble.append(f"settled says {machine.settled}, {len(run.settled)} are")
            working.cancel()

    try:
        asyncio.run(main())
    except* StopIteration:
        run.trouble.append("does not come to an end")
    except* RuntimeError as group:
        run.trouble.append(str(group.exceptions[0]))
    return run


def complaints(core: ModuleType, world: World, driver: Callable[[ModuleType, World], Run]) -> list[str]:
    """Everything that is wrong with a run, in words."""
    run = driver(core, world)
    calls, docs = oracle(world)
    out = list(run.trouble)
    if run.settled != list(range(world.n)):
        out.append(f"settled {run.settled}: not every record once, in order")
    if run.calls != calls:
        out.append(f"calls {run.calls}, expected {calls}")
    if run.docs != docs:
        out.append(f"given up {run.docs}, expected {docs}")
    given_up = [index for start, stop, *_ in run.docs for index in range(start, stop)]
    if world.bisect and not world.healing and given_up != sorted(world.poison):
        out.append(f"with bisect, given up {given_up}, poison is {sorted(world.poison)}")
    return [f"{driver.__name__} {world}: {complaint}" for complaint in out]


def old_worlds(n_max: int) -> Iterator[tuple[int, frozenset[int], bool]]:
    for n in range(1, n_max + 1):
        for count in range(n + 1):
            for old in combinations(range(n), count):
                for reports in (False, True):
                    yield n, frozenset(old), reports


def age_complaints(core: ModuleType, n: int, old: frozenset[int], *, reports: bool) -> list[str]:
    """Records of `old` are over the limit of 60 s from the start, the others never get there; a failing handler runs two times.

    The old ones are given up without a call, in runs; the young are handled by themselves; everything stays in order."""
    arrivals = [NOW_S - 61 if index in old else NOW_S for index in range(n)]
    policy = core.FailurePolicy(maximum_record_age_s=60, maximum_retry_attempts=5)
    machine, now_s, failures = core.FailureMachine(arrivals, policy), NOW_S, 2
    settled: list[int] = []
    called: set[int] = set()
    docs: list[tuple[int, int, str, int]] = []
    for _ in range(200):
        step = machine.next_step(now_s)
        if isinstance(step, core.Finished):
            break
        if isinstance(step, core.Wait):
            now_s = step.until_s
        elif isinstance(step, core.Invoke):
            called.update(range(step.start, step.stop))
            if failures:
                failures -= 1
                machine.feed(step.step_id, core.FailedFrom(step.start, None if reports else "Unhandled"), now_s)
                continue
            machine.feed(step.step_id, core.Succeeded(), now_s)
            settled.extend(range(step.start, step.stop))
        else:
            docs.append((step.start, step.stop, step.condition, step.invoke_count))
            machine.feed(step.step_id, core.Delivered(), now_s)
            settled.extend(range(step.start, step.stop))
    out = []
    if settled != list(range(n)):
        out.append(f"settled {settled}")
    if called != set(range(n)) - old:
        out.append(f"called {sorted(called)}")
    runs = [(start, stop) for start in range(n) for stop in range(start + 1, n + 1) if set(range(start, stop)) <= old
            and start - 1 not in old and stop not in old]  # fmt: skip
    if [(start, stop, condition) for start, stop, condition, _ in docs] != [(start, stop, "RecordAgeExceeded") for start, stop in runs]:
        out.append(f"documents {docs}, expected runs {runs}")
    if any(count != 1 for *_, count in docs):
        out.append(f"a record too old at its first reading counts as one invocation: {docs}")
    return [f"age n={n} old={sorted(old)} reports={reports}: {complaint}" for complaint in out]
