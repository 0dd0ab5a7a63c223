"""The pytest plugin: its fixtures, its seed, what it shows of a failure, and that it costs nothing where it is not used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import streamlet.testing
from streamlet.testing import contracts, plugin

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "testing.md"


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a pytest of its own, which knows this plugin and pytest-asyncio, whatever else is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess("-p", "streamlet.testing.plugin", "-p", "no:cacheprovider", *arguments)

    return run


APP = """
from streamlet import App
app = App("shop")
@app.on_record("orders", maximum_retry_attempts=0)
def handle(record):
    if record.value == "poison":
        raise ValueError("it is poison")
"""


def test_the_package_declares_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"streamlet": plugin.__name__}


def test_the_fixtures_belong_together(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    pytester.makepyfile(
        APP
        + """
def test_values(run_worker):
    assert [record.value for record in run_worker(app, [1, 2]).done] == [1, 2]

def test_the_virtual_broker_is_read(run_worker, virtual_broker):
    virtual_broker.put("orders", 3, after_s=600)
    report = run_worker(app)
    assert [record.value for record in report.done] == [3] and report.elapsed_s > 600

def test_each_test_has_its_own(run_worker, virtual_broker):
    assert run_worker(app).done == []

def test_a_broker_at_a_port(broker):
    import urllib.request, urllib.error
    broker.create_stream("orders", 2)
    try:
        urllib.request.urlopen(broker.endpoint_url)
    except urllib.error.HTTPError as error:
        error.close()
        assert error.code == 403

def test_the_seed(streamlet_seed, virtual_broker, broker):
    assert streamlet_seed == virtual_broker.faults.seed == broker.faults.seed == 41
"""
    )
    result = run_pytest("-W", "error", "--streamlet-seed=41")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["streamlet: --streamlet-seed=41"])


def test_a_failure_shows_its_runs_and_its_seed(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    pytester.makepyfile(
        APP
        + """
def test_fails(run_worker):
    assert run_worker(app, [1, "poison"]).given_up == ()

def test_does_not_drain(run_worker, virtual_broker):
    virtual_broker.put("orders", 5, after_s=100)
    run_worker(app, time_max_s=10)

def test_has_nothing_to_do_with_it():
    assert False
"""
    )
    result = run_pytest("--streamlet-seed=random")
    result.assert_outcomes(failed=3)
    [seed] = set(re.findall(r"--streamlet-seed=(\d+)", result.stdout.str()))
    assert result.stdout.str().count(f"again with: --streamlet-seed={seed}") == 2
    result.stdout.fnmatch_lines(["*- streamlet run_worker -*", "shop: * s of virtual time", "*given up after 1, RetryAttemptsExhausted*"])
    assert "NotDrained: shop is not drained after 10 s of virtual time" in result.stdout.str()
    assert "testing/worker.py" not in result.stdout.str()  # the test's own line is what a reader wants
    assert "asyncio" not in result.stdout.str()


def test_a_seed_that_is_drawn_is_the_same_in_every_process_of_xdist(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    pytester.makepyfile(
        """
import pytest
@pytest.mark.parametrize("n", range(4))
def test_fails(streamlet_seed, n, worker_id):
    assert worker_id == "master"
"""
    )
    result = run_pytest("-p", "xdist.plugin", "-n", "2", "--dist", "each", "--streamlet-seed=random")
    result.assert_outcomes(failed=8)
    shown = re.findall(r"--streamlet-seed=(\d+)", result.stdout.str())
    assert len(shown) == 9  # with the header's
    assert len(set(shown)) == 1


def test_a_seed_that_is_none_is_a_usage_error(run_pytest) -> None:  # type: ignore[no-untyped-def]
    result = run_pytest("--streamlet-seed=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--streamlet-seed=x: must be a whole number, or `random`*"])


def test_a_fixture_of_ones_own_wins(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef broker():\n    return 'mine'\n")
    pytester.makepyfile("def test_mine(broker):\n    assert broker == 'mine'\n")
    run_pytest().assert_outcomes(passed=1)


def test_pytest_starts_with_nothing_of_it(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    """Neither engine nor broker, and no dependency that `import streamlet` does without."""
    pytester.makepyfile(
        """
import sys
def test_what_is_loaded():
    ours = {name for name in sys.modules if name.startswith("streamlet.")}
    assert "streamlet.testing.plugin" in ours
    assert not [name for name in ours if name.split(".")[1] in {"broker", "engine", "runtimes", "kinesis", "sources", "sinks", "stores"}]
    assert not {"aiobotocore", "aiohttp", "botocore", "pyarrow", "rich"} & set(sys.modules)
"""
    )
    run_pytest().assert_outcomes(passed=1)


def test_a_virtual_run_loads_no_network_client() -> None:
    """What tests need is what a Lambda needs: the package without extras."""
    code = """
import sys
from streamlet import App
from streamlet.testing import run_worker
app = App("shop")
@app.on_record("orders")
def handle(record): ...
assert len(run_worker(app, [1]).done) == 1
assert not {"aiobotocore", "aiohttp", "botocore", "h2", "pyarrow", "cryptography", "pytest"} & set(sys.modules), sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_snippet_of_the_documentation_runs(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    snippets = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(snippets) >= 4
    for number, snippet in enumerate(snippets):
        assert "def test_" in snippet or "Contract)" in snippet
        pytester.makepyfile(**{f"test_snippet_{number}": snippet})
    tests = sum(snippet.count("\ndef test_") for snippet in snippets)
    inherited = [
        getattr(contracts, name) for snippet in snippets for name in re.findall(r"^class Test\w+\((\w+Contract)\)", snippet, re.MULTILINE)
    ]
    assert inherited
    tests += sum(name.startswith("test_") for contract in inherited for name in dir(contract))
    run_pytest().assert_outcomes(passed=tests)


def test_the_readmes_program_passes_the_readmes_test(pytester: pytest.Pytester, run_pytest) -> None:  # type: ignore[no-untyped-def]
    program, test, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    pytester.makepyfile(orders=program, test_orders=test)
    pytester.makeini("[pytest]\npythonpath = .\n")
    run_pytest().assert_outcomes(passed=1)


def test_the_face_is_whole() -> None:
    assert streamlet.testing.__all__ == sorted(streamlet.testing._LAZY)
    for name, module in streamlet.testing._LAZY.items():
        value = getattr(streamlet.testing, name)
        assert value is getattr(import_module(module), name)
        assert (value.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = streamlet.testing.Nope
