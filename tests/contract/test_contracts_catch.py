"""Does the contract suite find what is wrong? Stores that are broken on purpose, and the checks that must say so.

Each rule of `streamlet.testing.contracts` has at least one store here that breaks it. What a broken store does between its read and
its write (`pause`) stands for the way to a database and back.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import unicodedata
import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from streamlet.errors import StoreError, Unavailable
from streamlet.ports import IdempotencyStore, Lease, LeaseStore, Marker
from streamlet.stores.idempotency import MemoryIdempotency
from streamlet.stores.memory import MemoryLeaseStore
from streamlet.testing.contracts import IdempotencyStoreContract, LeaseStoreContract


def checks(contract: type[LeaseStoreContract | IdempotencyStoreContract]) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def red(make: Callable[[], LeaseStoreContract | IdempotencyStoreContract]) -> set[str]:
    """The names of the checks that fail, without `test_`."""
    failed = set()
    for name in checks(type(make())):
        suite = make()
        try:
            getattr(suite, name)()
            suite.teardown_method()
        except unittest.SkipTest:
            pass
        except Exception:
            failed.add(name.removeprefix("test_"))
    return failed


def pause() -> None:
    time.sleep(0.001)


# ── lease stores ─────────────────────────────────────────────────────────────────────────────────────────────────


class WritesWhateverTheCounter(MemoryLeaseStore):
    def write(self, lease: Lease, *, if_counter: int) -> bool:
        return super().write(lease, if_counter=self._rows[lease.key].counter) if lease.key in self._rows else False


class WritesFromThatCounterOn(MemoryLeaseStore):
    def write(self, lease: Lease, *, if_counter: int) -> bool:
        row = self.read(lease.key)
        return row is not None and row.counter <= if_counter and super().write(lease, if_counter=row.counter)


class WritesIntoBeing(MemoryLeaseStore):
    def write(self, lease: Lease, *, if_counter: int) -> bool:
        return self.create(lease) or super().write(lease, if_counter=if_counter)


class ReadsThenWrites(MemoryLeaseStore):
    def write(self, lease: Lease, *, if_counter: int) -> bool:
        row = self._rows.get(lease.key)
        pause()
        if row is None or row.counter != if_counter:
            return False
        self._rows[lease.key] = lease
        return True


class KeepsThePendingRange(MemoryLeaseStore):
    """An update of the attributes that are set, which removes none."""

    def write(self, lease: Lease, *, if_counter: int) -> bool:
        row = self.read(lease.key)
        if row is not None and lease.pending is None:
            lease = replace(lease, pending=row.pending, pending_state=row.pending_state)
        return super().write(lease, if_counter=if_counter)


class SaysWrittenWhenRefused(MemoryLeaseStore):
    def write(self, lease: Lease, *, if_counter: int) -> bool:
        super().write(lease, if_counter=if_counter)
        return True


class CreatesOver(MemoryLeaseStore):
    def create(self, lease: Lease) -> bool:
        self._rows[lease.key] = lease
        return True


class LooksThenCreates(MemoryLeaseStore):
    def create(self, lease: Lease) -> bool:
        free = lease.key not in self._rows
        pause()
        if free:
            self._rows[lease.key] = lease
        return free


class CreatesOneByOne(MemoryLeaseStore):
    """Checks all of them first, and yet is not atomic to others."""

    def create_all(self, leases: Sequence[Lease]) -> int:
        assert all(isinstance(lease, Lease) for lease in leases)
        made = 0
        for lease in leases:
            made += self.create(lease)
            pause()
        return made


class CreatesUntilOneFails(MemoryLeaseStore):
    def create_all(self, leases: Sequence[Lease]) -> int:
        return sum(self.create(lease) for lease in leases)


class CountsWhatItWasGiven(MemoryLeaseStore):
    def create_all(self, leases: Sequence[Lease]) -> int:
        super().create_all(leases)
        return len(leases)


class CreatesAllOver(MemoryLeaseStore):
    def create_all(self, leases: Sequence[Lease]) -> int:
        made = super().create_all(leases)
        self._rows |= {lease.key: lease for lease in leases}
        return made


class DeletesWhateverTheCounter(MemoryLeaseStore):
    def delete(self, key: str, *, if_counter: int) -> bool:
        return self._rows.pop(key, None) is not None


class DeletesWhatIsNotThere(MemoryLeaseStore):
    def delete(self, key: str, *, if_counter: int) -> bool:
        row = self.read(key)
        return row is None or super().delete(key, if_counter=if_counter)


class DeletesNothing(MemoryLeaseStore):
    def delete(self, key: str, *, if_counter: int) -> bool:
        row = self.read(key)
        return row is not None and row.counter == if_counter


class ScansAsCreated(MemoryLeaseStore):
    def scan(self) -> list[Lease]:
        return list(self._rows.values())


class ScansWithoutCase(MemoryLeaseStore):
    def scan(self) -> list[Lease]:
        return sorted(super().scan(), key=lambda lease: lease.key.lower())


class ForgetsWhenClosed(MemoryLeaseStore):
    def close(self) -> None:
        self._rows.clear()


class OpensAfresh(MemoryLeaseStore):
    def open(self) -> None:
        self._rows.clear()


class ClosesOnce(MemoryLeaseStore):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise StoreError("closed already")
        self.closed = True


class KnowsItsThread(MemoryLeaseStore):
    thread: int | None = None

    def read(self, key: str) -> Lease | None:
        self.thread = self.thread or threading.get_ident()
        if self.thread != threading.get_ident():
            raise StoreError("another thread")
        return super().read(key)


def stored_as(change: Callable[[Lease], Lease]) -> type[MemoryLeaseStore]:
    """A store whose rows come back changed."""

    class Changed(MemoryLeaseStore):
        def create(self, lease: Lease) -> bool:
            return super().create(change(lease))

        def write(self, lease: Lease, *, if_counter: int) -> bool:
            return super().write(change(lease), if_counter=if_counter)

    return Changed


def _as_float(number: int | None) -> int | None:
    return None if number is None else int(float(number))


ROW = {"a_row_comes_back_exactly", "a_write_replaces_the_whole_row"}
LEASE_STORES: list[tuple[type[MemoryLeaseStore], set[str]]] = [
    (WritesWhateverTheCounter, {"a_write_needs_the_counter_that_is_there", "of_many_takers_one_wins_each_round"}),
    (WritesFromThatCounterOn, {"a_write_needs_the_counter_that_is_there"}),
    (WritesIntoBeing, {"what_is_not_there_stays_so"}),
    (ReadsThenWrites, {"of_many_takers_one_wins_each_round"}),
    (KeepsThePendingRange, {"a_write_replaces_the_whole_row"}),
    (SaysWrittenWhenRefused, {"a_write_needs_the_counter_that_is_there", "what_is_not_there_stays_so"}),
    (CreatesOver, {"create_does_not_touch_a_row_that_is_there", "of_many_creators_one_wins"}),
    (LooksThenCreates, {"of_many_creators_one_wins"}),
    (CreatesOneByOne, {"create_all_is_all_or_none_to_others"}),
    (CreatesUntilOneFails, {"create_all_is_all_or_none_when_it_fails"}),
    (CountsWhatItWasGiven, {"create_all_inserts_what_is_missing"}),
    (CreatesAllOver, {"create_all_inserts_what_is_missing"}),
    (DeletesWhateverTheCounter, {"delete_is_conditional"}),
    (DeletesWhatIsNotThere, {"what_is_not_there_stays_so"}),
    (DeletesNothing, {"delete_is_conditional"}),
    (ScansAsCreated, {"scan_is_in_key_order"}),
    (ScansWithoutCase, {"scan_is_in_key_order"}),
    (ForgetsWhenClosed, {"open_and_close_are_idempotent"}),
    (OpensAfresh, {"open_and_close_are_idempotent"}),
    (ClosesOnce, {"open_and_close_are_idempotent"}),
    (KnowsItsThread, {"a_store_opened_here_is_used_there"}),
    (stored_as(lambda row: replace(row, starting_hash_key=_as_float(row.starting_hash_key), ending_hash_key=_as_float(row.ending_hash_key))), ROW),
    (stored_as(lambda row: replace(row, pending_state=row.pending_state and row.pending_state.decode("latin-1").encode())), ROW),
    (stored_as(lambda row: replace(row, pending_state=row.pending_state or None)), {"a_write_replaces_the_whole_row"}),
    (stored_as(lambda row: replace(row, checkpoint=replace(row.checkpoint, sub=0))), ROW),
    (stored_as(lambda row: replace(row, parents=row.parents[:1])), ROW),
    (stored_as(lambda row: replace(row, checkpoint_owner=None)), ROW),
    (stored_as(lambda row: replace(row, owner_switches=0)), ROW),
]  # fmt: skip


def of_leases(store: type[MemoryLeaseStore]) -> LeaseStoreContract:
    class Suite(LeaseStoreContract):
        shared = store()

        def connect(self) -> LeaseStore:
            self.shared.open()
            return self.shared

    return Suite()


@pytest.mark.parametrize(("store", "caught"), LEASE_STORES, ids=lambda value: value.__name__ if isinstance(value, type) else "")
def test_a_broken_lease_store_is_found(store: type[MemoryLeaseStore], caught: set[str]) -> None:
    assert caught <= red(lambda: of_leases(store))


# ── idempotency stores ───────────────────────────────────────────────────────────────────────────────────────────


class BeginsAlways(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        self._markers.pop(key, None)
        return super().begin(key, for_s=for_s)


class LooksThenBegins(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        known = dict(self._markers)
        pause()
        self._markers = {**self._markers, **known}
        if key not in known:
            self._markers.pop(key, None)
        return super().begin(key, for_s=for_s)


class BeginsAgainWhileInProgress(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        if self._markers.get(key, ("", 0))[0]:
            del self._markers[key]
        return super().begin(key, for_s=for_s)


class BlocksForEver(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        return super().begin(key, for_s=10**9)


class IgnoresForHowLong(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        return super().begin(key)


class BlocksNoLongerThanItWasTold(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        return super().begin(key, for_s=min(self._in_progress_s, for_s or self._in_progress_s))


class ProlongsWhenAsked(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        marker = super().begin(key, for_s=for_s)
        if marker.state == "busy":
            self._markers[key] = (self._markers[key][0], self._clock() + self._in_progress_s)
        return marker


class OneToken(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        marker = super().begin(key, for_s=for_s)
        if marker.state == "mine":
            self._markers[key] = ("token", self._markers[key][1])
        return replace(marker, token=marker.token and "token")


class NoToken(MemoryIdempotency):
    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        return replace(super().begin(key, for_s=for_s), token="")


class DoneForEver(MemoryIdempotency):
    def finish(self, key: str) -> None:
        self._markers[key] = ("", 10.0**12)


class DoneAsLongAsInProgress(MemoryIdempotency):
    def finish(self, key: str) -> None:
        self._markers[key] = ("", self._clock() + self._in_progress_s)


class DoneUntilTheMarkerEnds(MemoryIdempotency):
    def finish(self, key: str) -> None:
        self._markers[key] = ("", self._markers.get(key, ("", self._clock() + self._done_s))[1])


class FinishesWhatIsInProgressOnly(MemoryIdempotency):
    def finish(self, key: str) -> None:
        if key in self._markers:
            super().finish(key)


class FinishesNothing(MemoryIdempotency):
    def finish(self, key: str) -> None:
        pass


class ReleasesAnyToken(MemoryIdempotency):
    def release(self, key: str, token: str) -> None:
        if self._markers.get(key, ("", 0))[0]:
            del self._markers[key]


class ReleasesWhatIsDone(MemoryIdempotency):
    def release(self, key: str, token: str) -> None:
        if self._markers.get(key, ("", 0))[0] in {"", token}:
            self._markers.pop(key, None)


class ReleasesNothing(MemoryIdempotency):
    def release(self, key: str, token: str) -> None:
        pass


class ReleaseNeedsAMarker(MemoryIdempotency):
    def release(self, key: str, token: str) -> None:
        if self._markers[key][0] == token:
            del self._markers[key]


class ReleaseIsDone(MemoryIdempotency):
    def release(self, key: str, token: str) -> None:
        self.finish(key)


class ForgetsMarkersWhenClosed(MemoryIdempotency):
    def close(self) -> None:
        self._markers.clear()


class ForgetsWhatIsInProgressWhenClosed(MemoryIdempotency):
    def close(self) -> None:
        self._markers = {key: marker for key, marker in self._markers.items() if not marker[0]}


class StaysClosed(MemoryIdempotency):
    closed = False

    def begin(self, key: str, *, for_s: float | None = None) -> Marker:
        if self.closed:
            raise StoreError("closed")
        return super().begin(key, for_s=for_s)

    def close(self) -> None:
        self.closed = True


def keyed_by(change: Callable[[str], str]) -> type[MemoryIdempotency]:
    """A store that takes some keys for others."""

    class Changed(MemoryIdempotency):
        def begin(self, key: str, *, for_s: float | None = None) -> Marker:
            return super().begin(change(key), for_s=for_s)

        def finish(self, key: str) -> None:
            super().finish(change(key))

        def release(self, key: str, token: str) -> None:
            super().release(change(key), token)

    return Changed


IN_TIME = "a_marker_in_progress_blocks_until_its_time_and_no_longer"
IDEMPOTENCY_STORES: list[tuple[type[MemoryIdempotency], set[str]]] = [
    (BeginsAlways, {"a_key_is_begun_once_and_then_done", "of_many_one_begins"}),
    (LooksThenBegins, {"of_many_one_begins"}),
    (BeginsAgainWhileInProgress, {"a_key_is_begun_once_and_then_done", IN_TIME}),
    (BlocksForEver, {IN_TIME, "only_its_own_marker_is_released", "who_knows_its_end_says_how_long"}),
    (IgnoresForHowLong, {"who_knows_its_end_says_how_long"}),
    (BlocksNoLongerThanItWasTold, {"who_knows_its_end_says_how_long"}),
    (ProlongsWhenAsked, {IN_TIME}),
    (OneToken, {"only_its_own_marker_is_released", IN_TIME}),
    (NoToken, {"a_key_is_begun_once_and_then_done", IN_TIME}),
    (DoneForEver, {"done_is_remembered_for_its_time"}),
    (DoneAsLongAsInProgress, {"done_is_remembered_for_its_time"}),
    (DoneUntilTheMarkerEnds, {"done_is_remembered_for_its_time"}),
    (FinishesWhatIsInProgressOnly, {"whoever_finishes_it_is_done"}),
    (FinishesNothing, {"a_key_is_begun_once_and_then_done"}),
    (ReleasesAnyToken, {"only_its_own_marker_is_released"}),
    (ReleasesWhatIsDone, {"only_its_own_marker_is_released", "whoever_finishes_it_is_done"}),
    (ReleasesNothing, {"a_released_key_may_be_begun_at_once"}),
    (ReleaseNeedsAMarker, {"only_its_own_marker_is_released"}),
    (ReleaseIsDone, {"a_released_key_may_be_begun_at_once"}),
    (ForgetsMarkersWhenClosed, {"a_closed_store_opens_anew"}),
    (ForgetsWhatIsInProgressWhenClosed, {"a_closed_store_opens_anew"}),
    (StaysClosed, {"a_closed_store_opens_anew"}),
    (keyed_by(str.lower), {"keys_are_any_text"}),
    (keyed_by(str.strip), {"keys_are_any_text"}),
    (keyed_by(lambda key: key[:2048]), {"keys_are_any_text"}),
    (keyed_by(lambda key: unicodedata.normalize("NFC", key)), {"keys_are_any_text"}),
    (keyed_by(lambda key: key.partition("\0")[0]), {"keys_are_any_text"}),
    (keyed_by(lambda key: key.encode("latin-1").decode("latin-1")), {"keys_are_any_text"}),
]


def of_markers(store: type[MemoryIdempotency]) -> IdempotencyStoreContract:
    class Suite(IdempotencyStoreContract):
        now_s = 1_700_000_000.0

        def __init__(self) -> None:
            self.shared = store(in_progress_s=60, done_s=3600, clock=lambda: self.now_s)

        def connect(self) -> IdempotencyStore:
            return self.shared

        def advance(self, seconds: float) -> None:
            self.now_s += seconds

    return Suite()


@pytest.mark.parametrize(("store", "caught"), IDEMPOTENCY_STORES, ids=lambda value: value.__name__ if isinstance(value, type) else "")
def test_a_broken_idempotency_store_is_found(store: type[MemoryIdempotency], caught: set[str]) -> None:
    assert caught <= red(lambda: of_markers(store))


# ── errors, and the whole ────────────────────────────────────────────────────────────────────────────────────────


class Failing:
    """Every call of it raises, or answers, the same; but `allowed` works."""

    def __init__(self, error: Exception | None, *allowed: str) -> None:
        self._error, self._allowed = error, allowed

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> None:
            if self._error is not None and name not in self._allowed:
                raise self._error

        return call


@pytest.mark.parametrize(
    ("error", "allowed", "passes"),
    [
        (StoreError("down"), (), (True, True)),
        (StoreError("down"), ("open",), (True, True)),
        (StoreError("down"), ("open", "create_all", "finish"), (False, False)),
        (Unavailable("down"), (), (False, True)),
        (OSError("down"), (), (False, False)),
        (OSError("down"), ("open",), (False, False)),
        (None, (), (False, False)),
    ],
)
def test_errors_that_are_not_the_ports_are_found(error: Exception | None, allowed: tuple[str, ...], passes: tuple[bool, bool]) -> None:
    class Leases(LeaseStoreContract):
        def unreachable(self) -> Any:
            return Failing(error, "close", *allowed)

    class Markers(IdempotencyStoreContract):
        def unreachable(self) -> Any:
            return Failing(error, "close", *allowed)

    for check, passing in zip((Leases().test_errors_are_store_errors, Markers().test_errors_are_of_the_port), passes, strict=True):
        if passing:
            check()
        else:
            with pytest.raises((AssertionError, OSError, Unavailable)):
                check()


def test_every_check_is_seen_red() -> None:
    """And none of them fails for a store that is not broken."""
    assert red(lambda: of_leases(MemoryLeaseStore)) == red(lambda: of_markers(MemoryIdempotency)) == set()
    for contract, stores in ((LeaseStoreContract, LEASE_STORES), (IdempotencyStoreContract, IDEMPOTENCY_STORES)):
        caught: Iterator[set[str]] = (names for _, names in stores)
        errors = {name.removeprefix("test_") for name in checks(contract) if name.startswith("test_errors_")}
        assert set().union(*caught) | errors == {name.removeprefix("test_") for name in checks(contract)}


def test_the_suite_is_loaded_without_pytest() -> None:
    """Whoever uses another runner can call it."""
    code = "import sys, streamlet.testing.contracts; assert not {'pytest', '_pytest', 'hypothesis', 'botocore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
