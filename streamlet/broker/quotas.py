"""How fast may a shard, a consumer and an account be asked? The service's rates, enforced when asked (`enforce_limits`).

Token buckets on the broker's own clock: a bucket holds one second's worth, starts full and fills evenly, so that after a
pause a second's worth may come at once. What is refused takes nothing out. The numbers are in RATES and in limits.py.

Choices where the service's description leaves room:
- A record of more than one second's worth (1 MiB) is let in by a full bucket and leaves it in debt: a shard that was
  idle takes a record of 10 MiB, and the 10 s after it repay. So the mean rate holds.
- A read is paid when its size is known. An answer of up to 2 MiB comes out of the bucket; a larger one empties it and
  leaves the whole answer as debt, so that 10 MiB block the shard's reads for 5 s, however long it was idle before.
- In a PutRecords each record is judged by itself, in request order: a small one may pass where a large one before it
  did not.
- On-demand streams have the rates of their open shards, as if they were provisioned: 4 shards at the start are the 4
  MiB/s in and 8 MiB/s out of a new on-demand stream. They do not grow by themselves. Warm throughput changes nothing.
- Control calls are counted per account and region, also for those that name a stream, except as RATES says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from streamlet.broker.errors import ApiError
from streamlet.broker.limits import (
    CONTROL_CALLS_PER_S,
    SHARD_ITERATORS_PER_S,
    SHARD_READ_BYTES_PER_S,
    SHARD_READS_PER_S,
    SHARD_WRITE_BYTES_PER_S,
    SHARD_WRITE_RECORDS_PER_S,
    SUBSCRIBE_CALLS_PER_S,
)
from streamlet.broker.shard import shard_name
from streamlet.broker.stream import Stream

__all__ = ["RATES", "Bucket", "Quotas", "Throttles", "throttle_text"]

Scope = Literal["account", "stream"]
Reason = Literal["write_records", "write_bytes", "reads", "read_bytes", "iterators", "subscribes", "control"]


class Rate(NamedTuple):
    """Calls per second, and of what."""

    per_s: int
    scope: Scope = "account"


RATES: Final = MappingProxyType(
    {
        **{
            name: Rate(CONTROL_CALLS_PER_S)
            for name in (
                *("CreateStream", "DeleteStream", "ListStreams", "MergeShards", "SplitShard", "RegisterStreamConsumer"),
                *("AddTagsToStream", "RemoveTagsFromStream", "ListTagsForStream", "TagResource", "UntagResource", "ListTagsForResource"),
                *("IncreaseStreamRetentionPeriod", "DecreaseStreamRetentionPeriod", "StartStreamEncryption", "StopStreamEncryption"),
                *("EnableEnhancedMonitoring", "DisableEnhancedMonitoring", "DescribeAccountSettings", "UpdateAccountSettings"),
                *("UpdateStreamMode", "UpdateStreamWarmThroughput", "UpdateMaxRecordSize"),
            )
        },
        "DeregisterStreamConsumer": Rate(CONTROL_CALLS_PER_S, "stream"),
        "ListStreamConsumers": Rate(CONTROL_CALLS_PER_S, "stream"),
        "DescribeLimits": Rate(1),
        "DescribeStream": Rate(10),
        "UpdateShardCount": Rate(10),
        "DescribeStreamSummary": Rate(20),
        "DescribeStreamConsumer": Rate(20, "stream"),
        "ListShards": Rate(1_000, "stream"),
    }
)

_BUCKETS_MAX: Final = 20_000  # then the full ones, which say nothing, are let go
_COUNTS_MAX: Final = 20_000


class Bucket:
    """Fills by `per_s` units a second up to one second's worth. Whole numbers: units are kept in thousandths."""

    __slots__ = ("_at_ms", "_level", "per_s")

    def __init__(self, per_s: int, now_ms: int) -> None:
        self.per_s = per_s
        self._level = per_s * 1000
        self._at_ms = now_ms

    def _fill(self, now_ms: int) -> int:
        # A clock that went back gives nothing and takes nothing: it is filled from there on.
        passed_ms = now_ms - self._at_ms
        self._at_ms = now_ms
        if passed_ms > 0:
            self._level = min(self.per_s * 1000, self._level + passed_ms * self.per_s)
        return self._level

    def holds(self, units: int, now_ms: int) -> bool:
        """May so many units be taken? More than it can hold may be, when it is full."""
        return self._fill(now_ms) >= min(units, self.per_s) * 1000

    def take(self, units: int) -> None:
        """Take units out, into debt if need be."""
        self._level -= units * 1000

    def is_above_zero(self, now_ms: int) -> bool:
        """Is anything in it?"""
        return self._fill(now_ms) > 0

    def is_full(self, now_ms: int) -> bool:
        """Is it as good as new?"""
        return self._fill(now_ms) == self.per_s * 1000

    def empty(self) -> None:
        """Forget what was saved up; a debt stays."""
        self._level = min(self._level, 0)


class Throttles(NamedTuple):
    """How often a limit has refused. Control calls and subscribes count under the operation or consumer, with shard -1."""

    account: str
    region: str
    name: str
    shard: int
    reason: Reason
    times: int


class Quotas:
    """All buckets of a broker."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[object, ...], Bucket] = {}
        self._throttles: Counter[tuple[str, str, str, int, Reason]] = Counter()

    def snapshot(self) -> tuple[Throttles, ...]:
        """What was refused so far, in the order of the first time."""
        return tuple(Throttles(*key, times) for key, times in self._throttles.items())

    # --- the data plane -----------------------------------------------------------------------------------------------

    def refused(self, stream: Stream, routes: Sequence[int], sizes: Iterable[int], now_ms: int) -> set[int]:
        """Take records in, in request order; the indices of those that come too fast. `routes` are shards by number."""
        refused = set()
        for index, (shard, size) in enumerate(zip(routes, sizes, strict=True)):
            if not self.put(stream, shard, size, now_ms):
                refused.add(index)
        return refused

    def put(self, stream: Stream, shard: int, size: int, now_ms: int) -> bool:
        """Take one record of `size` bytes (data and key) in, unless it comes too fast."""
        records = self._bucket(("records", stream.incarnation, shard), SHARD_WRITE_RECORDS_PER_S, now_ms)
        volume = self._bucket(("bytes", stream.incarnation, shard), SHARD_WRITE_BYTES_PER_S, now_ms)
        if not records.holds(1, now_ms):
            self._count(stream, shard, "write_records")
            return False
        if not volume.holds(size, now_ms):
            self._count(stream, shard, "write_bytes")
            return False
        records.take(1)
        volume.take(size)
        return True

    def read(self, stream: Stream, shard: int, now_ms: int, account: str) -> None:
        """Let a GetRecords begin. Raises ProvisionedThroughputExceededException."""
        calls = self._bucket(("reads", stream.incarnation, shard), SHARD_READS_PER_S, now_ms)
        volume = self._bucket(("read bytes", stream.incarnation, shard), SHARD_READ_BYTES_PER_S, now_ms)
        reason: Reason | None = None
        if not volume.is_above_zero(now_ms):
            reason = "read_bytes"
        elif not calls.holds(1, now_ms):
            reason = "reads"
        if reason is not None:
            self._count(stream, shard, reason)
            raise _too_fast("GetRecords", stream, shard, account)
        calls.take(1)

    def was_read(self, stream: Stream, shard: int, size: int, now_ms: int) -> None:
        """Pay for an answer of `size` bytes of data and keys."""
        volume = self._bucket(("read bytes", stream.incarnation, shard), SHARD_READ_BYTES_PER_S, now_ms)
        if size > SHARD_READ_BYTES_PER_S:
            volume.empty()
        volume.take(size)

    def iterator(self, stream: Stream, shard: int, now_ms: int, account: str) -> None:
        """Let a GetShardIterator pass. Raises ProvisionedThroughputExceededException."""
        if not self._pass(("iterators", account, stream.incarnation, shard), SHARD_ITERATORS_PER_S, now_ms):
            self._count(stream, shard, "iterators")
            raise _too_fast("GetShardIterator", stream, shard, account)

    def subscribe(self, stream: Stream, consumer: str, shard: int, now_ms: int, account: str) -> None:
        """Let a SubscribeToShard of a consumer (by ARN) pass. Raises LimitExceededException."""
        if not self._pass(("subscribes", consumer, shard), SUBSCRIBE_CALLS_PER_S, now_ms):
            self._count(stream, shard, "subscribes")
            raise ApiError("LimitExceededException", throttle_text("SubscribeToShard", account, stream.name))

    # --- the control plane --------------------------------------------------------------------------------------------

    def control(self, operation: str, named: str | None, account: str, region: str, now_ms: int) -> None:
        """Let a control call pass, which names a stream or none. Raises LimitExceededException."""
        rate = RATES.get(operation)
        if rate is None:
            return
        scope = named if rate.scope == "stream" else None
        if not self._pass(("control", operation, account, region, scope), rate.per_s, now_ms):
            self._add((account, region, operation, -1, "control"))
            raise ApiError("LimitExceededException", throttle_text(operation, account, named))

    # --- within -------------------------------------------------------------------------------------------------------

    def _pass(self, key: tuple[object, ...], per_s: int, now_ms: int) -> bool:
        bucket = self._bucket(key, per_s, now_ms)
        if not bucket.holds(1, now_ms):
            return False
        bucket.take(1)
        return True

    def _bucket(self, key: tuple[object, ...], per_s: int, now_ms: int) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _BUCKETS_MAX:
                self._buckets = {key: kept for key, kept in self._buckets.items() if not kept.is_full(now_ms)}
            bucket = self._buckets[key] = Bucket(per_s, now_ms)
        return bucket

    def _count(self, stream: Stream, shard: int, reason: Reason) -> None:
        self._add((stream.account, stream.region, stream.name, shard, reason))

    def _add(self, key: tuple[str, str, str, int, Reason]) -> None:
        if key not in self._throttles and len(self._throttles) >= _COUNTS_MAX:
            del self._throttles[next(iter(self._throttles))]
        self._throttles[key] += 1


def _too_fast(operation: str, stream: Stream, shard: int, account: str) -> ApiError:
    return ApiError("ProvisionedThroughputExceededException", throttle_text(operation, account, stream.name, shard))


def throttle_text(operation: str, account: str, stream: str | None = None, shard: int | None = None) -> str:
    """The service's words for a call that comes too fast (reference/errors.md, section 7); reads have a form of their own."""
    if stream is None:
        return f"Rate exceeded for account {account}."
    if shard is None:
        return f"Rate exceeded for stream {stream} under account {account}."
    if operation in {"GetRecords", "GetShardIterator"}:
        return f"Rate exceeded for Shard - {account}/{stream}/{shard_name(shard)}"
    return f"Rate exceeded for shard {shard_name(shard)} in stream {stream} under account {account}."
