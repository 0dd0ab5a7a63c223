"""What do the bodies look like? Typed shapes of the calls that streamlet makes, decoded in one pass.

Only the members that streamlet reads are declared; msgspec skips the others without building them. `bytes` members are
base64 on the wire. Services in the wild send null for absent members, hence `| None`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "ErrorAnswer",
    "GetRecordsAnswer",
    "IteratorAnswer",
    "ListShardsAnswer",
    "PutEntry",
    "PutRecordsAnswer",
    "PutRecordsRequest",
    "PutResultEntry",
    "StreamSummary",
    "StreamSummaryAnswer",
    "WireRecord",
    "WireShard",
]


class WireRecord(msgspec.Struct, rename="pascal", frozen=True, gc=False):
    """One record of a GetRecords answer. A stream with automatic record distribution has no partition keys."""

    data: bytes
    sequence_number: str
    approximate_arrival_timestamp: float = 0.0
    partition_key: str | None = None


class GetRecordsAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """`next_shard_iterator` is None when the shard is closed and this was the last of it."""

    records: list[WireRecord]
    next_shard_iterator: str | None = None
    millis_behind_latest: int | None = None


class PutEntry(msgspec.Struct, rename="pascal", frozen=True, gc=False, omit_defaults=True):
    """One record of a PutRecords call. `explicit_hash_key` is decimal text."""

    data: bytes
    partition_key: str
    explicit_hash_key: str | None = None


class PutRecordsRequest(msgspec.Struct, rename="pascal", frozen=True):
    """A PutRecords call."""

    stream_name: str
    records: list[PutEntry]


class PutResultEntry(msgspec.Struct, rename="pascal", frozen=True, gc=False):
    """What came of one record: shard and sequence number, or an error code with its message."""

    shard_id: str | None = None
    sequence_number: str | None = None
    error_code: str | None = None
    error_message: str | None = None


class PutRecordsAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """One entry per record, in the order of the call."""

    records: list[PutResultEntry]
    failed_record_count: int | None = None


class IteratorAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """GetShardIterator's answer."""

    shard_iterator: str


class HashKeyRange(msgspec.Struct, rename="pascal", frozen=True):
    """Both ends inclusive, decimal text."""

    starting_hash_key: str
    ending_hash_key: str


class SequenceNumberRange(msgspec.Struct, rename="pascal", frozen=True):
    """An open shard has no end."""

    starting_sequence_number: str
    ending_sequence_number: str | None = None


class WireShard(msgspec.Struct, rename="pascal", frozen=True):
    """One shard of a ListShards answer."""

    shard_id: str
    hash_key_range: HashKeyRange
    sequence_number_range: SequenceNumberRange
    parent_shard_id: str | None = None
    adjacent_parent_shard_id: str | None = None


class ListShardsAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """One page."""

    shards: list[WireShard]
    next_token: str | None = None


class StreamSummary(msgspec.Struct, rename="pascal", frozen=True):
    """What streamlet reads of DescribeStreamSummary."""

    stream_name: str
    stream_status: str
    stream_arn: str = msgspec.field(default="", name="StreamARN")
    open_shard_count: int = 0
    retention_period_hours: int = 24
    max_record_size_in_kib: int | None = msgspec.field(default=None, name="MaxRecordSizeInKiB")


class StreamSummaryAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """DescribeStreamSummary's answer."""

    stream_description_summary: StreamSummary


class ErrorAnswer(msgspec.Struct, frozen=True):
    """An error body. The service spells the text's member in two ways."""

    type: str = msgspec.field(default="", name="__type")
    lower: str | None = msgspec.field(default=None, name="message")
    upper: str | None = msgspec.field(default=None, name="Message")

    @property
    def code(self) -> str:
        """The error's name without its namespace."""
        return self.type.rpartition("#")[2].partition(":")[0]

    @property
    def text(self) -> str:
        """What the service says about it."""
        return self.lower or self.upper or ""


GET_RECORDS: Final = msgspec.json.Decoder(GetRecordsAnswer)
PUT_RECORDS: Final = msgspec.json.Decoder(PutRecordsAnswer)
ITERATOR: Final = msgspec.json.Decoder(IteratorAnswer)
LIST_SHARDS: Final = msgspec.json.Decoder(ListShardsAnswer)
SUMMARY: Final = msgspec.json.Decoder(StreamSummaryAnswer)
ERROR: Final = msgspec.json.Decoder(ErrorAnswer)
ANYTHING: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()
