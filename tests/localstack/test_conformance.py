"""Does our broker do all that the conformance suite asks, and can the suite tell a broker that does not?"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "localstack"


def load(name: str) -> ModuleType:
    """A module of the suite, whose folder is no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


conformance = load("conformance")
CASES = conformance.CASES
DECLARED = conformance.unsupported()


@pytest.fixture(scope="module")
def target() -> Iterator[Any]:
    with conformance.streamlet() as running:
        yield running


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.area}: {case.name}") for case in CASES])
def test_our_broker(target: Any, case: Any) -> None:
    with target.kit() as kit:
        verdict = conformance.judge(case, kit)
    if case.area == "operations" and case.name in DECLARED:
        assert verdict.cell != "yes", "it works: take it out of UNSUPPORTED.md"
    else:
        assert verdict.cell == "yes", verdict.reason


def test_every_operation_of_the_model_has_a_case() -> None:
    import botocore.session

    names = set(botocore.session.get_session().get_service_model("kinesis").operation_names)
    assert {case.name for case in CASES if case.area == "operations"} == names


def test_cases_are_named_once_and_say_their_source() -> None:
    assert len(CASES) > 150
    assert len({(case.area, case.name) for case in CASES}) == len(CASES)
    assert all(case.source for case in CASES)


def test_a_broker_that_answers_everything_alike_passes_no_case_but_those_that_ask_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge, against a server that says `200 {}` to whatever comes: a suite that it could please would be worth nothing."""
    import http.server
    import threading

    monkeypatch.setattr(sys.modules["kit"], "PATIENCE_S", 0)

    class Yes(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with ExitStack() as stack:
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Yes))
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        target = stack.enter_context(conformance.at(f"http://127.0.0.1:{server.server_address[1]}", "yes"))
        passed = []
        for case in CASES:
            if case.area in {"HTTP", "CBOR", "operations"}:  # bare sockets wait for what never comes; many operations have no output
                continue
            with target.kit() as kit:
                if conformance.judge(case, kit).cell == "yes":
                    passed.append(f"{case.area}: {case.name}")
    assert passed == [
        "authorization: a signature in the query string goes through",
        "types: unknown members are ignored",
    ]


def test_the_table_names_every_case_and_every_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written = tmp_path / "table.md"
    assert conformance.main(["--broker", "streamlet", "--only", "iterators", "--markdown", str(written)]) == 0
    printed, text = capsys.readouterr().out, written.read_text()
    names = [case.name for case in CASES]
    for case in (case for case in CASES if names.count(case.name) == 1):
        assert (case.name in printed) == (conformance.escaped(case.name) in text) == (case.area == "iterators")


@pytest.mark.localstack
def test_localstack_in_docker_is_asked_the_same() -> None:
    """No verdict is demanded of LocalStack; the lane shows that the suite runs against it."""
    try:
        with conformance.localstack_docker() as target:
            wanted = [case for case in CASES if case.area == "streams"]
            column = []
            for case in wanted:
                with target.kit() as kit:
                    column.append(conformance.judge(case, kit).cell)
    except conformance.Skipped as reason:
        pytest.skip(f"LocalStack in Docker is not asked: {reason}")
    assert column.count("yes") > len(column) // 2
