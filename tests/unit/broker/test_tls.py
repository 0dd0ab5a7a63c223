"""Does the broker speak TLS with a certificate of its own, and both HTTP versions over it?"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from streamlet.broker import Broker
from streamlet.broker.tls import context, self_signed
from streamlet.errors import ConfigurationError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def connect(broker: Broker, *protocols: str, name: str = "localhost") -> ssl.SSLSocket:
    parts = urlsplit(broker.endpoint_url)
    trusting = ssl.create_default_context(cafile=str(broker.certificate))
    trusting.set_alpn_protocols(list(protocols))
    return trusting.wrap_socket(socket.create_connection((parts.hostname, parts.port), timeout=10), server_hostname=name)


def list_streams(url: str, certificate: Path) -> Any:
    client = boto3.client(
        "kinesis", endpoint_url=url, region_name="eu-west-1", aws_access_key_id="1", aws_secret_access_key="2", verify=str(certificate)
    )
    with closing(client):
        return client.list_streams()["StreamNames"]


def test_boto3_trusts_the_made_certificate() -> None:
    with Broker.in_thread(streams={"s": 1}, tls=True) as broker:
        assert broker.endpoint_url.startswith("https://127.0.0.1:")
        assert list_streams(broker.endpoint_url, broker.certificate) == ["s"]
        made = broker.certificate
    assert not made.exists(), "without a folder it goes with the broker"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_one_port_for_both_versions(name: str) -> None:
    with Broker.in_thread(tls=True) as broker:
        with connect(broker, "h2", "http/1.1", name=name) as raw:
            assert raw.selected_alpn_protocol() == "h2"
            raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            assert raw.recv(9)[3] == 4  # SETTINGS
        for protocols in (["http/1.1"], []):
            with connect(broker, *protocols, name=name) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert raw.recv(12) == b"HTTP/1.1 403"


def test_who_speaks_no_tls_is_cut_off_without_noise(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with Broker.in_thread(streams={"s": 1}, tls=True) as broker:
        parts = urlsplit(broker.endpoint_url)
        with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as raw:
            raw.sendall(b"POST / HTTP/1.1\r\n\r\n")
            while raw.recv(1000):
                pass
        assert list_streams(broker.endpoint_url, broker.certificate) == ["s"]
    assert caplog.records == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_certificate_is_used_again_while_it_will_do(tmp_path: Path) -> None:
    first = self_signed(tmp_path / "deep" / "tls", NOW)
    content = first.certificate.read_bytes()
    assert first.key.stat().st_mode & 0o77 == 0
    assert self_signed(tmp_path / "deep" / "tls", NOW).certificate.read_bytes() == content
    other = self_signed(tmp_path / "deep" / "tls", NOW, "kinesis.test").certificate.read_bytes()
    assert other != content
    assert self_signed(tmp_path / "deep" / "tls", NOW + timedelta(days=100)).certificate.read_bytes() == other
    late = self_signed(tmp_path / "deep" / "tls", NOW + timedelta(days=392)).certificate.read_bytes()
    assert late != other
    first.certificate.write_text("broken")
    context(self_signed(tmp_path / "deep" / "tls", NOW))
    assert sorted(path.name for path in (tmp_path / "deep" / "tls").iterdir()) == ["streamlet-broker.key", "streamlet-broker.pem"]


def test_given_files(tmp_path: Path) -> None:
    files = self_signed(tmp_path, datetime.now(UTC))
    with Broker.in_thread(streams={"s": 1}, tls_cert=files.certificate, tls_key=str(files.key)) as broker:
        assert list_streams(broker.endpoint_url, files.certificate) == ["s"]
    with pytest.raises(ConfigurationError, match="both"):
        Broker(tls_cert="x")
    with pytest.raises(ConfigurationError, match="cannot be used"), Broker.in_thread(tls_cert=files.key, tls_key=files.key):
        pass
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"), Broker.in_thread(tls=True, tls_dir=blocked / "x"):
        pass


def test_no_certificate_without_tls() -> None:
    with Broker.in_thread() as broker, pytest.raises(RuntimeError, match="tls=True"):
        _ = broker.certificate


def test_the_command_tells_where_the_certificate_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamlet", "broker", "--port", "0", "--shards", "s:1", "--tls-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        path = process.stderr.readline().split("=")[-1].strip()
        assert line.startswith("listening on https://127.0.0.1:")
        assert list_streams(line.split()[-1], Path(path)) == ["s"]
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")
