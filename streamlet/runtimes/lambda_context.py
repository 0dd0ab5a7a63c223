"""What may a handler know about the invocation that it runs in?

    from streamlet import lambda_context

    @app.on_record("orders")
    async def handle(record):
        if (context := lambda_context()) is not None and context.remaining_s() < 5: ...

A function to ask, and no second parameter, so that the same handler runs in a worker, where the answer is None.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any, Final

import msgspec

__all__ = ["CURRENT", "LambdaContext", "lambda_context", "of"]


class LambdaContext(msgspec.Struct, frozen=True):
    """One invocation. `event_source_arn` is the stream's, or with enhanced fan-out the consumer's; `shard_id` is empty for S3.
    What a test's context does not have is empty. `raw` is the object that Lambda gave."""

    request_id: str
    function_name: str
    function_version: str
    invoked_function_arn: str
    memory_limit_mb: int | None
    log_group_name: str
    log_stream_name: str
    event_source_arn: str
    shard_id: str
    raw: Any

    def remaining_s(self) -> float:
        """Seconds until Lambda ends the invocation; infinite where the context does not tell."""
        ask = getattr(self.raw, "get_remaining_time_in_millis", None)
        left_ms = None if ask is None else ask()
        # A mock answers, too, but with no number.
        return left_ms / 1000.0 if isinstance(left_ms, int | float) else math.inf


CURRENT: Final[ContextVar[LambdaContext | None]] = ContextVar("streamlet_lambda_context", default=None)


def lambda_context() -> LambdaContext | None:
    """The invocation that this handler runs in; None outside Lambda, and on a thread that the handler has started itself
    (asyncio.to_thread hands it on)."""
    return CURRENT.get()


def of(raw: Any, event_source_arn: str, shard_id: str) -> LambdaContext:
    """Made from what Lambda passes as the second argument, which may be None."""

    def text(name: str) -> str:
        return str(getattr(raw, name, None) or "")

    memory = text("memory_limit_in_mb")
    return LambdaContext(
        request_id=text("aws_request_id"),
        function_name=text("function_name"),
        function_version=text("function_version"),
        invoked_function_arn=text("invoked_function_arn"),
        memory_limit_mb=int(memory) if memory.isdigit() else None,
        log_group_name=text("log_group_name"),
        log_stream_name=text("log_stream_name"),
        event_source_arn=event_source_arn,
        shard_id=shard_id,
        raw=raw,
    )
