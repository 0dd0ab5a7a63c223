"""Which local Kinesis does what? One suite of cases against several brokers, and a table.

    python localstack/conformance.py                               all brokers that this machine can run
    python localstack/conformance.py --broker streamlet --broker moto --only iterators
    python localstack/conformance.py --endpoint http://127.0.0.1:4566     whatever listens there
    python localstack/conformance.py --markdown localstack/results/conformance.md

A cell says `yes`, `no` (not there at all: an unknown operation, a server error, no answer), `differs` (it answers, but not as
the service does; the reasons stand below the table) or `-` (the case cannot be put to this broker). Every verdict comes from assertions.
Exit code: 0 when streamlet passes every case, but for operations that its UNSUPPORTED.md lists; 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent.absolute()
ROOT: Final = HERE.parent
for folder in (ROOT, HERE):  # the suite has no package: one named `localstack` would hide LocalStack's own
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from kit import CASES, Case, Differs, Kit, Missing, NotTried  # noqa: E402 - the path comes first

for module in ("cases_wire", "cases_streams", "cases_records", "cases_consumers"):
    importlib.import_module(module)

IMAGE: Final = "localstack/localstack:4.14.0"  # the last that needs no token
PEERS: Final = ("localstack", "kinesis-local", "kinesalite", "ministack", "moto")


class Skipped(Exception):
    """This broker cannot run on this machine, and why."""


class Ended(Exception):
    """The broker's process is gone after a case."""


class Verdict(NamedTuple):
    """What a case came to, with the reason when it is not `yes`."""

    cell: str
    reason: str = ""


class Target(NamedTuple):
    """A running broker: versions to print, and a kit for each case."""

    versions: str
    kit: Callable[[], AbstractContextManager[Kit]]


class Column(NamedTuple):
    """A broker's results; `skipped` says why there are none."""

    name: str
    versions: str
    verdicts: dict[tuple[str, str], Verdict]
    seconds: float
    skipped: str = ""


# --- brokers ----------------------------------------------------------------------------------------------------------


@contextmanager
def streamlet() -> Iterator[Target]:
    """Ours, in this process: a new one for each case, since that costs milliseconds, on a clock that can be moved."""
    from importlib.metadata import version

    from streamlet.broker import Broker

    @contextmanager
    def limited() -> Iterator[str]:
        with Broker.in_thread(enforce_limits=True) as broker:
            yield broker.endpoint_url

    @contextmanager
    def kit() -> Iterator[Kit]:
        ahead_s = [0.0]

        def jump(seconds: float) -> None:
            ahead_s[0] += seconds

        with Broker.in_thread(clock=lambda: time.time() + ahead_s[0]) as broker:
            with contextlib.closing(Kit(broker.endpoint_url, jump=jump, limited=limited)) as made:
                yield made

    yield Target(f"streamlet {version('streamlet')}", kit)


@contextmanager
def at(url: str, versions: str) -> Iterator[Target]:
    """Whatever listens there."""

    @contextmanager
    def kit() -> Iterator[Kit]:
        with contextlib.closing(Kit(url)) as made:
            yield made

    yield Target(versions, kit)


@contextmanager
def peer(name: str) -> Iterator[Target]:
    """One of the brokers that the benchmarks know how to install and start without Docker. One that a case ends is started anew for the next."""
    from benchmarks.peers import PEERS as BY_NAME
    from benchmarks.peers import Server, Unavailable

    with contextlib.ExitStack() as stack:

        def start() -> Server:
            try:
                return stack.enter_context(BY_NAME[name].start())
            except Unavailable as error:
                raise Skipped(str(error)) from error

        server = start()

        @contextmanager
        def kit() -> Iterator[Kit]:
            nonlocal server
            if server.process.poll() is not None:
                server = start()
            with contextlib.closing(Kit(server.endpoint_url)) as made:
                yield made
            if server.process.poll() is not None:
                raise Ended

        yield Target(", ".join(f"{package} {version}" for package, version in server.versions.items()), kit)


@contextmanager
def localstack_docker() -> Iterator[Target]:
    """The LocalStack image, where Docker runs."""
    try:
        import docker
        from testcontainers.community.localstack import LocalStackContainer
    except ImportError as error:
        raise Skipped("testcontainers is not installed: pip install 'streamlet[test]'") from error
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        # Asked first, since docker's own client leaves a socket open when there is nobody to talk to.
        raise Skipped("Docker is not there: no DOCKER_HOST, and no /var/run/docker.sock")
    try:
        client = docker.from_env()
        client.ping()
        client.close()
    except docker.errors.DockerException as error:
        raise Skipped(f"Docker does not answer ({str(error).splitlines()[0][:120]})") from error
    with LocalStackContainer(image=IMAGE).with_services("kinesis") as container:
        with at(container.get_url(), IMAGE) as target:
            yield target


BROKERS: Final[dict[str, Callable[[], AbstractContextManager[Target]]]] = {
    "streamlet": streamlet,
    **{name: (lambda name=name: peer(name)) for name in PEERS},  # type: ignore[misc]
    "localstack-docker": localstack_docker,
}


# --- running ----------------------------------------------------------------------------------------------------------


def judge(case: Case, kit: Kit) -> Verdict:
    """Run one case."""
    try:
        case.run(kit)
    except NotTried as reason:
        return Verdict("-", str(reason))
    except Missing as reason:
        return Verdict("no", str(reason))
    except Differs as reason:
        return Verdict("differs", str(reason))
    except OSError as error:
        return Verdict("no", f"no answer: {type(error).__name__}")
    except (struct.error, KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        return Verdict("differs", f"the answer lacks something: {type(error).__name__} {error}")
    return Verdict("yes")


def run(name: str, start: Callable[[], AbstractContextManager[Target]], cases: Sequence[Case], tell: Callable[[str], None]) -> Column:
    """All cases against one broker."""
    begun = time.monotonic()
    verdicts: dict[tuple[str, str], Verdict] = {}
    try:
        with start() as target:
            for case in cases:
                try:
                    with target.kit() as kit:
                        verdicts[case.area, case.name] = judge(case, kit)
                except Ended:
                    verdicts[case.area, case.name] = Verdict("no", "the broker's process ends")
            versions = target.versions
    except Skipped as reason:
        tell(f"{name}: skipped: {reason}")
        return Column(name, "", {}, 0.0, str(reason))
    took = time.monotonic() - begun
    tell(f"{name}: {sum(v.cell == 'yes' for v in verdicts.values())} of {len(cases)} in {took:.0f} s")
    return Column(name, versions, verdicts, took)


def unsupported() -> set[str]:
    """Operations that our broker says it does not do."""
    text = (ROOT / "streamlet/broker/ops/UNSUPPORTED.md").read_text()
    rows = re.findall(r"^\| ([A-Z]\w+(?:, \w+)*) \|", text, re.MULTILINE)
    return {name for row in rows for name in row.split(", ")}


def faults_of(column: Column) -> dict[tuple[str, str], Verdict]:
    """What is not `yes`, but for operations that are declared missing."""
    declared = unsupported()
    return {
        key: verdict
        for key, verdict in column.verdicts.items()
        if verdict.cell != "yes" and not (key[0] == "operations" and key[1] in declared)
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def cell(column: Column, case: Case) -> str:
    """One word."""
    return column.verdicts[case.area, case.name].cell


def plain(cases: Sequence[Case], columns: Sequence[Column]) -> str:
    """The table for a terminal."""
    width = max(len(case.name) for case in cases)
    widths = [max(len(column.name), 7) for column in columns]
    lines = [" " * width + "  " + "  ".join(column.name.ljust(w) for column, w in zip(columns, widths, strict=True))]
    area = ""
    for case in cases:
        if case.area != area:
            area = case.area
            lines.append(f"\n{area}")
        lines.append(f"{case.name:{width}}  " + "  ".join(cell(column, case).ljust(w) for column, w in zip(columns, widths, strict=True)))
    total = [f"{sum(v.cell == 'yes' for v in column.verdicts.values())}/{len(cases)}" for column in columns]
    lines.append(f"\n{'yes, of all':{width}}  " + "  ".join(text.ljust(w) for text, w in zip(total, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def escaped(text: str) -> str:
    """Text for a Markdown cell or item: one line, nothing that Markdown reads."""
    return re.sub(r"([|*_`<>\[\]])", r"\\\1", " ".join(text.split()))[:300]


def markdown(cases: Sequence[Case], columns: Sequence[Column], skipped: Sequence[Column]) -> str:
    """The table, the versions and the reasons."""
    lines = ["# Which local Kinesis does what?", ""]
    lines.append(f"{len(cases)} cases, run {dt.datetime.now(dt.UTC):%Y-%m-%d} by `python localstack/conformance.py --markdown ...`.")
    lines += ["`no`: not there at all. `differs`: it answers, but not as the service does. `-`: the case cannot be put to this broker.", ""]
    lines += ["| broker | versions | yes | differs | no | - | seconds |", "|---|---|---|---|---|---|---|"]
    for column in columns:
        counts = [sum(v.cell == word for v in column.verdicts.values()) for word in ("yes", "differs", "no", "-")]
        lines.append(f"| {column.name} | {column.versions} | {' | '.join(map(str, counts))} | {column.seconds:.0f} |")
    lines += [f"| {column.name} | not run: {escaped(column.skipped)} | | | | | |" for column in skipped]
    area = ""
    for case in cases:
        if case.area != area:
            area = case.area
            lines += [
                "",
                f"## {area}",
                "",
                f"| behaviour | {' | '.join(c.name for c in columns)} | source |",
                "|---" * (len(columns) + 2) + "|",
            ]
        lines.append(f"| {escaped(case.name)} | {' | '.join(cell(column, case) for column in columns)} | {escaped(case.source)} |")
    lines += ["", "## Reasons"]
    for column in columns:
        found = [(case, column.verdicts[case.area, case.name]) for case in cases if cell(column, case) != "yes"]
        if found:
            lines += ["", f"### {column.name}", ""]
            lines += [f"- {escaped(case.area)}: {escaped(case.name)}: **{v.cell}**: {escaped(v.reason)}" for case, v in found]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", action="append", choices=sorted(BROKERS), help="only these; repeatable")
    parser.add_argument("--endpoint", action="append", default=[], metavar="URL", help="what listens there, too; repeatable")
    parser.add_argument("--only", metavar="TEXT", default="", help="only cases whose area or name holds this text")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table with versions and reasons")
    parser.add_argument("--reasons", action="store_true", help="print why, for everything that is not `yes`")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="brokers that run at the same time (default 2)")
    parser.add_argument("--list", action="store_true", help="list the cases with their sources, and end")
    options = parser.parse_args(arguments)
    cases = sorted(
        (c for c in CASES if options.only in f"{c.area}: {c.name}"), key=lambda c: list(dict.fromkeys(x.area for x in CASES)).index(c.area)
    )
    if not cases:
        parser.error(f"no case holds {options.only!r}")
    if options.list:
        print("\n".join(f"{case.area}: {case.name}  [{case.source}]" for case in cases))
        return 0
    wanted = options.broker or ([] if options.endpoint else list(BROKERS))
    starts = [(name, BROKERS[name]) for name in wanted] + [(url, lambda url=url: at(url, url)) for url in options.endpoint]
    with ThreadPoolExecutor(max(1, options.at_once)) as pool:
        runs = [pool.submit(run, name, start, cases, lambda text: print(text, file=sys.stderr)) for name, start in starts]
        done = [result.result() for result in runs]
    columns, skipped = [c for c in done if not c.skipped], [c for c in done if c.skipped]
    if columns:
        print(plain(cases, columns))
    for column in skipped:
        print(f"{column.name}: not run: {column.skipped}")
    if options.reasons:
        for column in columns:
            for (area, name), verdict in column.verdicts.items():
                if verdict.cell != "yes":
                    print(f"{column.name}: {area}: {name}: {verdict.cell}: {verdict.reason}")
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown(cases, columns, skipped))
    ours = next((column for column in columns if column.name == "streamlet"), None)
    return 1 if ours is not None and faults_of(ours) else 0


if __name__ == "__main__":
    raise SystemExit(main())
