"""Records of a batch side by side, in the order of their keys; and effects that must not repeat."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from streamlet import App
from streamlet.clock import ThreadExecutor
from streamlet.core.failure import FailedFrom, Succeeded, Throttled
from streamlet.engine.each import OUT_OF_TIME, Deadline, Done, says
from streamlet.engine.invoke import Invocation, Invoker
from streamlet.errors import HandlerError, StoreError, StreamletError
from streamlet.hooks import HandlerFailed, Trouble
from streamlet.model.record import Record
from streamlet.ports import Marker
from streamlet.sinks.memory import MemorySink
from streamlet.stores.idempotency import MemoryIdempotency
from streamlet.stores.sqlite import SqliteLeaseStore
from tests.unit.engine.worlds import STREAM, Documents, checkpoints, world

SHARD = "shardId-000000000000"


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    made = ThreadExecutor(8)
    yield made
    made.close()


def invoker(executor: ThreadExecutor, handler: Any, **options: Any) -> Invoker:
    app = App("numbers")
    app.on_record("s", **options)(handler)
    return Invoker(app.consumers[0], executor)


def records(*keys: str) -> list[Record]:
    """Numbered from 0, with these partition keys."""
    return [Record(str(n).encode(), key, str(1000 + n), 0, 1.5, SHARD, "s") for n, key in enumerate(keys)]


def failed(invocation: Invocation) -> int:
    assert isinstance(invocation.outcome, FailedFrom)
    return invocation.outcome.index


# ── side by side ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_keys_run_at_once_and_each_in_order(executor: ThreadExecutor, kind: str) -> None:
    """Three records wait for each other, so three must run at once; never two of one key, never more than are allowed."""
    running: set[str] = set()
    most = 0
    seen: dict[str, list[int]] = defaultdict(list)
    lock = threading.Lock()
    together = threading.Barrier(3)
    met = asyncio.Event()

    def enter(record: Record) -> bool:
        nonlocal most
        with lock:
            assert record.partition_key not in running
            running.add(record.partition_key)
            most = max(most, len(running))
            seen[record.partition_key].append(record.value)
            return len(running) == 3

    def leave(record: Record) -> None:
        with lock:
            running.remove(record.partition_key)

    async def tasks(record: Record) -> None:
        if enter(record):
            met.set()
        await met.wait()
        await asyncio.sleep(0)
        leave(record)

    def threads(record: Record) -> None:
        enter(record)
        if record.value < 3:
            together.wait(20)
        leave(record)

    handler = tasks if kind == "async" else threads
    batch = records(*"abcdeabcdeabcde")
    came = await invoker(executor, handler, concurrency=3).invoke(batch, start=0)
    assert came.outcome == Succeeded()
    assert most == 3
    assert seen == {key: [n, n + 5, n + 10] for n, key in enumerate("abcde")}


@pytest.mark.parametrize("kind", ["async", "threads", "wrapped"])
async def test_a_key_stops_at_its_first_failure_and_the_others_go_on(executor: ThreadExecutor, kind: str) -> None:
    ran: list[int] = []

    def handle(record: Record) -> None:
        ran.append(record.value)
        if record.value in {1, 5}:
            raise ValueError(f"bad {record.value}")

    async def tasks(record: Record) -> None:
        await asyncio.sleep(0)
        handle(record)

    handler = {"async": tasks, "threads": handle, "wrapped": lambda record: tasks(record)}[kind]
    done: Done = {}
    #                          0 1 2 3 4 5 6
    made = invoker(executor, handler, concurrency=4)
    came = await made.invoke(records(*"abcbaca"), start=10, done=done)
    assert came.outcome == FailedFrom(11, None, "ValueError: bad 1")
    assert sorted(ran) == [0, 1, 2, 4, 5, 6], "3 is behind 1 in its key"
    assert sorted(done) == [("1002", 0), ("1004", 0), ("1006", 0)]
    # The retry begins at 11, as the failure machine asks, and runs only what is not done.
    ran.clear()
    came = await made.invoke(records(*"abcbaca")[1:], start=11, done=done)
    assert (failed(came), sorted(ran)) == (11, [1, 5])


async def test_what_was_remembered_is_not_run_again_when_its_piece_comes(executor: ThreadExecutor) -> None:
    """Bisected, the right half comes by itself; once the bad record is well again, everything has run exactly once."""
    ran: list[int] = []
    sick = True

    async def handle(record: Record) -> None:
        if record.value == 1 and sick:
            raise ValueError
        ran.append(record.value)

    done: Done = {}
    made, batch = invoker(executor, handle, concurrency=2), records(*"abcdef")
    assert failed(await made.invoke(batch, start=0, done=done)) == 1
    assert failed(await made.invoke(batch[1:3], start=1, done=done)) == 1
    sick = False
    assert (await made.invoke(batch[1:2], start=1, done=done)).outcome == Succeeded()
    assert (await made.invoke(batch[2:], start=2, done=done)).outcome == Succeeded()
    assert sorted(ran) == [0, 1, 2, 3, 4, 5]


async def test_rows_of_what_was_remembered_are_kept(executor: ThreadExecutor) -> None:
    """With a sink, each row lands once, in the order of the shard, however its record was run."""
    sick = True

    async def handle(record: Record) -> dict[str, int]:
        if record.value == 1 and sick:
            raise ValueError
        return {"n": record.value}

    sink = MemorySink()
    made, batch, done = invoker(executor, handle, concurrency=3, sink=sink), records(*"abcd"), Done()
    first = await made.invoke(batch, start=0, done=done)
    assert failed(first) == 1
    assert first.chunk is not None
    assert first.chunk.rows == 1
    sick = False
    second = await made.invoke(batch[1:], start=1, done=done)
    assert second.outcome == Succeeded()
    assert second.chunk is not None
    assert second.chunk.rows == 3


@pytest.mark.parametrize("options", [{"concurrency": 2}, {"idempotency": MemoryIdempotency()}], ids=["side by side", "in order"])
async def test_a_cancellation_that_is_not_ours_is_the_records_failure(executor: ThreadExecutor, options: Any) -> None:
    async def handle(record: Record) -> None:
        if record.value == 1:
            raise asyncio.CancelledError("of something that it awaited")

    came = await invoker(executor, handle, **options).invoke(records(*"abc"), start=0)
    assert came.outcome == FailedFrom(1, None, "CancelledError: of something that it awaited")


async def test_a_generator_stops_the_shard(executor: ThreadExecutor) -> None:
    def handle(record: Record) -> Any:
        return (n for n in range(3))

    with pytest.raises(HandlerError, match="returned a generator"):
        await invoker(executor, handle, concurrency=2).invoke(records(*"abc"), start=0)


# ── out of time ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_nothing_begins_when_time_runs_out_but_for_a_first_record(executor: ThreadExecutor, concurrency: int, kind: str) -> None:
    left_s = 10.0
    ran: list[int] = []

    def handle(record: Record) -> None:
        nonlocal left_s
        ran.append(record.value)
        if record.value >= 2:
            left_s = 0.5

    async def tasks(record: Record) -> None:
        handle(record)

    made = invoker(executor, tasks if kind == "async" else handle, concurrency=concurrency)
    deadline = Deadline(lambda: left_s, 1.0)
    came = await made.invoke(records(*"aaaaaaaa"), start=0, deadline=deadline)
    assert came.outcome == FailedFrom(3, None, OUT_OF_TIME)
    assert ran == [0, 1, 2]
    # It was short from the beginning: one record each time, so that there is progress at all.
    ran.clear()
    came = await made.invoke(records(*"aaaaaaaa")[3:], start=3, deadline=deadline)
    assert came.outcome == FailedFrom(4, None, OUT_OF_TIME)
    assert ran == [3]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_still_awaits_is_cancelled(executor: ThreadExecutor, concurrency: int) -> None:
    cancelled = []

    async def handle(record: Record) -> None:
        if record.value == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(record.value)
                raise

    made = invoker(executor, handle, concurrency=concurrency)
    came = await made.invoke(records(*"abbb"), start=0, deadline=Deadline(lambda: 1.05, 1.0))
    assert came.outcome == FailedFrom(1, None, OUT_OF_TIME)
    assert cancelled == [1]


# ── effects that must not repeat ─────────────────────────────────────────────────────────────────────────────────


class Failing(MemoryIdempotency):
    """Refuses what it is told to."""

    def __init__(self, *refuse: str) -> None:
        super().__init__()
        self.refuse = set(refuse)

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        if "begin" in self.refuse:
            raise StoreError("the table is away")
        return super().begin(key, for_s=for_s)

    def finish(self, key: str) -> None:
        if "finish" in self.refuse:
            raise StoreError("the table is away")
        super().finish(key)


FORMS = pytest.mark.parametrize("kind", ["async", "threads", "wrapped"])
WIDTHS = pytest.mark.parametrize("concurrency", [1, 3])


def form(kind: str, handle: Any) -> Any:
    async def tasks(record: Record) -> None:
        await asyncio.sleep(0)
        handle(record)

    return {"async": tasks, "threads": handle, "wrapped": lambda record: tasks(record)}[kind]


@FORMS
@WIDTHS
async def test_what_was_done_is_spared_and_what_failed_runs_again(executor: ThreadExecutor, kind: str, concurrency: int) -> None:
    """Across invokers, as across processes: nothing but the store is shared."""
    ran: list[int] = []
    sick = True

    def handle(record: Record) -> None:
        ran.append(record.value)
        if record.value == 2 and sick:
            raise ValueError

    store = MemoryIdempotency()
    options: Any = {"idempotency": store, "concurrency": concurrency}
    batch = records(*"abcd")
    assert failed(await invoker(executor, form(kind, handle), **options).invoke(batch, start=0)) == 2
    sick = False
    assert (await invoker(executor, form(kind, handle), **options).invoke(batch, start=0)).outcome == Succeeded()
    assert (await invoker(executor, form(kind, handle), **options).invoke(batch, start=0)).outcome == Succeeded()
    assert sorted(ran) == [0, 1, 2, 2, 3]


async def test_a_key_of_ones_own_spares_what_was_sent_twice(executor: ThreadExecutor) -> None:
    """Two records with one order number: one effect. And what makes no key is the record's failure."""
    ran: list[int] = []

    def key(record: Record) -> str:
        return str(record.value % 2) if record.value < 4 else str(1 // 0)

    made = invoker(executor, lambda record: ran.append(record.value), idempotency=MemoryIdempotency(), idempotency_key=key)
    came = await made.invoke(records(*"abcdef"), start=0)
    assert came.outcome == FailedFrom(4, None, "ZeroDivisionError: integer division or modulo by zero")
    assert ran == [0, 1]
    for bad, words in (
        (5, "it must return text"),
        ("", "it must return text"),
        (None, "it must return text"),
        ("\ud800", "UnicodeEncodeError"),
    ):
        made = invoker(executor, print, idempotency=MemoryIdempotency(), idempotency_key=lambda record, bad=bad: bad)
        came = await made.invoke(records("a"), start=0)
        assert failed(came) == 0
        assert isinstance(came.outcome, FailedFrom)
        assert words in came.outcome.error


@pytest.mark.parametrize("kind", ["async", "wrapped"])
@pytest.mark.parametrize("answered", ["not yet", "already"])
async def test_who_is_cancelled_while_a_marker_is_asked_for_leaves_none(answered: str, kind: str) -> None:
    """Or the record would block until the marker is too old. The answer may have come, although nobody was woken yet."""
    asked, cancelled, ended = asyncio.Event(), threading.Event(), threading.Event()

    class Busy:
        """Asks the first time before whoever waits is cancelled, or after."""

        async def run(self, function: Any, /, *args: Any) -> Any:
            if asked.is_set():
                return function(*args)
            if answered == "already":
                function(*args)
                ended.set()
            asked.set()
            return await asyncio.to_thread(self._late, function, *args)

        def _late(self, function: Any, *args: Any) -> None:
            assert cancelled.wait(10)
            if not ended.is_set():
                function(*args)
                ended.set()

    store, ran = MemoryIdempotency(), []

    async def handle(record: Record) -> None:
        ran.append(record.value)

    app = App("numbers")
    app.on_record("s", idempotency=store)(handle if kind == "async" else lambda record: handle(record))
    made = Invoker(app.consumers[0], Busy())
    task = asyncio.ensure_future(made.invoke(records("a"), start=0))
    await asyncio.wait_for(asked.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert (await made.invoke(records("a"), start=0)).outcome == Succeeded()
    assert ran == [0]


async def test_apps_and_streams_keep_apart_in_one_store(executor: ThreadExecutor) -> None:
    store, ran = MemoryIdempotency(), []
    for name, stream in (("one", "s"), ("two", "s"), ("one", "t")):
        app = App(name)
        app.on_record(stream, idempotency=store, idempotency_key=lambda record: "key")(lambda record: ran.append(1))
        await Invoker(app.consumers[0], executor).invoke(records("a"), start=0)
    assert len(ran) == 3


@FORMS
async def test_a_record_that_is_in_progress_elsewhere_blocks_without_an_attempt(executor: ThreadExecutor, kind: str) -> None:
    """Its process may have died: it blocks until the marker is too old. What was done before it is told first."""
    now_s = 1000.0
    ran: list[int] = []
    store = MemoryIdempotency(in_progress_s=60, clock=lambda: now_s)
    made = invoker(executor, form(kind, lambda record: ran.append(record.value)), idempotency=store)
    batch = records(*"abc")
    assert store.begin(f"numbers/s/{SHARD}/1001/0").state == "mine"
    assert failed(await made.invoke(batch, start=0)) == 1
    came = await made.invoke(batch[1:], start=1)
    assert came.outcome == Throttled()
    assert "in progress elsewhere" in came.trouble
    assert ran == [0]
    now_s += 61
    assert (await made.invoke(batch[1:], start=1)).outcome == Succeeded()
    assert ran == [0, 1, 2]


async def test_a_store_that_fails_blocks_visibly_and_runs_nothing(executor: ThreadExecutor) -> None:
    ran: list[int] = []
    store = Failing("begin")
    made = invoker(executor, lambda record: ran.append(record.value), idempotency=store)
    came = await made.invoke(records("a"), start=0)
    assert (came.outcome, ran) == (Throttled(), [])
    assert "the table is away" in came.trouble
    assert isinstance(came.cause, StoreError)


@FORMS
async def test_a_store_that_fails_after_the_effect_leaves_the_record_done(executor: ThreadExecutor, kind: str) -> None:
    """To run it again would be the very thing that was to be spared."""
    ran: list[int] = []
    made = invoker(executor, form(kind, lambda record: ran.append(record.value)), idempotency=Failing("finish"))
    came = await made.invoke(records(*"ab"), start=0)
    assert (came.outcome, ran) == (Succeeded(), [0, 1])
    assert "a replay may run it again" in came.trouble


async def test_a_cancelled_handler_gives_its_marker_back(executor: ThreadExecutor) -> None:
    """The lease went away, or time ran out: whoever comes next may begin at once."""
    store, ran = MemoryIdempotency(), []

    async def handle(record: Record) -> None:
        ran.append(record.value)
        await asyncio.Event().wait()

    made = invoker(executor, handle, idempotency=store)
    came = await made.invoke(records("a"), start=0, deadline=Deadline(lambda: 1.05, 1.0))
    assert came.outcome == FailedFrom(0, None, OUT_OF_TIME)
    assert store.begin(f"numbers/s/{SHARD}/1000/0").state == "mine"


async def test_who_is_cancelled_when_the_handler_has_ended_leaves_its_marker_done() -> None:
    """Were it left in progress, the record would block whoever comes next, who would then have its effect again."""
    ended, waits = asyncio.Event(), asyncio.Event()

    class Full:
        """No thread is free when the handler has ended."""

        async def run(self, function: Any, /, *args: Any) -> Any:
            if ended.is_set() and not waits.is_set():
                waits.set()
                await asyncio.Event().wait()
            return function(*args)

    store, ran = MemoryIdempotency(), []

    async def handle(record: Record) -> None:
        ran.append(record.value)
        ended.set()

    app = App("numbers")
    app.on_record("s", idempotency=store)(handle)
    made = Invoker(app.consumers[0], Full())
    task = asyncio.ensure_future(made.invoke(records("a"), start=0))
    await asyncio.wait_for(waits.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await made.invoke(records("a"), start=0)).outcome == Succeeded()
    assert ran == [0]


async def test_a_marker_lasts_as_long_as_the_invocation_may(executor: ThreadExecutor) -> None:
    """Lambda ends the process at its time-out; nothing of it runs on, so nobody need wait longer."""
    now_s = 1000.0
    store = MemoryIdempotency(in_progress_s=60, clock=lambda: now_s)
    states = []

    def handle(record: Record) -> None:
        nonlocal now_s
        now_s += 29
        states.append(store.begin(f"numbers/s/{SHARD}/1000/0").state)
        now_s += 2
        states.append(store.begin(f"numbers/s/{SHARD}/1000/0").state)

    await invoker(executor, handle, idempotency=store).invoke(records("a"), start=0, deadline=Deadline(lambda: 30.0, 1.0))
    assert states == ["busy", "mine"]


# ── in a worker ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_in_a_worker_others_run_once_while_a_key_fails_and_is_given_up() -> None:
    """The bad record is tried three times; no other record of its batch more than once."""
    tries: dict[int, int] = defaultdict(int)
    documents = Documents()
    app = App("numbers")

    @app.on_record(
        STREAM, concurrency=4, batch_size=20, maximum_retry_attempts=2, bisect_batch_on_function_error=True, on_failure=documents
    )
    async def handle(record: Record) -> None:
        n = record.value["n"]
        tries[n] += 1
        await asyncio.sleep(0)
        if n == 3:
            raise ValueError("never")

    async with world(app) as w:
        await w.put(range(60))
        async with w.worker():
            await w.until(lambda: len(tries) == 60 and documents.values == [3])
        assert not w.failures
    assert {n for n, count in tries.items() if count > 1} == {3}


async def test_in_a_worker_a_store_that_fails_is_told_and_waited_for() -> None:
    store, ran = Failing("begin"), []
    app = App("numbers")
    app.on_record(STREAM, idempotency=store, maximum_retry_attempts=0)(lambda record: ran.append(record.value["n"]))
    async with world(app) as w:
        await w.put(range(5))
        async with w.worker():
            await w.until(lambda: bool(w.of(Trouble)))
            assert (ran, w.of(HandlerFailed)) == ([], [])
            store.refuse.clear()
            await w.until(lambda: len(ran) == 5)
    assert ran == [0, 1, 2, 3, 4], "nothing was given up, although no retry is allowed"
    assert "the table is away" in w.of(Trouble)[0].error


async def test_in_a_worker_a_crash_before_the_checkpoint_repeats_no_effect(tmp_path: Any) -> None:
    store, ran, crashed = MemoryIdempotency(), [], asyncio.Event()
    app = App("numbers")

    @app.on_record(STREAM, idempotency=store, batch_size=50)
    async def handle(record: Record) -> None:
        if record.value["n"] == 30 and not crashed.is_set():
            crashed.set()
            await asyncio.Event().wait()
        ran.append(json.loads(record.data)["n"])

    leases = SqliteLeaseStore(tmp_path / "leases.db")
    async with world(app, store=leases) as w:
        await w.put(range(50))
        async with w.worker(crash=True):
            await w.until(crashed.is_set)
        async with w.worker():
            await w.until(lambda: len(ran) >= 50)
        leases.open()
        assert checkpoints(leases)
        leases.close()
    assert ran == list(range(50))


async def test_an_error_without_words_is_a_failure_all_the_same(executor: ThreadExecutor) -> None:
    """ "Nothing failed" is told by an empty text: a key or a handler that raises without a word must not look like it."""
    ran: list[Record] = []

    def key(record: Record) -> str:
        raise StreamletError

    invocation = await invoker(executor, ran.append, idempotency=MemoryIdempotency(), idempotency_key=key).invoke(
        records("a", "b"), start=0
    )
    assert failed(invocation) == 0
    assert ran == []


async def test_a_row_that_does_not_fit_is_made_again_although_its_record_was_remembered(executor: ThreadExecutor) -> None:
    """Else every retry would look at the same row, for ever."""
    ran: list[int] = []

    def refuse(row: Any) -> None:
        if row == "bad":
            raise ValueError(row)

    async def handle(record: Record) -> str:
        ran.append(record.value)
        if ran.count(record.value) > 1:
            return "good"
        if record.value == 0:
            raise ValueError("not now")
        return "bad"

    done: Done = {}
    made = invoker(executor, handle, concurrency=2, sink=MemorySink(check_row=refuse))
    assert failed(await made.invoke(records(*"ab"), start=0, done=done)) == 0
    assert failed(await made.invoke(records(*"ab"), start=0, done=done)) == 1
    assert sorted(ran) == [0, 0, 1]
    assert (await made.invoke(records(*"ab")[1:], start=1, done=done)).outcome == Succeeded()


def test_an_exception_is_always_said_in_words() -> None:
    assert [says(StreamletError()), says(StreamletError("why")), says(ValueError())] == ["StreamletError: ", "why", "ValueError: "]
