"""What does the broker take at most? Quotas of the service, and bounds of this server, with their units.

Sources: reference/kinesis-api.md section 2; where only this broker is meant, the comment says so.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BODY_BYTES_MAX",
    "CONSUMERS_CREATING_MAX",
    "CONSUMERS_MAX",
    "CONTROL_CALLS_PER_S",
    "DESCRIBE_SHARDS_MAX",
    "HEAD_BYTES_MAX",
    "ITERATOR_LIFE_MS",
    "LIST_CONSUMERS_MAX",
    "LIST_SHARDS_MAX",
    "LIST_STREAMS_DEFAULT",
    "MEMORY_BYTES_MAX",
    "ON_DEMAND_SHARDS",
    "ON_DEMAND_STREAMS_MAX",
    "PUT_BYTES_MAX",
    "READ_BYTES_MAX",
    "READ_RECORDS_MAX",
    "RECORD_BYTES_DEFAULT",
    "RETENTION_HOURS_MAX",
    "RETENTION_HOURS_MIN",
    "SCALED_SHARDS_MAX",
    "SEGMENT_BYTES",
    "SHARDS_MAX",
    "SHARD_ITERATORS_PER_S",
    "SHARD_READS_PER_S",
    "SHARD_READ_BYTES_PER_S",
    "SHARD_WRITE_BYTES_PER_S",
    "SHARD_WRITE_RECORDS_PER_S",
    "STREAMS_CREATING_MAX",
    "SUBSCRIBE_CALLS_PER_S",
    "TAGS_MAX",
    "WARM_MIBPS_MAX",
]

READ_RECORDS_MAX: Final = 10_000
READ_BYTES_MAX: Final = 10 * 1024 * 1024
PUT_BYTES_MAX: Final = 10 * 1024 * 1024  # data and partition keys of one PutRecords
RECORD_BYTES_DEFAULT: Final = 1024 * 1024  # unless the stream says otherwise (MaxRecordSizeInKiB)
ITERATOR_LIFE_MS: Final = 300_000  # also the life of a listing's NextToken
DESCRIBE_SHARDS_MAX: Final = 100
CONSUMERS_MAX: Final = 20  # per stream; 50 in an account with On-demand Advantage
CONSUMERS_CREATING_MAX: Final = 5
LIST_CONSUMERS_MAX: Final = 100
LIST_SHARDS_MAX: Final = 1_000
LIST_STREAMS_DEFAULT: Final = 100
ON_DEMAND_SHARDS: Final = 4
ON_DEMAND_STREAMS_MAX: Final = 50
STREAMS_CREATING_MAX: Final = 5
WARM_MIBPS_MAX: Final = 10 * 1024
SHARDS_MAX: Final = 20_000  # us-east-1
RETENTION_HOURS_MIN: Final = 24
SCALED_SHARDS_MAX: Final = 10_000  # that UpdateShardCount can reach
RETENTION_HOURS_MAX: Final = 8_760
TAGS_MAX: Final = 50

# Rates, enforced when asked (quotas.py).
SHARD_WRITE_RECORDS_PER_S: Final = 1_000
SHARD_WRITE_BYTES_PER_S: Final = 1024 * 1024  # data and partition keys
SHARD_READS_PER_S: Final = 5  # GetRecords
SHARD_READ_BYTES_PER_S: Final = 2 * 1024 * 1024  # of all GetRecords; each fan-out consumer has its own
SHARD_ITERATORS_PER_S: Final = 5  # per account
SUBSCRIBE_CALLS_PER_S: Final = 1  # per consumer and shard
CONTROL_CALLS_PER_S: Final = 5  # per account; exceptions are in quotas.RATES

# This server only. The body bound holds a full PutRecords: 10 MiB, a third more as base64, 500 keys with escapes.
BODY_BYTES_MAX: Final = 20 * 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
# Of the log, and of the records kept in memory beside it, for a broker that keeps its data.
SEGMENT_BYTES: Final = 64 * 1024 * 1024
MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
