"""Errors become sentences and exit codes, and a reader that has gone ends a command without a traceback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamlet.cli.commands import exit_codes
from streamlet.cli.function import hosted
from streamlet.errors import ConfigurationError, ServiceError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("say it"), 2),
        (ServiceError("say it"), 1),
        (ExceptionGroup("of a TaskGroup", [ConfigurationError("say it")]), 2),
        (ExceptionGroup("of a TaskGroup", [ExceptionGroup("in another", [ServiceError("say it"), ConfigurationError("not this")])]), 1),
        (KeyboardInterrupt(), 1),
    ],
    ids=["usage", "service", "group", "nested groups", "Ctrl-C"],
)
def test_an_error_is_one_sentence_and_a_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @exit_codes
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == code
    assert capsys.readouterr().err == ("" if isinstance(error, KeyboardInterrupt) else "streamlet: say it\n")


def test_a_bug_keeps_its_traceback() -> None:
    @exit_codes
    def command() -> None:
        raise ExceptionGroup("of a TaskGroup", [ZeroDivisionError("ours")])

    with pytest.raises(ZeroDivisionError, match="ours"):
        command()


@pytest.mark.parametrize(("stream", "say"), [("stderr", "output.text('x' * 1000)"), ("stdout", r"output.json(b'x' * 1000 + b'\n')")])
def test_a_reader_that_has_gone_is_told_once_and_the_rest_goes_nowhere(stream: str, say: str) -> None:
    program = f"""
from pathlib import Path
from streamlet.cli.commands import Output
output = Output(closed=lambda: print("closed", file=open(0, "w"), flush=True))
for _ in range(1000):
    {say}
"""
    told_r, told_w = os.pipe()
    read, write = os.pipe()
    os.close(read)
    try:
        other = "stdout" if stream == "stderr" else "stderr"
        ran = subprocess.Popen([sys.executable, "-c", program], stdin=told_w, **{stream: write, other: subprocess.PIPE})  # type: ignore[call-overload]
        os.close(told_w)
        said = ran.communicate(timeout=30)
        told = os.read(told_r, 1000)
    finally:
        os.close(write)
        os.close(told_r)
    assert (ran.returncode, told, set(said)) == (0, b"closed\n", {None, b""})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("stream", "say"), [("stderr", "output.text('x')"), ("stdout", r"output.json(b'x\n')")])
def test_a_full_disk_ends_nothing(stream: str, say: str) -> None:
    program = f"""
import os
from streamlet.cli.commands import Output
output = Output(closed=lambda: os._exit(3))
for _ in range(10_000):
    {say}
os._exit(7)
"""
    with Path("/dev/full").open("wb") as full:
        other = "stdout" if stream == "stderr" else "stderr"
        pipes: Any = {stream: full, other: subprocess.PIPE}
        ran = subprocess.run([sys.executable, "-c", program], timeout=30, check=False, **pipes)
    assert (ran.returncode, ran.stdout or b"", ran.stderr or b"") == (7, b"", b"")


@pytest.mark.parametrize(("no_color", "shown"), [("", b"\x1b[31mbad\x1b[0m\r\n"), ("1", b"bad\r\n")])
def test_colours_are_for_terminals_that_want_them(no_color: str, shown: bytes) -> None:
    ours, terminal = pty.openpty()
    try:
        program = "from streamlet.cli.commands import Output; Output(closed=lambda: None).text('bad', fg='red')"
        subprocess.run([sys.executable, "-c", program], stderr=terminal, env=os.environ | {"NO_COLOR": no_color}, timeout=30, check=True)
        assert os.read(ours, 1000) == shown
    finally:
        os.close(ours)
        os.close(terminal)


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_is_closed_from_the_start_is_as_good_as_empty(closed: int) -> None:
    """As with `<&-` and `>&-`: no traceback, and no socket takes its number."""
    program = f"""
import os, sys
from streamlet.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit:
    pass
from streamlet.cli.commands import Output
output = Output(closed=lambda: os._exit(3))
output.json(b"x")
output.text("x")
assert (sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()) == (0, 1, 2)
assert os.path.samestat(os.stat({closed}), os.stat(os.devnull))
assert {closed} or sys.stdin.read() == ""
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}>&-', sys.executable, program]
    ran = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"" if closed == 2 else b"x\n")


# ── which handler ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("app.py", "src/handlers/orders.py", "package/__init__.py", "package/inner.py", "layer/python/shared.py", "my-function.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise AssertionError('nothing is imported here')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("handler", "env", "name"),
    [
        ("app.handle", (), "app"),
        ("src.handlers.orders.handle", (), "orders"),  # namespace packages, as most functions' folders are
        ("src/handlers/orders.handle", (), "orders"),
        ("package.inner.handle", (), "inner"),
        ("my-function.handle", (), "my-function"),
        ("shared.handle", ("PYTHONPATH=layer/python",), "shared"),
    ],
)
def test_a_handler_is_found_as_the_client_will_find_it(folder: Path, handler: str, env: tuple[str, ...], name: str) -> None:
    settings = hosted(handler, None, 3, 128, env)
    assert (settings.handler, settings.function_name, settings.folder) == (handler, name, folder)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        ("./app.handle", "write MODULE.FUNCTION"),
        ("/app.handle", "write MODULE.FUNCTION"),
        ("app..handle", "write MODULE.FUNCTION"),
        ("app:handle", "write MODULE.FUNCTION"),
        ("shared.handle", "no module 'shared'"),
        ("app.inner.handle", "no module 'app.inner'"),
        ("package.absent.handle", "no module 'package.absent'"),
        ("src.absent.orders.handle", "no module 'src.absent'"),
    ],
)
def test_a_handler_that_cannot_be_is_told_at_once(folder: Path, handler: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        hosted(handler, None, 3, 128, ())
