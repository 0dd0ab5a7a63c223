"""Object stores: a key is taken once, a file is whole or not there, and what goes wrong is said in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from streamlet.errors import ConfigurationError, SinkError
from streamlet.sinks.objects import ObjectStore


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """moto's S3, which honours If-None-Match."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket="bucket")
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    match request.param:
        case "file":
            return ObjectStore(f"file://{tmp_path}/a dir/out")
        case "memory":
            return ObjectStore("memory://")
        case _:
            options = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
            endpoint = request.getfixturevalue("s3_endpoint")
            return ObjectStore(f"s3://bucket/prefix/{tmp_path.name}", endpoint_url=endpoint, **options)


def test_a_key_is_taken_once(store: ObjectStore) -> None:
    """The second put_if_absent changes nothing and says so; put replaces."""
    assert store.put_if_absent("day=1/a.parquet", b"first")
    assert not store.put_if_absent("day=1/a.parquet", b"second")
    assert store.get("day=1/a.parquet") == b"first"
    store.put("day=1/a.parquet", b"third")
    assert store.get("day=1/a.parquet") == b"third"
    assert not store.put_if_absent("day=1/a.parquet", b"fourth")


def test_keys_stay_as_they_are(store: ObjectStore) -> None:
    """Percent-encoding is the caller's; nobody adds another layer or takes one off."""
    for key in ("name=a%2Fb%20c/x.parquet", "a/y.parquet", "ab/z.parquet", "top.parquet"):
        assert store.put_if_absent(key, b"")
        assert store.get(key) == b""
    assert store.list() == ["a/y.parquet", "ab/z.parquet", "name=a%2Fb%20c/x.parquet", "top.parquet"]
    assert store.list("a") == ["a/y.parquet"]
    assert store.list("nothing") == []
    assert store.get("nothing") is None


def test_of_many_writers_one_wins(store: ObjectStore) -> None:
    """Eight at once; the object is the winner's, whole."""
    contents = [bytes([number]) * 100_000 for number in range(8)]
    barrier = threading.Barrier(8)

    def write(data: bytes) -> bool:
        barrier.wait()
        return store.put_if_absent("a/b.parquet", data)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, contents))
    assert sum(won) == 1
    assert store.get("a/b.parquet") == contents[won.index(True)]
    assert store.list() == ["a/b.parquet"]


def test_check_passes_again_and_again(store: ObjectStore) -> None:
    """And leaves nothing that a reader would take for data."""
    store.check()
    store.check()
    assert all(key.startswith("_") for key in store.list())


def test_memory_is_shared_by_name() -> None:
    """Two workers of one process; without a name it is private."""
    ObjectStore("memory://test-shared").put("a", b"1")
    assert ObjectStore("memory://test-shared").get("a") == b"1"
    ObjectStore("memory://").put("a", b"1")
    assert ObjectStore("memory://").get("a") is None


@pytest.mark.parametrize("url", ["gs://x", "out", "", "s3://", "file://", "s3:///prefix"])
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory://NAME"):
        ObjectStore(url)


def test_options_are_for_s3() -> None:
    with pytest.raises(ConfigurationError, match="takes no options"):
        ObjectStore("memory://", region="x")
    with pytest.raises(ConfigurationError, match="nonsense"):
        ObjectStore("s3://bucket", nonsense="x").put("a", b"")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_file_is_left(tmp_path: Path) -> None:
    """No temporary names after winning, losing and replacing."""
    store = ObjectStore(f"file://{tmp_path}/out")
    store.check()
    store.put_if_absent("a/b", b"1")
    store.put_if_absent("a/b", b"2")
    store.put("a/b", b"3")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a", "b"]


def test_a_killed_writers_temporary_file_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container each process has the same id, so the next one may want the same temporary name. No reader sees the old one."""
    store = ObjectStore(f"file://{tmp_path}")
    for number in range(100):
        (tmp_path / f".streamlet-{os.getpid()}-{number}.tmp").write_bytes(b"torn")
    assert store.put_if_absent("b", b"1")
    assert store.list() == ["b"]


def test_file_troubles_are_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkError, match="part of its path is a file"):
        ObjectStore(f"file://{tmp_path}/file/out").check()
    with pytest.raises(SinkError, match="/proc/nowhere"):
        ObjectStore("file:///proc/nowhere").check()
    with pytest.raises(SinkError, match="too long"):
        ObjectStore(f"file://{tmp_path}").put_if_absent("x" * 300, b"")


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk's end: the write stops half way."""
    program = """
import resource, signal, sys
from streamlet.errors import SinkError
from streamlet.sinks.objects import ObjectStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = ObjectStore(sys.argv[1])
for put in (store.put_if_absent, store.put):
    try:
        put("a/b", b"x" * 100_000)
    except SinkError as error:
        print(error)
print(store.list(), store.put_if_absent("a/c", b"small"))
"""
    done = subprocess.run([sys.executable, "-c", program, f"file://{tmp_path}"], capture_output=True, text=True, check=True)
    assert done.stdout.count("the disk is full; free some space") == 2
    assert done.stdout.splitlines()[-1] == "[] True"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]


# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_bucket_is_named(s3_endpoint: str) -> None:
    store = ObjectStore("s3://absent/x", endpoint_url=s3_endpoint, access_key_id="a", secret_access_key="b", region="us-east-1")
    calls: list[Callable[[], object]] = [store.check, lambda: store.put("a", b""), lambda: store.get("a")]
    for call in calls:
        with pytest.raises(SinkError, match="s3://absent: there is no such bucket; create it"):
            call()


def test_the_environment_names_the_endpoint(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ENDPOINT_URL_S3 goes before AWS_ENDPOINT_URL, and credentials come from AWS_*."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    assert ObjectStore("s3://bucket/env").put_if_absent("a", b"1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    with pytest.raises(SinkError, match=r"http://127.0.0.1:1 cannot be reached"):
        ObjectStore("s3://bucket/env").put("a", b"1")


def test_plain_http_is_for_loopback() -> None:
    """Anything else would carry the data in the clear; whoever means it says so."""
    with pytest.raises(ConfigurationError, match="in the clear"):
        ObjectStore("s3://bucket", endpoint_url="http://minio.example:9000")
    with pytest.raises(ConfigurationError, match="no http"):
        ObjectStore("s3://bucket", endpoint_url="minio.example:9000")
    ObjectStore("s3://bucket", endpoint_url="http://minio.example:9000", allow_http=True)
    ObjectStore("s3://bucket", endpoint_url="https://minio.example:9000")


Answers = Callable[[str], int]


@pytest.fixture
def scripted() -> Iterator[Callable[[Answers], ObjectStore]]:
    """An S3 that answers with the status that a function of the HTTP method gives."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> ObjectStore:
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(answers(self.command))
                for name, value in {"content-length": "0", "etag": '"x"', "last-modified": "Tue, 24 Nov 2026 10:00:00 GMT"}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_PUT = do_HEAD = do_GET = _answer  # noqa: N815  the names that http.server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        endpoint = f"http://127.0.0.1:{server.server_port}"
        return ObjectStore("s3://bucket", endpoint_url=endpoint, access_key_id="a", secret_access_key="secret-b", region="us-east-1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_conflict_is_not_a_taken_key(scripted: Callable[[Answers], ObjectStore]) -> None:
    """409 means that somebody is just writing the key, and may yet fail. Taken for "it is there", the rows would be lost."""
    store = scripted(lambda method: 409 if method == "PUT" else 404)
    with pytest.raises(SinkError, match="another writer is just creating a/b"):
        store.put_if_absent("a/b", b"1")
    assert not scripted(lambda method: 409 if method == "PUT" else 200).put_if_absent("a/b", b"1")
    assert not scripted(lambda method: 412 if method == "PUT" else 200).put_if_absent("a/b", b"1")


def test_a_store_that_ignores_if_none_match_is_found_at_the_start(scripted: Callable[[Answers], ObjectStore]) -> None:
    """Some S3 look-alikes do."""
    with pytest.raises(SinkError, match="ignores If-None-Match"):
        scripted(lambda _method: 200).check()


@pytest.mark.parametrize(("status", "text"), [(403, "access is refused"), (401, "credentials are wrong"), (500, "500 Internal")])
def test_refusals_are_one_line_and_hold_no_secret(scripted: Callable[[Answers], ObjectStore], status: int, text: str) -> None:
    with pytest.raises(SinkError, match=text) as caught:
        scripted(lambda _method: status).put("a", b"1")
    assert "\n" not in str(caught.value)
    assert "secret-b" not in str(caught.value)
