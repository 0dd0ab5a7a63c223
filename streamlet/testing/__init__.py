"""What does a user test an App with? A worker on virtual time, a broker in the process, events as Lambda gets them.

    from streamlet.testing import run_worker

    def test_the_poison_record_stands_alone():
        report = run_worker(app, [1, 2, "poison", 4])
        assert [given_up.values for given_up in report.given_up] == [["poison"]]

As pytest fixtures, from the plugin `streamlet` that is installed with the package: `run_worker`, `virtual_broker`, `broker`,
`streamlet_seed` (docs/testing.md). Each module is loaded on first use: pytest starts with none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from streamlet.testing.events import aggregate, kinesis_event, s3_event, sns_event, window_event
    from streamlet.testing.fake_context import FakeLambdaContext
    from streamlet.testing.report import Checkpoint, File, GivenUp, Invocation, Report
    from streamlet.testing.virtual import OutsideVirtualTime, Stuck
    from streamlet.testing.virtual_broker import VirtualBroker
    from streamlet.testing.worker import NotDrained, run_worker

__all__ = [
    "Checkpoint",
    "FakeLambdaContext",
    "File",
    "GivenUp",
    "Invocation",
    "NotDrained",
    "OutsideVirtualTime",
    "Report",
    "Stuck",
    "VirtualBroker",
    "aggregate",
    "kinesis_event",
    "run_worker",
    "s3_event",
    "sns_event",
    "window_event",
]

_LAZY: Final = {
    "Checkpoint": "streamlet.testing.report",
    "FakeLambdaContext": "streamlet.testing.fake_context",
    "File": "streamlet.testing.report",
    "GivenUp": "streamlet.testing.report",
    "Invocation": "streamlet.testing.report",
    "NotDrained": "streamlet.testing.worker",
    "OutsideVirtualTime": "streamlet.testing.virtual",
    "Report": "streamlet.testing.report",
    "Stuck": "streamlet.testing.virtual",
    "VirtualBroker": "streamlet.testing.virtual_broker",
    "aggregate": "streamlet.testing.events",
    "kinesis_event": "streamlet.testing.events",
    "run_worker": "streamlet.testing.worker",
    "s3_event": "streamlet.testing.events",
    "sns_event": "streamlet.testing.events",
    "window_event": "streamlet.testing.events",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
