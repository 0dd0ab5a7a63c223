"""Small worlds for the failure machine, two drivers that share no code, and an oracle that is not the machine.

A world says what every record, the destination and the clock do; nothing in it is random. What happens in it is a list of
events with their times. The oracle foretells the whole list, from the reference (Lambda developer guide: batch failure
reporting, on-failure destinations; the project's choices where AWS is silent), as a recursion over intervals that knows nothing
of pieces or steps. The drivers are a plain loop, and tasks on an event loop whose clock is virtual.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from types import ModuleType
from typing import Any

import msgspec

NOW_S = 1_000_000.0
FOR_EVER = -1
AGE_MAX_S = 60
FRESH, NEAR, OLD = 0, 57, 61  # ages at the start: dies of the retries only late, soon, at once
STEPS_MAX = 3000

Event = tuple[Any, ...]


class World(msgspec.Struct, frozen=True, kw_only=True):
    """`fails` says, for each record, how many of the calls that come to it it spoils."""

    fails: tuple[int, ...]
    retries: int = 0
    bisect: bool = False
    reports: bool = False  # a partial response names the failed record; otherwise an exception fails the batch
    throttled: frozenset[int] = frozenset()  # which calls, counted from 0, are throttled
    refusals: int = 0  # how often the destination refuses each document
    ages_s: tuple[int, ...] = ()
    age_max_s: int = -1
    call_s: int = 0  # how long a call takes

    @property
    def arrivals_s(self) -> list[float]:
        return [NOW_S - age_s for age_s in self.ages_s or (0,) * len(self.fails)]

    @property
    def poison(self) -> list[int]:
        return [index for index, times in enumerate(self.fails) if times == FOR_EVER]

    @property
    def function_error(self) -> str | None:
        return None if self.reports else "Unhandled"

    def handler(self) -> Callable[[int, int], tuple[int, str] | None]:
        """What a call with [start, stop) comes to: None, or the first record that does not count as done, and why."""
        left = list(self.fails)

        def handle(start: int, stop: int) -> tuple[int, str] | None:
            for index in range(start, stop):
                if left[index] != 0:
                    left[index] -= 1
                    return index if self.reports else start, f"record {index}"
            return None

        return handle

    def policy(self, core: ModuleType) -> Any:
        return core.FailurePolicy(
            maximum_retry_attempts=self.retries, maximum_record_age_s=self.age_max_s, bisect_batch_on_function_error=self.bisect
        )


# ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────────


def oracle(world: World) -> list[Event]:
    """Everything that happens, with its time."""
    events: list[Event] = []
    handle = world.handler()
    arrivals_s = world.arrivals_s
    now_s = NOW_S
    asked = 0

    def too_old(index: int) -> bool:
        return world.age_max_s >= 0 and now_s > arrivals_s[index] + world.age_max_s

    def pause_s(which: int) -> float:
        return float([1, 2, 4, 8, 12][min(which, 5) - 1])

    def give_up(start: int, stop: int, condition: str, count: int, why: tuple[str | None, str]) -> None:
        nonlocal now_s
        for refusal in range(1, world.refusals + 1):
            events.append(("refused", now_s, start, stop))
            now_s += pause_s(refusal)
        events.append(("given up", now_s, start, stop, condition, count, *why))

    def work(start: int, stop: int, tries: int, why: tuple[str | None, str], wake_s: float, throttles: int) -> None:
        """Settle [start, stop), which failed `tries` times without progress, and may not be tried before `wake_s`."""
        nonlocal now_s, asked
        if start == stop:
            return
        if world.retries >= 0 and tries == world.retries + 1:
            give_up(start, stop, "RetryAttemptsExhausted", tries, why)
            return
        young = [index for index in range(start, stop) if not too_old(index)]
        if start not in young:
            end = young[0] if young else stop
            give_up(start, end, "RecordAgeExceeded", max(tries, 1), why)
            work(end, stop, tries, why, wake_s, throttles)
            return
        if len(young) < stop - start:
            end = min(set(range(start, stop)) - set(young))
            work(start, end, tries, why, wake_s, throttles)
            work(end, stop, tries, why, wake_s, throttles)
            return
        if now_s < wake_s:
            now_s = wake_s
            work(start, stop, tries, why, wake_s, throttles)  # age is judged again, at the time of the attempt
            return
        asked += 1
        if asked - 1 in world.throttled:
            events.append(("throttled", now_s, start, stop))
            work(start, stop, tries, why, now_s + pause_s(throttles + 1), throttles + 1)
            return
        events.append(("called", now_s, start, stop, tries + 1))
        now_s += world.call_s
        answer = handle(start, stop)
        if answer is None:
            return
        failed, why = answer[0], (world.function_error, answer[1])
        if failed > start:
            work(failed, stop, 0, why, now_s, 0)
        elif world.bisect and stop - start >= 2:
            middle = (start + stop) // 2 if (stop - start) % 2 == 0 else start + (stop - start - 1) // 2
            work(start, middle, 0, why, now_s, 0)
            work(middle, stop, 0, why, now_s, 0)
        else:
            work(start, stop, tries + 1, why, now_s + pause_s(tries + 1), 0)

    work(0, len(world.fails), 0, (None, ""), now_s, 0)
    return events


# ── what a driver saw ────────────────────────────────────────────────────────────────────────────────────────────


class Run:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.settled: list[int] = []  # every record in the order in which it was settled
        self.trouble: list[str] = []

    def check(self, machine: Any) -> None:
        if machine.settled != len(self.settled):
            self.trouble.append(f"`settled` says {machine.settled}, {len(self.settled)} are")


# ── driver 1: a plain loop ───────────────────────────────────────────────────────────────────────────────────────


def by_loop(core: ModuleType, worlds: Iterable[World]) -> Iterator[Run]:
    """Do what is asked, then jump to when there is something to do."""
    for world in worlds:
        yield _loop(core, world)


def _loop(core: ModuleType, world: World) -> Run:
    machine, run, handle = core.FailureMachine(world.arrivals_s, world.policy(core)), Run(), world.handler()
    now_s, asked, refused = NOW_S, 0, 0
    for _ in range(STEPS_MAX):
        step = machine.next_step(now_s)
        run.check(machine)
        if isinstance(step, core.Finished):
            return run
        if isinstance(step, core.Wait):
            if step.until_s <= now_s:
                run.trouble.append("a wait that is over")
            if world.age_max_s < 0 and machine.next_step((now_s + step.until_s) / 2) != step:
                run.trouble.append("who asks early does not get the same wait")
            now_s = max(now_s + 0.5, step.until_s)
        elif isinstance(step, core.Invoke):
            asked += 1
            if asked - 1 in world.throttled:
                run.events.append(("throttled", now_s, step.start, step.stop))
                machine.feed(step.step_id, core.Throttled(), now_s)
                continue
            run.events.append(("called", now_s, step.start, step.stop, step.attempt))
            answer = handle(step.start, step.stop)
            now_s += world.call_s
            if answer is None:
                machine.feed(step.step_id, core.Succeeded(), now_s)
                run.settled.extend(range(step.start, step.stop))
            else:
                machine.feed(step.step_id, core.FailedFrom(answer[0], world.function_error, answer[1]), now_s)
                run.settled.extend(range(step.start, answer[0]))
        else:
            refused += 1
            if refused <= world.refusals:
                run.events.append(("refused", now_s, step.start, step.stop))
                machine.feed(step.step_id, core.NotDelivered(), now_s)
                continue
            refused = 0
            run.events.append(
                ("given up", now_s, step.start, step.stop, step.condition, step.invoke_count, step.function_error, step.error)
            )
            machine.feed(step.step_id, core.Delivered(), now_s)
            run.settled.extend(range(step.start, step.stop))
    run.trouble.append("does not come to an end")
    return run


# ── driver 2: tasks on virtual time ──────────────────────────────────────────────────────────────────────────────


class _JumpingSelector(selectors.SelectSelector):
    """Where the loop would sleep, time jumps. Nothing but the loop's own pipe is ever registered."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for ever")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def by_tasks(core: ModuleType, worlds: Iterable[World]) -> Iterator[Run]:
    """An owner of the machine, a handler and a destination, as tasks that send each other messages; one event loop for all."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        for world in worlds:
            yield runner.run(_tasks(core, world))


async def _tasks(core: ModuleType, world: World) -> Run:
    run, loop = Run(), asyncio.get_running_loop()
    origin_s = loop.time()
    calls: asyncio.Queue[Any] = asyncio.Queue()
    documents: asyncio.Queue[Any] = asyncio.Queue()
    answers: asyncio.Queue[tuple[Any, int]] = asyncio.Queue()  # an outcome, and up to where it settles

    def clock_s() -> float:
        return NOW_S + (loop.time() - origin_s)

    async def function() -> None:
        handle, ordinal = world.handler(), -1
        while True:
            step = await calls.get()
            ordinal += 1
            if ordinal in world.throttled:
                run.events.append(("throttled", clock_s(), step.start, step.stop))
                answers.put_nowait((core.Throttled(), step.start))
                continue
            run.events.append(("called", clock_s(), step.start, step.stop, step.attempt))
            if world.call_s:
                await asyncio.sleep(world.call_s)
            match handle(step.start, step.stop):
                case None:
                    answers.put_nowait((core.Succeeded(), step.stop))
                case (failed, why):
                    answers.put_nowait((core.FailedFrom(failed, world.function_error, why), failed))

    async def destination() -> None:
        while True:
            for _ in range(world.refusals):
                step = await documents.get()
                run.events.append(("refused", clock_s(), step.start, step.stop))
                answers.put_nowait((core.NotDelivered(), step.start))
            step = await documents.get()
            told = (step.condition, step.invoke_count, step.function_error, step.error)
            run.events.append(("given up", clock_s(), step.start, step.stop, *told))
            answers.put_nowait((core.Delivered(), step.stop))

    async def owner() -> None:
        machine = core.FailureMachine(world.arrivals_s, world.policy(core))
        ids: set[int] = set()
        for _ in range(STEPS_MAX):
            match machine.next_step(clock_s()):
                case core.Finished():
                    run.check(machine)
                    return
                case core.Wait(until_s=until_s):
                    await asyncio.sleep(max(0.5, until_s - clock_s()))
                    continue
                case core.Invoke() as step:
                    calls.put_nowait(step)
                case step:
                    documents.put_nowait(step)
            if step.step_id in ids:
                run.trouble.append(f"step id {step.step_id} comes twice")
            ids.add(step.step_id)
            outcome, upto = await answers.get()
            if machine.next_step(clock_s()) is not step:
                run.trouble.append("while a step is outstanding, another one comes")
            machine.feed(step.step_id, outcome, clock_s())
            run.settled += list(range(step.start, upto))
            run.check(machine)
        run.trouble.append("does not come to an end")

    others = [asyncio.ensure_future(function()), asyncio.ensure_future(destination())]
    try:
        await owner()
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return run


# ── judgement ────────────────────────────────────────────────────────────────────────────────────────────────────


def complaints(core: ModuleType, driver: Callable[[ModuleType, Iterable[World]], Iterator[Run]], worlds: Iterable[World]) -> Iterator[str]:
    """Everything that is wrong, in words; lazily, since one is enough to convict a mutant."""
    worlds = list(worlds)
    for world, run in zip(worlds, driver(core, worlds), strict=True):
        for complaint in _wrong(world, run):
            yield f"{driver.__name__}, {world}: {complaint}"


def _wrong(world: World, run: Run) -> Iterator[str]:
    yield from run.trouble
    everything = list(range(len(world.fails)))
    if run.settled != everything:
        yield f"settled {run.settled}: not every record once, in order"
    expected = oracle(world)
    if run.events != expected:
        yield f"events\n  {run.events}, expected\n  {expected}"
    given_up = [index for event in run.events if event[0] == "given up" for index in range(event[2], event[3])]
    if world.bisect and world.retries >= 0 and world.age_max_s < 0 and set(world.fails) <= {0, FOR_EVER} and given_up != world.poison:
        yield f"bisecting, given up {given_up}, but poison is {world.poison}"
    if not set(world.poison) <= set(given_up):
        yield f"poison {world.poison} counts as processed, given up are {given_up}"


# ── which worlds there are ───────────────────────────────────────────────────────────────────────────────────────


def plain_worlds(n_max: int) -> Iterator[World]:
    """All sets of bad records, each for ever, once or twice, under all policies without age. Endless ones are left out."""
    for n in range(1, n_max + 1):
        for bad in product((False, True), repeat=n):
            for times in (FOR_EVER, 1, 2) if any(bad) else (0,):
                for retries, bisect, reports in product((-1, 0, 1, 2), (False, True), (False, True)):
                    if retries >= 0 or times != FOR_EVER:
                        fails = tuple(times if is_bad else 0 for is_bad in bad)
                        yield World(fails=fails, retries=retries, bisect=bisect, reports=reports)


def troubled_worlds(n_max: int) -> Iterator[World]:
    """The same with throttles and refused documents."""
    for world in plain_worlds(n_max):
        for throttled, refusals in product(([0], [1, 2, 3], range(0, 100, 2)), (0, 2)):
            yield msgspec.structs.replace(world, throttled=frozenset(throttled), refusals=refusals)


def mixed_worlds(n_max: int) -> Iterator[World]:
    """Records that differ: some good, some that heal, some poison. (Where bad ones come first, progress meets failed tries.)"""
    for n in range(2, n_max + 1):
        for fails in product((0, 1, 2, FOR_EVER), repeat=n):
            if len({times for times in fails if times}) > 1:
                for retries, bisect, reports in product((0, 1, 2), (False, True), (False, True)):
                    yield World(fails=fails, retries=retries, bisect=bisect, reports=reports)


def aged_worlds(n_max: int, patterns_max: int) -> Iterator[World]:
    """With an age limit: all ages for up to `patterns_max` records, some patterns for more; all sets of bad records."""
    for n in range(1, n_max + 1):
        ages: Sequence[tuple[int, ...]] = (
            list(product((FRESH, NEAR, OLD), repeat=n))
            if n <= patterns_max
            else [
                (FRESH,) * n,
                ((NEAR, FRESH, OLD) * n)[:n],
                ((FRESH, NEAR) * n)[:n],
                tuple(range(60 - n, 60)),
                tuple(range(60, 60 - n, -1)),
            ]
        )
        for ages_s, bad in product(ages, product((False, True), repeat=n)):
            for retries, bisect, reports in product((-1, 2), (False, True), (False, True)):
                fails = tuple(FOR_EVER if is_bad else 0 for is_bad in bad)
                world = World(
                    fails=fails, retries=retries, bisect=bisect, reports=reports, ages_s=ages_s, age_max_s=AGE_MAX_S, call_s=sum(bad) % 2
                )
                yield world
                if n <= 2:
                    for throttled in ({1, 2}, {0, 1, 2, 3}):
                        yield msgspec.structs.replace(world, throttled=frozenset(throttled), refusals=1)
                    yield msgspec.structs.replace(world, fails=tuple(2 if is_bad else 0 for is_bad in bad))


def quick_worlds() -> Iterator[World]:
    """A fast part of all that, simplest first."""
    yield from plain_worlds(3)
    yield from troubled_worlds(2)
    yield from aged_worlds(2, 2)
    yield from mixed_worlds(2)
    yield from (world for world in plain_worlds(5) if len(world.fails) == 5 and world.bisect)
    yield from (world for world in aged_worlds(3, 3) if len(world.fails) == 3 and not world.bisect)
