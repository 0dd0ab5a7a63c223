"""Are faults switched over HTTP by whom they may be, and by nobody else? Files of faults are read by the same types."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from streamlet.broker import Broker
from streamlet.broker.admin import Admin
from streamlet.broker.faults import (
    KINDS,
    ClockJump,
    DuplicatePut,
    DuplicateRead,
    EmptyRead,
    EndSubscription,
    ExpiredIterator,
    FailRecords,
    FailSubscription,
    FaultFile,
    InternalFailure,
    Latency,
    ResetAfter,
    ResetBefore,
    Reshard,
    StallSubscription,
    Throttle,
    decode_faults,
    read_faults,
)
from streamlet.broker.http import Request
from streamlet.broker.inline import InlineBroker
from streamlet.broker.wire import Front
from streamlet.cli.broker import command
from streamlet.errors import ConfigurationError

PATH = "/_streamlet/faults"
ONE_OF_EACH = (
    Throttle("GetRecords", times=2),
    InternalFailure("PutRecord", stream="orders"),
    Latency("GetRecords", delay_s=0.1, delay_max_s=0.5, probability=0.25),
    ResetBefore(times="always"),
    ResetAfter("PutRecords", after=3),
    ClockJump(jump_s=-3600.0),
    FailRecords(0.5, error="InternalFailure", shard=1),
    FailRecords((0, 9), shard="shardId-000000000001"),
    DuplicatePut("PutRecord"),
    DuplicateRead(back=10),
    EmptyRead(),
    ExpiredIterator(),
    StallSubscription(stall_s=2.5),
    EndSubscription(),
    FailSubscription("KMSThrottlingException"),
    Reshard("orders", 1000, "merge", times=3),
)


class Asker:
    """Requests to a Front that has the page."""

    def __init__(self, world: InlineBroker, *hosts: str) -> None:
        self.front = Front(world.state, world.faults, [Admin(world.faults, hosts)])

    def __call__(self, method: str, path: str = PATH, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        sent = {"host": "127.0.0.1:4567"} | ({"content-type": "application/json"} if body else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.front.answer(Request(method, path, {k: v for k, v in sent.items() if v}, body, keep_alive=True))
        assert not any(name.lower().startswith("access-control") for name, _ in answer.headers)
        assert answer.content_type == "application/json"
        return answer.status, json.loads(b"".join(answer.body))


@pytest.fixture
def ask(world: InlineBroker) -> Asker:
    return Asker(world)


# --- what it does ----------------------------------------------------------------------------------------------------------


def test_add_list_and_remove(world: InlineBroker, ask: Asker) -> None:
    assert ask("GET") == (200, {"seed": 0, "faults": []})
    assert ask("POST", body=b'{"kind": "throttle", "operation": "ListShards", "times": 2}') == (200, {"ids": [1]})
    assert ask("POST", body=b'[{"kind": "empty-read"}, {"kind": "latency", "delay_s": 1}]') == (200, {"ids": [2, 3]})
    world.refused("ListShards", StreamName="s")
    status, listed = ask("GET")
    assert status == 200
    assert listed["faults"] == [
        {"id": 1, "fault": {"kind": "throttle", "operation": "ListShards", "times": 2}, "seen": 1, "struck": 1, "left": 1},
        {"id": 2, "fault": {"kind": "empty-read"}, "seen": 0, "struck": 0, "left": 1},
        {"id": 3, "fault": {"kind": "latency", "delay_s": 1.0}, "seen": 1, "struck": 1, "left": 0},
    ]
    assert ask("DELETE", f"{PATH}/2") == (200, {"removed": 1})
    assert ask("DELETE", f"{PATH}/2")[0] == 404
    assert ask("DELETE") == (200, {"removed": 2})
    assert ask("GET")[1]["faults"] == []
    world.ask("ListShards", StreamName="s")


def test_every_kind_comes_back_as_it_was_sent(world: InlineBroker, ask: Asker) -> None:
    assert {json.loads(msgspec.json.encode(fault))["kind"] for fault in ONE_OF_EACH} == set(KINDS)
    body = msgspec.json.encode(ONE_OF_EACH)
    assert ask("POST", body=body) == (200, {"ids": list(range(1, len(ONE_OF_EACH) + 1))})
    assert tuple(standing.fault for standing in world.faults.list()) == ONE_OF_EACH
    assert decode_faults(body) == ONE_OF_EACH


def test_a_list_with_one_wrong_fault_adds_none(world: InlineBroker, ask: Asker) -> None:
    status, answer = ask("POST", body=b'[{"kind": "empty-read"}, {"kind": "throttle", "tims": 3}]')
    assert status == 400
    assert answer["error"] == "fault 2 (throttle): Object contains unknown field `tims`"
    assert world.faults.list() == ()


# --- what it refuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"host": ""},
        {"host": "evil.example:4567"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "evil@127.0.0.1"},
        {"host": "127.0.0.1:4567, evil.example"},
        {"host": "192.168.1.5:4567"},
        {"host": "broker:4567"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:4567"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "nonsense"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", PATH), ("DELETE", PATH), ("DELETE", f"{PATH}/1"), ("OPTIONS", PATH)])
def test_other_sites_and_other_hosts(world: InlineBroker, ask: Asker, headers: dict[str, str], method: str, path: str) -> None:
    world.faults.add(EmptyRead())
    status, answer = ask(method, path, body=b'{"kind": "throttle"}' if method == "POST" else b"", **headers)
    assert status == 403
    assert "error" in answer
    assert len(world.faults.list()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "LOCALHOST"},
        {"host": "[::1]:4567"},
        {"origin": "http://127.0.0.1:4567", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"content_type": "application/json; charset=utf-8"},
    ],
)
def test_this_site_and_tools(ask: Asker, headers: dict[str, str]) -> None:
    assert ask("POST", body=b'{"kind": "throttle"}', **headers) == (200, {"ids": [1]})


def test_a_host_that_was_named(world: InlineBroker) -> None:
    ask = Asker(world, "Broker")
    assert ask("GET", host="broker:4567", origin="http://broker:4567")[0] == 200
    assert ask("GET", host="broker.evil.example")[0] == 403
    assert ask("GET")[0] == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"])
def test_bodies_that_a_form_could_send(world: InlineBroker, ask: Asker, content_type: str) -> None:
    assert ask("POST", body=b'{"kind": "throttle"}', content_type=content_type)[0] == 415
    assert world.faults.list() == ()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b"null", "kind"),
        (b"[[]]", "kind"),
        (b'"throttle"', "kind"),
        (b"{}", "kind"),
        (b'{"kind": 3}', "kind"),
        (b'{"kind": ["throttle"]}', "kind"),
        (b'{"kind": "call-fault"}', "one of throttle"),
        (b'{"kind": "throttle", "times": 0}', "times"),
        (b'{"kind": "throttle", "times": "often"}', "times"),
        (b'{"kind": "throttle", "times": 1e400}', "no JSON|times"),
        (b'{"kind": "latency"}', "delay_s"),
        (b'{"kind": "throttle", "operation": "Nope"}', "'Nope' is none of the broker's"),
        (b'{"kind": "fail-records", "which": [0, "x"]}', "which"),
    ],
)
def test_garbage(world: InlineBroker, ask: Asker, body: bytes, text: str) -> None:
    status, answer = ask("POST", body=body, content_type="application/json")
    assert status == 400
    assert any(part in answer["error"] for part in text.split("|")), answer
    assert world.faults.list() == ()


def test_bounds(world: InlineBroker, ask: Asker) -> None:
    assert ask("POST", body=b"[" + b" " * 65_536 + b"]")[0] == 413
    many = b"[" + b",".join([b'{"kind": "empty-read"}'] * 1_001) + b"]"
    assert ask("POST", body=many) == (400, {"error": "more than 1000 faults would be armed: DELETE some first"})
    assert world.faults.list() == ()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", PATH, 405),
        ("POST", f"{PATH}/1", 405),
        ("GET", f"{PATH}/1", 405),
        ("OPTIONS", PATH, 405),
        ("DELETE", f"{PATH}/x", 404),
        ("DELETE", f"{PATH}/", 404),
        ("DELETE", f"{PATH}/²", 404),
        ("DELETE", f"{PATH}/{'9' * 5_000}", 404),
    ],
)
def test_paths_and_methods(ask: Asker, method: str, path: str, status: int) -> None:
    assert ask(method, path)[0] == status


@pytest.mark.parametrize("path", ["/_streamlet/faultsx", f"{PATH}?x=1", "/_streamlet/", "/", f"{PATH}/1/2"])
def test_other_paths_are_not_its_own(world: InlineBroker, path: str) -> None:
    assert Admin(world.faults)(Request("GET", path, {"host": "127.0.0.1"}, b"", keep_alive=True)) is None


def test_on_a_socket_and_only_when_asked() -> None:
    def ask(broker: Broker, method: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(broker.endpoint_url.removeprefix("http://"))
        connection.request(method, PATH, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.status, answer.read()
        connection.close()
        return content

    with Broker.in_thread(admin=True) as broker:
        assert ask(broker, "POST", '{"kind":"throttle"}', Content_Type="application/json") == (200, b'{"ids":[1]}')
        assert ask(broker, "POST", '{"kind":"throttle"}', Content_Type="text/plain")[0] == 415
        assert ask(broker, "PUT")[0] == 405
        assert ask(broker, "GET", Host="evil.example")[0] == 403
        assert [standing.fault for standing in broker.faults.list()] == [Throttle()]
    with Broker.in_thread() as broker:
        assert ask(broker, "GET")[0] == 403
        assert ask(broker, "POST", '{"kind":"throttle"}', Content_Type="application/json")[0] == 404
        assert broker.faults.list() == ()


# --- files -----------------------------------------------------------------------------------------------------------------

TOML = """
seed = 7

[[faults]]
kind = "throttle"
operation = "GetRecords"
times = 3

[[faults]]
kind = "fail-records"
which = 0.25
stream = "orders"
times = "always"
"""


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    wanted = (Throttle("GetRecords", times=3), FailRecords(0.25, stream="orders", times="always"))
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(FaultFile(wanted, 7)))
    (tmp_path / "list.json").write_bytes(msgspec.json.encode(wanted))
    assert read_faults(tmp_path / "a.toml") == read_faults(tmp_path / "a.json") == FaultFile(wanted, 7)
    assert read_faults(tmp_path / "list.json") == FaultFile(wanted)
    world = InlineBroker(faults_seed=1)
    assert world.faults.load(tmp_path / "a.toml") == (1, 2)
    assert world.faults.seed == 7


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("f.toml", 'seed = 7\n[[faults]]\nkind = "throttle\n', "this is no TOML: .*line 3"),
        ("f.json", '{"faults": [\n  {"kind": }\n]}', "this is no JSON: .*line 2 column 12"),
        ("f.json", "", "this is no JSON"),
        ("f.json", "\udc80", "this is no JSON"),
        ("f.json", '{"fault": []}', "unknown field `fault`"),
        ("f.json", '{"faults": {}}', "key faults: Expected `array`, got `object`"),
        ("f.json", '{"seed": "x"}', "key seed: Expected `int"),
        ("f.json", "3", "Expected `object`, got `int`"),
        ("f.json", '[{"kind": "empty-read"}, {"kind": "throtle"}]', r"fault 2 \(throtle\): key kind says what it is: one of throttle, "),
        ("f.json", '[{"kind": "throttle", "operaton": "x"}]', r"fault 1 \(throttle\): Object contains unknown field `operaton`"),
        ("f.json", '[{"kind": "throttle", "times": -1}]', r"fault 1 \(throttle\): times is how often"),
        ("f.json", '[{"kind": "throttle", "after": "x"}]', r"fault 1 \(throttle\): key after: Expected `int`, got `str`"),
        ("f.json", '[{"kind": "throttle", "operation": "GetRecord"}]', r"fault 1 \(throttle\): operation 'GetRecord' is none"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, name: str, text: str, error: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=error) as caught:
        read_faults(path)
    assert str(caught.value).startswith(str(path))


def test_the_chapter_shows_a_file_that_is_read_and_names_every_kind(tmp_path: Path) -> None:
    chapter = (Path(__file__).parents[3] / "docs" / "broker.md").read_text().split("## Faults\n")[1].split("\n## ")[0]
    (tmp_path / "shown.toml").write_text(chapter.split("```toml\n")[1].split("```")[0])
    assert len(read_faults(tmp_path / "shown.toml").faults) == 3
    shown = [line.split("|")[1].strip() for line in chapter.splitlines() if line.startswith("| `")]
    assert sorted(shown) == sorted(f"`{kind}`" for kind in KINDS)


def test_the_command_refuses_a_wrong_file_before_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('[{"kind": "throttle", "times": 0}]')
    result = CliRunner().invoke(command, ["--port", "0", "--faults", str(path)])
    assert result.exit_code == 2
    assert "fault 1 (throttle): times" in result.output
    missing = CliRunner().invoke(command, ["--port", "0", "--faults", str(tmp_path / "none.json")])
    assert missing.exit_code == 2
    assert "No such file" in missing.output


def test_a_started_broker_has_the_files_faults_the_page_and_the_limits(tmp_path: Path, connect: Any) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(TOML)
    options = ["--port", "0", "--shards", "orders:1", "--faults", str(path), "--admin", "--enforce-limits"]
    with subprocess.Popen([sys.executable, "-m", "streamlet", "broker", *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            connection = http.client.HTTPConnection(url.removeprefix("http://"))
            connection.request("GET", PATH)
            content = json.loads(connection.getresponse().read())
            connection.close()
            assert content["seed"] == 7
            assert [listed["fault"]["kind"] for listed in content["faults"]] == ["throttle", "fail-records"]
            client = connect(url)
            answer = client.put_records(StreamName="orders", Records=[{"Data": b"x", "PartitionKey": "k"}] * 4)
            assert answer["FailedRecordCount"] == 1
            for _ in range(5):
                client.list_streams()
            with pytest.raises(client.exceptions.LimitExceededException):
                client.list_streams()
            client.close()
        finally:
            process.terminate()
        assert process.wait(10) == 0
