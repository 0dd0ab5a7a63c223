"""The demo's reckoning notices what it is there to notice: a file gone, doubled, swapped; a failure document gone or invented."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamlet.cli.demo import DAMAGED, DATA, Account, events, reconcile

ROOT = Path(__file__).parents[3]
LIMIT = 3_000


def write(out: Path, shard: str, first: int, month: int, rows: list[dict[str, Any]]) -> None:
    folder = out / "landed" / f"month={month}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: [row[name] for row in rows] for name in ("event", "tailnum", "dep_delay")})
    metadata = {"streamlet.shard": shard, "streamlet.first": str(first)}
    pq.write_table(table.replace_schema_metadata(metadata), folder / f"{shard}-{first}.parquet")


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    """All of the first flights, landed as they should be: two ranges of one shard."""
    rows, failed = [], []
    for bulk in events(ROOT / DATA, LIMIT):
        for number, payload, _ in bulk:
            if number in DAMAGED:
                failed.append(payload)
            else:
                rows.append(json.loads(payload))
    write(tmp_path, "shardId-000000000000", 100, 1, rows[:1500])
    write(tmp_path, "shardId-000000000000", 200, 1, rows[1500:])
    with (tmp_path / "failed.jsonl").open("w") as file:
        for number, payload in enumerate(failed):
            record = {"kinesis": {"data": b64encode(payload).decode()}}
            file.write(json.dumps({"requestContext": {"requestId": str(number)}, "payload": {"Records": [record]}}) + "\n")
    return tmp_path


def account(out: Path) -> Account:
    counts = Counter({"shardId-000000000000": LIMIT})
    return reconcile(ROOT / DATA, LIMIT, out, counts, kills=1, replayed=1, took_s=1.0, resharded=[])


def files(out: Path) -> list[Path]:
    return sorted((out / "landed").rglob("*.parquet"))


def test_all_well(landed: Path) -> None:
    a = account(landed)
    assert (a.produced, a.landed + a.failed, a.lost, a.duplicated, a.out_of_order, a.wrongly_failed) == (LIMIT, LIMIT, 0, 0, 0, 0)


def remove(out: Path) -> None:
    files(out)[0].unlink()


def double(out: Path) -> None:
    shutil.copy(files(out)[0], files(out)[0].with_name("again.parquet"))


def swap(out: Path) -> None:
    first, second = files(out)
    one, two = pq.read_table(first), pq.read_table(second)
    pq.write_table(two.replace_schema_metadata(one.schema.metadata), first)
    pq.write_table(one.replace_schema_metadata(two.schema.metadata), second)


def reverse(out: Path) -> None:
    path = files(out)[0]
    table = pq.ParquetFile(path).read()
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)


def forget_documents(out: Path) -> None:
    (out / "failed.jsonl").unlink()


def invent_a_document(out: Path) -> None:
    with (out / "failed.jsonl").open("a") as file:
        record = {"kinesis": {"data": b64encode(b"a good flight").decode()}}
        file.write(json.dumps({"requestContext": {"requestId": "x"}, "payload": {"Records": [record]}}) + "\n")


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (remove, "lost"),
        (double, "duplicated"),
        (swap, "out_of_order"),
        (reverse, "out_of_order"),
        (forget_documents, "lost"),
        (invent_a_document, "wrongly_failed"),
    ],
)
def test_damage_is_noticed(landed: Path, damage: Callable[[Path], None], field: str) -> None:
    damage(landed)
    a = account(landed)
    assert getattr(a, field) > 0
    assert any("flights" in fault for fault in a.faults)


def test_a_demo_without_its_incidents_fails(landed: Path) -> None:
    a = account(landed)
    a.replayed = 0
    assert any("completed" in fault for fault in a.faults)
    assert any("7 shards" in fault for fault in a.faults)


def test_a_document_sent_twice_counts_once(landed: Path) -> None:
    path = landed / "failed.jsonl"
    path.write_text(path.read_text() * 2)
    assert account(landed).wrongly_failed == 0
