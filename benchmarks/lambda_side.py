"""What does the Lambda side cost? CPU of a warm invocation per record, CPU of a cold start beside `import asyncio`, sizes of the zips.

Warm invocations run in a process of their own (clients/lambda_calls.py). The cold start is that of the zip of examples/lambda_minimal,
compiled, with nothing else on the path: a development environment has more packages, which msgspec looks for. Both kinds of start are
taken in turns, and compared by their medians.
"""

from __future__ import annotations

import compileall
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import CACHE, ROOT, Unavailable, venv
from benchmarks.sdk import json_of
from benchmarks.wire import BadAnswer

__all__ = ["LAMBDA", "LAMBDA_TARGETS", "Function"]

LAMBDA: Final = "lambda:"  # before the name of what runs in a function
_CALLS: Final = Path(__file__).parent / "clients" / "lambda_calls.py"
_BUILD_ZIP: Final = ROOT / "examples" / "lambda_minimal" / "build_zip.py"
_POWERTOOLS: Final = ("aws-lambda-powertools==3.37.0",)
_STARTS: Final = 15
_TIMEOUT_S: Final = 300.0
_FIRST_DECODE: Final = """
from streamlet import App
app = App("a")
@app.on_record("s")
def handle(record): record.value
record = {"kinesis": {"partitionKey": "k", "sequenceNumber": "1", "data": "e30=", "approximateArrivalTimestamp": 1.5},
          "eventID": "shardId-000000000000:1", "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}
assert app.lambda_handler({"Records": [record]}, None) == {"batchItemFailures": []}
"""


@dataclass(frozen=True, slots=True)
class Function:
    """What runs in a function: `setup(cache)` installs it (raises Unavailable), `measure(cache)` is one round (raises BadAnswer)."""

    setup: Callable[[Path], Any]
    measure: Callable[[Path], dict[str, float]]
    versions: dict[str, str]


def _ours(cache: Path) -> dict[str, float]:
    folder = cache / "lambda"
    warm: dict[str, float] = json_of([sys.executable, str(_CALLS), "streamlet"], str(cache))
    asyncio_ms, first_ms = _starts(["import asyncio", _FIRST_DECODE], folder / "tree")
    return {
        **warm,
        "lambda_asyncio_ms": asyncio_ms,
        "lambda_start_ms": first_ms,
        "lambda_start_ratio": first_ms / asyncio_ms,
        "lambda_zip_mb": (folder / "function.zip").stat().st_size / 1e6,
        "lambda_zip_parquet_mb": (folder / "parquet.zip").stat().st_size / 1e6,
    }


def _powertools(cache: Path) -> dict[str, float]:
    found: dict[str, float] = json_of([str(_python(cache)), str(_CALLS), "powertools"], str(cache))
    return found


def _python(cache: Path) -> Path:
    return venv(cache, "lambda-powertools", _POWERTOOLS) / "python"


def _build(cache: Path) -> None:
    """Both zips of this tree, as it is now, and the smaller one unpacked."""
    folder = cache / "lambda"
    folder.mkdir(parents=True, exist_ok=True)
    runtime = ["--python", f"{sys.version_info.major}.{sys.version_info.minor}"]
    runtime += ["--architecture", "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"]
    for name, options in (("function.zip", []), ("parquet.zip", ["--parquet"])):
        command = [sys.executable, str(_BUILD_ZIP), "--out", str(folder / name), *runtime, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise Unavailable(f"the zip could not be built: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    shutil.rmtree(folder / "tree", ignore_errors=True)  # modules that are gone since the last time
    with zipfile.ZipFile(folder / "function.zip") as archive:
        archive.extractall(folder / "tree")
    compileall.compile_dir(folder / "tree", quiet=1)


def _starts(codes: list[str], tree: Path) -> list[float]:
    """CPU milliseconds of a new interpreter that runs each code with nothing but `tree` on its path; medians of starts in turns."""
    took: list[list[float]] = [[] for _ in codes]
    for _ in range(_STARTS):
        for place, code in enumerate(codes):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tree)!r})\n{code}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
            if done.returncode != 0:
                raise BadAnswer((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took[place].append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    return [statistics.median(values) for values in took]


LAMBDA_TARGETS: Final = {
    f"{LAMBDA}streamlet": Function(_build, _ours, {}),
    f"{LAMBDA}powertools": Function(_python, _powertools, dict(requirement.split("==") for requirement in _POWERTOOLS)),
}


if __name__ == "__main__":
    for target, function in LAMBDA_TARGETS.items():
        function.setup(CACHE)
        for metric, value in function.measure(CACHE).items():
            print(f"{target:20} {metric:26} {value:8.2f}")
