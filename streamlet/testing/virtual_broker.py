"""What does a virtual worker read from? The broker's own state and operations, without a socket, on a clock that only a run moves.

Everything is real but the network: lineage, hash ranges, iterator expiry, retention, faults. What is asked for later (`after_s`)
happens when a run's clock has come there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any, Final

import msgspec

from streamlet.broker.faults import Faults
from streamlet.broker.http import Request
from streamlet.broker.inline import EPOCH_S, InlineBroker
from streamlet.broker.shard import shard_name
from streamlet.errors import ConfigurationError
from streamlet.model.shard import Shard
from streamlet.ports import Lease
from streamlet.stores.idempotency import MemoryIdempotency
from streamlet.stores.memory import MemoryLeaseStore
from streamlet.testing.events import key_of, payload
from streamlet.testing.virtual import VirtualClock

__all__ = ["SeenLeases", "VirtualBroker", "VirtualTransport"]

_PUT_MAX: Final = 500  # records in a PutRecords, API model


class SeenLeases(MemoryLeaseStore):
    """Leases in memory that show when a checkpoint moves."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: Callable[[Lease], None] = lambda lease: None

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        """As the store does."""
        before = self.read(lease.key)
        written = super().write(lease, if_counter=if_counter)
        if written and before is not None and before.checkpoint != lease.checkpoint:
            self.moved(lease)
        return written


class VirtualBroker:
    """Streams in memory, and the checkpoints and idempotency markers of the apps that have read them: a second run goes on where
    the first stopped.

        broker = VirtualBroker(streams={"orders": 2})
        broker.put("orders", {"n": 1}, {"n": 2}, key=lambda value: str(value["n"]))
        broker.put("orders", {"n": 3}, after_s=90)
        broker.split_shard("orders", 0, after_s=60)
        broker.faults.add(Throttle("GetRecords", times=3))

    `seed` is that of the faults' chances; `epoch_s` the time at the start, in epoch seconds; `enforce_limits` the service's
    rates. Time passes in runs and by `advance`, never by itself.
    """

    def __init__(
        self, *, streams: Mapping[str, int] | None = None, seed: int = 0, epoch_s: float = EPOCH_S, enforce_limits: bool = False
    ) -> None:
        self._inline = InlineBroker(now_s=epoch_s, faults_seed=seed, enforce_limits=enforce_limits)
        self._later: list[tuple[float, int, Callable[[], Any]]] = []
        self._orders = 0
        self._leases: dict[tuple[str, str], SeenLeases] = {}
        self.markers = MemoryIdempotency(clock=lambda: self.now_s)
        for name, shards in (streams or {}).items():
            self.create_stream(name, shards)

    @property
    def now_s(self) -> float:
        """Epoch seconds."""
        return self._inline.now_s

    @property
    def faults(self) -> Faults:
        """What shall go wrong: `faults.add(...)`, with the values of `streamlet.broker.faults`."""
        return self._inline.faults

    def call(self, operation: str, **members: Any) -> Any:
        """Any operation of the API, members as the API names them: `call("ListShards", StreamName="orders")`. Raises ApiError."""
        return self._inline.front.call(operation, members)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────

    def create_stream(self, stream: str, shards: int = 1) -> None:
        """Make a stream; it is there at once."""
        self.call("CreateStream", StreamName=stream, ShardCount=shards)

    def has_stream(self, stream: str) -> bool:
        """Is it there?"""
        return self._inline.state.find_by_name(stream, self._inline.state.now_ms) is not None

    def put(
        self, stream: str, *values: Any, key: str | Callable[[Any], str] = "key", shard: int | None = None, after_s: float = 0.0
    ) -> None:
        """Put records, in order: `bytes` as they are, every other value (a dataclass or msgspec.Struct, too) as JSON. A stream that is
        not there is made, with one shard.

        `key` is their partition key, or gives one for a value; `shard` sends them to the shard of that number, whatever
        their key. With `after_s` they arrive in the next run, that many seconds from now.
        """
        entries = [{"Data": payload(value), "PartitionKey": key_of(value, key)} for value in values]

        def work() -> None:
            if not self.has_stream(stream):
                self.create_stream(stream)
            where = {} if shard is None else {"ExplicitHashKey": str(self._shard(stream, shard).starting_hash_key)}
            for begin in range(0, len(entries), _PUT_MAX):
                self._put(stream, [entry | where for entry in entries[begin : begin + _PUT_MAX]])

        self.at(after_s, work)

    def _put(self, stream: str, records: list[dict[str, Any]]) -> None:
        # As a client's call, not as the owner's: the faults that follow a put (Reshard, DuplicatePut) are to see it.
        answer = self._inline.post("PutRecords", msgspec.json.encode({"StreamName": stream, "Records": records}))
        body = msgspec.json.decode(b"".join(answer.body)) if answer.body else {}
        if answer.status != 200 or answer.dropped or body["FailedRecordCount"]:
            refused = sorted({record["ErrorCode"] for record in body.get("Records", ()) if "ErrorCode" in record})
            said = refused or [text for name in ("__type", "message") if (text := body.get(name))] or ["the connection was reset"]
            why = ": ".join(said).rstrip(".")
            raise ConfigurationError(
                f"put({stream!r}) did not take every record: {why}. Armed faults and enforced limits strike what a test puts, too: "
                "put first, or give the fault another operation"
            )

    def split_shard(self, stream: str, shard: int, *, after_s: float = 0.0) -> None:
        """Split a shard, by its number, in the middle of its hash range."""

        def work() -> None:
            found = self._shard(stream, shard)
            middle = (found.starting_hash_key + found.ending_hash_key + 1) // 2
            self.call("SplitShard", StreamName=stream, ShardToSplit=found.shard_id, NewStartingHashKey=str(middle))

        self.at(after_s, work)

    def merge_shards(self, stream: str, shard: int, other: int, *, after_s: float = 0.0) -> None:
        """Merge two neighbours, by their numbers."""
        members = {"ShardToMerge": shard_name(shard), "AdjacentShardToMerge": shard_name(other)}
        self.at(after_s, lambda: self.call("MergeShards", StreamName=stream, **members))

    def _shard(self, stream: str, number: int) -> Shard:
        for shard in self.call("ListShards", StreamName=stream)["Shards"]:
            if shard["ShardId"] == shard_name(number):
                keys = shard["HashKeyRange"]
                return Shard(shard["ShardId"], int(keys["StartingHashKey"]), int(keys["EndingHashKey"]))
        raise ConfigurationError(f"stream {stream!r} has no shard {number}")

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def at(self, after_s: float, action: Callable[[], Any]) -> None:
        """Do something `after_s` seconds from now, in a run or in `advance`; at once if that is 0."""
        if not after_s >= 0:
            raise ConfigurationError(f"after_s={after_s!r}: must be 0 or more seconds from now")
        if after_s == 0:
            action()
            return
        self._orders += 1
        heappush(self._later, (self.now_s + after_s, self._orders, action))

    def advance(self, seconds: float) -> None:
        """Let time pass without a worker: records age, retention removes them, iterators expire."""
        if not seconds >= 0:
            raise ConfigurationError(f"advance({seconds!r}): time goes forward only")
        self.move_to(self.now_s + seconds)

    @property
    def next_s(self) -> float | None:
        """When something is to happen next, epoch seconds; None if nothing is."""
        return self._later[0][0] if self._later else None

    def move_to(self, now_s: float) -> None:
        """Set the clock, and do what is due until then."""
        while self._later and self._later[0][0] <= now_s:
            due_s, _, action = heappop(self._later)
            self._inline.now_s = max(self.now_s, due_s)
            action()
        self._inline.now_s = max(self.now_s, now_s)

    # ── for runs ─────────────────────────────────────────────────────────────────────────────────────────────────

    def leases(self, app_name: str, stream: str) -> SeenLeases:
        """The leases of an app on a stream."""
        return self._leases.setdefault((app_name, stream), SeenLeases())

    async def answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """What the operations' HTTP answer would be, after the faults that are armed. Raises ConnectionResetError for one of them."""
        answer = self._inline.front.answer(
            Request("POST", "/", {name.lower(): value for name, value in headers.items()}, body, keep_alive=True)
        )
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.dropped:
            raise ConnectionResetError("the connection was reset (a fault)")
        return answer.status, b"".join(answer.body)


class VirtualTransport:
    """The virtual broker's answers, for a KinesisClient."""

    def __init__(self, broker: VirtualBroker, clock: VirtualClock) -> None:
        self._broker, self._clock = broker, clock

    async def request(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body, at the clock's time."""
        self._broker.move_to(self._clock.time())
        return await self._broker.answer(headers, body)

    async def close(self) -> None:
        """Nothing is open."""
