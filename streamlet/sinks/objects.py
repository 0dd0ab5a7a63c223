"""Where do finished files go? Into a directory, a bucket or memory, behind one small, synchronous face.

    file://   our own writes: a temporary file, fsync, link() to the final name, fsync of the directory. (obstore's local store
              renames without fsync: after a power cut the checkpoint would stand and the file be empty.)
    s3://     obstore, with If-None-Match for put_if_absent
    memory:// a dictionary, shared by name within the process: memory://orders

No reader ever sees a part of a file, and a key that was taken stays as it is: both are what exactly-once rests on.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from streamlet.durable import make_directory, sync_directory
from streamlet.errors import ConfigurationError, SinkError

__all__ = ["ObjectStore"]

T = TypeVar("T")

_FORMS: Final = "s3://BUCKET/PREFIX, file:///DIRECTORY or memory://NAME"
# Hive, Spark, Athena and Arrow do not read names that begin with "_" or ".".
_MARKER: Final = "_streamlet/writable"
_TEMPORARY: Final = ".streamlet-"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

# A few quick repeats here; whoever holds a prepared range goes on trying for ever, and shows it.
_S3_RETRIES: Final = 3
_S3_RETRY_TIMEOUT_S: Final = 30


class ObjectStore:
    """Objects under a URL. Keys are relative to it, with "/" between segments. Safe for several threads.

    Options are for s3:// and are obstore's (`region`, `access_key_id`, `endpoint_url`, `allow_http`, …); without them the usual
    AWS_* variables count, also AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL. Plain http is for loopback, or with allow_http=True.
    Nothing is opened before the first call.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        scheme, separator, rest = url.partition("://")
        self._backend: _Backend
        match scheme if separator else "":
            case "file" if rest:
                self._backend = _Files(Path(unquote(rest)))
            case "memory":
                self._backend = _Memory(rest)
            case "s3" if rest and not rest.startswith("/"):
                bucket, _, prefix = rest.partition("/")
                self._backend = _S3(bucket, prefix.strip("/"), _s3_config(url, options, os.environ))
            case _:
                raise ConfigurationError(f"{url!r} names no object store; use {_FORMS}")
        if options and scheme != "s3":
            raise ConfigurationError(f"{', '.join(options)}: {scheme}:// takes no options")

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"  # no options: there may be secrets in them

    def check(self) -> None:
        """Can objects be created here, and are taken keys respected? Raises SinkError with what to do if not."""
        if not self._call(self._backend.respects_taken_keys):
            raise SinkError(
                f"{self.url} took the same new key twice (it ignores If-None-Match): nothing is exactly once there; use another store"
            )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object, durably and whole; False if there is one with this key. Raises SinkError."""
        return self._call(self._backend.put_if_absent, key, data)

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object, durably and whole. Raises SinkError."""
        self._call(self._backend.put, key, data)

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None if there is none. Raises SinkError."""
        return self._call(self._backend.get, key)

    def list(self, prefix: str = "") -> list[str]:
        """Keys below `prefix` (whole segments: "a" finds "a/b", not "ab"), sorted. Raises SinkError."""
        return self._call(self._backend.list, prefix)

    def _call(self, function: Callable[..., T], /, *args: Any) -> T:
        try:
            return function(*args)
        except OSError as error:
            raise SinkError(f"{self.url}: {_explained_os(error)}") from error


class _Backend(Protocol):
    def respects_taken_keys(self) -> bool: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def put(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes | None: ...
    def list(self, prefix: str) -> list[str]: ...


# ── memory:// ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Memory:
    _named: Final[dict[str, dict[str, bytes]]] = {}
    _lock: Final = threading.Lock()

    def __init__(self, name: str) -> None:
        with self._lock:
            self._objects: dict[str, bytes] = self._named.setdefault(name, {}) if name else {}

    def respects_taken_keys(self) -> bool:
        return True

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = data
            return True

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._objects[key] = data

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._objects.get(key)

    def list(self, prefix: str) -> list[str]:
        with self._lock:
            return sorted(key for key in self._objects if _below(prefix, key))


# ── file:// ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Files:
    # Unique within the process; the name also has the process's id.
    _numbers: Final = itertools.count()

    def __init__(self, root: Path) -> None:
        self._root = root

    def respects_taken_keys(self) -> bool:
        # Does all that put_if_absent does, and leaves nothing behind.
        first, second = self._written(self._root, b""), self._written(self._root, b"")
        try:
            os.link(first, second)
        except FileExistsError:
            second.unlink()
            os.link(first, second)
            return True
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)
        return False

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        # Only a saving: the link below decides.
        taken = target.exists()
        if not taken:
            temporary = self._written(target.parent, data)
            try:
                os.link(temporary, target)  # atomic, and fails if there is something: rename() would replace it
            except FileExistsError:
                taken = True
            finally:
                temporary.unlink()
        # Also when it was taken. Walk through it: a rival links its file; we find the key taken and commit the checkpoint; the
        # power fails before the rival's fsync of the directory; the checkpoint is past rows that no file holds.
        sync_directory(target.parent)
        return not taken

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        temporary = self._written(target.parent, data)
        try:
            temporary.replace(target)
        except OSError:
            temporary.unlink()
            raise
        sync_directory(target.parent)

    def get(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> list[str]:
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        return sorted(key for key in found if _below(prefix, key) and not key.rpartition("/")[2].startswith(_TEMPORARY))

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        assert not any(part in {"", ".", ".."} for part in parts), f"{key!r} is no key"
        return self._root.joinpath(*parts)

    def _written(self, directory: Path, data: bytes) -> Path:
        """A temporary file with these bytes on the disk, in the directory that it will be linked into."""
        make_directory(directory)
        while True:
            temporary = directory / f"{_TEMPORARY}{os.getpid()}-{next(self._numbers)}.tmp"
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                break
            except FileExistsError:
                continue  # left by a killed process of the same id; containers start at the same one each time
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink()
            raise
        return temporary


def _explained_os(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "the disk is full; free some space, and it is tried again"
        case errno.EACCES | errno.EROFS:
            return f"this user may not write there ({error.filename}); change the permissions, or name another directory"
        case errno.EPERM | errno.ENOTSUP | errno.EXDEV | errno.EMLINK:
            return f"its file system refuses hard links ({error.strerror}), which files are published with; use a local disk"
        case errno.ENOTDIR | errno.EEXIST:
            return "a part of its path is a file, not a directory; name another directory"
        case errno.ENAMETOOLONG:
            return "a file name is too long for the file system; use shorter partition values"
        case _:
            return error.strerror or str(error)


# ── s3:// ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _S3:
    def __init__(self, bucket: str, prefix: str, config: Mapping[str, Any]) -> None:
        self._bucket, self._prefix, self._config = bucket, prefix, config
        self._lock = threading.Lock()
        self._opened: Any = None

    def respects_taken_keys(self) -> bool:
        # Leaves an empty object: a writer may not have the right to delete. S3 looks at rights before it looks at the key, so
        # this finds missing ones also when the object is there.
        return not (self.put_if_absent(_MARKER, b"") and self.put_if_absent(_MARKER, b""))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        import obstore.exceptions

        try:
            self._call("put", key, data, mode="create")
        except obstore.exceptions.AlreadyExistsError as error:
            # obstore says this for 412 (the key is taken) and for 409 (somebody is just writing it, and may yet fail). To take
            # the second for the first, and commit, would lose the rows: so look.
            if self._exists(key):
                return False
            raise SinkError(f"s3://{self._bucket}: another writer is just creating {key}; it is tried again") from error
        return True

    def put(self, key: str, data: bytes) -> None:
        self._call("put", key, data)

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self._call("get", key).bytes())
        except _Absent:
            return None

    def list(self, prefix: str) -> list[str]:
        found = [entry["path"] for page in self._call("list", prefix or None) for entry in page]
        return sorted(found)

    def _exists(self, key: str) -> bool:
        try:
            self._call("head", key)
        except _Absent:
            return False
        return True

    def _call(self, method: str, /, *args: Any, **keywords: Any) -> Any:
        import obstore.exceptions

        try:
            return getattr(self._store(), method)(*args, **keywords)
        except obstore.exceptions.AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if method in {"get", "head"} and "NoSuchBucket" not in str(error):
                raise _Absent from error
            raise SinkError(f"s3://{self._bucket}: there is no such bucket; create it, or correct its name or region") from error
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise SinkError(f"s3://{self._bucket}: {_explained_s3(error, self._config)}") from error

    def _store(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        from datetime import timedelta

        import obstore.exceptions
        from obstore.store import S3Store

        config = dict(self._config)
        allow_http = bool(config.pop("allow_http", False))
        try:
            return S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=config,  # type: ignore[arg-type]
                client_options={"allow_http": allow_http},
                retry_config={"max_retries": _S3_RETRIES, "retry_timeout": timedelta(seconds=_S3_RETRY_TIMEOUT_S)},
            )
        except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
            raise ConfigurationError(f"s3://{self._bucket}: {_first_line(error)}") from error


class _Absent(Exception):
    """There is no object of this key."""


def _s3_config(url: str, options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    config = dict(options)
    endpoint = config.pop("endpoint_url", None) or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    allowed = str(config.pop("allow_http", environ.get("AWS_ALLOW_HTTP", ""))).lower() in {"true", "1"}
    if endpoint is None:
        return config
    parts = urlsplit(str(endpoint))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"{url}: endpoint {endpoint!r} is no http(s) URL")
    if parts.scheme == "http" and not allowed and parts.hostname not in _LOOPBACK:
        raise ConfigurationError(f"{url}: {endpoint} would carry your data in the clear; use https, or say allow_http=True")
    return {**config, "endpoint": str(endpoint), "allow_http": parts.scheme == "http"}


def _explained_s3(error: Exception, config: Mapping[str, Any]) -> str:
    import obstore.exceptions

    text = str(error)
    if isinstance(error, obstore.exceptions.UnauthenticatedError) or any(code in text for code in _BAD_CREDENTIALS):
        return "the credentials are wrong or have expired; check AWS_ACCESS_KEY_ID and the other AWS_* variables"
    if isinstance(error, obstore.exceptions.PermissionDeniedError):
        return "access is refused; allow s3:PutObject and s3:GetObject on this prefix, or use other credentials"
    if "/latest/" in text or "169.254.170" in text:
        return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role"
    if "error sending request" in text or "Connect" in text:
        return f"{config.get('endpoint', 'S3')} cannot be reached; it is tried again"
    if "incorrectly configured region" in text:
        return "the bucket is in another region; set AWS_REGION to it"
    return _first_line(error)


_BAD_CREDENTIALS: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


def _first_line(error: Exception) -> str:
    # obstore appends its whole error tree below the first line.
    return str(error).partition("\n")[0].strip() or type(error).__name__


def _below(prefix: str, key: str) -> bool:
    prefix = prefix.strip("/")
    return not prefix or key == prefix or key.startswith(prefix + "/")
