"""The benchmark suite's pure parts: statistics, goals, report, choice of targets, and what is taken for a right answer."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import GOALS, judge  # noqa: E402
from benchmarks.load import percentile  # noqa: E402
from benchmarks.processes import parse_stat  # noqa: E402
from benchmarks.report import markdown  # noqa: E402
from benchmarks.results import Results, spread  # noqa: E402
from benchmarks.suite import BROKERS, choose, rotated  # noqa: E402
from benchmarks.wire import BadAnswer, FrameReader, check_put, check_puts, read_records  # noqa: E402
from benchmarks.workloads import WORKLOADS  # noqa: E402

MACHINE: dict[str, Any] = dict.fromkeys(("cpu", "cores", "memory_gb", "system", "kernel", "python", "file_system"), "x")


def results() -> Results:
    made = Results("t", "2026-01-01T00:00:00+00:00", {"rounds_done": 3}, dict(MACHINE))
    for ours, theirs in ((4.0, 30.0), (5.0, 31.0), (9.0, 20.0)):
        made.add("streamlet", {"put_records_cpu_us": ours})
        made.add("ministack", {"put_records_cpu_us": theirs})
    return made


def test_spread_and_percentiles() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert [percentile(list(map(float, range(1, 101))), share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.5) == 7
    for bad in (lambda: spread([]), lambda: percentile([], 0.5), lambda: percentile([1.0], 1.1)):
        with pytest.raises(ValueError, match="nothing|share"):
            bad()


def test_goals_judge_medians_and_never_call_the_unmeasured_met() -> None:
    verdicts = {verdict.goal.title: verdict for verdict in judge(results())}
    assert len(verdicts) == len(GOALS)
    assert (verdicts["PutRecords, records per core-second"].measured, verdicts["PutRecords, records per core-second"].met) == (
        200_000,
        True,
    )
    assert (verdicts["PutRecords, CPU of ministack over ours"].measured, verdicts["PutRecords, CPU of ministack over ours"].met) == (
        6.0,
        True,
    )
    assert verdicts["memory idle"].met is None
    slow = results()
    slow.samples["put_records_cpu_us"]["streamlet"] = [7.0]
    assert [v.met for v in judge(slow) if v.goal.title.startswith("PutRecords, rec")] == [False]
    large = results()
    large.add("streamlet", {"idle_mb": 61.0})
    assert [v.met for v in judge(large) if v.goal.title == "memory idle"] == [False]


def test_lambdas_goals_and_figures_are_in_the_report() -> None:
    made = results()
    made.add("lambda:streamlet", {"lambda_records_cpu_us": 2.3, "lambda_on_record_cpu_us": 2.5, "lambda_start_ratio": 1.25})
    made.add("lambda:powertools", {"lambda_on_record_cpu_us": 8.75})
    verdicts = {verdict.goal.title: verdict.met for verdict in judge(made) if verdict.goal.title.startswith("Lambda")}
    assert verdicts == {
        "Lambda, event to records, CPU seconds per million": False,
        "Lambda, start and first decode over `import asyncio`": True,
        "Lambda, zip of the smallest function": None,
        "Lambda, zip with Parquet": None,
    }
    page = markdown(made, "t.json", None)
    assert "|  | lambda:streamlet | lambda:powertools |" in page
    assert "| 2.50 | 8.75 |" in page


def test_the_report_shows_figures_gaps_and_reasons() -> None:
    made = results()
    made.skipped["localstack"] = "no Python 3.13"
    made.miss("moto", "drain", "lost | some")
    page = markdown(made, "t.json", None)
    assert "5.00 (4.00 … 9.00)" in page
    assert "not measured in this run" in page
    assert "localstack: did not run: no Python 3.13" in page
    assert "moto, drain: lost | some" in page


def test_results_survive_a_file_and_refuse_strange_ones(tmp_path: Path) -> None:
    made = results()
    made.save(tmp_path / "x.json")
    assert vars(Results.load(tmp_path / "x.json")) == vars(made)
    (tmp_path / "y.json").write_text("[]")
    with pytest.raises(ValueError, match=r"y\.json"):
        Results.load(tmp_path / "y.json")
    with pytest.raises(KeyError):
        made.add("streamlet", {"no_such_metric": 1.0})


def test_targets_are_chosen_in_order_and_turn_with_the_round() -> None:
    assert choose([], ["a", "b"], "x") == ("a", "b")
    assert choose(["b", "a"], ["a", "b", "c"], "x") == ("a", "b")
    with pytest.raises(ValueError, match="there is a"):
        choose(["z"], ["a"], "x")
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated([], 3) == []
    assert {"streamlet", "localstack", "kinesis-local", "kinesalite", "ministack", "moto"} <= set(BROKERS)
    assert [name for name, workload in WORKLOADS.items() if workload.suits("constant")] == ["put_record_1", "put_record_64"]
    assert not WORKLOADS["million"].suits("moto")


def test_wrong_answers_are_not_counted() -> None:
    good = b'{"FailedRecordCount":0,"Records":[' + b",".join([b'{"SequenceNumber":"1"}'] * 500) + b"]}"
    assert check_puts(200, good) == 500
    assert check_put(200, b'{"SequenceNumber":"1"}') == 1
    for status, body in ((500, good), (200, good.replace(b":0", b": 3")), (200, good.replace(b'"SequenceNumber"', b'"ErrorCode"', 1))):
        with pytest.raises(BadAnswer):
            check_puts(status, body)
    with pytest.raises(BadAnswer):
        check_put(200, b"{}")


@pytest.mark.parametrize("order", [b'{"Records":[%s],"NextShardIterator":%s}', b'{"NextShardIterator": %s,"Records":[%s]}'])
def test_iterators_are_found_on_either_side_and_unescaped(order: bytes) -> None:
    records = b",".join([b'{"SequenceNumber":"1","Data":"' + b"A" * 3_000 + b'"}'] * 3)
    for text, wanted in ((b'"a\\nb"', "a\nb"), (b"null", "")):
        parts = (records, text) if order.startswith(b'{"Rec') else (text, records)
        assert read_records(200, order % parts) == (3, wanted)


def test_event_stream_frames_are_cut_and_their_sums_checked() -> None:
    headers = b"".join(bytes([len(n)]) + n + b"\x07" + struct.pack(">H", len(v)) + v for n, v in ((b":event-type", b"initial-response"),))
    head = struct.pack(">II", 16 + len(headers) + 2, len(headers))
    message = head + struct.pack(">I", zlib.crc32(head)) + headers + b"{}"
    message += struct.pack(">I", zlib.crc32(message))
    reader = FrameReader()
    found = [frame for n in range(len(message)) for frame in reader.feed(message[n : n + 1])]
    assert [(frame.headers, frame.payload) for frame in found] == [({":event-type": "initial-response"}, b"{}")]
    for at in (2, len(message) - 6):
        broken = bytearray(message)
        broken[at] ^= 1
        with pytest.raises(BadAnswer):
            list(FrameReader().feed(bytes(broken)))


def test_a_process_name_may_hold_anything() -> None:
    fields = ["S", "7", *["0"] * 9, "1", "2", "3", "4", *["0"] * 4, "99", "0", "25", *["0"] * 20]
    assert parse_stat(f"42 (a) b (c)) {' '.join(fields)}") == (42, "S", 7, 10, 99, 25)
