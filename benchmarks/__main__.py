"""The suite's command line: `python -m benchmarks run`, `report FILE`, `list`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Results
from benchmarks.sdk import SDKS
from benchmarks.suite import BROKERS, CLIENT_WORKLOADS, FIXTURE, FULL, FUNCTION, QUICK, Plan, choose, run
from benchmarks.workloads import WORKLOADS

__all__ = ["main"]

_RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 when nothing ran, or 2 for a call that makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            return _list()
        if options.command == "report":
            return _report(options.file)
        return _run(_plan(options), options.name, options.output)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What does streamlet cost beside the others? See benchmarks/README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="set up the targets, run the workloads, write the results and the report")
    runner.add_argument("--quick", action="store_true", help="one short round: does everything work? Its figures are not worth quoting")
    runner.add_argument("--brokers", nargs="*", default=[], metavar="NAME", help="only these; `none` for none (default: all)")
    runner.add_argument("--sdks", nargs="*", default=[], metavar="NAME", help="only these; `none` for none (default: all)")
    runner.add_argument("--workloads", nargs="*", default=[], metavar="NAME", help="only these (default: all)")
    runner.add_argument("--rounds", type=int, metavar="N", help=f"default: {FULL.rounds}, with --quick {QUICK.rounds}")
    runner.add_argument("--minutes", type=float, metavar="N", help=f"begin no round that would end later (default: {FULL.minutes:g})")
    runner.add_argument("--name", default="local", help="part of the file name of the results (default: %(default)s)")
    runner.add_argument("--output", type=Path, default=_RESULTS, metavar="DIR", help="where results go (default: benchmarks/results)")
    reporter = commands.add_parser("report", help="write the report of a result file again")
    reporter.add_argument("file", type=Path)
    commands.add_parser("list", help="name the targets and the workloads")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    known = (*WORKLOADS, FIXTURE, *CLIENT_WORKLOADS, FUNCTION)
    plan = replace(
        plan,
        brokers=() if options.brokers == ["none"] else choose(options.brokers, tuple(BROKERS), "broker"),
        sdks=() if options.sdks == ["none"] else choose(options.sdks, tuple(SDKS), "client library"),
        workloads=choose(options.workloads, known, "workload"),
    )
    if options.rounds is not None:
        if options.rounds < 1:
            raise ValueError(f"--rounds {options.rounds}: must be 1 or more")
        plan = replace(plan, rounds=options.rounds)
    return plan if options.minutes is None else replace(plan, minutes=options.minutes)


def _run(plan: Plan, name: str, output: Path) -> int:
    # Servers that were started are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    results = run(plan, name)
    for target, reason in results.skipped.items():
        sys.stdout.write(f"skipped: {target}: {reason}\n")
    if not results.ran:
        sys.stderr.write("benchmarks: nothing ran, so there is no result\n")
        return 1
    path = output / f"{results.when[:10]}-{name}.json"
    results.save(path)
    _report(path)
    sys.stdout.write(f"done in {(time.monotonic() - started) / 60:.1f} minutes\n")
    return 0


def _report(path: Path) -> int:
    from benchmarks.report import write

    for written in (path, *write(Results.load(path), path)):
        sys.stdout.write(f"{written}\n")
    return 0


def _list() -> int:
    sys.stdout.write(f"brokers: {', '.join(BROKERS)}\nclient libraries: {', '.join(SDKS)}\n")
    sys.stdout.write(f"workloads: {', '.join((*WORKLOADS, FIXTURE, *CLIENT_WORKLOADS, FUNCTION))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
