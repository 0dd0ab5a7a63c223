"""What does the broker hold? All streams by account and region, changed by synchronous calls that are given the time.

Time only comes in as `now_ms`, which is the clock's unless a call says otherwise.

A stream belongs to the account and region of the caller who made it, or to nobody: the broker's own streams (made by
its options, before any client is known) are shared, and every caller who has no stream of that name finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final

from streamlet.broker import limits
from streamlet.broker.quotas import Quotas
from streamlet.broker.settings import Settings
from streamlet.broker.shard import Keeper
from streamlet.broker.stream import Stream

__all__ = ["SHARED", "State"]

SHARED: Final = ("", "")  # the account and region of streams that are everybody's

# AWS gives a new stream's shards a creation second that lies 2-7 s before the answer to CreateStream.
_CREATION_LAG_S: Final = 2

_Place = tuple[str, str]


class State:
    """All streams. `clock` returns epoch seconds; `control_delay_ms` is how long control calls take to show."""

    def __init__(
        self, clock: Callable[[], float], *, control_delay_ms: int = 0, shards_max: int = limits.SHARDS_MAX, subscription_s: float = 300.0
    ) -> None:
        self._clock = clock
        self.control_delay_ms = control_delay_ms
        self.shards_max = shards_max
        self.subscription_s = subscription_s  # how long a fan-out subscription lasts
        self.ahead_s = 0.0  # how far time was moved on purpose
        self.quotas: Quotas | None = None  # set where the service's rates are enforced
        self.iterators_void_before = 0  # serials below this have expired whatever their age (a fault)
        self._streams: dict[_Place, dict[str, Stream]] = {SHARED: {}}
        self._shared = self._streams[SHARED]
        self._settings: dict[_Place, Settings] = {}
        self.keeper: Callable[[int], Keeper] | None = None  # set where streams are durable: who keeps one, by incarnation
        self.serial = 0  # the newest that was given out
        self._last_creation_s: dict[tuple[_Place, str], int] = {}

    @property
    def now_ms(self) -> int:
        """The given clock, and how far it was moved, in whole milliseconds."""
        return int((self._clock() + self.ahead_s) * 1000)

    def open_shards(self, account: str, region: str, now_ms: int) -> int:
        """Open shards of the streams that this account finds in this region."""
        return sum(len(stream.open) for stream in self._found(account, region, now_ms))

    def settings(self, place: tuple[str, str]) -> Settings:
        """What an account has agreed to in a region."""
        return self._settings.setdefault(place, Settings())

    def next_serial(self) -> int:
        """A number that was never given out: iterators are texts that differ."""
        self.serial += 1
        return self.serial

    def find(self, account: str, region: str, name: str, now_ms: int) -> Stream | None:
        """A stream as this account finds it in this region, as it is now, or None."""
        streams = self._streams.get((account, region), self._shared)
        stream = streams.get(name) or self._shared.get(name)
        if stream is not None and stream.status != "ACTIVE":
            stream.settle(now_ms)
            stream = streams.get(name) or self._shared.get(name)
        return stream

    def find_by_name(self, name: str, now_ms: int) -> Stream | None:
        """The shared stream of a name, else the only one of that name, wherever it is. None if there are several."""
        found = self.find(*SHARED, name, now_ms)
        if found is None:
            places = [place for place, streams in self._streams.items() if name in streams]
            found = self.find(*places[0], name, now_ms) if len(places) == 1 else None
        return found

    def streams_of(self, account: str, region: str, now_ms: int) -> list[Stream]:
        """The streams that this account finds in this region, sorted by name."""
        return sorted(self._found(account, region, now_ms), key=attrgetter("name"))

    def _found(self, account: str, region: str, now_ms: int) -> list[Stream]:
        streams = self._shared | self._streams.get((account, region), {})
        for name in [name for name, stream in streams.items() if stream.status != "ACTIVE"]:
            stream = self.find(account, region, name, now_ms)
            if stream is None:
                del streams[name]
            else:
                streams[name] = stream
        return list(streams.values())

    def all_streams(self, now_ms: int) -> Iterator[Stream]:
        """Every stream there is, shared ones first, as it is now."""
        for place, streams in list(self._streams.items()):
            for name in list(streams):
                stream = self.find(*place, name, now_ms)
                if stream is not None and (stream.account, stream.region) == place:
                    yield stream

    def by_incarnation(self) -> dict[int, Stream]:
        """Every stream as it is, without what is due since."""
        return {stream.incarnation: stream for streams in self._streams.values() for stream in streams.values()}

    def create(
        self,
        account: str,
        region: str,
        name: str,
        shards: int,
        now_ms: int,
        *,
        record_bytes_max: int = limits.RECORD_BYTES_DEFAULT,
    ) -> Stream:
        """A new stream. The caller has seen that the name is free."""
        place = (account, region)
        # A stream that is made anew must be told apart by its sequence numbers, so its creation second is a new one.
        creation_s = max(now_ms // 1000 - _CREATION_LAG_S, self._last_creation_s.get((place, name), -1) + 1)
        self._last_creation_s[place, name] = creation_s
        incarnation = self.next_serial()
        stream = Stream(
            name,
            shards,
            account=account,
            region=region,
            creation_s=creation_s,
            now_ms=now_ms,
            incarnation=incarnation,
            keeper=None if self.keeper is None else self.keeper(incarnation),
            record_bytes_max=record_bytes_max,
        )
        self._streams.setdefault(place, {})[name] = stream
        stream.later(self.control_delay_ms, now_ms, "CREATING", lambda _: self._activate(stream))
        return stream

    def delete(self, stream: Stream, now_ms: int) -> None:
        """Delete a stream: what is stored goes with it."""
        # A reshard that is still on its way may drive creation seconds ahead of the clock; a successor starts behind all.
        self._last_creation_s[(stream.account, stream.region), stream.name] = stream.newest_second
        stream.later(self.control_delay_ms, now_ms, "DELETING", lambda _: self._remove(stream))

    def change(self, stream: Stream, now_ms: int, change: Callable[[int], None]) -> None:
        """A control call: UPDATING until the delay has passed, then both the change and ACTIVE at once."""

        def apply(at_ms: int) -> None:
            change(at_ms)
            self._activate(stream)

        stream.later(self.control_delay_ms, now_ms, "UPDATING", apply)

    def _activate(self, stream: Stream) -> None:
        if stream.status != "DELETING":
            stream.status = "ACTIVE"
            stream.has_shards = True

    def _remove(self, stream: Stream) -> None:
        streams = self._streams[stream.account, stream.region]
        if streams.get(stream.name) is stream:
            del streams[stream.name]
            stream.consumers.wake()  # their subscriptions end
