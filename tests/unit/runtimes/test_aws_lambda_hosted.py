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

        async def run(given: Any) -> Any:
            invoked = await host.invoke(json.dumps(given).encode())
            assert isinstance(invoked, Invoked)
            return invoked.outcome

        assert await run(event(b"1", b"2")) == Answer(failures())
        assert await run(event(b"1", b"bad", b"3", keys="abc")) == Answer(failures(91))
        assert await run(event(b"1", b'"hang"', b"3", keys="abc")) == Answer(failures(91))
        assert await run(window_event(b"1", b"2", state={"n": 3}, stream="clicks")) == Answer({"state": {"n": 5}, **failures()})
        error = await run(event(b"1", stream="refunds"))
        assert isinstance(error, FunctionError)
        assert "of the handler" in str(error)
        assert await run(event(b"1")) == Answer(failures())
        assert (host.cold_starts, host.warm_starts) == (1, 5)
