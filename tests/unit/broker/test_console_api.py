"""The console over sockets: who is let in, what each call does, and that no request at all makes the broker stumble."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamlet.broker import Broker, cbor
from streamlet.broker.console.guard import Guard, Refused
from streamlet.broker.http import Request
from streamlet.broker.inline import AUTHORIZATION

API = "/_streamlet/console/api/"


class Client:
    """One keep-alive connection to a broker with a console."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.host = broker.endpoint_url.removeprefix("http://")
        self._connection = http.client.HTTPConnection(self.host)
        self.token = ""
        self.form = "json"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def get(self, name: str) -> Any:
        status, _, body = self.ask("GET", API + name)
        assert status == 200, body
        return json.loads(body)

    def post(self, name: str, content: Any) -> tuple[int, Any]:
        status, _, body = self.ask("POST", API + name, json.dumps(content).encode(), **self.own())
        return status, json.loads(body)

    def own(self, **more: str) -> dict[str, str]:
        """The headers of the console's page, with replacements; an empty one is left out."""
        headers = {
            "content_type": "application/json",
            "x_streamlet_token": self.token,
            "origin": f"http://{self.host}",
            "sec_fetch_site": "same-origin",
            **more,
        }
        return {name: value for name, value in headers.items() if value}

    def operate(self, operation: str, **members: Any) -> tuple[int, Any]:
        return self.post("operation", {"operation": operation, "members": members})

    def kinesis(self, operation: str, **members: Any) -> Any:
        """A call of a client of the service."""
        headers = {
            "content_type": f"application/x-amz-{self.form}-1.1",
            "x_amz_target": f"Kinesis_20131202.{operation}",
            "authorization": AUTHORIZATION,
            "x_amz_date": "20260101T000000Z",
            "user_agent": "Tester/1.0 more words",
        }
        sent = json.dumps(members).encode() if self.form == "json" else cbor.dumps(members)
        status, _, body = self.ask("POST", "/", sent, **headers)
        assert status == 200, body
        return (json.loads if self.form == "json" else cbor.loads)(body) if body else None

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    with Broker.in_thread(console=True, streams={"s": 2}) as broker:
        yield broker


def connected(broker: Broker) -> Client:
    made = Client(broker)
    status, _, body = made.ask("GET", "/")
    assert status == 200
    found = re.search(rb'name="streamlet-token" content="([0-9a-f]{48})"', body)
    assert found is not None
    made.token = found[1].decode()
    return made


@pytest.fixture
def client(shared: Broker) -> Iterator[Client]:
    made = connected(shared)
    yield made
    made.close()


@pytest.fixture
def fresh() -> Iterator[Client]:
    with Broker.in_thread(console=True, streams={"s": 1}) as broker:
        made = connected(broker)
        yield made
        made.close()


# --- the page -----------------------------------------------------------------------------------------------------------


def test_the_page_and_its_files_come_with_a_strict_policy(client: Client) -> None:
    """Everything that the page names is there, of its type, and under the same policy."""
    _, _, page = client.ask("GET", "/?from=a-bookmark")
    named = set(re.findall(rb'(?:src|href)="([^"]+)"', page)) | {b"/_streamlet/console/htm-preact.js"}
    assert len(named) >= 6
    for path in [b"/", *named]:
        status, headers, body = client.ask("GET", path.decode())
        assert status == 200, path
        assert body
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert {"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} <= {part.strip() for part in policy.split(";")}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.lower().startswith("access-control")]
    assert b"http" not in re.sub(rb"http://www.w3.org/[0-9a-z/]+", b"", page)


def test_no_page_without_being_asked() -> None:
    """In process the console is off."""
    with Broker.in_thread() as broker:
        client = Client(broker)
        assert client.ask("GET", "/")[0] == 403
        assert client.ask("GET", API + "overview")[0] == 403
        client.close()


def test_the_service_is_as_before(client: Client) -> None:
    """A console changes no answer of the service: POST to / is a call, other GETs are what they were."""
    assert client.kinesis("ListStreams")["StreamNames"]
    assert client.ask("GET", "/elsewhere")[0] == 403
    assert client.ask("POST", "/", b"", origin="http://evil.example")[1]["access-control-allow-origin"] == "*"


def test_vendored_files_are_unchanged() -> None:
    """Their digests are those in the README beside them, with version, source and licence."""
    static = files("streamlet.broker.console") / "static"
    text = (static / "README.md").read_text()
    digests = dict(re.findall(r"\| `([a-z.-]+)` \| `([0-9a-f]{64})` \|", text))
    assert set(digests) == {"htm-preact.js", "uplot.js", "uplot.css"}
    for name, digest in digests.items():
        assert hashlib.sha256((static / name).read_bytes()).hexdigest() == digest
    for name in re.findall(r"`(LICENSE\.[a-z]+)`", text):
        assert (static / name).is_file()


# --- who is let in --------------------------------------------------------------------------------------------------------


FOREIGN = (
    "evil.example",
    "evil.example:4567",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil@127.0.0.1",
    "",
    "[",
    "127.0.0.1:x",
)


@pytest.mark.parametrize("host", [*FOREIGN, "8.8.8.8", "a/b"])
@pytest.mark.parametrize("path", ["/", "/_streamlet/console/console.js", API + "overview", API + "events"])
def test_a_name_that_is_not_the_broker_s_gets_nothing(client: Client, host: str, path: str) -> None:
    """A page whose own name was made to resolve to this machine reads neither data nor token."""
    status, headers, body = client.ask("GET", path, host=host)
    assert status == 403
    assert client.token.encode() not in body
    assert b"localhost" in body
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:4567", "127.8.9.1", "app.localhost", "localhost."])
def test_names_of_this_machine_are_let_in(client: Client, host: str) -> None:
    """With any port: it may be forwarded."""
    assert client.ask("GET", API + "overview", host=host)[0] == 200


@pytest.mark.parametrize(
    ("listens_on", "host", "let_in"),
    [
        ("0.0.0.0", "192.168.1.7:4567", True),
        ("::", "[fe80::1]:4567", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "broker", False),
        ("broker.internal", "broker.internal:4567", True),
        ("192.168.1.7", "192.168.1.7", True),
        ("127.0.0.1 devbox", "DevBox:4567", True),
        ("127.0.0.1 devbox", "devbox.evil.example", False),
        ("192.168.1.7", "192.168.1.8", False),
    ],
)
def test_what_it_listens_on_says_which_names_are_ours(listens_on: str, host: str, let_in: bool) -> None:
    """Addresses cannot be made to resolve elsewhere; names can, unless they are the one it was given."""
    request = Request("GET", "/", {"host": host}, b"", keep_alive=True)
    if let_in:
        Guard(listens_on.split()).check_host(request)
    else:
        with pytest.raises(Refused):
            Guard(listens_on.split()).check_host(request)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "?"])
def test_reads_from_other_sites_are_refused(client: Client, site: str) -> None:
    """Also from another port of this machine, which is the same site."""
    for name in ("overview", "events", "faults", "stream?name=s"):
        status, headers, _ = client.ask("GET", API + name, sec_fetch_site=site)
        assert status == 403
        assert headers["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"x_streamlet_token": ""},
        {"x_streamlet_token": "0" * 48},
        {"x_streamlet_token": "é"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://["},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"host": "evil.example"},
    ],
    ids=str,
)
def test_changes_need_everything_at_once(client: Client, wrong: dict[str, str]) -> None:
    """Token, type, origin, site and host: without one of them nothing happens."""
    body = json.dumps({"operation": "CreateStream", "members": {"StreamName": "stolen", "ShardCount": 1}}).encode()
    for name in ("operation", "records", "record", "faults/add", "faults/remove", "faults/clear"):
        assert client.ask("POST", API + name, body, **client.own(**wrong))[0] == 403
    assert client.ask("GET", API + "operation", sec_fetch_site="same-origin")[0] == 404
    assert "stolen" not in client.kinesis("ListStreams")["StreamNames"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_other_methods_do_nothing(client: Client, method: str) -> None:
    """And a preflight is not answered with what a script would need."""
    status, headers, _ = client.ask(method, API + "faults/clear", b"{}", **client.own())
    assert status == 403
    assert headers["access-control-allow-origin"] is None


def test_a_token_is_of_one_start(client: Client, fresh: Client) -> None:
    """The page of another broker is told to load anew."""
    assert client.token != fresh.token
    status, _, body = fresh.ask("POST", API + "faults/clear", b"{}", **fresh.own(x_streamlet_token=client.token))
    assert status == 403
    assert b"reload" in body


# --- the calls ------------------------------------------------------------------------------------------------------------


def test_streams_are_made_resharded_filled_and_deleted(fresh: Client) -> None:
    """Through the service's own operations, seen by clients of the service."""
    assert fresh.operate("CreateStream", StreamName="orders", ShardCount=2)[0] == 200
    assert "orders" in fresh.kinesis("ListStreams")["StreamNames"]
    assert fresh.operate("SplitShard", StreamName="orders", ShardToSplit="0", NewStartingHashKey=str(2**126))[0] == 200
    assert fresh.operate("MergeShards", StreamName="orders", ShardToMerge="shardId-000000000003", AdjacentShardToMerge="1")[0] == 200
    stored = fresh.operate("PutRecord", StreamName="orders", PartitionKey="k", Data="eA==", ExplicitHashKey="0")[1]["result"]
    assert stored["ShardId"] == "shardId-000000000002"
    found = fresh.get("stream?name=orders")
    lineage = {shard["index"]: (shard["parents"], shard["children"], shard["open"]) for shard in found["shard_list"]}
    assert lineage == {
        0: ([], [2, 3], False),
        1: ([], [4], False),
        2: ([0], [], True),
        3: ([0], [4], False),
        4: ([3, 1], [], True),
    }
    assert (found["records_in"], found["stored"], found["bytes_in"]) == (1, 1, 2)
    assert fresh.operate("DeleteStream", StreamName="orders")[0] == 200
    assert fresh.ask("GET", API + "stream?name=orders")[0] == 404


def test_a_stream_of_an_account_is_shown_and_changed_as_its_own(fresh: Client) -> None:
    """Streams of one name in two regions, and none of that name for everybody."""
    account = "123456789012"
    for region in ("eu-west-1", "us-east-1"):
        fresh.broker.create_stream("own", account=account, region=region)
    keys = [(entry["account"], entry["region"], entry["name"]) for entry in fresh.get("overview")["streams"]]
    assert keys == [(account, "eu-west-1", "own"), (account, "us-east-1", "own"), ("", "", "s")]
    members = {"StreamName": "own", "PartitionKey": "k", "Data": "eA=="}
    asked = {"operation": "PutRecord", "members": members, "account": account, "region": "eu-west-1"}
    assert fresh.post("operation", asked)[0] == 200
    assert fresh.get(f"stream?name=own&account={account}&region=eu-west-1")["stored"] == 1
    assert fresh.get(f"stream?name=own&account={account}&region=us-east-1")["stored"] == 0
    assert fresh.post("records", {"stream": "own"})[0] == 404
    # A shared stream is found by everybody, but it is nobody's own.
    assert fresh.post("records", {"stream": "s", "account": account, "region": "us-east-1"})[0] == 404


def test_a_refusal_of_the_service_is_shown_in_its_words(client: Client) -> None:
    """Code and text."""
    status, answer = client.operate("SplitShard", StreamName="s", ShardToSplit="99", NewStartingHashKey="1")
    assert (status, answer["code"]) == (400, "ResourceNotFoundException")
    assert "shardId-000000000099" in answer["error"]
    assert client.operate("PutRecord", StreamName="s", PartitionKey="", Data=7)[0] == 400


def test_only_what_the_page_offers_can_be_called(client: Client) -> None:
    """Not every operation, and nothing that is none."""
    for operation in ("ListStreams", "GetRecords", "UpdateStreamMode", "__class__", ""):
        status, answer = client.operate(operation)
        assert status == 400
        assert "does not call" in answer["error"]


def test_a_hostile_record_comes_as_data(fresh: Client) -> None:
    """Markup in keys and payloads is JSON text, of a type that no browser renders."""
    evil = "<script>alert(1)</script>"
    fresh.broker.call("PutRecord", StreamName="s", PartitionKey=evil, Data=base64.b64encode(evil.encode()).decode())
    _, headers, body = fresh.ask("POST", API + "records", b'{"stream": "s"}', **fresh.own())
    assert headers["content-type"] == "application/json"
    row = json.loads(body)["records"][0]
    assert (row["key"], row["preview"]) == (evil, evil)
    status, answer = fresh.post("record", {"stream": "s", "shard": row["shard"], "position": row["position"]})
    assert (status, answer["view"]["text"]) == (200, evil)
    assert fresh.post("record", {"stream": "s", "shard": row["shard"], "position": 9})[0] == 404


def test_faults_are_switched_on_and_off(fresh: Client) -> None:
    """The kinds that there are, each with a form's fields; what is wrong with one is said."""
    kinds = {kind["kind"]: kind for kind in fresh.get("faults")["kinds"]}
    assert {"throttle", "latency", "reshard", "clock-jump"} <= set(kinds)
    assert all(kind["says"] for kind in kinds.values())
    required = {field["name"] for field in kinds["reshard"]["fields"] if field["required"]}
    assert required == {"stream", "at_record"}
    assert next(field for field in kinds["reshard"]["fields"] if field["name"] == "action")["choices"] == ["split", "merge"]
    status, answer = fresh.post("faults/add", {"kind": "throttle", "operation": "PutRecord", "times": 2})
    assert status == 200
    standing = fresh.get("faults")["standing"]
    assert [(entry["id"], entry["left"], entry["fault"]["kind"]) for entry in standing] == [(answer["id"], 2, "throttle")]
    assert fresh.post("faults/remove", {"id": answer["id"]})[0] == 200
    assert fresh.post("faults/remove", {"id": answer["id"]})[0] == 404
    for wrong in ({"kind": "throtle"}, {"kind": "throttle", "times": 0}, {"kind": "throttle", "operation": "Put"}, [], [1], "x"):
        status, answer = fresh.post("faults/add", wrong)
        assert status == 400
        assert answer["error"]
    fresh.post("faults/add", {"kind": "throttle"})
    assert fresh.post("faults/clear", {})[1] == {"removed": 1}
    assert fresh.broker.faults.active == ()


@pytest.mark.parametrize("form", ["json", "cbor"])
def test_who_reads_and_how_far_behind(fresh: Client, form: str) -> None:
    """A caller that polls is known by key and agent; its age is that of the first record it has not got."""
    for value in ("a", "b", "c"):
        fresh.kinesis("PutRecord", StreamName="s", PartitionKey="k", Data=base64.b64encode(value.encode()).decode())
    iterator = fresh.kinesis("GetShardIterator", StreamName="s", ShardId="0", ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    fresh.form = form
    following = fresh.kinesis("GetRecords", ShardIterator=iterator, Limit=1)["NextShardIterator"]
    (reader,) = fresh.get("overview")["consumers"]
    assert (reader["kind"], reader["name"], reader["shard"], reader["records"]) == ("polling", "AKIAEXAMPLE · Tester/1.0", 0, 1)
    assert reader["behind_ms"] > 0
    fresh.broker.state.ahead_s += 100
    assert fresh.get("overview")["consumers"][0]["behind_ms"] > 100_000
    following = fresh.kinesis("GetRecords", ShardIterator=following)["NextShardIterator"]
    summary = fresh.get("overview")
    assert summary["consumers"][0]["behind_ms"] == 0
    assert summary["consumers"][0]["records"] == 3
    assert (summary["streams"][0]["records_out"], summary["streams"][0]["bytes_out"]) == (3, 6)
    assert not summary["consumers"][0]["ended"]
    fresh.broker.split_shard("s", 0)
    fresh.kinesis("GetRecords", ShardIterator=following)
    assert fresh.get("overview")["consumers"][0]["ended"]
    fresh.broker.delete_stream("s")
    assert fresh.get("overview")["consumers"] == []


def test_registered_consumers_are_listed(fresh: Client) -> None:
    """With no subscription yet."""
    arn = fresh.kinesis("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    fresh.kinesis("RegisterStreamConsumer", StreamARN=arn, ConsumerName="archive")
    (consumer,) = fresh.get("overview")["consumers"]
    assert (consumer["kind"], consumer["name"], consumer["open"]) == ("fan-out", "archive", False)


def test_a_subscription_and_what_it_was_sent(fresh: Client, connect: Callable[[str], Any]) -> None:
    """An open subscription is a consumer that is caught up; what it was sent counts as read."""
    boto3 = connect(fresh.broker.endpoint_url)
    arn = boto3.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    consumer = boto3.register_stream_consumer(StreamARN=arn, ConsumerName="archive")["Consumer"]["ConsumerARN"]
    shard = boto3.list_shards(StreamName="s")["Shards"][0]["ShardId"]
    fresh.get("overview")
    opened = boto3.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard, StartingPosition={"Type": "LATEST"})["EventStream"]
    events = (event["SubscribeToShardEvent"]["Records"] for event in opened)
    assert next(events) == []
    (open_one,) = fresh.get("overview")["consumers"]
    assert (open_one["name"], open_one["shard"], open_one["behind_ms"], open_one["open"]) == ("archive", 0, 0, True)
    fresh.kinesis("PutRecord", StreamName="s", PartitionKey="k", Data="eHl6")
    while not next(events):
        pass
    summary = fresh.get("overview")
    assert (summary["streams"][0]["records_out"], summary["streams"][0]["bytes_out"]) == (1, 4)
    assert summary["consumers"][0]["behind_ms"] == 0
    opened.close()
    boto3.close()


def test_records_of_an_earlier_process(tmp_path: Path) -> None:
    """With a data directory: what the console put and resharded is there after a new start, and is browsed from disk."""
    for turn in range(2):
        with Broker.in_thread(console=True, streams={"kept": 1}, data_dir=tmp_path) as broker:
            client = connected(broker)
            if turn == 0:
                for n in range(30):
                    value = base64.b64encode(b"%d" % n).decode()
                    assert client.operate("PutRecord", StreamName="kept", PartitionKey="k", Data=value)[0] == 200
                assert client.operate("SplitShard", StreamName="kept", ShardToSplit="0", NewStartingHashKey="9")[0] == 200
            found = client.post("records", {"stream": "kept"})[1]["records"]
            assert [row["preview"] for row in found] == [str(n) for n in reversed(range(30))]
            assert len(client.get("stream?name=kept")["shard_list"]) == 3
            assert client.get("overview")["broker"]["data_dir"] == str(tmp_path)
            client.close()


# --- events -----------------------------------------------------------------------------------------------------------------


def listen(client: Client) -> tuple[socket.socket, Any]:
    host, port = client.host.split(":")
    made = socket.create_connection((host, int(port)), timeout=10)
    made.sendall(f"GET {API}events HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
    return made, made.makefile("rb")


def event(stream: Any) -> Any:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


def test_events_tell_what_moves(fresh: Client) -> None:
    """One at once, and then one a second, as long as somebody listens."""
    connection, stream = listen(fresh)
    first = event(stream)
    fresh.kinesis("PutRecord", StreamName="s", PartitionKey="k", Data="eHl6")
    second = event(stream)
    stream.close()
    connection.close()
    assert [entry["records_in"] for entry in (*first["streams"], *second["streams"])] == [0, 1]
    assert second["streams"][0]["bytes_in"] == 4
    assert second["memory_bytes"] > 1_000_000
    assert first["started_ms"] == second["started_ms"] <= first["at_ms"]
    assert fresh.get("overview")["broker"]["version"]


def test_so_many_pages_and_no_more(fresh: Client) -> None:
    """A page too many is told so; when others have gone there is room."""
    open_ones = []
    for _ in range(32):
        connection, stream = listen(fresh)
        event(stream)
        open_ones += [stream, connection]
    assert fresh.ask("GET", API + "events")[0] == 400
    for one in open_ones:
        one.close()
    for _ in range(1000):  # until the broker has seen them go
        connection, stream = listen(fresh)
        status = stream.readline()
        stream.close()
        connection.close()
        if b"200" in status:
            return
    pytest.fail("there is no room, although all have gone")


# --- garbage ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("records", 300_000), ("record", 300_000), ("faults/add", 70_000), ("operation", 15 * 1024 * 1024 + 1)]
)
def test_bodies_have_an_end(client: Client, name: str, size: int) -> None:
    """Each call takes what it needs at most."""
    assert client.ask("POST", API + name, b" " * size, **client.own())[0] == 413


@pytest.mark.parametrize(
    "content",
    [
        {"stream": "s", "limit": 0},
        {"stream": "s", "limit": 101},
        {"stream": "s", "search": "x" * 257},
        {"stream": "s", "from_ms": 2**60},
        {"stream": "s", "cursor": [[0, 1]] * 1001},
        {"stream": "s", "cursor": [[0]]},
        {"stream": "s", "shards": ["0"]},
        {"stream": "s", "more": 1},
        {"stream": None},
        {},
        [],
    ],
    ids=str,
)
def test_a_query_out_of_bounds_is_refused(client: Client, content: Any) -> None:
    """With a reason."""
    status, answer = client.post("records", content)
    assert status == 400
    assert answer["error"]


NAMES = [
    "overview",
    "stream",
    "faults",
    "events",
    "operation",
    "records",
    "record",
    "faults/add",
    "faults/remove",
    "faults/clear",
    "",
    "x/../y",
]
KEYS = st.sampled_from(["stream", "shard", "position", "as", "schema", "cursor", "shards", "from_ms", "operation", "members", "kind", "id"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=10,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(NAMES), JSON | st.binary(max_size=40))
@example("operation", {"operation": "PutRecord", "members": {"StreamName": "s", "PartitionKey": "\ud800", "Data": "!"}})
@example("record", {"stream": "s", "shard": 2**70, "position": -(2**70)})
@example("records", b"[" * 5000)
@example("faults/add", b"[" * 5000)
@example("records", {"stream": "s", "cursor": [[2**64, -(2**64)]], "shards": [-1]})
def test_no_body_makes_it_stumble(client: Client, name: str, content: Any) -> None:
    """Any JSON, or none, with a good token: an answer of 200 or 4xx, in JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, answer = client.ask("POST", API + name, body, **client.own())
    assert status in {200, 400, 404, 413}, answer
    json.loads(answer)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.text(max_size=20))
@example("stream?" + "&".join(["a=b"] * 50), "")
@example("stream?name=%ff%00", "")
def test_no_path_makes_it_stumble(client: Client, path: str, query: str) -> None:
    """Any path and query below the console's."""
    target = path if path.startswith("stream?") else f"{quote(path, safe='/.%')}?{quote(query, safe='=&%')}"
    for root in (API, "/_streamlet/console/"):
        status, _, _ = client.ask("GET", root + target)
        assert status in {200, 400, 403, 404}
