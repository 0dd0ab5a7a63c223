"""The zip of the smallest function, and of one with Parquet: their sizes, and that what is left of pyarrow does the work.

Slow: wheels come from a package index, and are skipped for where there is none.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.unit.destinations.given_up import boto, moto_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "lambda_minimal"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
pytestmark = pytest.mark.slow

# Starts with nothing on its path but the zip's own files and the standard library.
CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import json, app
answer = app.lambda_handler(json.loads(sys.argv[2]), None)
foreign = [m.__file__ for m in list(sys.modules.values()) if "site-packages" in (getattr(m, "__file__", None) or "")]
print(json.dumps([answer, foreign]))
"""
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a zip, and unpacks it beside itself."""
    module = build_zip()

    def run(**options: Any) -> Path:
        out = tmp_path_factory.mktemp("function") / "function.zip"
        try:
            module.build(out, python=PYTHON, **options)
        except subprocess.CalledProcessError:
            pytest.skip(f"pip finds no wheels for CPython {PYTHON} on Linux: is there a package index?")
        with zipfile.ZipFile(out) as archive:
            archive.extractall(out.parent / "unpacked")
        return out

    return run


def build_zip() -> Any:
    """The example's program."""
    spec = importlib.util.spec_from_file_location("build_zip", EXAMPLE / "build_zip.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(zip_path: Path, *payloads: Any, **environment: str) -> Any:
    event = {
        "Records": [
            {
                "kinesis": {
                    "partitionKey": "key",
                    "sequenceNumber": str(n),
                    "data": b64encode(json.dumps(payload).encode()).decode(),
                    "approximateArrivalTimestamp": 1545084650.987,
                },
                "eventID": f"shardId-000000000000:{n}",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
            }
            for n, payload in enumerate(payloads, 7)
        ]
    }
    # -I and -S: no site-packages, no current folder, no PYTHONPATH.
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CALL, str(zip_path.parent / "unpacked"), json.dumps(event)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answer, foreign = json.loads(ran.stdout.splitlines()[-1])
    assert foreign == [], "something came from outside of the zip"
    return answer


def test_the_smallest_function_is_under_three_megabytes_and_answers(build: Build) -> None:
    """Whatever the umask of who builds it: Lambda reads it as another user."""
    before = os.umask(0o077)
    try:
        made = build()
    finally:
        os.umask(before)
    with zipfile.ZipFile(made) as archive:
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o644}
    assert made.stat().st_size < 3_000_000
    assert call(made, {"id": 1}, {"id": 2}) == {"batchItemFailures": []}


@pytest.mark.parametrize(("python", "glibc"), [("3.11", 26), ("3.13", 34)])
@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", "x86_64"), ("arm64", "aarch64")])
def test_the_wheels_are_those_that_the_runtime_can_load(tmp_path: Path, python: str, glibc: int, architecture: str, machine: str) -> None:
    """Python 3.11's runtime has an older C library than those after it, and no version may be older than what streamlet asks for."""
    module = build_zip()
    asked = module.requirements(parquet=True)
    try:
        module.install(tmp_path, asked, architecture=architecture, python=python)
    except subprocess.CalledProcessError:
        pytest.skip(f"pip finds no wheels for CPython {python}: is there a package index?")
    found = {}
    for wheel in tmp_path.glob("*.dist-info/WHEEL"):
        name, version = wheel.parent.name.removesuffix(".dist-info").split("-")
        found[name] = tuple(int(part) for part in version.split("."))
        needs = [int(minor) for minor in re.findall(rf"manylinux_2_(\d+)_{machine}\b", wheel.read_text())]
        assert needs, f"{name} is for another machine"
        assert min(needs) <= glibc, f"{name} needs glibc 2.{min(needs)}"
    for requirement in asked:
        name, least = requirement.split(">=")
        assert found[name] >= tuple(int(part) for part in least.split("."))
    assert len(found) == len(asked) == 4


@pytest.fixture
def s3() -> Iterator[tuple[str, Any]]:
    with moto_server() as endpoint, boto("s3", endpoint, "us-east-1") as client:
        client.create_bucket(Bucket="landing")
        yield endpoint, client


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the zip's wheels are Linux's")
def test_with_parquet_to_s3_it_is_under_fifty_megabytes_and_writes(build: Build, s3: tuple[str, Any], tmp_path: Path) -> None:
    """pyarrow without what Parquet does not need still makes the file, and obstore puts it."""
    made, (endpoint, client) = build(parquet=True), s3
    assert made.stat().st_size < 50_000_000
    configuration = {
        "ORDERS_URL": "s3://landing/orders",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }
    assert call(made, {"id": 1, "item": "tea"}, {"id": 2, "item": "milk"}, **configuration) == {"batchItemFailures": []}
    (item,) = client.list_objects_v2(Bucket="landing")["Contents"]
    client.download_file("landing", item["Key"], str(tmp_path / "orders.parquet"))
    assert pq.ParquetFile(tmp_path / "orders.parquet").read().to_pylist() == [
        {"id": 1, "item": "tea", "_sequence_number": "7", "_sub_sequence_number": 0},
        {"id": 2, "item": "milk", "_sequence_number": "8", "_sub_sequence_number": 0},
    ]
    # Every way into Arrow that a sink takes: rows, payloads parsed in bulk, types that are nested, partitions.
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from streamlet import ParquetSink, Record, Roll
from streamlet.model.position import Position
from streamlet.ports import Span
schema = {"n": "int64", "at": "timestamp[us, UTC]", "tags": "list<string>"}
sink = ParquetSink("memory://", schema=schema, partition_by=("n",))
rows = [Record(b'{"n": %d, "at": "2020-01-01T00:00:00Z", "tags": ["a"]}' % n, "k", str(n)) for n in range(3)]
chunks = [sink.collect(rows, None), sink.collect(rows, [record.value for record in rows])]
print(len(sink.build(chunks, Span("s", "shard", Position(0), Position(2)), positions=True)))
"""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(made.parent / "unpacked")], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "3\n", ran.stderr
