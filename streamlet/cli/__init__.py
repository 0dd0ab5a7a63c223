"""What does the `streamlet` command do? Sub-commands, one module each, imported when they are called.

Exit codes: 0 done, 1 failed, 2 the call was wrong. A mistake of the user is one sentence, never a traceback.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point."""
    try:
        from streamlet.cli.commands import cli
    except ModuleNotFoundError as error:
        if error.name in {"click", "rich"}:
            sys.stderr.write("streamlet: the command line needs more packages: pip install 'streamlet[all]'\n")
            sys.exit(2)
        raise
    cli()
