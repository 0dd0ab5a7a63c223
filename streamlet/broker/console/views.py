"""What is there to see? The broker's facts, its streams, a stream's shards, readers and rates, as plain data for JSON.

Nothing is counted on the way of a record: what came in is read off the shards' tips when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from streamlet.broker.console.meter import Meter, Reader, StreamKey
from streamlet.broker.faults import KINDS, AnyFault, Faults
from streamlet.broker.ops import OPERATIONS
from streamlet.broker.state import State
from streamlet.broker.stream import Stream

__all__ = ["Views", "key_of", "resident_bytes"]

STREAMS_MAX: Final = 500
SHARDS_MAX: Final = 2_000
_CONSUMERS_MAX: Final = 200
_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = 4096


def key_of(stream: Stream) -> StreamKey:
    """How the console names a stream."""
    return stream.account, stream.region, stream.name


def resident_bytes() -> int | None:
    """This process's memory, where the system tells it."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


class Views:
    """Reads a state. `facts` are what the broker says of itself."""

    def __init__(self, state: State, faults: Faults, meter: Meter, clock: Callable[[], float], facts: Mapping[str, Any]) -> None:
        self._state = state
        self._faults = faults
        self._meter = meter
        self._clock = clock
        self._facts = facts
        self._started_s = clock()
        self._pushed: dict[int, tuple[Any, int]] = {}

    def overview(self) -> dict[str, Any]:
        """The broker and its streams."""
        return {"broker": self._broker(), "streams": self.streams(), "streams_max": STREAMS_MAX, "consumers": self.consumers()}

    def tick(self) -> dict[str, Any]:
        """What moves: totals since the start, from which the page makes rates."""
        return {
            "started_ms": int(self._started_s * 1000),
            "at_ms": int(self._clock() * 1000),
            "now_ms": self._state.now_ms,
            "memory_bytes": resident_bytes(),
            "faults": len(self._faults.active),
            "streams": self.streams(),
            "consumers": self.consumers(),
        }

    def streams(self) -> list[dict[str, Any]]:
        """Summaries. `shape` changes whenever the shards do."""
        now_ms = self._state.now_ms
        found = sorted(self._state.all_streams(now_ms), key=lambda stream: (stream.name, stream.account, stream.region))
        self._meter.forget({key_of(stream) for stream in found})
        self._count_pushed(found)
        return [self._summary(stream) for stream in found[:STREAMS_MAX]]

    def _summary(self, stream: Stream) -> dict[str, Any]:
        shards = stream.shards.values()
        records_out, bytes_out = self._meter.out.get(key_of(stream), (0, 0))
        return {
            "name": stream.name,
            "account": stream.account,
            "region": stream.region,
            "status": stream.status,
            "mode": stream.mode,
            "shape": f"{stream.incarnation}.{stream.status}.{len(stream.shards)}.{max(stream.shards, default=0)}",
            "open_shards": len(stream.open),
            "shards": len(stream.shards),
            "retention_hours": stream.retention_hours,
            "created_ms": stream.created_ms,
            "records_in": sum(shard.tip - 1 for shard in shards),
            "bytes_in": sum(shard.bytes_before(shard.tip) for shard in shards),
            "stored": sum(shard.tip - 1 - shard.trimmed for shard in shards),
            "records_out": records_out,
            "bytes_out": bytes_out,
        }

    def stream(self, stream: Stream) -> dict[str, Any]:
        """A stream with its shards, those that are closed and kept, too."""
        shards = sorted(stream.shards.values(), key=lambda shard: shard.index)
        return {
            **self._summary(stream),
            "tags": stream.tags,
            "shard_list": [
                {
                    "id": shard.id,
                    "index": shard.index,
                    "start": str(shard.start),
                    "end": str(shard.end),
                    "parents": list(shard.parents),
                    "children": [child.index for child in shard.children],
                    "open": shard.is_open,
                    "created_ms": shard.created_ms,
                    "closed_ms": shard.closed_ms,
                    "records": shard.tip - 1,
                    "stored": shard.tip - 1 - shard.trimmed,
                    "bytes": shard.bytes_before(shard.tip),
                }
                for shard in shards[-SHARDS_MAX:]
            ],
            "shards_left_out": max(0, len(shards) - SHARDS_MAX),
        }

    def consumers(self) -> list[dict[str, Any]]:
        """Who reads: registered consumers with their subscriptions, and callers that poll, by stream, name and shard."""
        found = [*self._pushers(), *self._pollers()]
        return found[:_CONSUMERS_MAX]

    def _pollers(self) -> Iterable[dict[str, Any]]:
        now_ms = self._state.now_ms
        for (stream, shard, caller), reader in reversed(self._meter.readers.items()):
            yield {
                "kind": "polling",
                "stream": stream,
                "name": caller,
                "shard": shard,
                "behind_ms": self._age_ms(stream, shard, reader, now_ms),
                "silent_ms": max(0, now_ms - reader.at_ms),
                "records": reader.records,
                "open": True,
                "ended": reader.ended,
            }

    def _age_ms(self, key: StreamKey, index: int, reader: Reader, now_ms: int) -> int:
        """How long the first record that this reader has not got is there: it grows while he does not read."""
        stream = self._state.find(*key, now_ms)
        shard = None if stream is None else stream.shards.get(index)
        arrived_ms = None if shard is None else shard.arrival_ms(max(reader.position, shard.trimmed + 1))
        return 0 if arrived_ms is None else max(1, now_ms - arrived_ms)

    def _pushers(self) -> Iterable[dict[str, Any]]:
        now_ms = self._state.now_ms
        for stream in self._state.all_streams(now_ms):
            for consumer in stream.consumers.all(now_ms):
                entry = {"kind": "fan-out", "stream": key_of(stream), "name": consumer.name}
                if not consumer.subscriptions:
                    yield {**entry, "shard": None, "behind_ms": None, "silent_ms": None, "records": None, "open": False, "ended": False}
                for index, subscription in sorted(consumer.subscriptions.items()):
                    shard = subscription.shard
                    arrived_ms = shard.arrival_ms(max(subscription.position, shard.trimmed + 1))
                    yield {
                        **entry,
                        "shard": index,
                        "behind_ms": 0 if arrived_ms is None else max(1, now_ms - arrived_ms),
                        "silent_ms": 0,
                        "records": None,
                        "open": True,
                        "ended": False,
                    }

    def _count_pushed(self, streams: Iterable[Stream]) -> None:
        """Add to what went out what subscriptions have sent since somebody last looked."""
        before, self._pushed = self._pushed, {}
        for stream in streams:
            key = key_of(stream)
            for consumer in stream.consumers.all(self._state.now_ms):
                for subscription in consumer.subscriptions.values():
                    position = subscription.position
                    known, last = before.get(id(subscription), (None, position))
                    if known is subscription and position > last:
                        more = subscription.shard.bytes_before(position) - subscription.shard.bytes_before(last)
                        self._meter.add(key, position - last, more)
                    self._pushed[id(subscription)] = subscription, position

    def _broker(self) -> dict[str, Any]:
        return {
            **self._facts,
            "started_ms": int(self._started_s * 1000),
            "at_ms": int(self._clock() * 1000),
            "now_ms": self._state.now_ms,
            "ahead_s": self._state.ahead_s,
            "memory_bytes": resident_bytes(),
        }

    def faults(self) -> dict[str, Any]:
        """The faults as they stand, and what kinds there are."""
        standing = [
            {
                "id": entry.id,
                "fault": msgspec.to_builtins(entry.fault),
                "seen": entry.seen,
                "struck": entry.struck,
                "left": entry.left,
            }
            for entry in self._faults.list()
        ]
        return {"standing": standing[-200:], "kinds": _KINDS, "operations": sorted(OPERATIONS), "seed": self._faults.seed}


def _kind(name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What a form for one kind of fault asks."""
    fields = []
    for field in msgspec.structs.fields(kind):
        choices = [
            str(choice) for part in (field.type, *get_args(field.type)) if "Literal" in str(get_origin(part)) for choice in get_args(part)
        ]
        text = str(field.type)
        fields.append(
            {
                "name": field.encode_name,
                "required": field.required,
                "choices": [choice for choice in choices if choice != "always"],
                "number": "int" in text or "float" in text,
            }
        )
    return {"kind": name, "says": (kind.__doc__ or "").strip(), "fields": fields}


_KINDS: Final = [_kind(name, kind) for name, kind in zip(KINDS, get_args(AnyFault), strict=True)]
