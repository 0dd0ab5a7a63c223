"""Does the second interpreter say what was recorded, and does the comparison see where two traces part?"""

from __future__ import annotations

import ast
import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.scenarios import shapes
from tests.scenarios.compare import difference, normal, observed, problems, unexpected
from tests.scenarios.generated import COUNT, THEMES, depends_on, generated
from tests.scenarios.interpreter import ALTERNATIVES, Choices, Endless, interpret
from tests.scenarios.scenarios import Action, Mapping, Record, Recorded, Rule, Scenario, Shard, Trace, recorded

RECORDED = recorded()
GENERATED = generated()
BOTH = [*(row.scenario for row in RECORDED), *GENERATED]


def scenario_of(labels: str, mapping: Mapping, *rules: Rule, **rest: Any) -> Scenario:
    records = tuple(Record(label=label) for label in labels.split())
    shards = (Shard(name="s0", records=records),)
    return Scenario(
        **{"name": "t", "source": "test", "shards": shards, "mapping": mapping, "rules": rules, "lanes": {}, "refusals": 0, **rest}
    )


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row.scenario.name)
def test_what_was_recorded_comes_out(row: Recorded) -> None:
    assert row.expect
    trace = interpret(row.scenario)
    assert unexpected(row.expect, trace) == [], trace
    assert row.scenario.source.split(":")[0] in {"recorded", "documented", "derived"}


RECORDINGS = [
    "test_create_kinesis_event_source_mapping",
    "test_kinesis_report_batch_item_failures",
    *(f"success_scenarios[{what}]" for what in ("empty_list", "null", "empty_dict", "empty_string")),
    *(f"success_scenarios[{what}]" for what in ("empty_batch_item_failure", "null_batch_item_failure")),
    "failure_scenarios[unhandled_exception_in_function]",
    "failure_scenarios, two retries",
    "record_age_exceeded[expire-while-retrying]",
    "record_age_exceeded[expire-before-ingestion]",
    "discard_records",
    "on_failure_destination_config",
    "sns_on_failure_destination_config",
    "s3_on_failure_destination",
]
"""Those of the reference but two, of what a mapping is refused for when it is made."""


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_has_a_scenario(name: str) -> None:
    rows = [
        row for row in RECORDED if row.scenario.source.startswith("recorded: ") and name in row.scenario.source.removeprefix("recorded: ")
    ]
    assert len(rows) == (4 if name == "failure_scenarios, two retries" else 1), [row.scenario.name for row in rows]


def test_the_document_is_the_recorded_one_key_for_key() -> None:
    """In words of the reference, where `shapes` has code."""
    record = shapes.Sent(shard_id="shardId-000000000006", key="k", number="49", data=b"\xff\xfe?", arrival_s=1545084650.987)
    exhausted = shapes.document(
        [record],
        "s",
        "f",
        request_id="ID",
        condition="RetryAttemptsExhausted",
        invoke_count=2,
        function_error="Unhandled",
        at_s=1573694333.0,
        with_records=True,
    )
    assert json.dumps(exhausted) == (
        '{"requestContext": {"requestId": "ID", "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f", '
        '"condition": "RetryAttemptsExhausted", "approximateInvokeCount": 2}, '
        '"responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}, '
        '"version": "1.0", "timestamp": "2019-11-14T01:18:53.000Z", '
        '"KinesisBatchInfo": {"shardId": "shardId-000000000006", "startSequenceNumber": "49", "endSequenceNumber": "49", '
        '"approximateArrivalOfFirstRecord": "2018-12-17T22:10:50.987Z", "approximateArrivalOfLastRecord": "2018-12-17T22:10:50.987Z", '
        '"batchSize": 1, "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}, '
        '"payload": {"Records": [{"kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": "k", "sequenceNumber": "49", '
        '"data": "//4/", "approximateArrivalTimestamp": 1545084650.987}, "eventSource": "aws:kinesis", "eventVersion": "1.0", '
        '"eventID": "shardId-000000000006:49", "eventName": "aws:kinesis:record", '
        '"invokeIdentityArn": "arn:aws:iam::000000000000:role/streamlet", "awsRegion": "us-east-1", '
        '"eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}]}}'
    )
    too_old = shapes.document(
        [record],
        "s",
        "f",
        request_id="ID",
        condition="RecordAgeExceeded",
        invoke_count=1,
        function_error=None,
        at_s=1573694333.0,
        with_records=False,
    )
    assert list(too_old) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]


def test_a_recorded_expectation_can_fail() -> None:
    """Against another run than its own, hardly any expectation holds."""
    traces = [interpret(row.scenario) for row in RECORDED]
    for row in RECORDED:
        assert sum(bool(unexpected(row.expect, trace)) for trace in traces) > len(traces) / 2, row.scenario.name


def test_the_recorded_eight_tries_come_from_the_waits() -> None:
    row = next(row for row in RECORDED if row.scenario.name == "age: passed while retrying")
    trace = interpret(row.scenario)
    assert [event["at"] for event in trace if event["kind"] == "invocation"] == [0, 1, 3, 7, 15, 27, 39, 51]
    # calls took some time there
    assert unexpected(row.expect, interpret(replace(row.scenario, duration_s=1.0))) == []


def test_the_witness_knows_nothing_of_the_package() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        if path.name not in {"scenarios.py", "interpreter.py", "shapes.py", "compare.py", "generated.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "streamlet"], path.name


# --- what holds in every scenario


@pytest.mark.parametrize("scenario", BOTH, ids=lambda scenario: scenario.name)
def test_laws(scenario: Scenario) -> None:
    """Each record is delivered, given up, or dropped; the position ends at the last; no trace is impossible; a run is repeatable."""
    trace = interpret(scenario)
    assert problems(scenario, trace) == []
    assert trace == interpret(scenario)
    assert Scenario.of_json(json.loads(json.dumps(scenario.as_json()))) == scenario
    seen = observed(trace)
    assert seen["checkpoint"] == {shard.name: shard.records[-1].label for shard in scenario.shards}
    m = scenario.mapping
    for shard in scenario.shards:
        for record in shard.records:
            if not scenario.passes(record):
                assert record.label not in seen["deliveries"]
    throttled = sum(event.get("outcome") == "throttled" for event in trace)
    for event in trace:
        if event["kind"] == "document" and event["condition"] == "RetryAttemptsExhausted":
            assert event["approximateInvokeCount"] == m.retries + 1
            assert event["functionError"] in {None, "Unhandled"}
        if event["kind"] == "document" and event["condition"] == "RecordAgeExceeded":
            assert m.max_age_s >= 0
            assert "functionError" not in event
        if event["kind"] == "invocation":
            assert len(event["labels"]) <= m.batch_size
    assert not throttled or "throttle" in scenario.uses()
    assert scenario.refusals is not None or not seen["documents"]


def test_the_generated_scenarios_are_many_and_reach_everything() -> None:
    assert len(GENERATED) == COUNT >= 200
    assert len({str(scenario.as_json() | {"name": ""}) for scenario in GENERATED}) == COUNT
    assert GENERATED[:20] == generated(20)
    assert all(sum(len(shard.records) for shard in scenario.shards) <= 12 for scenario in GENERATED)
    uses = Counter(use for scenario in GENERATED for use in scenario.uses())
    every_use = {*scenario_of("a", Mapping()).uses()}.union(*(scenario.uses() for scenario in BOTH))
    assert {use for use in every_use if uses[use] < 10} == set(), uses
    assert {rule.action for scenario in GENERATED for rule in scenario.rules} == set(get_args(Action))
    reached = Counter[str]()
    for scenario in GENERATED:
        trace = interpret(scenario)
        reached.update({event.get("condition") or event.get("outcome") or event["kind"] for event in trace})
        reached.update({f"error {event['functionError']}" for event in trace if "functionError" in event})
        # a scenario in which the function is always content shows little
        reached["eventful"] += any(count > 1 for count in observed(trace)["deliveries"].values()) or bool(observed(trace)["documents"])
    assert reached["RetryAttemptsExhausted"] >= 50, reached
    assert reached["RecordAgeExceeded"] >= 30, reached
    assert reached["throttled"] >= 30, reached
    assert reached["error None"] >= 20, reached
    assert reached["eventful"] >= 0.7 * COUNT, reached
    assert len(THEMES) * 10 <= COUNT


def happens(scenario: Scenario) -> set[str]:
    """What a scenario uses and what happens in it, in words that can be combined."""
    trace = interpret(scenario)
    calls = [event for event in trace if event["kind"] == "invocation"]
    said = {
        "merge": any(len(shard.parents) > 1 for shard in scenario.shards),
        "generations": any(shard.parents and shard.ends_s is not None for shard in scenario.shards),
        "early final call": any(call.get("early") for call in calls),
        "final call fails": any(call.get("final") and call["outcome"] != "returned" for call in calls),
        "partial": any(rule.action == "report" for rule in scenario.rules) and scenario.mapping.report,
    }
    found = {*scenario.uses(), *(name for name, holds in said.items() if holds)}
    found |= {call["outcome"] for call in calls} | {event["condition"] for event in trace if event["kind"] == "document"}
    return found


COMBINED = [
    ("crashed", "bisect"),
    ("crashed", "partial"),
    ("crashed", "filter"),
    ("crashed", "tumbling window"),
    ("crashed", "reshard"),
    ("crashed", "RetryAttemptsExhausted"),
    ("reshard", "raised"),
    ("reshard", "tumbling window"),
    ("reshard", "batching window"),
    ("reshard", "parallelization factor"),
    ("merge", "destination"),
    ("generations", "destination"),
    ("early final call", "final call fails"),
    ("tumbling window", "partial", "raised"),
    ("tumbling window", "RecordAgeExceeded"),
    ("tumbling window", "RetryAttemptsExhausted"),
    ("tumbling window", "batching window"),
    ("tumbling window", "filter"),
    ("RecordAgeExceeded", "bisect"),
    ("RecordAgeExceeded", "filter"),
    ("RecordAgeExceeded", "throttled"),
    ("RecordAgeExceeded", "parallelization factor"),
    ("RecordAgeExceeded", "RetryAttemptsExhausted"),
    ("parallelization factor", "filter", "partial"),
    ("parallelization factor", "batching window"),
    ("refusing destination", "RecordAgeExceeded"),
]


def test_what_is_easy_to_get_wrong_together_comes_up_together() -> None:
    drawn = [happens(scenario) for scenario in GENERATED]
    counted = {together: sum(found.issuperset(together) for found in drawn) for together in COMBINED}
    assert {together: count for together, count in counted.items() if count < 3} == {}


def test_every_open_reading_is_told_apart_by_some_scenario() -> None:
    """A choice that changes nothing anywhere would be none; and many scenarios rest on no choice but the waits."""
    counted = Counter(name for scenario in GENERATED for name in depends_on(scenario))
    assert set(ALTERNATIVES) - set(counted) == {"latency"}, counted
    firm = [scenario for scenario in GENERATED if not depends_on(scenario) - {"waits"}]
    assert len(firm) >= 150, len(firm)


# --- single rules that no recording shows


def test_a_run_without_an_end_is_told() -> None:
    with pytest.raises(Endless):
        interpret(scenario_of("a", Mapping(), Rule(action="raise")))


def test_a_refused_document_holds_the_checkpoint_back_but_calls_no_function() -> None:
    scenario = scenario_of("a b", Mapping(batch_size=1, retries=0), Rule(action="raise", on="a"), refusals=2)
    trace = interpret(scenario)
    assert [(event["kind"], event["at"]) for event in trace] == [
        ("invocation", 0.0),
        ("document", 3.0),
        ("checkpoint", 3.0),
        ("invocation", 3.0),
        ("checkpoint", 3.0),
    ]
    assert [event["kind"] for event in interpret(scenario, Choices(refused="drop"))].count("document") == 0


def test_a_slow_slot_holds_the_checkpoint_of_its_shard() -> None:
    records = tuple(Record(label=label, key=key) for label, key in [("a", "k0"), ("b", "k1"), ("c", "k0"), ("d", "k1")])
    scenario = scenario_of(
        "",
        Mapping(batch_size=1, factor=2, retries=1),
        Rule(action="raise", on="a"),
        shards=(Shard(name="s0", records=records),),
        lanes={"k0": 0, "k1": 1},
    )
    moves = [(event["label"], event["at"]) for event in interpret(scenario) if event["kind"] == "checkpoint"]
    assert moves == [("b", 1.0), ("d", 1.0)]


def test_tumbling_state_of_a_partial_response_holds_what_was_done() -> None:
    scenario = scenario_of("a b c", Mapping(tumbling_s=30, report=True, retries=2), Rule(action="report", labels=("b",), times=1, on="a"))
    calls = [(event["labels"], event["state"], event["final"]) for event in interpret(scenario) if event["kind"] == "invocation"]
    assert calls == [
        (["a", "b", "c"], {}, False),
        (["b", "c"], {"labels": ["a"]}, False),
        ([], {"labels": ["a", "b", "c"]}, True),
    ]


def test_tumbling_windows_close_batches_in_time_and_begin_with_no_state() -> None:
    records = tuple(Record(label=label, arrival_s=at) for label, at in [("a", 0.0), ("b", 20.0), ("c", 35.0)])
    scenario = scenario_of("", Mapping(tumbling_s=30, window_s=100), shards=(Shard(name="s0", records=records),))
    calls = [(e["at"], e["labels"], e["window"], e["state"], e["final"]) for e in interpret(scenario) if e["kind"] == "invocation"]
    assert calls == [
        (30.0, ["a", "b"], 0.0, {}, False),
        (30.0, [], 0.0, {"labels": ["a", "b"]}, True),
        (60.0, ["c"], 30.0, {}, False),
        (60.0, [], 30.0, {"labels": ["c"]}, True),
    ]


def test_a_final_call_without_state_in_its_answer_is_tried_again() -> None:
    scenario = scenario_of("a", Mapping(tumbling_s=30, retries=5), Rule(action="return", value={}, times=1))
    calls = [(e["labels"], e["final"]) for e in interpret(scenario) if e["kind"] == "invocation"]
    assert calls == [(["a"], False), (["a"], False), ([], True), ([], True)]


def test_a_final_call_waits_for_the_end_of_its_window() -> None:
    calls = [(e["at"], e["final"]) for e in interpret(scenario_of("a", Mapping(tumbling_s=30))) if e["kind"] == "invocation"]
    assert calls == [(0.0, False), (30.0, True)]


def test_a_response_with_one_invalid_identifier_is_a_complete_failure() -> None:
    value = {"batchItemFailures": [{"itemIdentifier": {"$sequence": "b"}}, {"itemIdentifier": ""}]}
    scenario = scenario_of("a b", Mapping(report=True, retries=1), Rule(action="return", value=value, on="a", times=1))
    assert observed(interpret(scenario))["batches"] == [["a", "b"], ["a", "b"]]
    assert observed(interpret(scenario, Choices(mixed_identifiers="lowest")))["batches"] == [["a", "b"], ["b"]]


def test_neighbouring_failures_may_be_read_as_one_document() -> None:
    """Only of pieces next to each other that failed alike."""
    invalid = {"batchItemFailures": [{"itemIdentifier": ""}]}
    raises = {label: Rule(action="raise", on=label) for label in "bcd"}
    mapping = Mapping(bisect=True, report=True, retries=0)

    def documents(choices: Choices, *rules: Rule) -> list[str]:
        return [f"{d['start']}{d['end']}" for d in observed(interpret(scenario_of("a b c d", mapping, *rules), choices))["documents"]]

    merged = Choices(documents="merged")
    assert documents(Choices(), raises["b"], raises["c"]) == ["bb", "cc"]
    assert documents(merged, raises["b"], raises["c"]) == ["bc"]
    assert documents(merged, raises["b"], raises["d"]) == ["bb", "dd"]
    assert documents(merged, raises["b"], Rule(action="return", on="c", value=invalid)) == ["bb", "cc"]


# --- the comparison


def drop_a_call(trace: Trace) -> None:
    del trace[next(i for i, event in enumerate(trace) if event["kind"] == "invocation")]


def repeat_a_call(trace: Trace) -> None:
    trace.insert(0, next(event for event in trace if event["kind"] == "invocation"))


def miscount(trace: Trace) -> None:
    next(event for event in trace if event["kind"] == "document")["approximateInvokeCount"] += 1


def invent_a_response(trace: Trace) -> None:
    document = next(event for event in trace if event["kind"] == "document")
    document["functionError"] = "Unhandled" if document.get("functionError", "absent") is None else None


def lose_the_response(trace: Trace) -> None:
    del next(event for event in trace if "functionError" in event)["functionError"]


def lose_the_document(trace: Trace) -> None:
    trace.remove(next(event for event in trace if event["kind"] == "document"))


def stop_short(trace: Trace) -> None:
    shard = next(event for event in reversed(trace) if event["kind"] == "checkpoint")["shard"]
    trace[:] = [event for event in trace if not (event["kind"] == "checkpoint" and event["shard"] == shard)]


def another_outcome(trace: Trace) -> None:
    event = next(event for event in trace if event["kind"] == "invocation")
    event["outcome"] = "raised" if event["outcome"] != "raised" else "returned"


def wrong_batch_size(trace: Trace) -> None:
    next(event for event in trace if event["kind"] == "document")["batchSize"] += 1


BREAKS = [
    drop_a_call,
    repeat_a_call,
    miscount,
    invent_a_response,
    lose_the_response,
    lose_the_document,
    stop_short,
    another_outcome,
    wrong_batch_size,
]


@pytest.mark.parametrize("harm", BREAKS, ids=lambda harm: harm.__name__)
def test_any_change_of_a_trace_is_seen(harm: Callable[[Trace], None]) -> None:
    harmed = 0
    for scenario in BOTH:
        trace = interpret(scenario)
        other = copy.deepcopy(trace)
        try:
            harm(other)
        except StopIteration:
            continue
        harmed += 1
        assert difference(scenario, trace, other), scenario.name
        assert difference(scenario, trace, other, "final"), scenario.name
    assert harmed >= 20


def test_times_and_the_order_of_slots_and_shards_do_not_matter() -> None:
    for scenario in BOTH:
        trace = interpret(scenario)
        children_last = {shard.name: bool(shard.parents) for shard in scenario.shards}
        by_shard = sorted(trace, key=lambda event: event["shard"], reverse=not any(children_last.values()))
        untimed = [{key: value for key, value in event.items() if key != "at"} | {"requestId": "x"} for event in by_shard]
        assert difference(scenario, trace, untimed) == ""


def test_moves_over_dropped_records_do_not_matter_but_the_last() -> None:
    scenario = scenario_of("a x b y", Mapping(batch_size=1, passes=("a", "b")))
    calls: Trace = [{"kind": "invocation", "shard": "s0", "labels": [label], "outcome": "returned"} for label in "ab"]

    def moved(*labels: str) -> Trace:
        moves: Trace = [{"kind": "checkpoint", "shard": "s0", "label": label} for label in labels]
        return [calls[0], moves[0], calls[1], *moves[1:]]

    assert difference(scenario, interpret(scenario), moved("x", "y")) == ""
    assert difference(scenario, interpret(scenario), moved("a", "b", "y")) == ""
    assert "last: b" in difference(scenario, interpret(scenario), moved("a", "b"))


def test_a_difference_reads_as_one() -> None:
    scenario = scenario_of("a b", Mapping(retries=1), Rule(action="raise", on="a"))
    trace = interpret(scenario)
    text = difference(scenario, trace, interpret(scenario_of("a b", Mapping(retries=1, bisect=True), Rule(action="raise", on="a"))))
    assert text.splitlines() == [
        "t",
        "  s0: a@0 b@0",
        "  retries=1",
        '  {"action": "raise", "on": "a"}',
        "  calls take 0 s; destination accepts after 0 refusals",
        "  s0 checkpoints   (- expected, + actual)",
        "    + a",
        "      b",
        "      last: b",
        "  s0/0   (- expected, + actual)",
        "      call [a b] raised at attempt 1",
        "    - call [a b] raised at attempt 2",
        '    - document RetryAttemptsExhausted after 2, functionError "Unhandled", a..b batchSize 2',
        "    + call [a] raised at attempt 1",
        "    + call [a] raised at attempt 2",
        '    + document RetryAttemptsExhausted after 2, functionError "Unhandled", a..a batchSize 1',
        "    + call [b] returned at attempt 1",
    ]


def test_impossible_traces_are_told() -> None:
    scenario = scenario_of("a b c", Mapping(passes=("a", "b")))

    def call(*labels: str) -> dict[str, Any]:
        return {"kind": "invocation", "shard": "s0", "labels": list(labels), "outcome": "returned"}

    def at(label: str) -> dict[str, Any]:
        return {"kind": "checkpoint", "shard": "s0", "label": label}

    assert problems(scenario, [call("a"), at("a"), call("b"), at("c")]) == []
    assert "yet to come" in problems(scenario, [call("a"), at("b"), call("b")])[0]
    assert "goes back" in problems(scenario, [call("a", "b"), at("b"), at("a")])[0]
    assert "out of order" in problems(scenario, [call("b", "a")])[0]
    assert "filter" in problems(scenario, [call("b", "c")])[0]
    assert "unknown" in problems(scenario, [call("z")])[0]
    assert normal(scenario, []) == {"s0 checkpoints": ["last: none"]}
    lanes = scenario_of(
        "", Mapping(factor=2), shards=(Shard(name="s0", records=(Record(label="a"), Record(label="b", key="k1"))),), lanes={"k1": 1}
    )
    assert "slots" in problems(lanes, [call("a", "b")])[0]
