"""How is a result file read by people? A page of Markdown with tables, and pictures of what matters most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.goals import judge
from benchmarks.lambda_side import LAMBDA_TARGETS
from benchmarks.results import CLIENT, METRICS, Metric, Results
from benchmarks.sdk import SDKS
from benchmarks.suite import BROKERS

__all__ = ["cell", "markdown", "plot", "write"]

_OURS: Final = ("#0b6e4f", "#9aa5b1")  # ours, theirs
_PICTURES: Final = (
    ("put_records_cpu_us", "PutRecords of 500 x 1 KB: server CPU per record, microseconds"),
    ("put_record_64_cpu_us", "PutRecord, 64 connections: server CPU per record, microseconds"),
    ("drain_cpu_us", "GetRecords: server CPU per record, microseconds"),
    ("put_to_get_p50_ms", "put to get p50, ms"),
    ("cold_start_s", "start to first answer, s"),
    ("idle_mb", "memory idle, MB"),
    ("consume_cpu_us", "clients, consume: CPU per record, microseconds"),
    ("produce_cpu_us", "clients, produce: CPU per record, microseconds"),
)


def write(results: Results, source: Path) -> list[Path]:
    """The report beside its JSON file: NAME.md and, where matplotlib is installed, NAME.svg. Answers what was written."""
    page, picture = source.with_suffix(".md"), source.with_suffix(".svg")
    written = [page]
    drawn = plot(results, picture)
    if drawn:
        written.append(picture)
    page.write_text(markdown(results, source.name, picture.name if drawn else None))
    return written


def markdown(results: Results, source: str, picture: str | None) -> str:
    """The page."""
    on = results.machine
    lines = [
        f"# Benchmark: {results.name}",
        "",
        (
            f"{results.when}, {results.settings.get('rounds_done')} round(s), whose order turns; medians, in brackets the "
            f"lowest and highest round. All figures are in `{source}`; how to repeat it is in `benchmarks/README.md`."
        ),
        "",
        (
            f"Machine: {on['cpu']}, {on['cores']} cores, {on['memory_gb']} GB, {on['system']}, Linux {on['kernel']}, {on['python']}; "
            f"durable data on {on['file_system']}. Generator and server share the cores: CPU figures are compared first, and ratios "
            "say more than single figures."
        ),
        "",
        *_goals(results),
        *([f"![the most important figures]({picture})", ""] if picture else []),
    ]
    for group in dict.fromkeys(metric.group for metric in METRICS.values()):
        lines += _group(results, group)
    lines += _missing(results)
    lines += ["## Versions", ""]
    lines += [
        f"- {target}: {', '.join(f'{name} {version}' for name, version in sorted(found.items())) or 'of this tree'}"
        for target, found in results.versions.items()
    ]
    return "\n".join(lines) + "\n"


def cell(results: Results, metric: Metric, target: str) -> str:
    """`median (low … high)`; only the median when there was one round."""
    found = results.of(metric.name, target)
    if found is None:
        return ""
    median, low, high = (f"{value:,.{metric.digits}f}" for value in found)
    return median if len(results.samples[metric.name][target]) == 1 else f"{median} ({low} … {high})"


def _goals(results: Results) -> list[str]:
    verdicts = judge(results)
    rows = [
        [verdict.goal.title, verdict.goal.target, f"{_short(verdict.measured)}{verdict.goal.unit}", "met" if verdict.met else "**not met**"]
        for verdict in verdicts
        if verdict.measured is not None
    ]
    left = [verdict.goal.title for verdict in verdicts if verdict.measured is None]
    table = [*_table(["goal", "target", "measured", ""], rows), ""] if rows else []
    return ["## Goals", "", *table, *([f"not measured in this run: {'; '.join(left)}.", ""] if left else [])]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _group(results: Results, group: str) -> list[str]:
    rows = [metric for metric in METRICS.values() if metric.group == group and results.targets(metric.name)]
    if not rows:
        return []
    order = [*BROKERS, *(CLIENT + name for name in SDKS), *LAMBDA_TARGETS]
    targets = [target for target in order if any(target in results.targets(metric.name) for metric in rows)]
    body = [[metric.title, *(cell(results, metric, target) for target in targets)] for metric in rows]
    return [f"## {group}", "", *_table(["", *targets], body), ""]


def _missing(results: Results) -> list[str]:
    lines = [f"- {target}: did not run: {reason}" for target, reason in results.skipped.items()]
    lines += [f"- {target}, {workload}: {reason}" for workload, found in results.missing.items() for target, reason in found.items()]
    return ["## What is missing, and why", "", *lines, ""] if lines else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def plot(results: Results, path: Path) -> bool:
    """Bars on a logarithmic axis, shorter is better. False when matplotlib is not installed or there is nothing to draw."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return False
    pictures = [(name, title) for name, title in _PICTURES if results.targets(name)]
    if not pictures:
        return False
    mpl.rcParams["svg.hashsalt"] = "streamlet"  # the same figures give the same file
    rows = -(-len(pictures) // 2)
    figure = Figure(figsize=(12, 2.9 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for (name, title), axis in zip(pictures, axes, strict=False):
        _bars(axis, results, name, title)
    for axis in axes[len(pictures) :]:
        axis.set_axis_off()
    figure.suptitle("Shorter is better; logarithmic; whiskers are the lowest and highest round", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True


def _bars(axis: Any, results: Results, name: str, title: str) -> None:
    found = [(target, spread) for target in results.targets(name) if (spread := results.of(name, target)) is not None and spread.median > 0]
    found.sort(key=lambda pair: pair[1].median, reverse=True)
    medians = [spread.median for _, spread in found]
    bounds = [[spread.median - spread.low for _, spread in found], [spread.high - spread.median for _, spread in found]]
    colours = [_OURS[0] if target.removeprefix(CLIENT).startswith("streamlet") else _OURS[1] for target, _ in found]
    labels = [target.removeprefix(CLIENT) for target, _ in found]
    # A logarithmic bar has no natural foot: a third of the shortest leaves it visible.
    left = min(medians) / 3
    axis.barh(labels, [median - left for median in medians], left=left, color=colours, xerr=bounds, ecolor="#52606d", capsize=2)
    axis.set_xscale("log")
    axis.set_xlim(left, max(medians) * 4)
    for n, (_, spread) in enumerate(found):
        axis.text(max(spread.high, spread.median) * 1.15, n, f"{_short(spread.median)}", va="center", fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
