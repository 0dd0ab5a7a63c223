"""How is each local broker set up and started? One `Peer` per broker, all used alike:

    peer = PEERS["kinesalite"]
    peer.setup()                              installs it, once; raises Unavailable with the reason
    with peer.start() as server:              raises Unavailable when it does not come up
        server.endpoint_url, server.pids(), server.cpu_s(), server.rss_bytes(), server.versions

`start` sets up, too. Every server listens on 127.0.0.1 and nowhere else: those that cannot be told are held to it by
the modules in loopback/. Each is given its own settings for quiet logs, and nothing else that is not needed to start it.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import processes
from benchmarks.environments import CACHE, ROOT, Unavailable, node_folder, once, program, venv
from benchmarks.wire import HEADERS

__all__ = ["PEERS", "Command", "Peer", "Server", "Unavailable", "free_port", "python_command", "run", "streamlet_command"]

_LOOPBACK: Final = Path(__file__).parent / "loopback"
_START_TIMEOUT_S: Final = 120.0
_LOG_LINES: Final = 8
_POLL_S: Final = 0.004


@dataclass(frozen=True, slots=True)
class Command:
    """What starts a server: its arguments, what is added to the environment, the versions of what runs.

    `ready_line`, when set, is the start of the line of standard output that names the URL; otherwise it is known beforehand.
    """

    arguments: list[str]
    url: str
    versions: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    ready_line: str = ""


class Server:
    """A broker that runs.

    first_answer_s   from its start until ListStreams was answered with 200
    ready_line_s     from its start until its ready line, where it has one that we know
    """

    def __init__(self, name: str, command: Command, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.versions = command.versions
        self.endpoint_url = command.url
        self.process = process
        self.log = log
        self.first_answer_s = 0.0
        self.ready_line_s: float | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started; `pids` has its children, too."""
        return self.process.pid

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.endpoint_url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def pids(self) -> list[int]:
        """The whole tree of processes."""
        return [stat.pid for stat in processes.tree(self.pid)]

    def cpu_s(self) -> float:
        """User and system CPU seconds of the tree since it started."""
        return processes.cpu_s(self.pid)

    def rss_bytes(self) -> int:
        """Resident memory of the tree."""
        return processes.rss_bytes(self.pid)

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        return " | ".join(line.strip() for line in self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if line.strip())


@dataclass(frozen=True, slots=True)
class Peer:
    """A local broker: `prepare(cache)` installs it and answers a function that makes the command of one start in a scratch folder."""

    name: str
    prepare: Callable[[Path], Callable[[Path], Command]]

    def setup(self, cache: Path = CACHE) -> None:
        """Install it if it is not yet. Raises Unavailable."""
        self.prepare(cache)

    @contextmanager
    def start(self, cache: Path = CACHE) -> Iterator[Server]:
        """Run it until the end of the block. Raises Unavailable when it cannot be installed or does not answer."""
        command_in = self.prepare(cache)
        cache.mkdir(parents=True, exist_ok=True)
        # Not in /tmp, which is memory on some machines: a durable broker would look as fast as one that is not.
        with tempfile.TemporaryDirectory(prefix=f"run-{self.name}-", dir=cache, ignore_cleanup_errors=True) as scratch:
            with run(self.name, command_in(Path(scratch)), Path(scratch)) as server:
                yield server


@contextmanager
def run(name: str, command: Command, scratch: Path) -> Iterator[Server]:
    """Start a command and wait until it answers; end it, with all that it started, at the end of the block. Raises Unavailable."""
    log = scratch / "log.txt"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "PYTHON")) and name not in {"VIRTUAL_ENV", "NODE_OPTIONS"}
    }
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=environment | command.environment,
            start_new_session=True,
        )
    server = Server(name, command, process, log)
    try:
        _await_answer(server, command, started)
        yield server
    finally:
        processes.end_tree(process)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _await_answer(server: Server, command: Command, started: float) -> None:
    give_up = started + _START_TIMEOUT_S
    while True:
        if command.ready_line and server.ready_line_s is None:
            match = re.search(rf"^{re.escape(command.ready_line)}(http://\S+)$", server.log.read_text(errors="replace"), re.MULTILINE)
            if match:
                server.ready_line_s = time.perf_counter() - started
                server.endpoint_url = match[1]
        elif _answers(server.address):
            server.first_answer_s = time.perf_counter() - started
            return
        if server.process.poll() is not None:
            raise Unavailable(f"it ended with code {server.process.returncode} before it answered: {server.log_tail() or 'without a word'}")
        if time.perf_counter() > give_up:
            raise Unavailable(f"no answer {_START_TIMEOUT_S:.0f} s after its start; it last said: {server.log_tail() or 'nothing'}")
        time.sleep(_POLL_S)


def _answers(address: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*address, timeout=_START_TIMEOUT_S)
    try:
        connection.request("POST", "/", b"{}", {**HEADERS, "X-Amz-Target": "Kinesis_20131202.ListStreams"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# ── the brokers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _python_version(interpreter: str | Path) -> str:
    done = subprocess.run(
        [str(interpreter), "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _node_version() -> str:
    return subprocess.run([program("node"), "--version"], capture_output=True, text=True, check=True).stdout.strip().removeprefix("v")


def streamlet_command(*options: str) -> Command:
    """Ours, from this source tree and this interpreter, as a user starts it."""
    from importlib.metadata import version

    versions = {"streamlet": version("streamlet"), "python": _python_version(sys.executable)}
    try:
        versions["uvloop"] = version("uvloop")
    except ModuleNotFoundError:
        versions["uvloop"] = "absent"
    arguments = [sys.executable, "-m", "streamlet", "broker", "--port", "0", *options]
    return Command(arguments, "", versions, {"PYTHONPATH": str(ROOT)}, ready_line="listening on ")


def python_command(module: str, *arguments: str, versions: Mapping[str, str] | None = None) -> Command:
    """A server of the suite's own: `python -m MODULE`, which prints `listening on URL`."""
    return Command([sys.executable, "-m", module, *arguments], "", dict(versions or {}), {"PYTHONPATH": str(ROOT)}, "listening on ")


def _streamlet(_cache: Path) -> Callable[[Path], Command]:
    return lambda _scratch: streamlet_command()


def _streamlet_durable(_cache: Path) -> Callable[[Path], Command]:
    return lambda scratch: streamlet_command("--data-dir", str(scratch / "data"))


def _python_peer(name: str, requirements: list[str], start: Callable[[Path, int], tuple[list[str], Mapping[str, str]]]) -> Peer:
    def prepare(cache: Path) -> Callable[[Path], Command]:
        folder = venv(cache, name, requirements)
        package, _, version = requirements[0].partition("==")
        versions = {package.partition("[")[0]: version, "python": _python_version(folder / "python")}

        def command(_scratch: Path) -> Command:
            port = free_port()
            arguments, environment = start(folder, port)
            return Command(arguments, f"http://127.0.0.1:{port}", versions, dict(environment))

        return command

    return Peer(name, prepare)


def _node_peer(requirement: str, start: Callable[[Path, int], tuple[list[str], Mapping[str, str]]]) -> Peer:
    name, _, version = requirement.partition("@")

    def prepare(cache: Path) -> Callable[[Path], Command]:
        node = program("node")
        modules = node_folder(cache, name, [requirement])
        versions = {name: version, "node": _node_version()}

        def command(_scratch: Path) -> Command:
            port = free_port()
            arguments, environment = start(modules, port)
            held = [node, "--require", str(_LOOPBACK / "listen.cjs"), *arguments]
            return Command(held, f"http://127.0.0.1:{port}", versions, dict(environment))

        return command

    return Peer(name, prepare)


_LOCALSTACK: Final = [
    "localstack-core[runtime]==2026.3.0",
    # Later versions of these no longer have what it imports.
    "cbor2<5.8",
    "cryptography<47",
    "pyopenssl<26",
    "service_identity",
]


def _localstack(cache: Path) -> Callable[[Path], Command]:
    node = _node_version()  # its Kinesis is a Node program
    program("npm")
    folder = venv(cache, "localstack", _LOCALSTACK, python="3.13")
    versions = {"localstack-core": "2026.3.0", "python": _python_version(folder / "python"), "node": node}
    state = cache / "localstack-state"

    def command(_scratch: Path) -> Command:
        port = free_port()
        environment = {
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "FILESYSTEM_ROOT": str(state),
            "DNS_ADDRESS": "0",
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "OVERRIDE_IN_DOCKER": "0",
            "LS_LOG": "warning",
            "PYTHONPATH": str(_LOOPBACK),
            "NODE_OPTIONS": f"--require {_LOOPBACK / 'listen.cjs'}",
        }
        return Command([str(folder / "python"), "-m", "localstack.runtime.main"], f"http://127.0.0.1:{port}", versions, environment)

    def first_call() -> None:
        # Its first call for Kinesis fetches the engine from npm, which is no part of a cold start.
        with tempfile.TemporaryDirectory() as scratch, run("localstack", command(Path(scratch)), Path(scratch)):
            pass

    once(state, "\n".join(_LOCALSTACK), first_call)
    return command


def _moto(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return [str(folder / "moto_server"), "-H", "127.0.0.1", "-p", str(port)], {}


def _ministack(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return [str(folder / "ministack")], {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}


def _kinesalite(modules: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return [str(modules / "kinesalite" / "cli.js"), "--port", str(port), "--shardLimit", "100"], {}


def _kinesis_local(modules: Path, port: int) -> tuple[list[str], dict[str, str]]:
    package = modules / "kinesis-local"
    environment: dict[str, Any] = {
        "KINESIS_MOCK_CERT_PATH": str(package / "server.json"),
        "KINESIS_MOCK_PLAIN_PORT": str(port),
        "KINESIS_MOCK_TLS_PORT": str(free_port()),
        "LOG_LEVEL": "ERROR",
    }
    return [str(package / "main.js")], environment


PEERS: Final[Mapping[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer("streamlet", _streamlet),
        Peer("streamlet-durable", _streamlet_durable),
        Peer("localstack", _localstack),
        _node_peer("kinesis-local@0.6.2", _kinesis_local),
        _node_peer("kinesalite@3.3.3", _kinesalite),
        _python_peer("ministack", ["ministack==1.5.33"], _ministack),
        _python_peer("moto", ["moto[server]==5.2.5"], _moto),
    )
}
