"""The public face is tested like behaviour: what `streamlet` offers, where each name lives, and that nothing public is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import streamlet
from streamlet import errors

# Programs and benchmarks of other people import these from `streamlet`: none may go.
PINNED = {
    *("App", "Batch", "Consumer", "EventSourceMapping", "FileDestination", "ParquetSink", "Producer", "Record", "Roll"),
    *("S3Destination", "SnsDestination", "SqsDestination", "RecordFailed", "Worker", "WorkerOptions"),
    *("DynamoDBIdempotency", "MemoryIdempotency", "SqliteIdempotency"),
    *("StreamletError", "UsageError", "ServiceError", "RecordError"),
}
SOURCE = ast.parse(Path(streamlet.__file__).read_text())


def imported(body: list[ast.stmt]) -> dict[str, str]:
    """Name -> module, of the imports of streamlet's own names in these statements."""
    return {
        alias.asname or alias.name: node.module
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("streamlet")
        for alias in node.names
    }


EAGER = imported(SOURCE.body)
TYPED = imported([inner for node in SOURCE.body if isinstance(node, ast.If) for inner in node.body])


def test_all_is_sorted_and_has_no_doubles() -> None:
    assert streamlet.__all__ == sorted(set(streamlet.__all__))


def test_nothing_public_is_missing_and_nothing_else_is_public() -> None:
    """What the face imports is what it offers; `from streamlet import x` of anything else would work by accident."""
    defined = {node.name for node in SOURCE.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")}
    assert set(EAGER) | set(streamlet._LAZY) | defined == set(streamlet.__all__)
    assert set(streamlet.__all__) >= PINNED


def test_what_loads_on_first_use_is_what_a_type_checker_sees() -> None:
    assert TYPED.keys() == streamlet._LAZY.keys()
    for name, module in TYPED.items():
        assert getattr(import_module(module), name) is getattr(import_module(streamlet._LAZY[name]), name)


@pytest.mark.parametrize("name", streamlet.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(streamlet, name)
    assert (value.__doc__ or "").strip(), name
    assert name in dir(streamlet)


@pytest.mark.parametrize("name", sorted(streamlet._LAZY))
def test_a_lazy_name_loads_alone(name: str) -> None:
    """Each in a new process: an import that only works after another one would fail for some user."""
    subprocess.run([sys.executable, "-c", f"from streamlet import {name}"], check=True)


def test_a_star_import_takes_every_name() -> None:
    taken: dict[str, object] = {}
    exec("from streamlet import *", taken)
    assert taken.keys() - {"__builtins__"} == set(streamlet.__all__)


def test_the_tree_of_errors_is_whole() -> None:
    """Each class is public there, has one root, is drawn in the tree, and says what it means."""
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__}
    public = {name for name in classes if not name.startswith("_")}
    assert errors.__all__ == sorted(public)
    for name in public:
        assert issubclass(classes[name], errors.StreamletError)
        assert (classes[name].__doc__ or "").strip(), name
        assert name in (errors.__doc__ or "")
    offered = {name for name, module in EAGER.items() if module == errors.__name__}
    assert offered <= public


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = streamlet.Nope


def test_the_version_is_the_distributions() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert streamlet.__version__ == project["version"]
