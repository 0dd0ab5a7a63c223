"""Whose fault is it? Every exception that streamlet raises, in one tree.

    StreamletError
    ├── UsageError                 your call: fix the program or the command line (exit code 2)
    │   ├── ConfigurationError     an option is unknown, out of range, or contradicts another
    │   └── HandlerError           a handler is not a handler, or returned what no handler may return
    ├── ServiceError               the other side answered with an error, or did not answer
    │   ├── Throttled              asked too fast: wait, then ask again
    │   ├── Unavailable            no answer, or a 5xx: whether it was applied is unknown
    │   ├── NotFound               the stream, shard or bucket is not there
    │   ├── AccessRefused          credentials are missing, wrong, or not allowed to do this
    │   ├── IteratorExpired        a shard iterator outlived its five minutes
    │   ├── IteratorRefused        the service calls a position invalid (a re-created stream, a foreign sequence number)
    │   └── RequestRefused         any other 4xx: asking again will not help
    ├── RecordError                one record: what is around it goes on
    │   ├── DecodeError            its bytes are not what decode= says
    │   ├── RowError               its row does not fit the sink's schema
    │   └── RecordTooLarge         it can never be put into this stream
    ├── LeaseLost                  another worker holds the shard now: stop, write nothing
    ├── StoreError                 the lease store cannot be read or written
    ├── SinkError                  the object store refuses a file
    │   ├── FileTaken              somebody else's file is under our key
    │   └── ReplayDiffers          a re-made file is not the prepared one: the handler is not deterministic
    └── InternalError              our bug: please report it

`except RecordError` never hides a dead service; `except ServiceError` never hides a mistake in the call.
"""

from __future__ import annotations

__all__ = [
    "AccessRefused",
    "ConfigurationError",
    "DecodeError",
    "FileTaken",
    "HandlerError",
    "InternalError",
    "IteratorExpired",
    "IteratorRefused",
    "LeaseLost",
    "NotFound",
    "RecordError",
    "RecordTooLarge",
    "ReplayDiffers",
    "RequestRefused",
    "RowError",
    "ServiceError",
    "SinkError",
    "StoreError",
    "StreamletError",
    "Throttled",
    "Unavailable",
    "UsageError",
]


class StreamletError(Exception):
    """Base of everything that streamlet raises."""


class UsageError(StreamletError):
    """Your call is wrong. The message says what to do; a command line shows it without a traceback and exits with 2."""


class ConfigurationError(UsageError):
    """An option is unknown, out of range, or contradicts another one. Raised when the value is built, not at run time."""


class HandlerError(UsageError):
    """A handler is not callable, takes the wrong arguments, or returned something that no handler may return."""


class ServiceError(StreamletError):
    """The service answered with an error, or not at all.

    `code` is the service's own name for it (`ProvisionedThroughputExceededException`), `status` the HTTP status
    (0 when there was no answer), `operation` what was asked.
    """

    def __init__(self, message: str, *, code: str = "", status: int = 0, operation: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.operation = operation


class Throttled(ServiceError):
    """Asked too fast. Nothing was done; the same call may go through later."""


class Unavailable(ServiceError):
    """No answer, a broken connection, or a 5xx. The call may or may not have been applied."""


class NotFound(ServiceError):
    """The stream, shard, table or bucket does not exist."""


class AccessRefused(ServiceError):
    """Credentials are missing, wrong, expired, or not allowed to make this call."""


class IteratorExpired(ServiceError):
    """A shard iterator is older than its five minutes; a new one continues from the last position."""


class IteratorRefused(ServiceError):
    """The service does not accept a position: it belongs to another shard, or to a stream that was deleted and made anew."""


class RequestRefused(ServiceError):
    """Any other refusal. Asking again changes nothing."""


class RecordError(StreamletError):
    """One record cannot be handled. The records around it go on."""


class DecodeError(RecordError):
    """A record's bytes are not what `decode=` says they are."""


class RowError(RecordError):
    """A row does not fit the sink's schema. `index` is the record's index within the batch that was handed over."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class RecordTooLarge(RecordError):
    """A record is larger than the stream takes (data and partition key together)."""


class LeaseLost(StreamletError):
    """Another worker holds the shard now. Whoever sees this stops at once and writes nothing more."""


class StoreError(StreamletError):
    """The lease store cannot be opened, read or written. After a failed write it is unknown whether it was applied."""


class SinkError(StreamletError):
    """The object store refuses a file, or cannot be reached. The range stays prepared and is tried again."""


class FileTaken(SinkError):
    """Another app's file, or one of an earlier life whose state is gone, is under the key of a new file, with other content."""


class ReplayDiffers(SinkError):
    """A file of a prepared range came out differently when it was made again.

    The way from record to row and partition must be deterministic: no wall clock, no random numbers.
    """


class InternalError(StreamletError):
    """Something that cannot happen did. It is a bug in streamlet; please report it with the message."""
