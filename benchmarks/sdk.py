"""How are client libraries measured? Each as a process of its own, in an environment of its own, against the stub.

`cpu_us` is per record and of the client's process only. The stub's own cost is told, too: it must stay small beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import CACHE, ROOT, venv
from benchmarks.peers import python_command, run
from benchmarks.wire import BadAnswer

__all__ = ["SDKS", "Sdk", "json_of", "measure", "measure_fixture"]

_TIMEOUT_S: Final = 300.0
_US: Final = 1e6
_FIXTURE_STARTS: Final = 20
_PROGRAMS: Final = Path(__file__).parent / "clients"
_FIXTURE: Final = f"""
import json, time
from streamlet.broker import Broker
took = []
for _ in range({_FIXTURE_STARTS}):
    started = time.perf_counter()
    with Broker.in_thread(streams={{"orders": 4}}):
        took.append((time.perf_counter() - started) * 1e3)
print(json.dumps({{"first": took[0], "median": sorted(took)[len(took) // 2]}}))
"""


@dataclass(frozen=True, slots=True)
class Sdk:
    """A client library: `interpreter(cache)` installs it and answers the Python that has it. Raises Unavailable."""

    name: str
    program: str
    interpreter: Callable[[Path], str]
    versions: Callable[[], dict[str, str]]


def _pinned(name: str, program: str, *requirements: str) -> Sdk:
    return Sdk(
        name,
        program,
        lambda cache: str(venv(cache, f"client-{name}", requirements) / "python"),
        lambda: dict(requirement.split("==") for requirement in requirements),
    )


def _own_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("streamlet", "msgspec", "aiohttp")}


SDKS: Final[Mapping[str, Sdk]] = {
    sdk.name: sdk
    for sdk in (
        Sdk("streamlet", "streamlet_client.py", lambda _cache: sys.executable, _own_versions),
        _pinned("boto3", "boto3_client.py", "boto3==1.44.5", "botocore==1.44.5"),
        _pinned("async-kinesis", "async_kinesis_client.py", "async-kinesis==3.0.1", "aiobotocore==3.10.0"),
    )
}


def measure(sdk: Sdk, what: str, records: int, cache: Path = CACHE) -> dict[str, float]:
    """One run of "consume" or "produce". Raises Unavailable, or BadAnswer when not every record came through."""
    python = sdk.interpreter(cache)
    with tempfile.TemporaryDirectory(prefix="run-stub-", dir=cache) as scratch:
        with run("stub", python_command("benchmarks.stub", str(records)), Path(scratch)) as stub:
            before = stub.cpu_s()
            result = json_of([python, str(_PROGRAMS / sdk.program), what, stub.endpoint_url, str(records)], scratch)
            stub_cpu_s = stub.cpu_s() - before
    return {
        f"{what}_cpu_us": result["cpu_s"] / result["records"] * _US,
        f"{what}_rate": result["records"] / result["wall_s"],
        f"{what}_stub_cpu_us": stub_cpu_s / records * _US,
    }


def measure_fixture(cache: Path = CACHE) -> dict[str, float]:
    """Milliseconds until `Broker.in_thread` has a broker with a stream of 4 shards, once imported, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="run-fixture-", dir=cache) as scratch:
        result = json_of([sys.executable, "-c", _FIXTURE], scratch)
    return {"fixture_first_ms": result["first"], "fixture_ms": result["median"]}


def json_of(command: list[str], scratch: str) -> Any:
    """The last line that a program of the benchmark writes. Raises BadAnswer when it fails. Ours has this tree on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
    # The client's own configuration files, if a person has some, must not play a part.
    nothing = {"AWS_CONFIG_FILE": f"{scratch}/none", "AWS_SHARED_CREDENTIALS_FILE": f"{scratch}/none", "AWS_EC2_METADATA_DISABLED": "true"}
    if command[0] == sys.executable:
        nothing["PYTHONPATH"] = str(ROOT)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment | nothing, cwd=scratch, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BadAnswer(f"no end after {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise BadAnswer((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])
