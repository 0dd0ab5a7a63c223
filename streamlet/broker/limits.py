"""What does the broker take at most? Quotas of the service, and bounds of this server, with their units.

Sources: reference/kinesis-api.md section 2; where only this broker is meant, the comment says so.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BODY_BYTES_MAX",
    "DESCRIBE_SHARDS_MAX",
    "HEAD_BYTES_MAX",
    "ITERATOR_LIFE_MS",
    "LIST_SHARDS_MAX",
    "LIST_STREAMS_DEFAULT",
    "ON_DEMAND_SHARDS",
    "PUT_BYTES_MAX",
    "READ_BYTES_MAX",
    "READ_RECORDS_MAX",
    "RECORD_BYTES_DEFAULT",
    "RETENTION_HOURS_MAX",
    "RETENTION_HOURS_MIN",
    "SHARDS_MAX",
    "TAGS_MAX",
]

READ_RECORDS_MAX: Final = 10_000
READ_BYTES_MAX: Final = 10 * 1024 * 1024
PUT_BYTES_MAX: Final = 10 * 1024 * 1024  # data and partition keys of one PutRecords
RECORD_BYTES_DEFAULT: Final = 1024 * 1024  # unless the stream says otherwise (MaxRecordSizeInKiB)
ITERATOR_LIFE_MS: Final = 300_000  # also the life of a listing's NextToken
DESCRIBE_SHARDS_MAX: Final = 100
LIST_SHARDS_MAX: Final = 1_000
LIST_STREAMS_DEFAULT: Final = 100
ON_DEMAND_SHARDS: Final = 4
SHARDS_MAX: Final = 20_000  # us-east-1
RETENTION_HOURS_MIN: Final = 24
RETENTION_HOURS_MAX: Final = 8_760
TAGS_MAX: Final = 50

# This server only. The body bound holds a full PutRecords: 10 MiB, a third more as base64, 500 keys with escapes.
BODY_BYTES_MAX: Final = 20 * 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
