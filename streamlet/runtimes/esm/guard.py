"""Who ends the sandboxes when the host is killed? A process that runs leftovers.py and waits until our end of its input is closed."""

from __future__ import annotations

import asyncio
import os
import sys

from streamlet.runtimes.esm import leftovers

__all__ = ["Guard"]


class Guard:
    """One process at most, for all sandboxes of a host; `start` starts it, `close` ends it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Before the first sandbox. Idempotent. Raises OSError if no process can be started."""
        async with self._starting:
            if self._process is None:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", leftovers.__file__),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    start_new_session=True,  # out of Ctrl-C's reach, as the sandboxes are
                    # A host may itself run in a sandbox: whoever ends that one by its mark must leave the guard to do its work.
                    env={name: value for name, value in os.environ.items() if not name.startswith("AWS_LAMBDA_")},
                )

    def watch(self, mark: str, group: int) -> None:
        """There is a sandbox: its processes have `mark` in their environment, `group` is its process group."""
        self._say(f"{mark} {group}\n")

    def forget(self, mark: str) -> None:
        """Nothing of that sandbox is left."""
        self._say(f"{mark}\n")

    async def close(self) -> None:
        """End it, and all that it still watches. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    def _say(self, line: str) -> None:
        assert self._process is not None, "start comes first"
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
