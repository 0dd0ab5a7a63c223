"""What does the `streamlet` command do? Sub-commands, one module each, imported when they are called.

Exit codes: 0 done, 1 failed, 2 the call was wrong. A mistake of the user is one sentence, never a traceback.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who starts us, as with `>&-`; a socket would take its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  for as long as the process lives
    try:
        from streamlet.cli.commands import cli
    except ModuleNotFoundError as error:
        if error.name in {"click", "rich"}:
            sys.stderr.write("streamlet: the command line needs more packages: pip install 'streamlet[all]'\n")
            sys.exit(2)
        raise
    cli()
