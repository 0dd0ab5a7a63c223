"""Which function is hosted, and in what? What `streamlet esm` and `streamlet invoke` have in common."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from streamlet.errors import ConfigurationError

if TYPE_CHECKING:
    from streamlet.runtimes.esm.sandbox import SandboxSettings

__all__ = ["function_options", "hosted"]

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT_BYTES_MAX: Final = 4_096
# What a function's configuration may not set (reference: Lambda developer guide, configuration-envvars).
_RESERVED: Final = frozenset(
    {"AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"}
    | {"AWS_SESSION_TOKEN", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "_HANDLER", "_X_AMZN_TRACE_ID"}
)
_OPTIONS: Final = (
    click.option("--function-name", help="Default: the module's name."),
    click.option("--timeout", "timeout_s", type=click.IntRange(1, 900), default=3, show_default=True, help="Seconds of an invocation."),
    click.option("--memory-size", "memory_mb", type=click.IntRange(128, 10_240), default=128, show_default=True, help="MB of a sandbox."),
    click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="An environment variable of the function; may be repeated."),
    click.option(
        "--concurrency",
        type=click.IntRange(0, 1_000),
        help="Reserved concurrency: what is above is throttled. Default: 16 processes, and no throttling.",
    ),
)


def function_options(command: F) -> F:
    """The options of the function itself, under their AWS names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def hosted(handler: str, function_name: str | None, timeout_s: int, memory_mb: int, env: Sequence[str], **more: Any) -> SandboxSettings:
    """What its sandboxes are made of; `more` as SandboxSettings has it. Raises ConfigurationError for a function that cannot be."""
    folder = Path.cwd()
    environment = _environment(env)
    python_path = environment.get("PYTHONPATH", "").split(os.pathsep)
    _check_handler(handler, [str(folder), *(str(folder / one) for one in python_path if one), *sys.path])
    name = _function_name(handler, function_name)
    try:
        from streamlet.runtimes.esm.host import check_client
        from streamlet.runtimes.esm.memory import is_measurable
        from streamlet.runtimes.esm.sandbox import SandboxSettings
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"hosting a function needs {error.name}: pip install 'streamlet[esm]'") from error
    check_client()
    if not is_measurable():
        click.secho("memory cannot be measured here (there is no /proc): --memory-size is told to the function, and not enforced", err=True)
    return SandboxSettings(
        handler=handler, function_name=name, folder=folder, timeout_s=timeout_s, memory_mb=memory_mb, environment=environment, **more
    )


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs. Raises ConfigurationError for what Lambda refuses: reserved names, more than 4 KB."""
    made = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]+", name):
            raise ConfigurationError(
                f"--env {pair!r}: write NAME=VALUE; a name begins with a letter and has at least two letters, digits or '_'"
            )
        if name in _RESERVED or name.startswith("AWS_LAMBDA_"):
            raise ConfigurationError(
                f"--env {name}: Lambda reserves this name; credentials and region come from your own environment and --region"
            )
        made[name] = value
    size = sum(len(name.encode()) + len(value.encode()) for name, value in made.items())
    if size > ENVIRONMENT_BYTES_MAX:
        raise ConfigurationError(f"--env: {size:,} bytes in all, {ENVIRONMENT_BYTES_MAX:,} are allowed")
    return made


def _function_name(handler: str, name: str | None) -> str:
    """The given name, or the module's. Raises ConfigurationError for what Lambda would not take."""
    name = name or handler.rpartition(".")[0].replace("/", ".").rpartition(".")[2]
    if not re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name):
        raise ConfigurationError(f"--function-name {name!r}: 1 to 64 letters, digits, '-' and '_'")
    return name


def _check_handler(handler: str, path: Sequence[str]) -> None:
    """Raises ConfigurationError for a handler that cannot be, before a stream of failed cold starts says so. Nothing is imported."""
    module, dot, name = handler.rpartition(".")
    parts = module.replace("/", ".").split(".")
    if not dot or not name.isidentifier() or not all(parts):
        raise ConfigurationError(f"{handler!r}: write MODULE.FUNCTION as Lambda does, for instance app.lambda_handler")
    where: Sequence[str] | None = path
    for depth, part in enumerate(parts, 1):
        # By its last name: a namespace package would look for its parent among what is imported.
        spec = PathFinder.find_spec(part, where) if where is not None else None
        if spec is None:
            raise ConfigurationError(f"there is no module {'.'.join(parts[:depth])!r} here; run from the folder that holds it")
        where = spec.submodule_search_locations
