"""Checks on the code itself: layers, purity, tasks, the world's edges, start-up weight. A red run lists every offence with its reason.

Each rule is a function over parsed modules (or over texts), so that the tests at the end can plant a violation and see it found.
Names that a rule lets through carry the reason why; one that no longer exists is itself an offence.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamlet"

# A module may import only from strictly lower layers, or from its own package (docs/DESIGN.md, "The house").
LAYER = {
    "errors": 0,  # facts
    "model": 1,
    "kpl": 2,  # bytes
    "codecs": 2,
    "core": 3,  # decisions
    "hooks": 4,  # contracts
    "ports": 4,
    "spec": 5,
    "durable": 5,  # below the world: sinks and destinations both keep files
    "clock": 6,  # world
    "kinesis": 6,
    "engine": 6,
    "sources": 6,
    "stores": 6,
    "sinks": 6,
    "destinations": 6,
    "producer": 6,
    "observe": 6,
    "broker": 6,
    "runtimes": 7,  # assembly
    "app": 8,
    "etl": 9,  # faces
    "infra": 9,
    "testing": 9,
    "cli": 9,
}
FACES = 9
# The faces of the package itself may reach for anything.
FREE = {"__init__", "__main__"}
# Packages of one band do not know each other, except:
NEIGHBOURS = {
    ("sources", "kinesis"): "a source reads through the data-plane client",
    ("producer", "kinesis"): "a producer writes through the data-plane client",
    ("stores", "destinations"): "DynamoDB is called through the client of the AWS destinations",
    ("producer", "clock"): "a producer stands alone, so it brings the real clock where it is given none",
}
# The broker must stay an independent witness of the client: wire facts only. Its console shows decoded records.
BROKER_MAY_IMPORT = {"errors", "model", "kpl", "broker"}
CONSOLE_MAY_IMPORT = BROKER_MAY_IMPORT | {"codecs"}

PURE = {"errors", "model", "kpl", "codecs", "core", "hooks"}
CONTRACTS = {"ports", "spec"}  # what they describe is async; they themselves do nothing
IMPURE_MODULES = {
    *("asyncio", "concurrent", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("aiobotocore", "aiohttp", "boto3", "botocore", "http", "obstore", "urllib.request"),
}
IMPURE_CALLS = {"open", "print", "input"}

# Time and randomness come through ports. These are the adapters behind them; the command line and the test kit own their own.
CLOCKS = {
    "clock.py": "the adapter itself",
    "broker/server.py": "gives the broker's synchronous core its clock",
    "broker/connection.py": "request ids, which nobody reads back",
    "broker/console/guard.py": "a token that no other page can guess, made at each start",
    "broker/faults.py": "the chance of a fault, from a seed that is given",
    "stores/idempotency.py": "markers expire by the wall clock, which all processes share; tests give their own",
    "stores/idempotency_dynamodb.py": "the same",
    "stores/idempotency_sqlite.py": "the same",
    "stores/sqlite.py": "waits, blocking, for another process's lock",
    "runtimes/worker.py": "a worker's own name must be unique",
    "runtimes/esm/host.py": "request ids, as Lambda makes them",
}
CLOCK_OWNERS = {"cli", "testing"}
CLOCK_MODULES = {"time", "random", "secrets"}
CLOCK_CALLS = re.compile(
    r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|uuid\.uuid[14]|uuid[14]|os\.urandom|urandom|(get_running_loop\(\)|loop)\.time)$"
)

# Threads and event loops have an owner, too.
THREADS = {
    "clock.py": "the executor port's real pool",
    "engine/leases.py": "renewal must survive a blocked event loop",
    "broker/server.py": "a broker in process, for tests of synchronous clients",
    "broker/persist/journal.py": "a sync blocks, and is waited for",
    "runtimes/worker.py": "starts the worker's loop",
    "runtimes/aws_lambda.py": "Lambda calls a plain function; the loop for async handlers is ours",
}
THREAD_CALLS = {"Thread", "Timer", "ThreadPoolExecutor", "ProcessPoolExecutor", "run_in_executor", "new_event_loop", "run", "Runner"}
OBSTORE_ASYNC = re.compile(
    r"^(copy|delete|get|get_range|get_ranges|head|list|list_with_delimiter|open_reader|open_writer|put|rename|sign)_async$"
)

HEAVY_AT_IMPORT = {
    *("aiobotocore", "aiohttp", "boto3", "botocore", "click", "duckdb", "fastavro", "h2", "ibis", "jmespath", "obstore", "opentelemetry"),
    *("prometheus_client", "pyarrow", "pydantic", "pyspark", "rich", "uvloop"),
}

Module = tuple[str, ast.Module]
Rule = Callable[[Iterable[Module]], list[str]]


def modules() -> list[Module]:
    found = [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]
    assert len(found) > 50, "the package was not found: the checks would pass on nothing"
    return found


def package_of(name: str) -> str:
    return name.removesuffix(".py").split("/")[0]


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Absolute names of what is imported; TYPE_CHECKING blocks and import_module("...") count too: a layer is a layer."""
    base = ("streamlet", *name.removesuffix(".py").split("/"))[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = base[: len(base) - (node.level - 1)] if node.level else ()
            stem = ".".join((*up, *filter(None, [node.module])))
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"} and node.args:
            first = node.args[0]
            if isinstance(first, ast.JoinedStr):
                first = first.values[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.removesuffix(".")


def is_module(imported: str, names: Iterable[str]) -> bool:
    """`urllib.request.urlopen` is of `urllib.request`, `urllib.parse` is not."""
    return any(imported == name or imported.startswith(f"{name}.") for name in names)


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def mentions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name and attribute, called or handed on, and what is imported by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def upward_imports(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        mine = package_of(name)
        if mine in FREE or mine not in LAYER:  # the latter is for `strangers`
            continue
        for imported in imports(name, tree):
            root, _, rest = imported.partition(".")
            theirs = rest.split(".")[0]
            if root != "streamlet" or theirs == mine:
                continue
            if theirs not in LAYER:
                if theirs != "__version__" and LAYER[mine] < FACES:
                    bad.append(f"{name} imports {imported}: the package's face stands above everything; import from where it is written")
            elif mine == "broker":
                if theirs not in (CONSOLE_MAY_IMPORT if name.startswith("broker/console") else BROKER_MAY_IMPORT):
                    bad.append(f"{name} imports {imported}: a fake that shares the client's logic shares its bugs")
            elif LAYER[theirs] > LAYER[mine]:
                bad.append(f"{name} (layer {LAYER[mine]}) imports {imported} (layer {LAYER[theirs]}): arrows point down")
            elif LAYER[theirs] == LAYER[mine] and (mine, theirs) not in NEIGHBOURS:
                bad.append(f"{name} imports {imported}: packages of one band meet above it, in runtimes or app")
    return bad


def strangers(found: Iterable[Module]) -> list[str]:
    return [
        f"{name}: package {package_of(name)} has no layer; give it one here and in docs/DESIGN.md"
        for name, _ in found
        if package_of(name) not in LAYER and package_of(name) not in FREE
    ]


def impurities(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        mine = package_of(name)
        if mine not in PURE | CONTRACTS:
            continue
        bad += [f"{name} imports {m}: decisions own no world" for m in imports(name, tree) if is_module(m, IMPURE_MODULES)]
        bad += [
            f"{name}:{node.lineno} {call}(): decisions own no world"
            for node, call in calls(tree)
            if call in IMPURE_CALLS or CLOCK_CALLS.search(call)
        ]
        if mine in PURE:
            bad += [
                f"{name}:{node.lineno} is async: decisions are plain functions"
                for node in ast.walk(tree)
                if isinstance(node, ast.AsyncFunctionDef)
            ]
    return bad


def orphans(found: Iterable[Module]) -> list[str]:
    """Tasks without a parent, and blocking or asynchronous work outside the executor port."""
    bad = []
    for name, tree in found:
        has_group = any(word == "TaskGroup" for _, word in mentions(tree))
        for node, call in calls(tree):
            owner, _, last = call.rpartition(".")
            if last == "create_task" and not (has_group and owner.removeprefix("self.").lstrip("_") in {"tg", "group", "tasks"}):
                bad.append(f"{name}:{node.lineno} {call}: a task is born in a TaskGroup (tg.create_task, group.create_task)")
            if last in {"gather", "shield", "run_coroutine_threadsafe"} and (owner == "asyncio" or not owner):
                bad.append(f"{name}:{node.lineno} {call}: makes tasks that no TaskGroup waits for")
        for line, word in mentions(tree):
            if word == "ensure_future":
                bad.append(f"{name}:{line} {word}: a task is born in a TaskGroup")
            elif word == "to_thread":
                bad.append(f"{name}:{line} {word}: blocking calls go through the executor port")
            elif OBSTORE_ASYNC.match(word):
                bad.append(f"{name}:{line} {word}: object stores are called synchronously, on the executor")
    return bad


def threads(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        if name in THREADS or package_of(name) in CLOCK_OWNERS:
            continue
        for node, call in calls(tree):
            owner, _, last = call.rpartition(".")
            if last in THREAD_CALLS and not (last in {"run", "Runner"} and owner != "asyncio"):
                bad.append(f"{name}:{node.lineno} {call}: threads and loops belong to the executor port and to the runtimes")
    return bad


def clocks(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        if name in CLOCKS or package_of(name) in CLOCK_OWNERS:
            continue
        bad += [f"{name} imports {m}: time and randomness come through ports" for m in imports(name, tree) if is_module(m, CLOCK_MODULES)]
        for node, call in calls(tree):
            if CLOCK_CALLS.search(call):
                bad.append(f"{name}:{node.lineno} {call}: time and randomness come through ports")
            if call in {"asyncio.sleep", "sleep"} and ast.unparse(node.args[0] if node.args else node) != "0":
                bad.append(
                    f"{name}:{node.lineno} {call}: waits go through the clock port (asyncio.sleep(0), which only gives way, may stay)"
                )
    return bad


def nameless(found: Iterable[Module]) -> list[str]:
    return [f"{name} does not say which question it answers" for name, tree in found if not (ast.get_docstring(tree) or "").strip()]


RULES: list[Rule] = [upward_imports, strangers, impurities, orphans, threads, clocks, nameless]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    bad = rule(modules())
    assert not bad, "\n" + "\n".join(bad)


def test_what_the_rules_let_through_is_still_there() -> None:
    """An exception for a file that has gone would silently cover the next file of that name."""
    there = {name for name, _ in modules()}
    assert {*CLOCKS, *THREADS} <= there
    used = {(package_of(name), imported.split(".")[1]) for name, tree in modules() for imported in imports(name, tree)
            if imported.startswith("streamlet.")}  # fmt: skip
    assert set(NEIGHBOURS) <= used


# One source text per line that a rule must report, exactly once ...
PLANTED: list[tuple[Rule, str, str]] = [
    (upward_imports, "core/failure.py", "from streamlet.engine.pump import Pump"),
    (upward_imports, "core/failure.py", "import streamlet.engine.pump"),
    (upward_imports, "core/failure.py", "from ..engine import pump"),
    (upward_imports, "core/__init__.py", "from ..engine import pump"),
    (upward_imports, "core/failure.py", "from .. import engine"),
    (upward_imports, "core/failure.py", "def f():\n    from streamlet.ports import Clock"),
    (upward_imports, "core/failure.py", "import_module('streamlet.engine.pump')"),
    (upward_imports, "core/failure.py", "importlib.import_module(f'streamlet.engine.{x}')"),
    (upward_imports, "core/failure.py", "from streamlet import App"),
    (upward_imports, "engine/pump.py", "import streamlet"),
    (upward_imports, "model/record.py", "from streamlet.codecs import json"),
    (upward_imports, "codecs/json.py", "from streamlet.kpl import aggregate"),
    (upward_imports, "ports.py", "from streamlet.spec import ConsumerSpec"),
    (upward_imports, "sinks/parquet.py", "from streamlet.stores import open_store"),
    (upward_imports, "destinations/sqs.py", "from streamlet.stores import open_store"),
    (upward_imports, "sinks/parquet.py", "from streamlet.destinations import file"),
    (upward_imports, "destinations/file.py", "from streamlet.sinks import objects"),
    (upward_imports, "stores/sqlite.py", "from streamlet.kinesis.client import KinesisClient"),
    (upward_imports, "kinesis/client.py", "from streamlet.sources import polling"),
    (upward_imports, "engine/pump.py", "from streamlet.clock import SystemClock"),
    (upward_imports, "runtimes/worker.py", "if TYPE_CHECKING:\n    from streamlet.app import App"),
    (upward_imports, "app.py", "from streamlet.cli import main"),
    (upward_imports, "cli/run.py", "from streamlet.testing import plugin"),
    (upward_imports, "broker/state.py", "from ..core import packing"),
    (upward_imports, "broker/ops/put_record.py", "from ...kinesis import wire"),
    (upward_imports, "broker/server.py", "from streamlet.clock import SystemClock"),
    (upward_imports, "broker/state.py", "from streamlet.codecs import json"),
    (upward_imports, "broker/state.py", "from streamlet.ports import Clock"),
    (strangers, "etc/thing.py", ""),
    (impurities, "core/failure.py", "import time"),
    (impurities, "core/failure.py", "import os.path"),
    (impurities, "core/failure.py", "from pathlib import Path"),
    (impurities, "kpl/aggregate.py", "import asyncio"),
    (impurities, "codecs/registry.py", "import urllib.request"),
    (impurities, "codecs/registry.py", "data = open('schema.avsc')"),
    (impurities, "model/record.py", "now = datetime.now(UTC)"),
    (impurities, "model/record.py", "async def f() -> None: ..."),
    (impurities, "hooks.py", "class A:\n    async def f(self) -> None: ..."),
    (impurities, "spec.py", "import logging"),
    (impurities, "ports.py", "import asyncio"),
    (orphans, "engine/pump.py", "asyncio.create_task(f())"),
    (orphans, "engine/pump.py", "asyncio.tasks.create_task(f())"),
    (orphans, "engine/pump.py", "from asyncio import create_task\ncreate_task(f())"),
    (orphans, "engine/pump.py", "asyncio.get_running_loop().create_task(f())"),
    (orphans, "engine/pump.py", "tg = asyncio.get_running_loop()\ntg.create_task(f())"),
    (orphans, "engine/pump.py", "asyncio.ensure_future(f())"),
    (orphans, "engine/pump.py", "await asyncio.gather(f(), g())"),
    (orphans, "stores/sqlite.py", "await asyncio.to_thread(f)"),
    (orphans, "stores/sqlite.py", "run = asyncio.to_thread"),
    (orphans, "stores/sqlite.py", "from asyncio import to_thread as run"),
    (orphans, "sinks/objects.py", "obstore.put_async(1)"),
    (orphans, "sinks/objects.py", "await self._store.put_async(1)"),
    (orphans, "sinks/objects.py", "from obstore import get_range_async as get"),
    (threads, "engine/pump.py", "threading.Thread(target=f).start()"),
    (threads, "engine/pump.py", "await loop.run_in_executor(None, f)"),
    (threads, "producer/producer.py", "asyncio.run(f())"),
    (threads, "sources/polling.py", "pool = ThreadPoolExecutor(4)"),
    (clocks, "sinks/parquet.py", "from random import random"),
    (clocks, "engine/pump.py", "import time as clock"),
    (clocks, "engine/pump.py", "started = datetime.now(UTC)"),
    (clocks, "engine/pump.py", "started = asyncio.get_running_loop().time()"),
    (clocks, "destinations/file.py", "name = uuid.uuid4().hex"),
    (clocks, "engine/pump.py", "await asyncio.sleep(1)"),
    (clocks, "engine/pump.py", "await asyncio.sleep(delay_s)"),
    (nameless, "core/failure.py", "x = 1"),
    (nameless, "core/failure.py", "''\nx = 1"),
]
# ... and what may look like one but is none.
INNOCENT: list[tuple[str, str]] = [
    (
        "core/failure.py",
        "from streamlet.model.record import Record\nfrom streamlet.errors import RecordError\nfrom .batching import Batching",
    ),
    ("core/failure.py", "from datetime import UTC, datetime\ndatetime.fromtimestamp(1, UTC)\nfrom urllib.parse import urlsplit"),
    ("core/timeouts.py", "import timeit_like\nself.open()\nself.log.print()"),
    ("ports.py", "class Clock(Protocol):\n    async def sleep(self, delay_s: float) -> None: ..."),
    ("sources/polling.py", "from streamlet.kinesis.client import KinesisClient"),
    ("producer/producer.py", "self._tasks = asyncio.TaskGroup()\nself._tasks.create_task(f())"),
    (
        "engine/pump.py",
        "async def f():\n    async with asyncio.TaskGroup() as tg:\n        tg.create_task(f())\n    await asyncio.sleep(0)",
    ),
    ("engine/pump.py", "self._async = is_async(handler)\nawait self._executor.run(f)\nawait self._clock.sleep(1)\nself._clock.time()"),
    ("destinations/document.py", "uuid.uuid5(NAMESPACE, 'x')"),
    ("broker/console/page.py", "from streamlet.codecs import json"),
    ("broker/ops/put_record.py", "from ..state import Stream\nfrom streamlet.kpl import aggregate"),
    ("runtimes/worker.py", "from streamlet.engine.supervisor import Supervisor\nfrom streamlet.stores import open_store\nasyncio.run(f())"),
    ("cli/commands.py", "from streamlet import __version__\nimport time\nasyncio.run(f())\nimport_module(f'streamlet.cli.{name}')"),
]


@pytest.mark.parametrize(("rule", "name", "source"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, name: str, source: str) -> None:
    assert len(rule([(name, ast.parse(source))])) == 1


@pytest.mark.parametrize(("name", "source"), INNOCENT)
def test_the_rules_blame_no_innocent(name: str, source: str) -> None:
    found = [(name, ast.parse(f'"""What is it?"""\n{source}'))]
    assert [offence for rule in RULES for offence in rule(found)] == []


# ── the texts of the whole tree ──────────────────────────────────────────────────────────────────────────────────

# Written in halves, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.})-])/" + r"(root|work|home)/")
REGISTRY_HOST = re.compile(
    "|".join(
        host.replace("_", re.escape("."))
        for host in (
            "pypi_org",
            "pythonhosted_org",
            "registry_npmjs",
            "anaconda_org",
            "crates_io",
            "rubygems_org",
            "proxy_golang",
            "maven_org",
        )
    )
)


def texts() -> Iterator[tuple[str, str]]:
    """What git holds or would take; from a source archive without git, what an archive holds."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [
            path.relative_to(ROOT).as_posix()
            for top in ("streamlet", "tests", "examples", "docs", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
            for path in ((ROOT / top).rglob("*") if (ROOT / top).is_dir() else [ROOT / top])
            if "__pycache__" not in path.parts
        ]
    for name in filter(None, listed):
        path = ROOT / name
        if not path.is_file():
            continue  # deleted, and not yet committed so
        content = path.read_bytes()
        if b"\0" not in content:
            yield name, content.decode("utf-8", "replace")


def strays(found: Iterable[tuple[str, str]]) -> list[str]:
    bad = []
    for name, text in found:
        for n, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                bad.append(f"{name}:{n} names a path of one machine, which no other has: {line.strip()[:100]}")
            if REGISTRY_HOST.search(line):
                bad.append(f"{name}:{n} names a package registry's host, which is the reader's own choice: {line.strip()[:100]}")
    return bad


def test_no_text_names_a_machine_or_a_package_registry() -> None:
    found = list(texts())
    assert {"Makefile", "pyproject.toml", "streamlet/__init__.py"} <= {name for name, _ in found}
    bad = strays(found)
    assert not bad, "\n" + "\n".join(bad)


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "root/project",
        "see `/" + "work/shared/x.md`",
        'path = "/' + 'home/me/x"',
        "file:///" + "home/me/x",
        "https://" + "pypi." + "org/simple",
        "--index-url=https://files.python" + "hosted.org/x",
    ],
)
def test_a_planted_stray_is_found(text: str) -> None:
    assert len(strays([("docs/x.md", f"fine\n{text}\n")])) == 1


@pytest.mark.parametrize("text", ["s3://bucket/work/x", "{root}/work/x", "network/home/x", "the package on PyPI", "/rootless/work"])
def test_other_paths_are_no_strays(text: str) -> None:
    assert strays([("docs/x.md", text)]) == []


# ── start-up ─────────────────────────────────────────────────────────────────────────────────────────────────────


def loaded_by(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in out.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import streamlet",
        # The whole Lambda path: an app, an event, an answer.
        """
from streamlet import App
app = App("a")
@app.on_record("s")
def handle(record): record.value
record = {"kinesis": {"partitionKey": "k", "sequenceNumber": "1", "data": "e30=", "approximateArrivalTimestamp": 1.5},
          "eventID": "shardId-000000000000:1", "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}
assert app.lambda_handler({"Records": [record]}, None) == {"batchItemFailures": []}
""",
    ],
    ids=["import", "lambda"],
)
def test_a_lambda_loads_nothing_heavy(code: str) -> None:
    """A cold start pays for nothing that it does not use."""
    loaded = loaded_by(code)
    assert "streamlet" in loaded
    assert loaded & HEAVY_AT_IMPORT == set()


def test_a_heavy_import_would_be_seen() -> None:
    """The check above looks where it should."""
    assert loaded_by("import streamlet, aiohttp, click") & HEAVY_AT_IMPORT >= {"aiohttp", "click"}
