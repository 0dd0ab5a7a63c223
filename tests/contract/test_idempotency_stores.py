"""What every idempotency store promises, checked against each of them: DynamoDB's on moto's server."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from streamlet.errors import AccessRefused, ConfigurationError, NotFound, StoreError, StreamletError, Unavailable
from streamlet.ports import IdempotencyStore
from streamlet.stores.idempotency import BUSY, DONE, SWEEP_EVERY, MemoryIdempotency
from streamlet.stores.idempotency_dynamodb import DynamoDBIdempotency
from streamlet.stores.idempotency_sqlite import SqliteIdempotency
from tests.unit.destinations.given_up import boto, moto_server, without_configuration


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


Connect = Callable[[], IdempotencyStore]


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


@pytest.fixture(params=["memory", "sqlite", "dynamodb"])
def connect(request: pytest.FixtureRequest, tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """A function that gives one more process's view of the same markers: a minute in progress, an hour done."""
    options: Any = {"in_progress_s": 60, "done_s": 3600, "clock": hand}
    made: list[IdempotencyStore] = []
    shared = MemoryIdempotency(**options)
    if request.param == "dynamodb":
        without_configuration(monkeypatch)
        endpoint, client = request.getfixturevalue("dynamodb")
        table = f"table-{abs(hash(request.node.name))}"
        make_table(client, table)

    def one_more() -> IdempotencyStore:
        store: IdempotencyStore
        match request.param:
            case "memory":
                store = shared
            case "sqlite":
                store = SqliteIdempotency(tmp_path / "done.db", **options)
            case _:
                store = DynamoDBIdempotency(table, region="eu-west-1", endpoint_url=endpoint, **options)
        made.append(store)
        return store

    yield one_more
    for store in made:
        store.close()


def test_a_key_is_begun_once_and_then_done(connect: Connect) -> None:
    store, other = connect(), connect()
    mine = store.begin("app/s/shard/1/0")
    assert mine.state == "mine"
    assert mine.token
    assert other.begin("app/s/shard/1/0") == BUSY
    assert other.begin("app/s/shard/2/0").state == "mine", "another key is another record"
    store.finish("app/s/shard/1/0")
    assert other.begin("app/s/shard/1/0") == DONE
    assert store.begin("app/s/shard/1/0") == DONE


def test_a_released_key_may_be_begun_at_once(connect: Connect) -> None:
    store, other = connect(), connect()
    store.release("key", store.begin("key").token)
    assert other.begin("key").state == "mine"


def test_only_its_own_marker_is_released(connect: Connect, hand: Hand) -> None:
    """A handler that outlived its marker fails at last: it must not open the door that its successor has closed."""
    store, other = connect(), connect()
    late = store.begin("key")
    hand.now_s += 61
    assert other.begin("key").state == "mine"
    store.release("key", late.token)
    assert store.begin("key") == BUSY
    other.finish("key")
    store.release("key", late.token)
    assert store.begin("key") == DONE


def test_a_marker_in_progress_blocks_until_its_time_and_no_longer(connect: Connect, hand: Hand) -> None:
    """As after a crash between the effect and the done marker."""
    store = connect()
    first = store.begin("key")
    hand.now_s += 58
    assert store.begin("key") == BUSY
    hand.now_s += 3
    second = store.begin("key")
    assert second.state == "mine"
    assert second.token != first.token
    assert store.begin("key") == BUSY, "the new marker has a time of its own"


def test_who_knows_its_end_says_how_long(connect: Connect, hand: Hand) -> None:
    store = connect()
    store.begin("key", for_s=5)
    hand.now_s += 3
    assert store.begin("key") == BUSY
    hand.now_s += 3
    assert store.begin("key").state == "mine"


def test_done_is_remembered_for_its_time(connect: Connect, hand: Hand) -> None:
    store = connect()
    store.begin("key")
    store.finish("key")
    hand.now_s += 3598
    assert store.begin("key") == DONE
    hand.now_s += 4
    assert store.begin("key").state == "mine"


def test_whoever_finishes_it_is_done(connect: Connect, hand: Hand) -> None:
    """The effect has been had, also by one that was late; also if the marker is gone."""
    store, other = connect(), connect()
    store.begin("key")
    hand.now_s += 61
    second = other.begin("key")
    store.finish("key")
    assert other.begin("key") == DONE
    other.release("key", second.token)
    assert other.begin("key") == DONE, "a failure after another's success takes nothing back"
    store.finish("never begun")
    assert store.begin("never begun") == DONE


def test_a_closed_store_opens_anew(connect: Connect) -> None:
    store = connect()
    store.begin("key")
    store.close()
    store.close()
    assert store.begin("key") == BUSY


def test_keys_are_any_text(connect: Connect) -> None:
    store = connect()
    for key in ("a'b\"c", "ä/ö#ü \n", "x" * 1000):
        assert store.begin(key).state == "mine"
        assert store.begin(key) == BUSY


def test_of_many_one_begins(connect: Connect) -> None:
    """Eight threads with views of their own, ten keys: each key is given out once."""
    stores = [connect() for _ in range(8)]
    barrier = threading.Barrier(8)

    def run(store: IdempotencyStore) -> list[str]:
        barrier.wait()
        return [key for key in map(str, range(10)) if store.begin(key).state == "mine"]

    with ThreadPoolExecutor(8) as pool:
        won = [key for keys in pool.map(run, stores) for key in keys]
    assert sorted(won) == sorted(map(str, range(10)))


def test_expired_markers_are_swept(tmp_path: Path, hand: Hand) -> None:
    """Memory and disk hold what may still count, and not all that ever was."""
    memory, sqlite = MemoryIdempotency(done_s=10, clock=hand), SqliteIdempotency(tmp_path / "done.db", done_s=10, clock=hand)
    for store in (memory, sqlite):
        for n in range(20):
            store.finish(f"old {n}")
    hand.now_s += 11
    for n in range(SWEEP_EVERY):
        memory.begin(f"new {n}")
    assert len(memory._markers) == SWEEP_EVERY
    sqlite._begun = SWEEP_EVERY - 1
    sqlite.begin("new")
    assert sqlite._connection is not None
    assert sqlite._connection.execute("SELECT count(*) FROM idempotency").fetchone() == (1,)
    sqlite.close()


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
    with pytest.raises(StoreError, match=r"text\.db.*not a database"):
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
    hand.now_s += 0.25
    store = DynamoDBIdempotency("rows", region="eu-west-1", endpoint_url=endpoint, clock=hand)
    token = store.begin("key").token
    item = client.get_item(TableName="rows", Key={"id": {"S": "key"}})["Item"]
    assert item == {"id": {"S": "key"}, "status": {"S": "INPROGRESS"}, "expiration": {"N": "1700000061"}, "token": {"S": token}}
    store.finish("key")
    item = client.get_item(TableName="rows", Key={"id": {"S": "key"}})["Item"]
    assert item == {"id": {"S": "key"}, "status": {"S": "COMPLETED"}, "expiration": {"N": "1700086401"}}
    store.close()
