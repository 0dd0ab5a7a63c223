"""Our idempotency stores keep the contract that is given to others (streamlet.testing.contracts), DynamoDB's on moto's server; and
what only some of them promise."""

from __future__ import annotations

import http.server
import inspect
import multiprocessing
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from streamlet.errors import AccessRefused, ConfigurationError, NotFound, RequestRefused, StoreError, StreamletError, Unavailable
from streamlet.ports import IdempotencyStore
from streamlet.stores.idempotency import SWEEP_EVERY, MemoryIdempotency
from streamlet.stores.idempotency_dynamodb import DynamoDBIdempotency
from streamlet.stores.idempotency_sqlite import SqliteIdempotency
from streamlet.testing.contracts import IdempotencyStoreContract
from tests.unit.destinations.given_up import boto, moto_server, without_configuration

NUMBERS = count()


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[tuple[str, Any]]:
    with moto_server() as endpoint, boto("dynamodb", endpoint) as client:
        yield endpoint, client


@pytest.fixture
def hand() -> Hand:
    return Hand()


def make_table(client: Any, name: str) -> None:
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


class OnOurClock(IdempotencyStoreContract):
    @pytest.fixture(autouse=True)
    def clock(self) -> None:
        self.hand = Hand()
        self.options: Any = {"in_progress_s": self.in_progress_s, "done_s": self.done_s, "clock": self.hand}

    def advance(self, seconds: float) -> None:
        self.hand.now_s += seconds


class TestMemory(OnOurClock):
    resolution_s = 0.001

    @pytest.fixture(autouse=True)
    def markers(self, clock: None) -> None:
        self.shared = MemoryIdempotency(**self.options)

    def connect(self) -> IdempotencyStore:
        return self.shared


class TestSqlite(OnOurClock):
    resolution_s = 0.001

    @pytest.fixture(autouse=True)
    def markers(self, tmp_path: Path) -> None:
        self.path = tmp_path / "done.db"

    def connect(self) -> IdempotencyStore:
        return SqliteIdempotency(self.path, **self.options)

    def unreachable(self) -> IdempotencyStore:
        return SqliteIdempotency(self.path / "nowhere" / "done.db")


class TestDynamoDB(OnOurClock):
    @pytest.fixture(autouse=True)
    def markers(self, dynamodb: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        without_configuration(monkeypatch)
        self.endpoint, client = dynamodb
        self.table = f"table-{next(NUMBERS)}"
        make_table(client, self.table)

    def connect(self) -> IdempotencyStore:
        return DynamoDBIdempotency(self.table, region="eu-west-1", endpoint_url=self.endpoint, **self.options)

    def unreachable(self) -> IdempotencyStore:
        return DynamoDBIdempotency("nowhere", region="eu-west-1", endpoint_url="http://127.0.0.1:9")


def test_expired_markers_are_swept(tmp_path: Path, hand: Hand) -> None:
    """Memory and disk hold what may still count, and not all that ever was."""
    memory, sqlite = MemoryIdempotency(done_s=10, clock=hand), SqliteIdempotency(tmp_path / "done.db", done_s=10, clock=hand)
    for store in (memory, sqlite):
        for n in range(20):
            store.finish(f"old {n}")
    hand.now_s += 11
    memory.begin("new")
    assert len(memory._markers) == 1
    sqlite.begin("new")
    assert sqlite._connection is not None
    assert sqlite._connection.execute("SELECT count(*) FROM idempotency").fetchone() == (1,)
    sqlite.close()


def test_sweeps_are_rarer_the_more_there_is_to_look_at(tmp_path: Path, hand: Hand) -> None:
    """A begin costs the same whether a thousand or ten million markers are kept."""
    sqlite = SqliteIdempotency(tmp_path / "done.db", clock=hand)
    sqlite.begin("first")
    assert sqlite._connection is not None
    rows = [(str(number), "", hand.now_s + 1000) for number in range(3 * SWEEP_EVERY)]
    sqlite._connection.execute("PRAGMA synchronous=OFF")
    sqlite._connection.execute("BEGIN")
    sqlite._connection.executemany("INSERT INTO idempotency VALUES (?, ?, ?)", rows)
    sqlite._connection.execute("COMMIT")
    swept: list[str] = []
    sqlite._connection.set_trace_callback(
        lambda statement: swept.append(statement) if "<= " in statement and "DELETE" in statement else None
    )
    for _ in range(6 * SWEEP_EVERY):
        sqlite.begin("first")
    assert len(swept) == 2  # after 1,000 begins, and 3,001 begins later
    sqlite.close()

    memory = MemoryIdempotency(clock=hand)
    sweeps = set()
    for number in range(6 * SWEEP_EVERY):
        memory.begin(str(number))
        sweeps.add(memory._sweep_at)
    assert sweeps == {1001, 2001, 4001, 8001}


def _begin_all(path: str, won: Any) -> None:
    store = SqliteIdempotency(path)
    for n in range(100):
        if store.begin(str(n)).state == "mine":
            won.put(n)
    store.close()
    won.put(None)


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Four processes race to make it and to begin a hundred keys: each is given out once."""
    context = multiprocessing.get_context("spawn")
    won: Any = context.Queue()
    processes = [context.Process(target=_begin_all, args=(str(tmp_path / "done.db"), won)) for _ in range(4)]
    for process in processes:
        process.start()
    got, ended = [], 0
    while ended < 4:
        n = won.get(timeout=60)
        ended += n is None
        got += [] if n is None else [n]
    for process in processes:
        process.join(60)
    assert sorted(got) == list(range(100))


@pytest.mark.parametrize(
    "options", [{"in_progress_s": 0}, {"done_s": -1}, {"done_s": True}, {"in_progress_s": "60"}, {"done_s": float("nan")}]
)
def test_times_that_make_no_sense_are_refused(options: Any, tmp_path: Path) -> None:
    for make in (MemoryIdempotency, lambda **o: SqliteIdempotency(tmp_path / "x", **o), lambda **o: DynamoDBIdempotency("table", **o)):
        with pytest.raises(ConfigurationError, match="must be a number of seconds"):
            make(**options)
    with pytest.raises(ConfigurationError, match="name of a DynamoDB table"):
        DynamoDBIdempotency("a table")


def test_a_store_that_cannot_be_reached_says_what_to_do(tmp_path: Path, dynamodb: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    without_configuration(monkeypatch)
    with pytest.raises(StoreError, match="no directory"):
        SqliteIdempotency(tmp_path / "nowhere" / "done.db").begin("key")
    (tmp_path / "text.db").write_text("no database, however long one looks at it")
    with pytest.raises(StoreError, match=r"text\.db.*no SQLite database"):
        SqliteIdempotency(tmp_path / "text.db").begin("key")
    cases: list[tuple[type[StreamletError], str, Any]] = [
        (NotFound, "table 'missing': does not exist; create it", {"endpoint_url": dynamodb[0]}),
        (Unavailable, "cannot be reached", {"endpoint_url": "http://127.0.0.1:9"}),
        (AccessRefused, "there are no credentials", {}),
    ]
    for kind, text, options in cases:
        store = DynamoDBIdempotency("missing", region="eu-west-1", **options)
        with pytest.raises(kind, match=text):
            store.begin("key")
        store.close()


def test_ttl_gets_whole_seconds_and_the_row_tells_its_state(dynamodb: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamoDB's TTL takes a number of whole seconds."""
    without_configuration(monkeypatch)
    endpoint, client = dynamodb
    make_table(client, "rows")
    hand = Hand()
    store = DynamoDBIdempotency("rows", region="eu-west-1", endpoint_url=endpoint, clock=hand)
    token = store.begin("key").token
    item = client.get_item(TableName="rows", Key={"id": {"S": "key"}})["Item"]
    assert item == {"id": {"S": "key"}, "status": {"S": "INPROGRESS"}, "expiration": {"N": "1700000061"}, "token": {"S": token}}
    store.finish("key")
    item = client.get_item(TableName="rows", Key={"id": {"S": "key"}})["Item"]
    assert item == {"id": {"S": "key"}, "status": {"S": "COMPLETED"}, "expiration": {"N": "1700086401"}}
    store.close()


def test_the_table_is_made_as_the_docstring_says(dynamodb: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are copied from there into a shell."""
    without_configuration(monkeypatch)
    endpoint, client = dynamodb
    told = inspect.getdoc(DynamoDBIdempotency) or ""
    commands = re.findall(r"^ +aws (.+)$", told.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 2
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_PAGER": ""}
    # One process for all: to load the CLI takes longer than the calls.
    words = [shlex.split(command) for command in commands]
    code = f"from awscli.clidriver import create_clidriver as cli\nfor words in {words}: assert cli().main(words) == 0"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=60)
    ttl = client.describe_time_to_live(TableName="my-markers")["TimeToLiveDescription"]
    assert (ttl["AttributeName"], ttl["TimeToLiveStatus"]) == ("expiration", "ENABLED")
    store = DynamoDBIdempotency("my-markers", region="eu-west-1", endpoint_url=endpoint)
    assert store.begin("key").state == "mine"
    store.finish("key")
    assert store.begin("key").state == "done"
    store.close()


def test_a_service_that_does_not_tell_the_marker_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-alikes that do not know ReturnValuesOnConditionCheckFailure refuse without the item: a done record would block its shard."""
    without_configuration(monkeypatch)

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "failed"}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = DynamoDBIdempotency("table", region="eu-west-1", endpoint_url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(RequestRefused, match="does not tell which marker is there"):
            store.begin("key")
        store.close()
        server.shutdown()


def test_a_begin_whose_answer_was_lost_is_still_ours(dynamodb: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The write is applied, its answer lost; the client writes again, and must not take its own marker for another's."""
    without_configuration(monkeypatch)
    endpoint, client = dynamodb
    make_table(client, "lost")
    answers: list[int] = []

    class Losing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = urllib.request.Request(endpoint, body, dict(self.headers), method="POST")
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    status, said = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, said = error.code, error.read()
                error.close()
            answers.append(status)
            self.close_connection = True
            if len(answers) > 1:
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Losing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = DynamoDBIdempotency("lost", region="eu-west-1", endpoint_url=f"http://127.0.0.1:{server.server_port}")
        assert store.begin("key").state == "mine"
        assert store.begin("key").state == "busy"
        store.close()
        server.shutdown()
    assert answers == [200, 200, 400]


def test_a_file_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of the state file; a held lock costs no more than its time, and the store goes on afterwards."""
    monkeypatch.setattr("streamlet.stores.sqlite.BUSY_TIMEOUT_S", 0.05)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE idempotency (id TEXT, tenant TEXT)")
    connection.close()
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    held = SqliteIdempotency(tmp_path / "held.db")
    held.begin("before")
    holder = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    stores = {
        "it is a directory": SqliteIdempotency(tmp_path),
        "cannot be written": SqliteIdempotency("/proc/done.db"),
        "no SQLite database": SqliteIdempotency(tmp_path / "torn.db"),
        "somebody else's": SqliteIdempotency(tmp_path / "other.db"),
        "kept it locked for 0.05 s": SqliteIdempotency(tmp_path / "held.db"),
    }
    for text, store in stores.items():
        with pytest.raises(StoreError, match=f"^idempotency file .*{text}"):
            store.begin("key")
    for call in (lambda: held.begin("key"), lambda: held.finish("before"), lambda: held.release("before", "token")):
        with pytest.raises(StoreError, match="kept it locked"):
            call()
    holder.execute("ROLLBACK")
    holder.close()
    assert held.begin("key").state == "mine"
    held.close()
    assert not (tmp_path / "held.db-wal").exists(), "the last one to close a file tidies up behind it"
