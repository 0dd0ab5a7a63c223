"""One execution environment: a process that runs Lambda's own client, and takes one invocation at a time.

Everything that a function may do to its surroundings is judged from outside, since from inside it could not be:

    what happens                              errorType                      the sandbox after that
    the handler raises                        the exception's name           stays warm
    it returns what is no JSON (NaN)          Runtime.InvalidResponse        stays warm
    it returns more than 6 MB                 Function.ResponseSizeTooLarge  killed
    it does not return in time                Sandbox.Timedout               killed
    it takes more memory than it may          Runtime.OutOfMemory            killed
    the process ends, whatever its status     Runtime.ExitError              gone
    it cannot be imported                     as the client says             gone

A kill takes everything that the function has started (see leftovers.py). The next invocation begins cold, as on Lambda.

CHOICES: the texts are Lambda's as far as they are known from its logs. What is no JSON has no error type there that we know of.
An import that takes more than INIT_S and the function's own time-out ends as a time-out (Lambda stops it after 10 s, and
imports once more within the first invocation). Between invocations Lambda freezes a sandbox; here its threads go on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from streamlet.errors import ConfigurationError
from streamlet.ports import Clock
from streamlet.runtimes.esm.guard import Guard
from streamlet.runtimes.esm.leftovers import end
from streamlet.runtimes.esm.memory import tree_bytes
from streamlet.runtimes.esm.output import Lines
from streamlet.runtimes.esm.runtime_api import RESPONSE_BYTES_MAX, Raised, RuntimeApi, Work

__all__ = ["Answer", "FunctionError", "Invoked", "OnLine", "Sandbox", "SandboxSettings"]

INIT_S: Final = 10.0
MEMORY_EVERY_S: Final = 0.02
_PIPE_READS_MAX: Final = 64

OnLine = Callable[[int, str, str], None]
"""Number of the sandbox, request id ("" outside of invocations), a line that the function printed."""


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a function is run: what Lambda calls its configuration.

    `handler` is MODULE.FUNCTION, importable from `folder`. `environment` is added to this process's own, which is how credentials
    and endpoints get there. `timeout_s` 1-900 and `memory_mb` 128-10,240 are Lambda's; tests may go below.
    """

    handler: str
    function_name: str
    folder: Path
    region: str = "us-east-1"
    account_id: str = "000000000000"
    partition: str = "aws"
    timeout_s: float = 3.0
    memory_mb: int = 128
    environment: Mapping[str, str] = {}

    @property
    def function_arn(self) -> str:
        """Unqualified, as a mapping names it."""
        return f"arn:{self.partition}:lambda:{self.region}:{self.account_id}:function:{self.function_name}"


class Answer(msgspec.Struct, frozen=True):
    """What the handler returned: decoded JSON."""

    value: Any


class FunctionError(msgspec.Struct, frozen=True):
    """Why an invocation failed: Lambda's errorType and errorMessage; `report` is what the client has posted, if it has."""

    kind: str
    message: str
    report: Mapping[str, Any] = {}

    @property
    def payload(self) -> dict[str, Any]:
        """What an Invoke call would answer."""
        return dict(self.report) or {"errorType": self.kind, "errorMessage": self.message}


class Invoked(msgspec.Struct, frozen=True):
    """An invocation that came to its end. `init_s` is None for a warm one; `memory_bytes` is the most that was seen."""

    request_id: str
    sandbox: int
    outcome: Answer | FunctionError
    init_s: float | None
    duration_s: float
    memory_bytes: int


class Sandbox:
    """One process at most. `invoke` starts it; a sandbox that has ended (`usable` is False) is not started again.

    `mark` tells its processes from all others on this machine. They carry it where Lambda's do: at the end of their log stream's name."""

    def __init__(
        self,
        number: int,
        mark: str,
        settings: SandboxSettings,
        *,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        guard: Guard,
        on_line: OnLine,
    ) -> None:
        self.number = number
        self.usable = True
        self._settings, self._clock, self._tasks, self._on_line = settings, clock, tasks, on_line
        self._mark, self._guard = mark, guard
        self._api = RuntimeApi(self)
        self._process: asyncio.subprocess.Process | None = None
        self._pipe = -1
        self._lines = Lines()
        self._ended = asyncio.Event()
        self._offered = asyncio.Event()
        self._busy = asyncio.Event()
        self._begun_s = 0.0
        self._init_s: float | None = None
        self._peak_bytes = 0
        # The invocation in hand.
        self._request_id, self._event = "", b""
        self._taken: asyncio.Future[None] | None = None
        self._taken_s = 0.0
        self._end: asyncio.Future[Answer | FunctionError] | None = None

    # ── one invocation ───────────────────────────────────────────────────────────────────────────────────────────

    async def invoke(self, request_id: str, event: bytes) -> Invoked:
        """Run the function once. Never raises for what the function does; ConfigurationError if no process can be started."""
        settings, loop = self._settings, asyncio.get_running_loop()
        self._request_id, self._event = request_id, event
        taken, end = self._taken, self._end = loop.create_future(), loop.create_future()
        self._peak_bytes = 0
        self._begun_s = self._taken_s = self._clock.monotonic()
        cold = self._process is None
        try:
            if cold:
                await self._start()
            self._busy.set()
            self._offered.set()
            await asyncio.wait([taken], timeout=INIT_S + settings.timeout_s)
            if taken.done():
                await asyncio.wait([end], timeout=settings.timeout_s)
            if not end.done():
                self._fail("Sandbox.Timedout", f"Task timed out after {settings.timeout_s:.2f} seconds", kill=True)
            duration_s = self._clock.monotonic() - self._taken_s
            outcome = end.result()
        finally:
            if not end.done():
                self.kill()  # we were cancelled: what it is doing now is nobody's any more
            self._busy.clear()
            self._offered.clear()
            self._event = b""
            if self._process is not None:
                self._peak_bytes = max(self._peak_bytes, tree_bytes(self._process.pid))
            self._read_pipe()
            self._tell(self._lines.end())
            self._request_id = ""
        return Invoked(request_id, self.number, outcome, (self._init_s or duration_s) if cold else None, duration_s, self._peak_bytes)

    def _settle(self, outcome: Answer | FunctionError) -> None:
        """The first to say what came of the invocation is right: a kill, for instance, comes before the exit that it leads to."""
        if self._end is not None and not self._end.done():
            self._end.set_result(outcome)
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    def _fail(self, kind: str, message: str, *, kill: bool = False) -> None:
        self._settle(FunctionError(kind, f"RequestId: {self._request_id} Error: {message}"))
        if kill:
            self.kill()

    # ── what the client asks ─────────────────────────────────────────────────────────────────────────────────────

    async def next(self) -> Work:
        """The client is ready."""
        if self._init_s is None:
            self._init_s = self._clock.monotonic() - self._begun_s
        await self._offered.wait()
        self._offered.clear()
        self._taken_s = self._clock.monotonic()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        deadline_ms = int((self._clock.time() + self._settings.timeout_s) * 1000)
        return Work(self._request_id, self._event, deadline_ms, self._settings.function_arn)

    def responded(self, request_id: str, body: bytes | None) -> bool:
        """What the handler returned."""
        if request_id != self._request_id:
            return False
        if body is None:
            message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."
            self._settle(FunctionError("Function.ResponseSizeTooLarge", message))
            self.usable = False  # the client ends itself when it hears that
            return True
        try:
            self._settle(Answer(json.loads(body, parse_constant=_no_json)))
        except (ValueError, RecursionError) as error:
            self._settle(FunctionError("Runtime.InvalidResponse", f"the function's response is not valid JSON: {error}"))
        return True

    def raised(self, request_id: str, raised: Raised) -> bool:
        """What the handler raised."""
        if request_id != self._request_id:
            return False
        self._settle(FunctionError(raised.error_type, raised.error_message, raised.report))
        return True

    def init_failed(self, raised: Raised) -> None:
        """The function cannot be imported."""
        self.usable = False
        self._settle(FunctionError(raised.error_type, raised.error_message, raised.report))

    # ── the process ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _start(self) -> None:
        address = await self._api.start()
        log_stream = f"{datetime.fromtimestamp(self._clock.time(), UTC):%Y/%m/%d}/[$LATEST]{self._mark}"
        read, write = os.pipe()
        os.set_blocking(read, False)
        self._pipe = read
        try:
            await self._guard.start()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "awslambdaric", self._settings.handler),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                cwd=self._settings.folder,
                env=_environment(self._settings, address, log_stream),
                start_new_session=True,  # a group of its own, to be killed as a whole; and Ctrl-C is for us to judge
            )
        except BaseException as error:
            os.close(read)
            self._pipe = -1
            self.usable = False
            await self._api.close()
            if isinstance(error, OSError):
                raise ConfigurationError(f"no process for the function can be started: {error}") from error
            raise
        finally:
            os.close(write)
        self._guard.watch(self._mark, self._process.pid)
        asyncio.get_running_loop().add_reader(read, self._read_pipe)
        self._tasks.create_task(self._watch(self._process), name=f"sandbox {self.number}")
        self._tasks.create_task(self._watch_memory(self._process), name=f"memory of sandbox {self.number}")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Until the process has ended; then see that nothing of it is left."""
        try:
            status = await process.wait()
        finally:
            self.kill()
            self._guard.forget(self._mark)
            self._ended.set()
            self._busy.set()  # the memory watch ends, too
            asyncio.get_running_loop().remove_reader(self._pipe)
            try:
                self._read_pipe()
            finally:
                os.close(self._pipe)
                self._pipe = -1
        self._fail("Runtime.ExitError", _ending(status))
        await self._api.close()

    async def _watch_memory(self, process: asyncio.subprocess.Process) -> None:
        limit = self._settings.memory_mb * 1024 * 1024
        while not self._ended.is_set():
            await self._busy.wait()
            self._peak_bytes = max(self._peak_bytes, used := tree_bytes(process.pid))
            if used > limit and not self._ended.is_set():
                self._fail("Runtime.OutOfMemory", "Runtime exited with error: signal: killed", kill=True)
            await self._clock.sleep(MEMORY_EVERY_S)

    def kill(self) -> None:
        """End the process and all that it started. Idempotent."""
        self.usable = False
        if self._process is not None and not self._ended.is_set():  # later its number may be another's
            end(self._process.pid, self._mark)

    async def close(self) -> None:
        """Kill it, and wait until it has gone."""
        self.kill()
        if self._process is not None:
            await self._ended.wait()
        await self._api.close()

    def _read_pipe(self) -> None:
        """Everything that was printed so far; bounded, as a function may print faster than we read."""
        for _ in range(_PIPE_READS_MAX):
            if self._pipe < 0:
                return
            try:
                data = os.read(self._pipe, 65_536)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._pipe)
                return
            self._tell(self._lines.feed(data))

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._on_line(self.number, self._request_id, line)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _ending(status: int) -> str:
    if status < 0:
        return f"Runtime exited with error: signal: {(signal.strsignal(-status) or str(-status)).lower()}"
    return f"Runtime exited with error: exit status {status}" if status else "Runtime exited without providing a reason"


def _environment(settings: SandboxSettings, address: str, log_stream: str) -> dict[str, str]:
    """This process's environment, the user's additions, and what Lambda sets (reference: Lambda developer guide,
    configuration-envvars)."""
    folder = str(settings.folder)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_LAMBDA_", "_X_AMZN_"))}
    path = [folder, *filter(None, [settings.environment.get("PYTHONPATH") or inherited.get("PYTHONPATH")])]
    return {
        **inherited,
        "TZ": ":UTC",
        **settings.environment,
        "PYTHONPATH": os.pathsep.join(path),
        "_HANDLER": settings.handler,
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_NAME": settings.function_name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(settings.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{settings.function_name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_LAMBDA_RUNTIME_API": address,
        "LAMBDA_TASK_ROOT": folder,
    }
