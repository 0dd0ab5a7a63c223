"""Is what docs/compat.md says of its tests true: does each exist, and does each row have one, or say why not?"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

from tests.scenarios.test_runtimes import ALL, BY_HAND, CASES, GENERATED, RECORDED

TESTS: Final = Path(__file__).parents[1]
COMPAT: Final = (TESTS.parent / "docs" / "compat.md").read_text()
NAMED: Final = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The rows of all tables, without their heads."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in COMPAT.splitlines() if line.startswith("|")]
    heads = {index - 1 for index, line in enumerate(lines) if set("".join(line)) <= set("|-")}
    return [line for index, line in enumerate(lines) if index not in heads and index - 1 not in heads]


@cache
def defined_in(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions) and node.name.startswith("test_")}


def test_every_test_that_is_named_exists() -> None:
    named = set(NAMED.findall(COMPAT))
    assert len({name for _, name in named}) >= 80
    assert {one for one in named if not (TESTS / one[0]).is_file() or one[1] not in defined_in(TESTS / one[0])} == set()
    assert len(re.findall(r"`[\w/]+\.py", COMPAT)) == len(NAMED.findall(COMPAT)), "a file without the name of a test"


def test_every_row_speaks_of_every_runtime_and_has_a_test_or_says_so() -> None:
    found = rows()
    assert len(found) >= 110
    assert [row for row in found if len(row) != 5 or not all(row)] == []
    shown = [row for row in found if row[4].startswith("scenarios") or NAMED.search(row[4])]
    assert [row[0] for row in found if row not in shown and not row[4].startswith("no test")] == []
    assert len(shown) >= 0.9 * len(found)


def test_the_figures_are_those_of_the_scenarios() -> None:
    head = " ".join(COMPAT.split("## Parameters")[0].split())
    for_handlers = {scenario.name for _, scenario in CASES}
    assert f"{len(ALL)} scenarios ({len(RECORDED)} recorded on AWS or following from its documents, {len(GENERATED)} generated, " in head
    assert f"generated, {len(BY_HAND)} by hand)" in head
    assert f"; {len(for_handlers)} of them can be put to a handler of one's own" in head
