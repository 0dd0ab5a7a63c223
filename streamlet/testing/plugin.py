"""Which fixtures does pytest have where streamlet is installed? The plugin `streamlet`; `pytest -p no:streamlet` does without.

    run_worker       runs an App to "drained" on virtual time: run_worker(app) reads `virtual_broker`, or give it values
    virtual_broker   a Kinesis in memory whose time passes in runs only
    broker           a Kinesis at a real port, in a thread, for any client: broker.endpoint_url
    streamlet_seed   the seed of faults and jitter

A fixture of the same name in your own conftest.py or module is used in place of these. Nothing of the library but this file is
loaded before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

if TYPE_CHECKING:
    from streamlet.broker.server import Broker
    from streamlet.spec import Application
    from streamlet.testing.report import Report
    from streamlet.testing.virtual_broker import VirtualBroker
    from streamlet.testing.worker import Given

__all__ = ["RunWorker", "broker", "run_worker", "streamlet_seed", "virtual_broker"]

_SEED: Final = pytest.StashKey[int]()
_USED: Final = pytest.StashKey[bool]()
_RUNS: Final = pytest.StashKey["list[str]"]()


class RunWorker(Protocol):
    """The fixture `run_worker`: `streamlet.testing.run_worker` with the fixtures' broker and seed."""

    def __call__(self, app: Application, given: Given | None = None, **options: Any) -> Report:
        """See `streamlet.testing.run_worker`. Without `given` it reads the fixture `virtual_broker`."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--streamlet-seed`."""
    parser.getgroup("streamlet").addoption(
        "--streamlet-seed",
        metavar="N",
        default="0",
        help="seed of streamlet's faults and jitter: a whole number, or `random`, which draws one and says which (default: 0)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The seed, once for all tests."""
    # A process of pytest-xdist is given the seed that the first has drawn.
    given = getattr(config, "workerinput", {}).get("streamlet_seed") or config.getoption("streamlet_seed", "0")
    if given == "random":
        import random

        config.stash[_SEED] = random.SystemRandom().randrange(2**32)
        return
    try:
        config.stash[_SEED] = int(given)
    except ValueError:
        raise pytest.UsageError(f"--streamlet-seed={given}: must be a whole number, or `random`") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The same seed for every process of pytest-xdist."""
    node.workerinput["streamlet_seed"] = str(node.config.stash[_SEED])


def pytest_report_header(config: pytest.Config) -> str | None:
    """The seed, where it is not everybody's."""
    seed = config.stash[_SEED]
    return f"streamlet: --streamlet-seed={seed}" if seed else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a test that failed: its runs, and the seed with which it does so again."""
    report = yield
    if report.failed and item.stash.get(_USED, False):
        for text in item.stash.get(_RUNS, []):
            report.sections.append(("streamlet run_worker", text))
        report.sections.append(("streamlet seed", f"again with: --streamlet-seed={item.config.stash[_SEED]}"))
    return report


@pytest.fixture
def streamlet_seed(request: pytest.FixtureRequest) -> int:
    """The seed of faults and jitter; shown when the test fails."""
    request.node.stash[_USED] = True
    return request.config.stash[_SEED]


@pytest.fixture
def virtual_broker(streamlet_seed: int) -> VirtualBroker:
    """A `streamlet.testing.VirtualBroker` without streams."""
    from streamlet.testing.virtual_broker import VirtualBroker

    return VirtualBroker(seed=streamlet_seed)


@pytest.fixture
def run_worker(request: pytest.FixtureRequest, streamlet_seed: int) -> RunWorker:
    """`streamlet.testing.run_worker` with this test's seed. Without values or a broker it reads `virtual_broker`."""
    from streamlet.testing.worker import run_worker

    runs: list[str] = []
    request.node.stash[_RUNS] = runs

    def run(app: Application, given: Given | None = None, **options: Any) -> Report:
        __tracebackhide__ = True
        source = request.getfixturevalue("virtual_broker") if given is None else given
        report = run_worker(app, source, **{"seed": streamlet_seed, **options})
        runs.append(str(report))
        return report

    return run


@pytest.fixture
def broker(streamlet_seed: int) -> Iterator[Broker]:
    """A `streamlet.broker.Broker` at a free port of 127.0.0.1, in a thread: `broker.endpoint_url`, `broker.create_stream(...)`,
    `broker.faults.add(...)`."""
    from streamlet.broker.server import Broker

    with Broker.in_thread(faults_seed=streamlet_seed) as running:
        yield running
