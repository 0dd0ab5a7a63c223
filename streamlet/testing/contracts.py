"""Does a store of your own keep its promises? The rules of `streamlet.ports` as tests to inherit, for pytest.

    from streamlet.testing.contracts import IdempotencyStoreContract

    class TestRedisMarkers(IdempotencyStoreContract):
        def connect(self): ...
        def advance(self, seconds): ...

Our own stores run through these same classes (tests/contract), and so do stores that are broken on purpose, one for every rule.
What is raced here is raced by threads: that processes are kept apart, too, is for your database, or for a test of yours.
"""

from __future__ import annotations

import threading
import unittest
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec.structs import replace

from streamlet.errors import ServiceError, StoreError
from streamlet.model.position import AT_TIMESTAMP, LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.ports import IdempotencyStore, Lease, LeaseStore

__all__ = ["IdempotencyStoreContract", "LeaseStoreContract"]

T = TypeVar("T")
_RACE_TIMEOUT_S: Final = 60.0

_FULL: Final = Lease(
    key="shardId-000000000007",
    owner="worker-1",
    counter=41,
    checkpoint=Position(49590338271490256608559692538361571095921575989136588898, 17),
    parents=("shardId-000000000001", "shardId-000000000002"),
    children=("shardId-000000000008",),
    pending=Position(49590338271490256608559692538361571095921575989136588999, 3),
    pending_state=bytes(range(256)),
    owner_switches=2,
    starting_hash_key=0,
    ending_hash_key=2**128 - 1,
    checkpoint_owner="worker-0",
)
# Each field at its edges; `_BARE` has none of what `_FULL` has.
_BARE: Final = Lease(key=_FULL.key)
_ROWS: Final = (
    _FULL,
    _BARE,
    replace(_BARE, owner="w-ö:'\"\\ 1", counter=2**62, checkpoint=LATEST, pending=TRIM_HORIZON, pending_state=b""),
    replace(_BARE, checkpoint=SHARD_END, children=("ä, b", 'c"d'), starting_hash_key=2**127, ending_hash_key=2**127),
    replace(_BARE, checkpoint=AT_TIMESTAMP, pending=Position(10**128, 2**31 - 1), parents=("a",), owner_switches=10**6),
)


class _Closable(Protocol):
    def close(self) -> None: ...


_S = TypeVar("_S", bound=_Closable)


class _Contract(Generic[_S]):
    """Stores that a test opens are closed when it has ended."""

    _opened: tuple[_S, ...] = ()

    def connect(self) -> _S:
        raise NotImplementedError("a contract's subclass says how to connect")

    def teardown_method(self) -> None:
        """Close what was opened; pytest calls it after each test."""
        opened, self._opened = self._opened, ()
        for store in opened:
            store.close()

    def _store(self) -> _S:
        store = self.connect()
        self._opened += (store,)
        return store


class LeaseStoreContract(_Contract[LeaseStore]):
    """Inherit it in a class named Test…, and say how a worker comes to the table. `connect` must give a table that is empty at
    the start of each test."""

    def connect(self) -> LeaseStore:
        """One more worker's view of the same table: a store of its own, opened. (For a store that lives in one process, the same
        instance again.) It is closed when the test has ended."""
        return super().connect()

    def unreachable(self) -> LeaseStore | None:
        """A store whose database cannot be reached, not opened; None leaves out the test of its errors."""
        return None

    def test_a_row_comes_back_exactly(self) -> None:
        """Every field: 128-bit hash keys, sub-sequence numbers, any bytes in the pending state; to every worker."""
        store, other = self._store(), self._store()
        assert other.scan() == []
        assert store.create(_FULL) is True
        assert other.read(_FULL.key) == _FULL
        assert other.scan() == [_FULL]

    def test_a_write_replaces_the_whole_row(self) -> None:
        """Nothing of the old row stays: no pending checkpoint, no owner."""
        store = self._store()
        assert store.create(_BARE)
        there = _BARE
        for first in _ROWS:
            for second in _ROWS:
                for row in (first, second):
                    assert store.write(row, if_counter=there.counter) is True
                    there = row
                assert store.read(_FULL.key) == second, f"written over {first}"

    def test_a_write_needs_the_counter_that_is_there(self) -> None:
        """Neither a lower nor a higher one; a refused write changes nothing."""
        store, other = self._store(), self._store()
        store.create(_FULL)
        for wrong in (40, 42, 0):
            assert store.write(replace(_FULL, counter=43, owner="thief"), if_counter=wrong) is False
            assert store.read(_FULL.key) == _FULL
        assert other.write(replace(_FULL, counter=42), if_counter=41)
        assert store.write(replace(_FULL, counter=42, owner="late"), if_counter=41) is False
        assert store.read(_FULL.key) == replace(_FULL, counter=42)

    def test_what_is_not_there_stays_so(self) -> None:
        """It reads as None, is not written into being, and is not deleted."""
        store = self._store()
        assert store.read("nothing") is None
        assert store.write(_FULL, if_counter=_FULL.counter) is False
        assert store.write(_BARE, if_counter=0) is False
        assert store.delete(_FULL.key, if_counter=_FULL.counter) is False
        assert store.scan() == []

    def test_create_does_not_touch_a_row_that_is_there(self) -> None:
        """Not even when it is the same row."""
        store = self._store()
        assert store.create(_FULL)
        assert store.create(replace(_FULL, owner="second", counter=0)) is False
        assert store.create(_FULL) is False
        assert store.read(_FULL.key) == _FULL

    def test_create_all_inserts_what_is_missing(self) -> None:
        """It says how many those were, and leaves the others as they are."""
        store = self._store()
        store.create(_FULL)
        rows = [replace(_FULL, owner="second", counter=0), Lease(key="b"), Lease(key="a", owner="x")]
        assert store.create_all(rows) == 2
        assert store.create_all(rows) == 0
        assert store.create_all([]) == 0
        assert store.scan() == [Lease(key="a", owner="x"), Lease(key="b"), _FULL]

    def test_create_all_is_all_or_none_when_it_fails(self) -> None:
        """An item that can not be stored leaves nothing of its companions behind."""
        store = self._store()
        broken: Any = [Lease(key="a"), Lease(key="b"), object()]
        try:
            store.create_all(broken)
        except Exception:  # noqa: BLE001  whatever it says of an item that is no lease
            assert store.scan() == [], "create_all failed, and left some of its rows"
        else:
            raise AssertionError("create_all took an item that is no lease")
        assert store.create_all([Lease(key="a")]) == 1, "the store does not work any more"

    def test_create_all_is_all_or_none_to_others(self) -> None:
        """Another worker that looks meanwhile sees nothing, or everything."""
        store, other = self._store(), self._store()
        leases = [Lease(key=f"shard-{number:02}") for number in range(50)]
        seen: set[int] = set()
        ended = threading.Event()

        def create() -> int:
            try:
                return store.create_all(leases)
            finally:
                ended.set()

        def look() -> int:
            while not ended.is_set():
                seen.add(len(other.scan()))
            return len(other.scan())

        assert _race([create, look]) == [50, 50]
        assert seen <= {0, 50}, f"a worker saw {sorted(seen - {0, 50})} of 50 rows"

    def test_delete_is_conditional(self) -> None:
        """And final."""
        store, other = self._store(), self._store()
        store.create(_FULL)
        for wrong in (40, 42):
            assert store.delete(_FULL.key, if_counter=wrong) is False
            assert store.read(_FULL.key) == _FULL
        assert other.delete(_FULL.key, if_counter=41) is True
        assert store.read(_FULL.key) is None
        assert store.create(_FULL)

    def test_scan_is_in_key_order(self) -> None:
        """In the order of their code points, whatever the order of creation."""
        store = self._store()
        for key in ("c", "a", "b", "B"):
            store.create(Lease(key=key))
        assert [lease.key for lease in store.scan()] == ["B", "a", "b", "c"]

    def test_open_and_close_are_idempotent(self) -> None:
        """What is closed can be opened again, and its rows are there; another worker's view stays open."""
        store, other = self._store(), self._store()
        store.create(_FULL)
        store.open()
        assert store.read(_FULL.key) == _FULL
        store.close()
        store.close()
        assert other.read(_FULL.key) == _FULL
        store.open()
        assert store.read(_FULL.key) == _FULL

    def test_a_store_opened_here_is_used_there(self) -> None:
        """The lease thread uses what another thread has opened."""
        store = self._store()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(store.create, _FULL).result()
            assert pool.submit(store.read, _FULL.key).result() == _FULL
        assert store.read(_FULL.key) == _FULL

    def test_of_many_creators_one_wins(self) -> None:
        """Eight workers, each with a view of its own; the row is the winner's."""
        stores = [self._store() for _ in range(8)]
        won = _race([_call(store.create, Lease(key="shard", owner=f"w{n}")) for n, store in enumerate(stores)])
        assert sum(won) == 1, f"{sum(won)} workers were told that they had made one row"
        assert stores[0].read("shard") == Lease(key="shard", owner=f"w{won.index(True)}")
        made = _race([_call(store.create_all, [Lease(key=key) for key in "abcdef"[n % 3 :]]) for n, store in enumerate(stores)])
        assert sum(made) == 6, f"6 rows were made, and {sum(made)} were told"

    def test_of_many_takers_one_wins_each_round(self) -> None:
        """All of them saw the same counter; the row is the winner's."""
        stores = [self._store() for _ in range(8)]
        stores[0].create(Lease(key="shard"))
        for counter in range(20):
            rows = [Lease(key="shard", owner=f"w{n}", counter=counter + 1) for n in range(8)]
            won = _race([_call(store.write, row, if_counter=counter) for store, row in zip(stores, rows, strict=True)])
            assert sum(won) == 1, f"{sum(won)} workers were told that the lease is theirs"
            assert stores[0].read("shard") == rows[won.index(True)]

    def test_errors_are_store_errors(self) -> None:
        """Anything else would end the lease thread instead of being tried again. Needs `unreachable`."""
        store = self.unreachable()
        if store is None:
            raise unittest.SkipTest("unreachable() gives no store: which errors it raises is not tested")
        if not _raises_of_the_port(store.open, StoreError):
            calls: list[Callable[[], Any]] = [
                *(store.scan, _call(store.read, "a"), _call(store.create, _FULL), _call(store.create_all, [_FULL])),
                *(_call(store.write, _FULL, if_counter=0), _call(store.delete, "a", if_counter=0)),
            ]
            for call in calls:
                assert _raises_of_the_port(call, StoreError), f"{call} answered without a database"
        store.close()


class IdempotencyStoreContract(_Contract[IdempotencyStore]):
    """Inherit it in a class named Test…, and say how a process comes to the markers, and how time passes for them. `connect` must
    give a store that knows no key at the start of each test.

    `in_progress_s` and `done_s` are what `connect` gives to its stores, and `resolution_s` is how exact the store's times are, all
    in seconds; `in_progress_s` must be at least ten times `resolution_s`, and `done_s` larger.
    """

    in_progress_s: float = 60.0
    done_s: float = 3600.0
    resolution_s: float = 1.0

    def connect(self) -> IdempotencyStore:
        """One more process's view of the same markers. It is closed when the test has ended."""
        return super().connect()

    def advance(self, seconds: float) -> None:
        """Let time pass for the store: move the clock that it was given, or sleep where it has one of its own."""
        raise NotImplementedError("a contract's subclass says how time passes")

    def unreachable(self) -> IdempotencyStore | None:
        """A store whose database cannot be reached; None leaves out the test of its errors."""
        return None

    def _pass(self, seconds: float, store: IdempotencyStore, key: str, before: str) -> None:
        """Let `seconds` pass, and see that the marker counts until then: `begin` says `before`. Then it counts no more."""
        self.advance(seconds - 2 * self.resolution_s)
        assert store.begin(key).state == before, f"{before} was to last {seconds:g} s"
        self.advance(3 * self.resolution_s)

    def test_a_key_is_begun_once_and_then_done(self) -> None:
        """By everybody's view."""
        store, other = self._store(), self._store()
        mine = store.begin("app/s/shard/1/0")
        assert mine.state == "mine"
        assert mine.token, "a marker of ours has a token"
        for view in (store, other):
            assert view.begin("app/s/shard/1/0").state == "busy"
        assert other.begin("app/s/shard/2/0").state == "mine", "another key is another record"
        store.finish("app/s/shard/1/0")
        for view in (store, other):
            assert view.begin("app/s/shard/1/0").state == "done"
        assert other.begin("app/s/shard/2/0").state == "busy"

    def test_a_released_key_may_be_begun_at_once(self) -> None:
        """The handler failed, and its retry must run."""
        store, other = self._store(), self._store()
        store.release("key", store.begin("key").token)
        assert other.begin("key").state == "mine"

    def test_only_its_own_marker_is_released(self) -> None:
        """A handler that outlived its marker fails at last: it must not open the door that its successor has closed."""
        store, other = self._store(), self._store()
        late = store.begin("key")
        self.advance(self.in_progress_s + self.resolution_s)
        assert other.begin("key").state == "mine"
        store.release("key", late.token)
        assert store.begin("key").state == "busy"
        other.finish("key")
        store.release("key", late.token)
        assert store.begin("key").state == "done"
        store.release("never begun", late.token)
        assert store.begin("never begun").state == "mine"

    def test_a_marker_in_progress_blocks_until_its_time_and_no_longer(self) -> None:
        """As after a crash between the effect and the done marker. The one that follows has a time, and a token, of its own."""
        store = self._store()
        first = store.begin("key")
        self._pass(self.in_progress_s, store, "key", "busy")
        second = store.begin("key")
        assert second.state == "mine"
        assert second.token not in {"", first.token}
        self._pass(self.in_progress_s, store, "key", "busy")
        assert store.begin("key").state == "mine"

    def test_who_knows_its_end_says_how_long(self) -> None:
        """`for_s` may be shorter or longer than what the store was told, and is not remembered."""
        store = self._store()
        for for_s in (self.in_progress_s / 2, self.in_progress_s * 2):
            assert store.begin("key", for_s=for_s).state == "mine"
            self._pass(for_s, store, "key", "busy")
        assert store.begin("key").state == "mine"
        self._pass(self.in_progress_s, store, "key", "busy")
        assert store.begin("key").state == "mine"

    def test_done_is_remembered_for_its_time(self) -> None:
        """From `finish` on, however the key was begun."""
        store = self._store()
        store.begin("key", for_s=self.in_progress_s / 2)
        store.finish("key")
        self._pass(self.done_s, store, "key", "done")
        assert store.begin("key").state == "mine"

    def test_whoever_finishes_it_is_done(self) -> None:
        """The effect has been had: by one that was late, by one whose marker is gone, and whatever fails afterwards."""
        store, other = self._store(), self._store()
        store.begin("key")
        self.advance(self.in_progress_s + self.resolution_s)
        second = other.begin("key")
        store.finish("key")
        assert other.begin("key").state == "done"
        other.release("key", second.token)
        assert other.begin("key").state == "done", "a failure after another's success takes nothing back"
        store.finish("never begun")
        assert store.begin("never begun").state == "done"

    def test_a_closed_store_opens_anew(self) -> None:
        """It has forgotten nothing, and others were not disturbed."""
        store, other = self._store(), self._store()
        store.begin("key")
        store.finish("done")
        other.begin("other")
        store.close()
        store.close()
        assert other.begin("key").state == "busy"
        assert [store.begin(key).state for key in ("key", "done", "other")] == ["busy", "done", "busy"]

    def test_keys_are_any_text(self) -> None:
        """Of any length, and told apart to the last code point: no case, blank or composed form is the same as another."""
        store = self._store()
        keys = [*("a'b\"c", "k", "K", "k ", " k", "k\t", "k\n", "%", "_", "*", "é", "e\u0301", "😀", "ß", "ss", "nul\0a", "nul\0b")]
        keys += ["x" * 5000 + "1", "x" * 5000 + "2", "ü" * 2000 + "1", "ü" * 2000 + "2", "app/s/1", "app/s#1"]
        for key in keys:
            assert store.begin(key).state == "mine", f"{key[-20:]!r} was taken for another key"
        for key in keys:
            assert store.begin(key).state == "busy", f"{key[-20:]!r} is not found again"
            store.finish(key)
            assert store.begin(key).state == "done"

    def test_of_many_one_begins(self) -> None:
        """Eight threads, two of them to a view, ten keys: each key is given out once, and once again when its time is over."""
        stores = [self._store() for _ in range(4)] * 2
        keys = [str(number) for number in range(10)]

        def begins(store: IdempotencyStore) -> Callable[[], list[str]]:
            return lambda: [key for key in keys if store.begin(key).state == "mine"]

        for _ in range(2):
            won = sorted(key for got in _race([begins(store) for store in stores]) for key in got)
            assert won == keys, f"keys 0 to 9 were given out as {won}"
            self.advance(self.in_progress_s + self.resolution_s)

    def test_errors_are_of_the_port(self) -> None:
        """StoreError, or a ServiceError; the record waits then, and it is seen why. Needs `unreachable`."""
        store = self.unreachable()
        if store is None:
            raise unittest.SkipTest("unreachable() gives no store: which errors it raises is not tested")
        for call in (_call(store.begin, "key"), _call(store.finish, "key"), _call(store.release, "key", "token")):
            assert _raises_of_the_port(call, (StoreError, ServiceError)), f"{call} answered without a database"
        store.close()


def _call(function: Callable[..., T], /, *args: Any, **options: Any) -> Callable[[], T]:
    return lambda: function(*args, **options)


def _raises_of_the_port(call: Callable[[], Any], kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    try:
        call()
    except kinds:
        return True
    return False


def _race(runners: Sequence[Callable[[], T]]) -> list[T]:
    """What each of them returned, all begun at once."""
    barrier = threading.Barrier(len(runners))

    def run(runner: Callable[[], T]) -> T:
        barrier.wait(_RACE_TIMEOUT_S)
        return runner()

    with ThreadPoolExecutor(len(runners)) as pool:
        return list(pool.map(run, runners))
