"""Who is registered to be pushed a stream's records? Consumers, and the subscriptions that each has open.

A consumer's state is a question of time alone: CREATING until `active_ms`, DELETING from `leaving_ms` until `gone_ms`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamlet.broker.subscriptions import Subscription

__all__ = ["Consumer", "Consumers"]


class Consumer:
    """One registration. `creation_s` is part of its ARN: a consumer that is made anew is another one."""

    __slots__ = ("active_ms", "creation_s", "gone_ms", "name", "policy", "subscriptions", "tags")

    def __init__(self, name: str, creation_s: int, active_ms: int, tags: dict[str, str]) -> None:
        self.name = name
        self.creation_s = creation_s
        self.active_ms = active_ms
        self.gone_ms: int | None = None
        self.tags = tags
        self.policy = ""
        self.subscriptions: dict[int, Subscription] = {}  # the open one of each shard, by the shard's index

    def status(self, now_ms: int) -> str:
        """CREATING, ACTIVE or DELETING."""
        if self.gone_ms is not None:
            return "DELETING"
        return "CREATING" if now_ms < self.active_ms else "ACTIVE"

    def wake(self) -> None:
        """Let the open subscriptions look whether they are to end."""
        for subscription in tuple(self.subscriptions.values()):
            subscription.wake()


class Consumers:
    """A stream's consumers."""

    def __init__(self) -> None:
        self._by_name: dict[str, Consumer] = {}
        self._last_creation_s: dict[str, int] = {}

    def all(self, now_ms: int) -> list[Consumer]:
        """Those that are there now, by name."""
        for name in [name for name, consumer in self._by_name.items() if consumer.gone_ms is not None and consumer.gone_ms <= now_ms]:
            del self._by_name[name]
        return [self._by_name[name] for name in sorted(self._by_name)]

    def find(self, name: str, now_ms: int) -> Consumer | None:
        """A consumer as it is now, or None."""
        consumer = self._by_name.get(name)
        if consumer is not None and consumer.gone_ms is not None and consumer.gone_ms <= now_ms:
            del self._by_name[name]
            return None
        return consumer

    def count(self, now_ms: int) -> int:
        """How many there are now."""
        return len(self.all(now_ms))

    def register(self, name: str, now_ms: int, delay_ms: int, tags: dict[str, str]) -> Consumer:
        """A new consumer. The caller has seen that the name is free."""
        creation_s = max(now_ms // 1000, self._last_creation_s.get(name, -1) + 1)
        self._last_creation_s[name] = creation_s
        made = self._by_name[name] = Consumer(name, creation_s, now_ms + delay_ms, tags)
        return made

    def deregister(self, consumer: Consumer, now_ms: int, delay_ms: int) -> None:
        """DELETING until the delay has passed. Without a delay it is gone at once."""
        if consumer.gone_ms is None:
            consumer.gone_ms = now_ms + delay_ms
        self.find(consumer.name, now_ms)
        consumer.wake()

    def subscriptions(self) -> Iterator[Subscription]:
        """All that are open."""
        for consumer in self._by_name.values():
            yield from consumer.subscriptions.values()

    def wake(self) -> None:
        """The stream has changed or gone: let every open subscription look."""
        for subscription in tuple(self.subscriptions()):
            subscription.wake()
