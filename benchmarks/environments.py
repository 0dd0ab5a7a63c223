"""How does each program under measurement get an environment of its own? A Python venv or an npm folder, with fixed versions.

Both are made once, in the cache folder, and kept until what they are to hold changes. Several processes may ask at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["CACHE", "ROOT", "Unavailable", "node_folder", "once", "program", "python_of", "venv"]

ROOT: Final = Path(__file__).parents[1]
CACHE: Final = Path(__file__).parent / ".cache"
_SETUP_TIMEOUT_S: Final = 600


class Unavailable(Exception):
    """This target cannot run on this machine; `reason` says why in a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def venv(cache: Path, name: str, requirements: Sequence[str], python: str | None = None) -> Path:
    """A venv `name` that holds `requirements`; answers its bin folder. `python` is a version such as "3.13", default: this one.

    Raises Unavailable.
    """
    folder = cache / name
    interpreter = _interpreter(python) if python else sys.executable

    def make() -> None:
        _run([interpreter, "-m", "venv", "--clear", str(folder)], f"a venv for {name} could not be made")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        _run(pip, f"{' '.join(requirements)} could not be installed from the package index")

    once(folder, "\n".join([interpreter, *requirements]), make)
    return folder / "bin"


def node_folder(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """A folder whose node_modules hold `requirements`. Raises Unavailable."""
    folder = cache / name
    npm = program("npm")

    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", *requirements]
        _run(command, f"{' '.join(requirements)} could not be installed with npm")

    once(folder, "\n".join(requirements), make)
    return folder / "node_modules"


def once(folder: Path, wanted: str, make: Callable[[], None]) -> None:
    """Call `make` unless it has already succeeded for `wanted`. The stamp is written last, so a set-up that was cut short is done anew."""
    stamp = folder.with_name(f"{folder.name}.installed")
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
            return
        stamp.unlink(missing_ok=True)
        make()
        stamp.write_text(wanted)


def program(name: str) -> str:
    """Where a program is. Raises Unavailable."""
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not on PATH")
    return found


def python_of(version: str) -> str | None:
    """An interpreter of a version such as "3.13" that can make venvs: on PATH, of pyenv, or of uv."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    candidates = [shutil.which(name), *sorted(pyenv.glob(f"{version}*/bin/{name}")), *sorted(uv.glob(f"cpython-{version}*/bin/{name}"))]
    question = f"import ensurepip, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in candidates:
        if candidate and subprocess.run([str(candidate), "-c", question], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


def _interpreter(version: str) -> str:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = python_of(version)
    if found is None:
        raise Unavailable(f"it needs Python {version}, which is neither on PATH nor among those of pyenv or uv")
    return found


def _run(command: list[str], what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=_SETUP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what}: no end after {_SETUP_TIMEOUT_S} s") from error
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Unavailable(f"{what}: {last}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
