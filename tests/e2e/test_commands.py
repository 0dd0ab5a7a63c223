"""The command line as a person meets it: one clear sentence for a mistake, the exit code, no traceback, no record lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlet.broker import Broker

STREAMLET = [sys.executable, "-m", "streamlet"]

APP = """
import os
from streamlet import App, FileDestination, ParquetSink, Roll

app = App("orders")
nothing = App("nothing")
number = 5

@app.on_batch("orders", sink=ParquetSink(os.environ.get("OUT", "file:///tmp"), schema={"id": "int64"}, roll=Roll(age_max_s=0.3)),
              bisect_batch_on_function_error=True, maximum_retry_attempts=0, on_failure=FileDestination("failed.jsonl"))
def rows(batch):
    return batch.values
"""


def run(*arguments: str, cwd: Path, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMLET_"))}
    return subprocess.run(
        [*STREAMLET, *arguments], cwd=cwd, input=text, env={**clean, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def url() -> Iterator[str]:
    with Broker.in_thread(streams={"orders": 2}) as broker:
        yield broker.endpoint_url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.py").write_text(APP)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "wrong.py").write_text("from streamlet import App\napp = App('a')\n@app.on_record('s', batchsize=3)\ndef f(r): ...")
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "orders"], 2, "MODULE:APP"),
        (["run", "orders:nope"], 2, "orders has no 'nope'"),
        (["run", "orders:number"], 2, "not a streamlet App"),
        (["run", "nosuch:app"], 2, "no module 'nosuch'"),
        (["run", "nosuch.py:app"], 2, "no such file"),
        (["run", "broken:app"], 2, "ZeroDivisionError"),
        (["run", "wrong:app"], 2, "did you mean batch_size"),
        (["run", "orders:app"], 2, "--state"),
        (["run", "orders:app", "--endpoint-url", "https://kinesis.eu-west-1.amazonaws.com"], 2, "--state"),
        (["run", "orders:nothing", "--endpoint-url", "URL"], 2, "has no handlers"),
        (["run", "orders:app", "--endpoint-url", "http://127.0.0.1:9"], 1, "is the broker running"),
        (["run", "orders:app", "--endpoint-url", "URL", "--state", "redis://x"], 2, "names no store"),
        (["run", "orders:app", "--endpoint-url", "URL", "--state", "sqlite:///file/leases.db"], 1, "file"),
        (["run", "orders:app", "--endpoint-url", "URL", "--failover-s", "0"], 2, "failover_s"),
        (["run", "orders:app", "--bogus"], 2, "--bogus"),
        (["put", "orders", "nosuch.jsonl", "--key", "id", "--endpoint-url", "URL"], 2, "nosuch.jsonl"),
        (["put", "orders", "--endpoint-url", "URL"], 2, "--key"),
        (["put", "missing", "--key", "id", "--endpoint-url", "URL"], 1, "create the stream 'missing' first"),
        (["put", "orders", "--key", ".", "--endpoint-url", "URL"], 2, "--key is empty"),
        (["broker", "--shards", "orders"], 2, "NAME:N"),
        (["broker", "--shards", "orders:2", "--shards", "orders:3"], 2, "twice"),
        (["broker", "--port", "99999"], 2, "99999"),
        (["brocker"], 2, "brocker"),
        (["doctor", "orders", "orders"], 2, "no such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(folder: Path, url: str, arguments: list[str], code: int, says: str) -> None:
    done = run(*(url if argument == "URL" else argument for argument in arguments), cwd=folder)
    assert says in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["broker", "run", "put", "doctor", "demo"])
def test_every_commands_help_has_an_example(folder: Path, name: str) -> None:
    done = run(name, "--help", cwd=folder)
    assert done.returncode == 0
    assert f"Example: streamlet {name}" in done.stdout


def test_a_sink_that_cannot_be_written_is_told_before_a_record_is_read(folder: Path, url: str) -> None:
    done = run("run", "orders:app", "--endpoint-url", url, cwd=folder, OUT=f"file://{folder}/file/below")
    assert done.returncode in {1, 2}
    assert "file" in done.stderr
    assert "Traceback" not in done.stderr


def test_put_names_the_lines_that_it_leaves_out_and_the_rest_goes_on(folder: Path, url: str) -> None:
    text = '{"id": 1, "by": {"name": "a"}}\n\nnot json\n{"id": 2}\n{"id": 3, "by": {"name": "b"}}\n'
    done = run("put", "orders", "--key", "by.name", cwd=folder, text=text, STREAMLET_ENDPOINT_URL=url)
    assert done.returncode == 1
    assert "standard input, line 3: not JSON" in done.stderr
    assert "standard input, line 4: no value at --key by.name" in done.stderr
    assert "2 records put into orders, 2 lines left out" in done.stderr


def test_put_leaves_out_what_can_never_be_put_and_the_rest_goes_on(folder: Path, url: str) -> None:
    lines = [json.dumps({"id": f"key-{n}"}) for n in range(5_000)]
    lines[10] = json.dumps({"id": "k" * 300})
    lines[20] = json.dumps({"id": "large", "text": "x" * 1_100_000})
    done = run("put", "orders", "--key", "id", cwd=folder, text="\n".join(lines), STREAMLET_ENDPOINT_URL=url)
    assert done.returncode == 1
    assert "standard input, line 11: " in done.stderr
    assert "standard input, line 21: " in done.stderr
    assert "4,998 records put into orders, 2 lines left out" in done.stderr


def test_put_run_and_drain(folder: Path, url: str) -> None:
    """Good rows land, bad ones are in the failure file, SIGTERM drains, and a second worker goes on where the first stopped."""
    import pyarrow.dataset as ds

    for round_ in (0, 1):
        lines = [json.dumps({"id": round_ * 100 + n}) for n in range(100)]
        lines[50] = json.dumps({"id": "fifty"})
        lines[51] = json.dumps({"id": 51, "extra": True})
        assert run("put", "orders", "--key", "id", cwd=folder, text="\n".join(lines), STREAMLET_ENDPOINT_URL=url).returncode == 0
        worker = subprocess.Popen(
            [*STREAMLET, "run", "orders:app", "--endpoint-url", url, "--log", "json", "--poll-interval-s", "0.1"],
            cwd=folder,
            env={**os.environ, "OUT": f"file://{folder}/landed"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        deadline = threading.Timer(60, worker.kill)  # a worker that falls silent is a failure, not a wait without end
        deadline.start()
        settled = 0
        for line in worker.stdout:
            event = json.loads(line)
            settled += event["records"] if event["event"] == "BatchSettled" else 0
            if settled == 100:
                worker.send_signal(signal.SIGTERM)
                settled = 0
        assert worker.wait(timeout=30) == 0
        deadline.cancel()
        worker.stdout.close()
    landed = sorted(ds.dataset(folder / "landed").to_table()["id"].to_pylist())
    assert landed == sorted(n for n in range(200) if n % 100 not in {50, 51})
    assert len((folder / "failed.jsonl").read_text().splitlines()) == 4
