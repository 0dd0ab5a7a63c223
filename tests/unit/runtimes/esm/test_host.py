"""Whatever a function does, its invocation ends, and ends as on Lambda: with the real client, in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamlet.clock import SystemClock
from streamlet.core.failure import Throttled
from streamlet.errors import ConfigurationError
from streamlet.runtimes.esm import leftovers
from streamlet.runtimes.esm.guard import Guard
from streamlet.runtimes.esm.host import EVENT_BYTES_MAX, Host
from streamlet.runtimes.esm.memory import tree_bytes
from streamlet.runtimes.esm.output import LINE_BYTES_MAX, LINES_MAX
from streamlet.runtimes.esm.sandbox import Answer, FunctionError, Invoked, SandboxSettings

FUNCTION = r"""
import json, os, signal, subprocess, sys, threading, time

calls = 0

def answer(event, context):
    global calls
    calls += 1
    return {"event": event, "calls": calls}

def surroundings(event, context):
    return {"stream": context.log_stream_name, "name": context.function_name, "arn": context.invoked_function_arn, "memory": context.memory_limit_in_mb,
            "left_ms": context.get_remaining_time_in_millis(), "request": context.aws_request_id, "region": os.environ["AWS_REGION"],
            "mine": os.environ.get("MINE"), "folder": os.getcwd(), "version": context.function_version,
            "group": context.log_group_name, "zone": time.tzname[0], "leaked": "AWS_LAMBDA_MAX_CONCURRENCY" in os.environ,
            "sibling": __import__("sibling").HERE}

def raises(event, context):
    print("before it fails")
    raise ValueError("no amount")

def sleeps(event, context):
    subprocess.Popen(["sleep", "600"])
    print("going to sleep", flush=True)
    time.sleep(600)

def spins(event, context):
    while True:
        pass

def hoards(event, context):
    kept = []
    while True:
        kept.append(b"x" * 4_000_000)
        time.sleep(0.005)

def child_hoards(event, context):
    subprocess.run([sys.executable, "-c", "import time; kept = b'x' * 300_000_000; time.sleep(600)"])

def exits(event, context):
    sys.exit(event["status"])

def quits(event, context):
    os._exit(event["status"])

def dies(event, context):
    os.kill(os.getpid(), signal.SIGSEGV)

def dies_later(event, context):
    threading.Timer(0.01, os._exit, [3]).start()
    return "done"

def escapes(event, context):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    subprocess.run([sys.executable, "-c", daemon])
    if event == "and spins":
        print("spinning", flush=True)
        while True:
            pass

def raises_at_length(event, context):
    raise ValueError("x" * event)

def recurses(event, context):
    recurses(event, context)

def reports_half_a_pair(event, context):
    import http.client
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    body = json.dumps({"errorMessage": "half \ud800 a pair", "errorType": "Odd"})
    connection.request("POST", f"/2018-06-01/runtime/invocation/{context.aws_request_id}/error", body=body)
    connection.getresponse()

def prints(event, context):
    os.write(1, b"\x1b[2J\x00\xff garbage \x07\n")
    os.write(2, b"y" * 100_000 + b"\n")
    os.write(1, b"no end")
    return "printed"

def floods(event, context):
    for _ in range(200):
        os.write(1, b"line\n" * 100)
    return "flooded"

def nan(event, context):
    return {"value": float("nan")}

def unserializable(event, context):
    return {"value": object()}

def long_answer(event, context):
    return "x" * event["bytes"]

def meddles(event, context):
    import http.client
    said = []
    for method, path in [("POST", "/2018-06-01/runtime/invocation/another/response"), ("POST", "/2018-06-01/runtime/invocation/another/error"),
                         ("GET", "/2018-06-01/runtime/restore/next"), ("PUT", "/")]:
        connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        connection.request(method, path, body="{}")
        said.append(connection.getresponse().status)
        connection.close()
    return said
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "function.py").write_text(FUNCTION)
    (tmp_path / "sibling.py").write_text("HERE = True")
    (tmp_path / "broken.py").write_text("print('importing')\nimport nowhere_to_be_found")
    (tmp_path / "syntax.py").write_text("def lambda_handler(:")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)")
    (tmp_path / "stuck.py").write_text("import time\ntime.sleep(600)")
    return tmp_path


class World(Host):
    lines: list[str]

    async def run(self, event: Any = None) -> Invoked:
        invoked = await self.invoke(json.dumps(event).encode())
        assert isinstance(invoked, Invoked)
        return invoked


@asynccontextmanager
async def hosted(folder: Path, handler: str, *, concurrency: int | None = None, **settings: Any) -> AsyncIterator[World]:
    lines: list[str] = []
    made = SandboxSettings(handler=handler, function_name="orders", folder=folder, **({"timeout_s": 20.0, "memory_mb": 256} | settings))
    async with World(made, clock=SystemClock(), concurrency=concurrency, on_line=lambda number, request, line: lines.append(line)) as host:
        host.lines = lines
        yield host


async def test_an_answer_and_a_warm_start(folder: Path) -> None:
    async with hosted(folder, "function.answer") as host:
        first, second = await host.run({"n": 1}), await host.run({"ü": None})
    assert first.outcome == Answer({"event": {"n": 1}, "calls": 1})
    assert second.outcome == Answer({"event": {"ü": None}, "calls": 2}), "the same process, kept warm"
    assert (first.init_s is not None, second.init_s) == (True, None)
    assert first.request_id != second.request_id
    assert 5_000_000 < second.memory_bytes < 200_000_000


async def test_the_context_and_the_environment_are_lambdas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_MAX_CONCURRENCY", "5")  # of another Lambda: it would switch the client to another mode
    settings: dict[str, Any] = {"region": "eu-west-1", "account_id": "123456789012", "environment": {"MINE": "yes"}}
    async with hosted(folder, "function.surroundings", **settings) as host:
        invoked = await host.run()
    assert isinstance(invoked.outcome, Answer)
    seen = invoked.outcome.value
    assert 15_000 < seen.pop("left_ms") <= 20_000
    assert seen.pop("request") == invoked.request_id
    assert re.fullmatch(r"20\d\d/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", seen.pop("stream"))
    assert seen == {
        "name": "orders",
        "arn": "arn:aws:lambda:eu-west-1:123456789012:function:orders",
        "memory": "256",
        "region": "eu-west-1",
        "mine": "yes",
        "folder": str(folder),
        "version": "$LATEST",
        "group": "/aws/lambda/orders",
        "zone": "UTC",
        "leaked": False,
        "sibling": True,
    }


FAILURES: list[tuple[str, Any, dict[str, Any], str, str]] = [
    ("function.raises", None, {}, "ValueError", "no amount"),
    ("function.raises_at_length", 20_000, {}, "ValueError", "x" * 20_000),
    ("function.raises_at_length", 3_000_000, {}, "ValueError", "x" * 65_536),
    ("function.recurses", None, {}, "RecursionError", "maximum recursion depth"),
    ("function.nan", None, {}, "Runtime.InvalidResponse", "NaN is no JSON"),
    ("function.unserializable", None, {}, "Runtime.MarshalError", "object"),
    ("function.long_answer", {"bytes": 6_291_556}, {}, "Function.ResponseSizeTooLarge", "(6291556 bytes)"),
    ("function.sleeps", None, {"timeout_s": 0.2}, "Sandbox.Timedout", "Task timed out after 0.20 seconds"),
    ("function.spins", None, {"timeout_s": 0.2}, "Sandbox.Timedout", "Task timed out after 0.20 seconds"),
    ("function.hoards", None, {"memory_mb": 64}, "Runtime.OutOfMemory", "signal: killed"),
    ("function.child_hoards", None, {}, "Runtime.OutOfMemory", "signal: killed"),
    ("function.exits", {"status": 3}, {}, "Runtime.ExitError", "exit status 3"),
    ("function.quits", {"status": 0}, {}, "Runtime.ExitError", "without providing a reason"),
    ("function.dies", None, {}, "Runtime.ExitError", "signal: segmentation fault"),
    ("function.absent", None, {}, "Runtime.HandlerNotFound", "absent"),
    ("broken.lambda_handler", None, {}, "Runtime.ImportModuleError", "nowhere_to_be_found"),
    ("syntax.lambda_handler", None, {}, "Runtime.UserCodeSyntaxError", "Syntax error"),
    ("leaves.lambda_handler", None, {}, "Runtime.ExitError", "exit status 7"),
]


@pytest.mark.parametrize(("handler", "event", "settings", "kind", "says"), FAILURES, ids=[f"{one[0]} {one[3]}" for one in FAILURES])
async def test_every_end_has_its_name(folder: Path, handler: str, event: Any, settings: dict[str, Any], kind: str, says: str) -> None:
    async with hosted(folder, handler, **settings) as host:
        first = await host.run(event)
        again = await host.run(event)
    for invoked in (first, again):
        assert isinstance(invoked.outcome, FunctionError)
        assert invoked.outcome.kind == kind
        assert says in invoked.outcome.message
    warm = handler.removeprefix("function.") in {"raises", "raises_at_length", "recurses", "nan", "unserializable"}
    assert (again.init_s is None) is warm, "what ends the process begins cold again; an exception does not"


async def test_an_import_that_does_not_end_is_a_time_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlet.runtimes.esm.sandbox.INIT_S", 0.2)
    async with hosted(folder, "stuck.lambda_handler", timeout_s=0.2) as host:
        invoked = await host.run()
    assert isinstance(invoked.outcome, FunctionError)
    assert invoked.outcome.kind == "Sandbox.Timedout"


async def test_the_longest_answer_is_an_answer(folder: Path) -> None:
    async with hosted(folder, "function.long_answer") as host:
        invoked = await host.run({"bytes": 6_291_556 - 2})
    assert isinstance(invoked.outcome, Answer)
    assert len(invoked.outcome.value) == 6_291_554


async def test_answers_for_other_invocations_and_unknown_calls_are_refused(folder: Path) -> None:
    async with hosted(folder, "function.meddles") as host:
        assert (await host.run()).outcome == Answer([400, 400, 404, 404])


async def test_an_event_above_the_limit_runs_nothing(folder: Path) -> None:
    async with hosted(folder, "function.answer") as host:
        invoked = await host.run("x" * EVENT_BYTES_MAX)
    assert isinstance(invoked.outcome, FunctionError)
    assert invoked.outcome.kind == "RequestEntityTooLarge"
    assert invoked.sandbox == 0


async def test_nothing_that_a_function_started_is_left(folder: Path) -> None:
    """The time-out kills the sleeping child, too."""
    async with hosted(folder, "function.sleeps", timeout_s=0.3) as host:
        await host.run()
        assert await left(folder, wait=True) == [], "the host still runs: it was the time-out that killed it"
        assert host.lines == ["going to sleep"]


async def test_what_has_left_the_process_group_is_ended_too(folder: Path) -> None:
    """A process in a session of its own, and a daemon without a parent."""
    async with hosted(folder, "function.escapes") as host:
        await host.run()
        assert len(await left(folder)) == 3
    assert await left(folder, wait=True) == []


async def test_a_host_that_is_killed_leaves_nothing(folder: Path) -> None:
    """SIGKILL, while the function spins and its children sleep."""
    program = f"""
import asyncio, pathlib
from streamlet.clock import SystemClock
from streamlet.runtimes.esm.host import Host
from streamlet.runtimes.esm.sandbox import SandboxSettings
settings = SandboxSettings(handler="function.escapes", function_name="orders", folder=pathlib.Path({str(folder)!r}), timeout_s=600, memory_mb=256)
async def main():
    async with Host(settings, clock=SystemClock(), on_line=lambda number, request, line: print(line, flush=True)) as host:
        await host.invoke(b'"and spins"')
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(30):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"spinning\n"
        assert len(await left(folder)) == 3
    finally:
        process.kill()
        await process.wait()
    assert await left(folder, wait=True) == []


async def test_the_guard_outlives_a_sandbox_that_its_host_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event 1: a function starts a host of its own. Event 2: it is ended, and with it all that has its mark: its host, too. The
    inner sandboxes have another mark, and only the inner guard is left to end them."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("AWS_LAMBDA_LOG_STREAM_NAME", f"2026/01/01/[$LATEST]{mark}")
    guard = Guard()
    await guard.start()
    inner = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True, env={})
    guard.watch("inner", inner.pid)
    leftovers.end(inner.pid + 4_000_000, mark)  # no such group
    async with asyncio.timeout(30):
        await guard.close()
        assert await inner.wait() == -signal.SIGKILL


async def test_half_a_surrogate_pair_is_no_text(folder: Path) -> None:
    async with hosted(folder, "function.reports_half_a_pair") as host:
        invoked = await host.run()
    assert isinstance(invoked.outcome, FunctionError)
    assert (invoked.outcome.kind, invoked.outcome.message) == ("Odd", "half ? a pair")


async def left(folder: Path, *, wait: bool = False) -> list[str]:
    """Processes at work in the folder. A killed one takes a moment to go."""
    for _ in range(200 if wait else 1):
        found = [process.name for process in Path("/proc").iterdir() if process.name.isdigit() and at_work(process) == str(folder)]
        if not found:
            break
        await asyncio.sleep(0.01)
    return found


def at_work(process: Path) -> str:
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""


async def test_a_process_that_ended_between_invocations_is_replaced(folder: Path) -> None:
    async with hosted(folder, "function.dies_later") as host:
        first = await host.run()
        sandbox = host._idle[0]
        await sandbox._ended.wait()
        second = await host.run()
    assert first.outcome == second.outcome == Answer("done")
    assert second.init_s is not None


async def test_above_the_reserved_concurrency_is_throttled(folder: Path) -> None:
    async with hosted(folder, "function.sleeps", concurrency=1, timeout_s=1.0) as host, asyncio.TaskGroup() as tg:
        running = tg.create_task(host.invoke(b"{}"))
        await asyncio.sleep(0)
        assert isinstance(await host.invoke(b"{}"), Throttled)
        assert isinstance(await running, Invoked)
    async with hosted(folder, "function.answer", concurrency=0) as host:
        assert isinstance(await host.invoke(b"{}"), Throttled)


async def test_one_process_per_concurrent_invocation(folder: Path) -> None:
    async with hosted(folder, "function.answer") as host:
        async with asyncio.TaskGroup() as tg:
            tasks = [tg.create_task(host.run(n)) for n in range(3)]
        assert sorted(task.result().sandbox for task in tasks) == [1, 2, 3]
        assert all(task.result().init_s is not None for task in tasks)
        assert (await host.run()).init_s is None


async def test_a_cancelled_invocation_ends_its_process(folder: Path) -> None:
    async with hosted(folder, "function.sleeps") as host:
        task = asyncio.get_running_loop().create_task(host.run())
        while not host.lines:
            await asyncio.sleep(0.005)
        (sandbox,) = host._all
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sandbox._ended.wait()
        assert host._all == []


async def test_what_is_printed_comes_as_lines_that_a_terminal_bears(folder: Path) -> None:
    async with hosted(folder, "function.prints") as host:
        assert (await host.run()).outcome == Answer("printed")
    garbage, long, rest = host.lines
    assert garbage.isprintable()
    assert "garbage" in garbage
    assert long == "y" * LINE_BYTES_MAX + f" … ({100_000 - LINE_BYTES_MAX:,} more bytes)"
    assert rest == "no end"


async def test_a_flood_is_cut(folder: Path) -> None:
    async with hosted(folder, "function.floods") as host:
        for _ in range(2):
            await host.run()
    assert len(host.lines) == 2 * (LINES_MAX + 1), "each invocation has its own"
    assert host.lines[LINES_MAX] == f"… {20_000 - LINES_MAX:,} more lines are left out"


async def test_a_traceback_is_lines(folder: Path) -> None:
    async with hosted(folder, "function.raises") as host:
        await host.run()
    assert host.lines[:2] == ["before it fails", "[ERROR] ValueError: no amount"]
    assert host.lines[-1].strip() == 'raise ValueError("no amount")'


def test_memory_counts_a_process_and_its_children() -> None:
    assert tree_bytes(os.getpid()) > 10_000_000
    assert tree_bytes(2**22 + 1) == 0


def test_a_negative_concurrency_is_refused(tmp_path: Path) -> None:
    settings = SandboxSettings(handler="a.b", function_name="a", folder=tmp_path)
    with pytest.raises(ConfigurationError, match="concurrency=-1"):
        Host(settings, clock=SystemClock(), concurrency=-1, on_line=lambda *_: None)
