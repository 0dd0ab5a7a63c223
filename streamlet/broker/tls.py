"""How does the broker speak TLS? With a certificate that it makes for itself, or with a given one.

A made one stays in its folder and is used again while it is valid, so that a client is told to trust it only once
(`AWS_CA_BUNDLE`, `NODE_EXTRA_CA_CERTS`). It is its own authority, for this machine's loopback names and addresses.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from streamlet.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Certificate", "context", "default_folder", "files_in", "self_signed"]

_LIFE: Final = timedelta(days=397)  # browsers take no longer-lived ones
_RENEW_BEFORE: Final = timedelta(days=7)
_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Certificate(NamedTuple):
    """Two PEM files."""

    certificate: Path
    key: Path


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where a program keeps its certificate: this user's cache."""
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "streamlet" / "tls"


def context(files: Certificate) -> ssl.SSLContext:
    """For a server that offers HTTP/2 (where the package h2 is installed) and HTTP/1.1. Raises ConfigurationError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(files.certificate, files.key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"the certificate {files.certificate} with the key {files.key} cannot be used: {error}") from error
    made.set_alpn_protocols(["h2", "http/1.1"] if find_spec("h2") else ["http/1.1"])
    return made


def files_in(folder: Path) -> Certificate:
    """The names of a made certificate's files."""
    return Certificate(folder / "streamlet-broker.pem", folder / "streamlet-broker.key")


def self_signed(folder: Path, now: datetime, host: str = "localhost") -> Certificate:
    """The folder's certificate, made anew where there is none that will do. Raises ConfigurationError."""
    try:
        from cryptography import x509
    except ImportError:
        raise ConfigurationError("--tls makes a certificate with the package cryptography: pip install 'streamlet[broker]'") from None
    files = files_in(folder)
    names = list(dict.fromkeys((*_NAMES, host)))
    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = {str(name.value) for name in alternatives}
        if files.key.exists() and found.not_valid_after_utc - _RENEW_BEFORE > now and known >= set(names):
            return files
    except (OSError, ValueError, x509.ExtensionNotFound):
        pass  # there is none, or it is not one of ours
    try:
        _make(files, names, now)
    except OSError as error:
        raise ConfigurationError(f"cannot write a certificate into {folder}: {error.strerror or error}") from error
    return files


def _make(files: Certificate, names: list[str], now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "streamlet broker")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, traditional = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.parent.mkdir(parents=True, exist_ok=True)
    _write(files.key, key.private_bytes(pem, traditional, serialization.NoEncryption()), 0o600)
    _write(files.certificate, certificate.public_bytes(pem), 0o644)


def _name(text: str) -> x509.GeneralName:
    import ipaddress

    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(path: Path, content: bytes, mode: int) -> None:
    """In one step, so that nobody reads half a file; a key is never readable for others, not even for a moment."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    scratch.replace(path)
