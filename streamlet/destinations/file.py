"""Where do given-up records go when there is no AWS? Into a file, one JSON document per line.

Each line is what Lambda would put into S3 (see `document`): what happened, and the records themselves, so that
`jq '.payload.Records[].kinesis.data' failed.jsonl` has everything that is needed to try again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import msgspec
import orjson

from streamlet.destinations.document import failure_document
from streamlet.durable import make_directory, sync_directory
from streamlet.errors import ConfigurationError, SinkError
from streamlet.ports import FailureDocument

__all__ = ["FileDestination"]


class FileDestination(msgspec.Struct, frozen=True):
    """Appends failure documents to `path`, durably: `send` returns when the line is on the disk. At least once: after a crash
    a document may stand twice, with the same `requestContext.requestId`.

    Any number of processes may append to one file. The directory is created when the first document comes.
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        given: object = self.path  # annotations bind nobody at run time
        if not isinstance(given, str | os.PathLike) or not os.fspath(given):
            raise ConfigurationError(f"FileDestination({given!r}): name a file, as in FileDestination('failed.jsonl')")

    def send(self, document: FailureDocument) -> None:
        """Append one line. Raises SinkError, and leaves no part of the line behind, when the disk does not take it."""
        line = orjson.dumps(failure_document(document, payload=True), option=orjson.OPT_APPEND_NEWLINE)
        path = Path(os.fspath(self.path))
        try:
            make_directory(path.parent)
            fresh = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # One writer at a time: what one finds at the end of the file is what it appends to.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _append(descriptor, line)
            finally:
                os.close(descriptor)
            if fresh:
                sync_directory(path.parent)
        except OSError as error:
            raise SinkError(f"failure documents cannot be written to {path}: {_explained(error)}") from error


def _append(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        # A crash tore the last line: close it, so that only that one is lost (it was never reported as delivered).
        line = b"\n" + line
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _explained(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "the disk is full; free some space, and it is tried again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "this user may not write there; change the permissions, or name another file"
        case errno.EISDIR:
            return "it is a directory; name a file in it"
        case errno.ENOTDIR | errno.EEXIST:
            return "a part of its path is a file; name another path"
        case _:
            return error.strerror or str(error)
