"""What does Lambda pass as the second argument? An object with the invocation's names, and a clock that runs down."""

from __future__ import annotations

import time
from typing import Any

from streamlet.errors import ConfigurationError

__all__ = ["FakeLambdaContext"]


class FakeLambdaContext:
    """The attributes of Lambda's context object (Lambda developer guide, python-context).

    `remaining_s` seconds are left when it is made, and run down in real time; a short one shows what a handler does that runs
    out of time.
    """

    identity: Any = None
    client_context: Any = None
    function_version = "$LATEST"

    def __init__(
        self,
        *,
        remaining_s: float = 30.0,
        function_name: str = "function",
        memory_limit_mb: int = 128,
        request_id: str = "00000000-0000-0000-0000-000000000000",
        region: str = "us-east-1",
        account_id: str = "123456789012",
    ) -> None:
        if not 0 <= remaining_s <= 900:
            raise ConfigurationError(f"remaining_s={remaining_s!r}: must be 0 to 900 seconds, the longest time-out of a function")
        self._ends_at_s = time.monotonic() + remaining_s
        self.function_name = function_name
        self.invoked_function_arn = f"arn:aws:lambda:{region}:{account_id}:function:{function_name}"
        self.memory_limit_in_mb = str(memory_limit_mb)  # text, as Lambda's own client has it from its environment
        self.aws_request_id = request_id
        self.log_group_name = f"/aws/lambda/{function_name}"
        self.log_stream_name = "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's time is up; 0 from then on."""
        return max(0, int((self._ends_at_s - time.monotonic()) * 1000))
