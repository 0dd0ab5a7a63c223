"""Checks on the code itself: layers, purity, tasks, the world's edges, start-up weight. A red run lists every offence with its reason.

Each rule is a function over parsed modules, so that the tests at the end can plant a violation and see it found.
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
    "errors": 0,
    "model": 1,
    "codecs": 2,
    "core": 3,
    "hooks": 4,
    "ports": 4,
    "spec": 5,
    "clock": 5,
    "kinesis": 6,
    "engine": 7,
    "sources": 7,
    "stores": 7,
    "sinks": 7,
    "destinations": 7,
    "producer": 7,
    "broker": 7,
    "runtimes": 8,
    "app": 9,
    "cli": 10,
}
# The faces of the package itself may reach for anything.
FREE = {"__init__", "__main__"}
# The broker must stay an independent witness of the client: wire facts only.
BROKER_MAY_IMPORT = {"errors", "model", "broker"}
PURE = {"model", "core", "codecs", "errors", "hooks"}
IMPURE_MODULES = {"asyncio", "socket", "time", "random", "os", "threading", "aiobotocore", "logging", "subprocess"}
# Time and randomness come through ports; these are the adapters behind them.
CLOCKS = {"clock.py", "broker/server.py", "stores/sqlite.py"}  # sqlite waits, blocking, for another process's lock
HEAVY_AT_IMPORT = {
    "aiobotocore",
    "botocore",
    "boto3",
    "pyarrow",
    "fastavro",
    "prometheus_client",
    "aiohttp",
    "obstore",
    "click",
    "rich",
    "pydantic",
}

Module = tuple[str, ast.Module]


def modules() -> Iterator[Module]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def package_of(name: str) -> str:
    return name.removesuffix(".py").split("/")[0]


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Absolute names of what is imported; TYPE_CHECKING blocks count too: a layer is a layer."""
    base = ("streamlet", *name.removesuffix(".py").split("/"))[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = base[: len(base) - (node.level - 1)] if node.level else ()
            stem = ".".join((*up, *filter(None, [node.module])))
            yield from (f"{stem}.{alias.name}" for alias in node.names)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def upward_imports(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        mine = package_of(name)
        if mine in FREE:
            continue
        for imported in imports(name, tree):
            parts = imported.split(".")
            if parts[0] != "streamlet" or len(parts) < 2 or parts[1] == mine or parts[1] not in LAYER:
                continue
            if LAYER[parts[1]] >= LAYER[mine]:
                bad.append(f"{name} (layer {LAYER[mine]}) imports {imported} (layer {LAYER[parts[1]]}): arrows point down")
            if mine == "broker" and parts[1] not in BROKER_MAY_IMPORT:
                bad.append(f"{name} imports {imported}: a fake that shares the client's logic shares its bugs")
    return bad


def strangers(found: Iterable[Module]) -> list[str]:
    return [f"{name}: package {package_of(name)} has no layer; give it one here and in docs/DESIGN.md"
            for name, _ in found if package_of(name) not in LAYER and package_of(name) not in FREE]  # fmt: skip


def impurities(found: Iterable[Module]) -> list[str]:
    bad = []
    for name, tree in found:
        if package_of(name) in PURE:
            bad += [f"{name} imports {m}: decisions own no world" for m in imports(name, tree) if m.split(".")[0] in IMPURE_MODULES]
            bad += [
                f"{name}:{node.lineno} is async: decisions are plain functions"
                for node in ast.walk(tree)
                if isinstance(node, ast.AsyncFunctionDef | ast.Await)
            ]
    return bad


def orphans(found: Iterable[Module]) -> list[str]:
    """Tasks without a parent, and threads and loops that the executor and the clock should own."""
    bad = []
    for name, tree in found:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            last = call.split(".")[-1]
            if last in {"create_task", "ensure_future"} and not re.search(r"(tg|group|_group|tasks)\.create_task$", call):
                bad.append(f"{name}:{node.lineno} {call}: a task is born in a TaskGroup")
            if last == "to_thread":
                bad.append(f"{name}:{node.lineno} {call}: blocking calls go through the executor port")
            if last.endswith("_async") and "obstore" in call:
                bad.append(f"{name}:{node.lineno} {call}: object stores are called synchronously, on the executor")
    return bad


def clocks(found: Iterable[Module]) -> list[str]:
    return [
        f"{name} imports {imported}: time and randomness come through ports"
        for name, tree in found
        if name not in CLOCKS and package_of(name) != "cli"
        for imported in imports(name, tree)
        if imported.split(".")[0] in {"time", "random"}
    ]


def nameless(found: Iterable[Module]) -> list[str]:
    return [f"{name} does not say which question it answers" for name, tree in found if not ast.get_docstring(tree)]


RULES: list[Callable[[Iterable[Module]], list[str]]] = [upward_imports, strangers, impurities, orphans, clocks, nameless]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Callable[[Iterable[Module]], list[str]]) -> None:
    bad = rule(list(modules()))
    assert not bad, "\n".join(bad)


PLANTED: list[tuple[Callable[[Iterable[Module]], list[str]], str, str]] = [
    (upward_imports, "core/failure.py", '"""?"""\nfrom streamlet.engine.pump import Pump'),
    (upward_imports, "sinks/parquet.py", '"""?"""\nfrom streamlet.stores import open_store'),
    (upward_imports, "runtimes/worker.py", '"""?"""\nif TYPE_CHECKING:\n    from streamlet.app import App'),
    (upward_imports, "broker/state.py", '"""?"""\nfrom ..core import packing'),
    (strangers, "etc/thing.py", '"""?"""'),
    (impurities, "core/failure.py", '"""?"""\nimport time'),
    (impurities, "model/record.py", '"""?"""\nasync def f() -> None: ...'),
    (orphans, "engine/pump.py", '"""?"""\nasyncio.create_task(f())'),
    (orphans, "stores/sqlite.py", '"""?"""\nawait asyncio.to_thread(f)'),
    (orphans, "sinks/objects.py", '"""?"""\nobstore.put_async(1)'),
    (clocks, "sinks/parquet.py", '"""?"""\nfrom random import random'),
    (nameless, "core/failure.py", "x = 1"),
]


@pytest.mark.parametrize(("rule", "name", "source"), PLANTED)
def test_a_planted_violation_is_found(rule: Callable[[Iterable[Module]], list[str]], name: str, source: str) -> None:
    assert len(rule([(name, ast.parse(source))])) == 1


# ── the whole tree, and start-up ─────────────────────────────────────────────────────────────────────────────────


def test_no_committed_text_names_a_machine_or_a_package_index() -> None:
    """Paths of one machine work on no other, and an index's host is the reader's own choice."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    names = [name for name in listed if name] or [path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")]
    secret = re.compile(
        "|".join(["/" + "root/", "/" + "work/(main|shared)", "/" + "home/[a-z]", "pypi" + r"\.org", "pythonhosted" + r"\.org"])
    )
    bad = []
    for name in names:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".sh", ".json", ""} and path.is_file():
            bad += [f"{name}:{n}: {line.strip()[:100]}" for n, line in enumerate(path.read_text().splitlines(), 1) if secret.search(line)]
    assert not bad, "\n".join(bad)


def loaded_by(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"], capture_output=True, text=True, check=True
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
    assert loaded_by(code) & HEAVY_AT_IMPORT == set()
