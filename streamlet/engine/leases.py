"""Who holds which shard? Every write to the lease table goes through here, one after the other.

How to think about it. `LeaseKeeper` is synchronous and belongs to one thread. It renews what it holds, takes what is free
and writes checkpoints, each write conditional on the counter that its last write left behind. Because renewals and
checkpoints of one process are serial, a refused write means that somebody else wrote: the lease is lost. `LeaseThread` runs
the keeper on a thread of its own, so that a blocked event loop keeps its leases.

A write whose answer was lost. It may have landed, may land later, or never. It counts as landed only if the row now holds
exactly what was written (checkpoint, pending range and state) under our name, with no hand-over in progress. "Same owner and
counter + 1" would not do: a zombie's late prepare can look like that. Worker ids are unique per process start for the same
reason: after a crash nobody comes back under the old name.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from streamlet.core import leasing, lineage
from streamlet.errors import InternalError, LeaseLost, StoreError
from streamlet.model.position import SHARD_END, Position
from streamlet.model.shard import Shard
from streamlet.ports import Clock, Lease, LeaseStore, Random

__all__ = ["Acquired", "Broken", "Grip", "LeaseEvent", "LeaseKeeper", "LeaseRunner", "LeaseThread", "Leases", "Lost", "StoreTrouble"]

T = TypeVar("T")

# How often a write without an answer is tried again before its caller is told. The store itself waits for its lock.
RECHECKS_MAX: Final = 3


class Grip(msgspec.Struct, frozen=True):
    """One acquisition of one lease. A pump writes with its own grip only: after losing a lease and taking it again, what is
    left of the old pump must not write under the new acquisition."""

    key: str
    acquisition: int


class Acquired(msgspec.Struct, frozen=True):
    """We hold the shard now; `lease` is the row as we wrote it, with what the last holder had prepared."""

    grip: Grip
    lease: Lease


class Lost(msgspec.Struct, frozen=True):
    """We do not hold it any more."""

    grip: Grip
    reason: str


class Broken(msgspec.Struct, frozen=True):
    """The keeper cannot go on: nothing is renewed any more, so nothing may be done under its leases."""

    error: str


class StoreTrouble(msgspec.Struct, frozen=True):
    """The store could not be reached; it is tried again."""

    error: str


LeaseEvent = Acquired | Broken | Lost | StoreTrouble


class LeaseKeeper:
    """Holds leases. Not thread-safe: all calls come from one thread.

    `failover_s` is how long a counter must stand still, by this process's own monotonic clock, before its lease counts as
    abandoned; wall clocks of two workers are never compared.
    """

    def __init__(
        self,
        store: LeaseStore,
        worker_id: str,
        *,
        clock: Clock,
        random: Random,
        failover_s: float = 10.0,
        notify: Callable[[LeaseEvent], None],
    ) -> None:
        self._store = store
        self.worker_id = worker_id
        self._clock = clock
        self._random = random
        self.failover_s = failover_s
        self.notify = notify
        self._held: dict[str, Lease] = {}
        self._grips: dict[str, Grip] = {}
        self._renewed_s: dict[str, float] = {}
        self._acquisitions = 0
        self._sightings = leasing.Sightings()
        # Nobody is there to use a lease before the supervisor says so.
        self._taking = False

    # ── at intervals ─────────────────────────────────────────────────────────────────────────────────────────────

    def renew_all(self) -> None:
        """Bump the counter of every held lease. A lease that could not be renewed for `failover_s` is given up for lost."""
        for key, lease in list(self._held.items()):
            if key not in self._held:
                continue  # given up below
            grip = self._grips[key]
            try:
                self._write(lease, lease)
            except LeaseLost as error:
                self.notify(Lost(grip, str(error)))
            except StoreError as error:
                self.notify(StoreTrouble(str(error)))
                # All of them, not only this one: a write may wait for long, and each would wait in turn.
                now_s = self._clock.monotonic()
                for late in [held for held, renewed_s in self._renewed_s.items() if now_s - renewed_s > self.failover_s]:
                    grip = self._grips[late]
                    self._forget(late)
                    self.notify(Lost(grip, f"not renewed for {self.failover_s:g} s: {error}"))

    def take(self) -> None:
        """Look at the whole table, and take what this worker should have."""
        if not self._taking:
            return
        try:
            rows = {lease.key: lease for lease in self._store.scan()}
            self._sightings.keep(rows)
            now_s = self._clock.monotonic()
            for lease in rows.values():
                self._sightings.see(lease.key, lease.counter, now_s)
            ready = [lease for lease in rows.values() if lease.key in self._held or lineage.may_start(lease.parents, rows)]
            plan = leasing.plan(ready, self.worker_id, now_s, self._sightings, failover_s=self.failover_s, random=self._random.random)
            for key in (*plan.take, *plan.steal):
                if key not in self._held:
                    self._acquire(rows[key])
        except StoreError as error:
            self._sightings = leasing.Sightings()  # as in `_landed`
            self.notify(StoreTrouble(str(error)))

    def _acquire(self, seen: Lease) -> None:
        # The write is conditional on the counter that we read, and every write moves the counter: so the checkpoint and
        # the pending range of the row are exactly those of `seen`. Writing and reading them is one step.
        mine = replace(seen, owner=self.worker_id, owner_switches=seen.owner_switches + 1, checkpoint_owner=None)
        with contextlib.suppress(LeaseLost):
            lease = self._write(seen, mine)
            self._acquisitions += 1
            self._grips[seen.key] = grip = Grip(seen.key, self._acquisitions)
            self.notify(Acquired(grip, lease))

    # ── at the pumps' request ────────────────────────────────────────────────────────────────────────────────────

    def checkpoint(self, grip: Grip, position: Position) -> None:
        """Move the checkpoint forward; a pending range that ends there is thereby committed. Raises LeaseLost, StoreError."""
        lease = self._mine(grip)
        if position < lease.checkpoint:
            raise AssertionError(f"the checkpoint of {grip.key} would go back from {lease.checkpoint} to {position}")
        if lease.pending is not None and lease.pending != position:
            raise AssertionError(f"{grip.key} has prepared up to {lease.pending}; {position} cannot be committed before that")
        if position == lease.checkpoint and lease.pending is None:
            return
        self._write(lease, replace(lease, checkpoint=position, pending=None, pending_state=None, owner_switches=0))

    def prepare(self, grip: Grip, position: Position, state: bytes) -> None:
        """Store a pending range that ends at `position`. Raises LeaseLost, StoreError."""
        lease = self._mine(grip)
        assert lease.pending is None, f"{grip.key} has a prepared range already"
        assert position > lease.checkpoint, f"{grip.key}: a range that ends at {position}, behind the checkpoint {lease.checkpoint}"
        self._write(lease, replace(lease, pending=position, pending_state=state))

    def finish(self, grip: Grip, children: tuple[str, ...]) -> None:
        """The shard is at its end, and everything in it is settled."""
        lease = self._mine(grip)
        assert lease.pending is None, f"{grip.key} ends with a prepared range"
        self._write(lease, replace(lease, checkpoint=SHARD_END, owner=None, children=children))
        self._forget(grip.key)

    def release(self, grip: Grip) -> None:
        """Give the shard back, so that another worker need not wait for it to expire. Does nothing if it is lost already."""
        with contextlib.suppress(LeaseLost):
            lease = self._mine(grip)
            self._write(lease, replace(lease, owner=None))
            self._forget(grip.key)

    def let_go(self, grip: Grip) -> None:
        """Forget a lease without writing: it expires, and whoever takes it then goes on."""
        if self._grips.get(grip.key) == grip:
            self._forget(grip.key)

    def start_taking(self) -> None:
        """From now on leases have somebody to use them: look for some at once, and then at intervals."""
        self._taking = True
        self.take()

    def stop_taking(self) -> None:
        """From now on only renew, write and release: the worker is draining, or paused."""
        self._taking = False
        # Who does not look does not see that a lease was renewed, nor that nobody could write meanwhile, as in `_landed`.
        self._sightings = leasing.Sightings()

    def sync(self, shards: list[Shard], initial: Position) -> int:
        """Create the leases that are missing, delete those that retention has outlived; how many rows changed."""
        rows: Mapping[str, Lease] = {lease.key: lease for lease in self._store.scan()}
        missing = [
            Lease(
                key=shard.shard_id,
                checkpoint=start,
                parents=shard.parents,
                starting_hash_key=shard.starting_hash_key,
                ending_hash_key=shard.ending_hash_key,
            )
            for shard, start in lineage.leases_to_create(shards, rows, initial)
        ]
        changed = self._store.create_all(missing) if missing else 0
        for key in lineage.finished_to_delete(shards, rows):
            changed += self._store.delete(key, if_counter=rows[key].counter)
        return changed

    # ── the one way to write ─────────────────────────────────────────────────────────────────────────────────────

    def _write(self, old: Lease, new: Lease) -> Lease:
        new = replace(new, counter=old.counter + 1)
        if not self._landed(old, new):
            self._forget(old.key)
            raise LeaseLost(f"{old.key} was taken by another worker")
        if new.owner == self.worker_id:
            self._held[new.key] = new
            self._renewed_s[new.key] = self._clock.monotonic()
        return new

    def _landed(self, old: Lease, new: Lease) -> bool:
        uncertain, begun_s = False, self._clock.monotonic()
        for last in range(RECHECKS_MAX, -1, -1):
            try:
                if self._store.write(new, if_counter=old.counter):
                    return True
                # Refused. If an earlier try of ours had no answer, that one may be what moved the counter.
                return uncertain and self._store.read(new.key) == new
            except StoreError:
                uncertain = True
                # Event 1: nobody can write, so no counter moves. Event 2: the store is back, and we are the first to look. Those
                # who hold leases are as alive as we are: they get the whole failover time again. Not for a try that failed at once
                # and the next one did not: of many leases some write always does, and the dead would never be taken over.
                if last == 0 or self._clock.monotonic() - begun_s > self.failover_s / 3:
                    self._sightings = leasing.Sightings()
                if last == 0:
                    raise
        raise AssertionError("unreachable: the last try raises")

    def _mine(self, grip: Grip) -> Lease:
        if self._grips.get(grip.key) != grip:
            raise LeaseLost(f"{grip.key} is not held any more")
        return self._held[grip.key]

    def _forget(self, key: str) -> None:
        self._held.pop(key, None)
        self._grips.pop(key, None)
        self._renewed_s.pop(key, None)


class Leases(Protocol):
    """What pumps and supervisor see of the keeper: the same calls, awaited."""

    async def call(self, function: Callable[..., T], /, *args: Any) -> T:
        """Run one of the keeper's methods where the keeper lives."""
        ...


class LeaseRunner(Leases, Protocol):
    """Where a keeper lives, with its renewals at intervals."""

    def start(self) -> None:
        """Begin."""
        ...

    def stop(self) -> None:
        """Finish what was posted, and end."""
        ...


class LeaseThread:
    """Runs a keeper on a thread of its own: renewals every third of `failover_s`, looking for leases every `take_s`."""

    def __init__(self, keeper: LeaseKeeper, store: LeaseStore, *, clock: Clock, take_s: float | None = None) -> None:
        self._keeper = keeper
        self._store = store
        self._clock = clock
        self._renew_s = keeper.failover_s / 3
        self._take_s = take_s if take_s is not None else keeper.failover_s / 2
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="streamlet-leases", daemon=True)

    def start(self) -> None:
        """Begin. The store is opened by the thread that uses it."""
        self._thread.start()

    async def call(self, function: Callable[..., T], /, *args: Any) -> T:
        """Post a job and await it. A caller that is cancelled takes a job back that has not begun; one that has is finished."""
        job: Future[T] = Future()
        self._jobs.put((job, function, args))
        return await asyncio.wrap_future(job)

    def stop(self) -> None:
        """Finish the posted jobs, close the store, end the thread."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait for an answer must get one
            text = f"{type(error).__name__}: {error}"
            self._keeper.notify(Broken(text))
            while (entry := self._jobs.get()) is not None:
                entry[0].set_exception(InternalError(f"the lease thread has ended: {text}"))

    def _serve(self) -> None:
        now_s = self._clock.monotonic()
        renew_at_s, take_at_s = now_s + self._renew_s, now_s + self._take_s
        while True:
            try:
                entry = self._jobs.get(timeout=max(0.0, min(renew_at_s, take_at_s) - self._clock.monotonic()))
            except queue.Empty:
                pass
            else:
                if entry is None:
                    self._store.close()
                    return
                self._do(*entry)
            now_s = self._clock.monotonic()
            if now_s >= renew_at_s:
                self._keeper.renew_all()
                renew_at_s = now_s + self._renew_s
            if now_s >= take_at_s:
                self._keeper.take()
                take_at_s = now_s + self._take_s

    def _do(self, job: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not job.set_running_or_notify_cancel():
            return
        try:
            job.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001  handed to the caller, who awaits it
            job.set_exception(error)
