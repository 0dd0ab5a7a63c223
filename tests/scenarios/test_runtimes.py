"""One set of scenarios drives all runtimes: do they do the same, which is what was recorded on AWS and what a second reading of
its documents says?

Where the documents leave something open, the runtimes have chosen (READINGS), and the second interpreter is asked to read it the
same way. Each choice stands in docs/DESIGN.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.scenarios.compare import difference, normal, observed, unexpected
from tests.scenarios.drivers import Kind, handled, handled_lambda, in_esm, in_processes, in_worker, with_reports
from tests.scenarios.generated import COUNT, generated
from tests.scenarios.interpreter import Choices, interpret
from tests.scenarios.scenarios import Mapping, Record, Recorded, Rule, Scenario, Shard, Trace, recorded

DESIGN: Final = Path(__file__).parents[2] / "docs" / "DESIGN.md"


class Reading(NamedTuple):
    """What the runtimes do where the reference leaves it open."""

    value: Any
    why: str
    row: str  # of the table in docs/DESIGN.md


READINGS: Final[dict[str, Reading]] = {
    "first_named": Reading(
        "halve",
        "a split at the first record leaves the batch whole, so that one bad record at its head would take all others with it",
        "a partial response that names the first record, with bisect",
    ),
    "wait_after_split": Reading(
        False,
        "a half is another batch, not a retry; to wait before each of the log2(n) halvings would hold the shard up for nothing",
        "waits after a split",
    ),
    "wait_after_progress": Reading(
        False,
        "the recorded log shows what is left as a batch of its own",
        "the first try after progress",
    ),
    "throttles_wait_apart": Reading(
        True,
        "a throttle says nothing about the batch, so it does not lengthen the waits after failures, nor they those after throttles",
        "waits after throttles",
    ),
    "too_old_after_wait": Reading(
        False,
        "to wait for a try that will not happen would only hold up the records behind",
        "a record that is too old when a try has failed",
    ),
    "null_state": Reading(
        False,
        "a missing value is null in some languages: the state would be lost without a word",
        "tumbling windows: empty windows, early ends, state",
    ),
    "window_opens": Reading(
        "at record",
        "a window in which nothing comes is no window: else the first record after a quiet time would be a batch of one",
        "when a batching window opens",
    ),
}
CHOICES: Final = Choices(**{name: reading.value for name, reading in READINGS.items()})
RECORDED: Final = recorded()
GENERATED: Final = generated()


def scenario_of(name: str, mapping: Mapping, *rules: Rule, records: str = "a b c", **rest: Any) -> Scenario:
    shards = (Shard(name="s0", records=tuple(Record(label=label) for label in records.split())),)
    return Scenario(
        **{"name": name, "source": "test", "shards": shards, "mapping": mapping, "rules": rules, "lanes": {}, "refusals": 0, **rest}
    )


STATELESS: Final = {"batchItemFailures": [{"itemIdentifier": {"$sequence": "b"}}]}
BY_HAND: Final = [
    scenario_of(
        "tumbling: failures without a state are no progress",
        Mapping(tumbling_s=60, report=True, retries=2),
        Rule(action="return", on="b", times=2, value=STATELESS),
    ),
    scenario_of(
        "tumbling: a batch fills up with the records of its own window",
        Mapping(tumbling_s=60, batch_size=2),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abcd", [-61, -59, -59, -1], strict=True))),),
    ),
    scenario_of(
        "tumbling: no call is done without a state, the last one neither",
        Mapping(tumbling_s=60, batch_size=2),
        Rule(action="return", times=1, value={}),
    ),
    scenario_of(
        "progress after a failure starts the count anew",
        Mapping(report=True, retries=2),
        Rule(action="raise", on="a", times=2),
        Rule(action="report", labels=("b",)),
    ),
    scenario_of(
        "what is left after progress is tried before it is too old",
        Mapping(max_age_s=60, report=True),
        Rule(action="report", on="b", labels=("b",), times=1),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=-59.5) for label in "ab")),),
    ),
    scenario_of(
        "a throttle between two failures",
        Mapping(max_age_s=60, retries=10),
        Rule(action="raise", on="a", times=2),
        Rule(action="throttle", on="a", times=3),
        Rule(action="raise", on="a"),
        duration_s=5.0,
    ),
    scenario_of(
        "the last try ends when the record is too old",
        Mapping(max_age_s=60, retries=1),
        Rule(action="raise", on="a"),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("ab", [-45, -10], strict=True))),),
        duration_s=10.0,
    ),
    scenario_of(
        "what is too old when a try has failed does not wait",
        Mapping(max_age_s=60),
        Rule(action="raise", on="a"),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abc", [-50, 15.4, 15.8], strict=True))),),
        duration_s=15.0,
    ),
    scenario_of(
        "refusals of a document have a row of growing waits",
        Mapping(retries=0),
        Rule(action="raise", on="a"),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abc", [0, 26.5, 26.8], strict=True))),),
        refusals=5,
    ),
    scenario_of(
        "what follows an exhausted batch does not wait",
        Mapping(retries=1),
        Rule(action="raise", on="a"),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abc", [0, 1.2, 2.1], strict=True))),),
    ),
    scenario_of(
        "a failure starts the waits after throttles anew",
        Mapping(batch_size=10),
        Rule(action="throttle", on="a", times=3),
        Rule(action="raise", on="a", times=1),
        Rule(action="throttle", on="a", times=1),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abc", [0, 8.5, 9.5], strict=True))),),
    ),
    scenario_of(
        "waits grow to twelve seconds and no further",
        Mapping(),
        Rule(action="raise", on="a", times=7),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abcd", [0, 50.9, 51.1, 60], strict=True))),),
    ),
    scenario_of(
        "throttles of what is left after ages are not forgotten",
        Mapping(max_age_s=60),
        Rule(action="throttle", on="b", times=6),
        shards=(
            Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abcd", [-55, 0, 14.5, 38], strict=True))),
        ),
    ),
    scenario_of(
        "failures that are no list fail the whole batch",
        Mapping(report=True, retries=1),
        Rule(action="return", value={"batchItemFailures": {"itemIdentifier": {"$sequence": "b"}}}),
    ),
    scenario_of(
        "a number for an identifier is none, although the batch has a record of that number",
        Mapping(report=True, retries=1),
        Rule(action="return", value={"batchItemFailures": [{"itemIdentifier": 9}]}),
    ),
    scenario_of(
        "tumbling: what was given up before a crash is given up again",
        Mapping(tumbling_s=60, batch_size=1, retries=0),
        Rule(action="raise", on="a"),
        Rule(action="crash", on="c", times=1),
    ),
    scenario_of(
        "tumbling: a crash in the final call",
        Mapping(tumbling_s=60, batch_size=2),
        Rule(action="return", on="a", value={"state": {"labels": ["a", "b"]}}),
        Rule(action="return", on="c", value={"state": {"labels": ["a", "b", "c"]}}),
        Rule(action="crash", times=1),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=-60) for label in "abc")),),
    ),
    scenario_of(
        "tumbling: a state that grows too large in the middle of a batch",
        Mapping(tumbling_s=60, report=True, bisect=True),
        Rule(action="raise", on="a", times=1),
        Rule(action="grow", on="a", times=1),
        Rule(action="grow", on="b", labels=("c",), times=1),
    ),
    scenario_of(
        "tumbling: a window that ended early cuts no batching window of the next one short",
        Mapping(tumbling_s=60, window_s=100, batch_size=2),
        Rule(action="grow", on="b", times=1),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abcd", [-30, -30, 0, 10], strict=True))),),
    ),
    scenario_of(
        "tumbling: many records over two windows",
        Mapping(tumbling_s=60, batch_size=4),
        shards=(Shard(name="s0", records=tuple(Record(label=f"r{n}", arrival_s=-90.0 if n < 6 else -30.0) for n in range(11))),),
    ),
    scenario_of(
        "tumbling: what a final call says of failures is nothing",
        Mapping(tumbling_s=60, report=True),
        Rule(action="return", on="a", value={"state": {"labels": ["a", "b", "c"]}}),
        Rule(action="return", value={"state": {}, "batchItemFailures": [{"itemIdentifier": "none"}]}),
    ),
    scenario_of(
        "tumbling: a partial response carries its state on",
        Mapping(tumbling_s=60, report=True, retries=1),
        Rule(action="report", on="a", labels=("b",), times=1),
        Rule(action="report", on="b", labels=("c",), times=1),
        Rule(action="raise", on="c", times=1),
    ),
    scenario_of(
        "batch: bytes close a window early",
        Mapping(window_s=100),
        shards=(
            Shard(
                name="s0",
                records=tuple(Record(label=f"r{n}", arrival_s=at, size_bytes=1_000_000) for n, at in enumerate([0, 0, 0, 0, 10, 20, 150])),
            ),
        ),
    ),
    scenario_of(
        "batch: as many as fit close a window at once",
        Mapping(window_s=100, batch_size=2),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abcd", [0, 10, 20, 130], strict=True))),),
    ),
    scenario_of(
        "batch: a window lasts to its end and no longer",
        Mapping(window_s=10),
        shards=(Shard(name="s0", records=tuple(Record(label=label, arrival_s=at) for label, at in zip("abc", [0, 9.5, 10.5], strict=True))),),
    ),
]  # fmt: skip
ALL: Final = [*(row.scenario for row in RECORDED), *GENERATED, *BY_HAND]
RUNTIMES: Final = [in_worker, in_esm]


def is_loose(scenario: Scenario) -> bool:
    """Whether a worker may save fewer positions than there are moves: see `told_apart`."""
    m = scenario.mapping
    return scenario.refusals is None and (m.retries >= 0 or m.max_age_s >= 0)


def told_apart(scenario: Scenario, expected: Trace, actual: Trace) -> str:
    """`difference`, with the checkpoints as far as they can be compared. Each move, but for one case: records that are given up without
    a destination are passed in one moment, of which a worker writes the last. Then the moves must be some of those expected, and the
    last the same."""
    if not is_loose(scenario):
        return difference(scenario, expected, actual)
    want, have = normal(scenario, expected), normal(scenario, actual)
    extra = [f"{name}: {line}" for name, lines in have.items() if "checkpoints" in name for line in lines if line not in want.get(name, [])]
    return difference(scenario, expected, actual, "final") + "".join(f"\n  a checkpoint that was not expected in {line}" for line in extra)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.__name__)
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_a_runtime_does_what_the_second_interpreter_says(scenario: Scenario, runtime: Callable[[Scenario], Trace]) -> None:
    """None is left out: the worker and `streamlet esm` can do everything that a scenario may use."""
    assert (apart := told_apart(scenario, interpret(scenario, CHOICES), runtime(scenario))) == "", apart


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.__name__)
@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row.scenario.name)
def test_a_runtime_does_what_was_recorded(row: Recorded, runtime: Callable[[Scenario], Trace]) -> None:
    trace = runtime(row.scenario)
    assert unexpected(row.expect, trace) == [], trace


def test_the_worker_and_esm_leave_nothing_out_and_most_checkpoints_are_compared_one_by_one() -> None:
    assert len(RECORDED) >= 41
    assert len(GENERATED) == COUNT >= 300
    uses = Counter(use for scenario in GENERATED for use in scenario.uses())
    assert min(uses.values()) >= 10, uses
    assert sum(not is_loose(s) and s.mapping.factor == 1 for s in ALL) >= 180


# ── one handler of the user's, in Lambda and in a worker ─────────────────────────────────────────────────────────


def left_out(scenario: Scenario, kind: Kind) -> str:
    """Why a scenario is none for such a handler; "" if it is."""
    if (kind == "window") != (scenario.mapping.tumbling_s > 0):
        return "tumbling windows have a handler of their own"
    if any(rule.action == "return" for rule in scenario.rules):
        return "a handler has no response of its own: the adapter makes it"
    if kind == "record" and scenario.uses() & {"throttle", "crash"}:
        return "the script would refuse single records, and Lambda refuses calls; or crash at one of several records of a call"
    return ""


CASES: Final[list[tuple[Kind, Scenario]]] = [
    (kind, with_reports(scenario)) for kind in ("batch", "record", "window") for scenario in ALL if not left_out(scenario, kind)
]


@pytest.mark.parametrize(("kind", "scenario"), CASES, ids=lambda case: getattr(case, "name", case))
def test_a_handler_has_the_same_outcome_in_lambda_and_in_a_worker(kind: Kind, scenario: Scenario) -> None:
    expected = handled_lambda(scenario, kind, CHOICES)
    assert (apart := told_apart(scenario, expected, handled(scenario, kind))) == "", apart


@pytest.mark.parametrize(
    ("kind", "scenario"),
    [(kind, scenario) for kind, scenario in CASES if not scenario.uses() & {"filter", "payload bound"}],
    ids=lambda case: getattr(case, "name", case),
)
def test_aggregates_have_the_outcome_of_the_records_that_hold_them(kind: Kind, scenario: Scenario) -> None:
    """Two of three records are aggregates: batches, attempts, documents and checkpoints are those of a stream that has none.
    A filter looks at the record of the stream, and drops an aggregate."""
    plain = handled_lambda(scenario, kind, CHOICES)
    assert handled_lambda(scenario, kind, CHOICES, aggregated=True) == plain
    assert (apart := told_apart(scenario, plain, handled(scenario, kind, aggregated=True))) == "", apart


def test_few_scenarios_are_left_out_in_lambda_and_each_for_a_reason() -> None:
    ran = Counter(kind for kind, _ in CASES)
    reasons = Counter((kind, left_out(scenario, kind)) for kind in ("batch", "record", "window") for scenario in ALL)
    assert sum(reasons.values()) == 3 * len(ALL)
    assert ran["batch"] >= 200, (ran, reasons)
    assert ran["record"] >= 150, (ran, reasons)
    assert ran["window"] >= 10, (ran, reasons)


# ── the real thing ───────────────────────────────────────────────────────────────────────────────────────────────

SHORT: Final = [
    "report: success by null",
    "report: each progress starts the count anew",
    "retries: 1 retries are 2 calls",
    "bisect: uses up no retry",
    "filter: before records are counted",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
async def test_real_processes_do_what_was_recorded(name: str, tmp_path: Path) -> None:
    (row,) = [row for row in RECORDED if row.scenario.name == name]
    trace = await in_processes(row.scenario, tmp_path)
    assert unexpected(row.expect, trace) == [], trace
    assert (apart := difference(row.scenario, interpret(row.scenario, CHOICES), trace, "final")) == "", apart


# ── what was left open ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_is_written_down_and_makes_a_difference(name: str) -> None:
    """Somewhere the worker does other than the literal reading has it; and the table of the design says so."""
    rows = [line.split("|")[1].strip() for line in DESIGN.read_text().splitlines() if line.startswith("|")]
    assert READINGS[name].row in rows
    literal = replace(CHOICES, **{name: getattr(Choices(), name)})
    assert literal != CHOICES
    assert any(normal(s, interpret(s, literal)) != normal(s, interpret(s, CHOICES)) for s in ALL), "no scenario shows it"


def test_eight_tries_fit_in_a_minute_although_calls_take_time() -> None:
    """As recorded on AWS, where they took some."""
    row = next(row for row in RECORDED if row.scenario.name == "age: passed while retrying")
    for duration_s in (0.0, 0.25, 1.0):
        trace = in_worker(replace(row.scenario, duration_s=duration_s))
        assert observed(trace)["invocations"] == 8
