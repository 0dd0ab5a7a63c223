"""The Lambda runtime under Lambda's real client, in a process of its own: what crosses the Runtime API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from streamlet.clock import SystemClock
from streamlet.runtimes.esm.host import Host
from streamlet.runtimes.esm.sandbox import Answer, FunctionError, Invoked, SandboxSettings
from tests.unit.runtimes.lambda_worlds import event, failures, window_event
from tests.unit.runtimes.test_aws_lambda_s3 import s3_event

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="awslambdaric is Linux's")

FUNCTION = """
import asyncio
from streamlet import App, lambda_context
app = App("shop", deadline_margin_s=1)
lambda_handler = app.lambda_handler
loops = set()

@app.on_record("orders", concurrency=2)
async def handle(record):
    loops.add(id(asyncio.get_running_loop()))
    assert len(loops) == 1
    assert lambda_context().function_name == "orders" and lambda_context().memory_limit_mb == 256
    if record.value == "hang":
        await asyncio.Event().wait()

@app.on_batch("refunds")
def refund(batch):
    raise ValueError("of the handler")

@app.on_window("clicks", tumbling_window_s=60)
def count(batch, state):
    return {"n": state.get("n", 0) + len(batch)}
"""


async def test_answers_as_lambda_would_see_them(tmp_path: Path) -> None:
    """Answers, errors and states; a handler that hangs is told before the time-out, and the process goes on, warm."""
    (tmp_path / "function.py").write_text(FUNCTION)
    settings = SandboxSettings(handler="function.lambda_handler", function_name="orders", folder=tmp_path, timeout_s=3.0, memory_mb=256)
    async with Host(settings, clock=SystemClock(), on_line=lambda number, request, line: None) as host:
        cold = []

        async def run(given: Any) -> Any:
            invoked = await host.invoke(json.dumps(given).encode())
            assert isinstance(invoked, Invoked)
            cold.append(invoked.init_s is not None)
            return invoked.outcome

        assert await run(event(b"1", b"2")) == Answer(failures())
        assert await run(event(b"1", b"bad", b"3", keys="abc")) == Answer(failures(91))
        assert await run(event(b"1", b'"hang"', b"3", keys="abc")) == Answer(failures(91))
        assert await run(window_event(b"1", b"2", state={"n": 3}, stream="clicks")) == Answer({"state": {"n": 5}, **failures()})
        error = await run(event(b"1", stream="refunds"))
        assert isinstance(error, FunctionError)
        assert "of the handler" in str(error)
        assert await run(event(b"1")) == Answer(failures())
        assert cold == [True, False, False, False, False, False]


ODD = """
import asyncio
from streamlet import App
app = App("shop")
lambda_handler = app.lambda_handler

@app.on_record("orders")
def handle(record):
    asyncio.run(asyncio.sleep(0))
    if record.value == "exit":
        raise SystemExit(3)

@app.on_s3("landing")
def take(thing):
    raise SystemExit(thing.key)

@app.on_batch("refunds")
def refund(batch):
    return {"batchItemFailures": [{"itemIdentifier": batch[0].sequence_number}]}
"""


async def test_odd_events_and_handlers_leave_the_process_warm(tmp_path: Path) -> None:
    """Each ends in an answer or in an error that says what to do, and one process does them all."""
    (tmp_path / "odd.py").write_text(ODD)
    settings = SandboxSettings(handler="odd.lambda_handler", function_name="orders", folder=tmp_path, timeout_s=20.0, memory_mb=256)
    async with Host(settings, clock=SystemClock(), on_line=lambda number, request, line: None) as host:

        async def run(given: Any) -> tuple[Any, int]:
            invoked = await host.invoke(json.dumps(given).encode())
            assert isinstance(invoked, Invoked)
            return invoked.outcome, invoked.sandbox

        async def error(given: Any) -> str:
            outcome, sandbox = await run(given)
            assert isinstance(outcome, FunctionError), outcome
            assert sandbox == first
            return str(outcome)

        outcome, first = await run(event(b"1"))
        assert outcome == Answer(failures()), "a plain handler may have a loop of its own"
        message: dict[str, Any] = {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}
        strangers: list[Any] = [{}, {"Records": []}, [], None, 5, "text", message, {"source": "aws.s3"}]
        for odd in strangers:
            assert "no Kinesis event and no S3 event" in await error(odd)
        assert "SystemExit: a b" in await error(s3_event("a+b"))
        assert "raise RecordFailed(record)" in await error(event(b"1", stream="refunds"))
        assert "no handler for stream" in await error(event(b"1", stream="returns"))
        assert await run({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "landing"}) == (Answer(None), first)
        assert await run(event(b"1", b'"exit"', b"3")) == (Answer(failures(91)), first)
        assert await run(event(b"1")) == (Answer(failures()), first)
