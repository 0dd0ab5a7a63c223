"""How do changes reach the disk, and when are they safe?

A change is applied in memory at once, on the broker's loop, and gathered into a group. A thread writes one group after
the other and syncs it; while it does, the next group gathers. Answers wait for the group that covers them.

- Readers see a record when it is safe (shard.py), and an answer that may tell of a control operation waits for it: what
  anybody has seen is never lost.
- After a write or a sync that failed nothing is known of what is on the disk, and another sync may say "done" about
  pages that the kernel has dropped. So the journal takes nothing more; what was safe can still be read.
- What was asked for and could not be made safe was refused, and still shows: a stream, a tag, a closed shard, until the
  restart. Records do not show.
- Control operations are kept for ever, as commands; records until they expire. A segment without living records is
  replaced by a small one with its commands and the shards' books, which takes in the one before it if that is such a
  small one, too.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from streamlet.broker.blocks import Block
from streamlet.broker.errors import ApiError
from streamlet.broker.limits import MEMORY_BYTES_MAX, SEGMENT_BYTES
from streamlet.broker.persist.entries import (
    HEAD_BYTES,
    KIND_CLEAN,
    PREFIX_BYTES,
    BlockHead,
    Command,
    Settled,
    Skip,
    block_content,
    decode_block,
    encode_command,
    encode_head,
    entry_at,
    frame,
)
from streamlet.broker.shard import Shard
from streamlet.broker.state import State
from streamlet.errors import ConfigurationError

__all__ = [
    "Journal",
    "Segment",
    "lock_directory",
    "segment_path",
    "sync_directory",
]

_log: Final = logging.getLogger("streamlet.broker")

_CACHE_BYTES_MAX: Final = 16 * 1024 * 1024
_FILES_OPEN_MAX: Final = 32
_PIECES_MAX: Final = 512  # of one writev; the kernel takes 1,024
_SWEEP_S: Final = 60.0

_Parts = list[bytes | memoryview]


class Segment:
    """One file of the log. `kept` is what stays when its records have expired, in order: commands, and each shard's last skip."""

    __slots__ = ("covers_from", "kept", "number", "records")

    def __init__(self, number: int, covers_from: int) -> None:
        self.number = number
        self.covers_from = covers_from
        self.kept: dict[tuple[int, int, int], bytes | Skip] = {}
        self.records = False  # does the file hold any, expired or not?

    def keep_command(self, offset: int, content: bytes) -> None:
        """A command was written, or that a delayed one has taken effect."""
        self.kept[-1, self.number, offset] = content

    def keep_skip(self, skip: Skip) -> None:
        """A block was written, or another skip: it takes the place of the shard's last."""
        key = (skip.incarnation, skip.shard, 0)
        self.kept.pop(key, None)
        self.kept[key] = skip


class _Write(NamedTuple):
    """An entry to write; `opens` is the number of the segment to go on with, in its place."""

    parts: _Parts
    group: int
    opens: int | None = None


class _Group:
    """What is written and synced at once."""

    __slots__ = ("commands", "future", "job", "open", "segment", "shards", "start", "writes")

    def __init__(self) -> None:
        self.writes: list[_Write] = []
        self.shards: list[tuple[Shard, int, bool]] = []  # readers may see the shard up to here, and its end, when it is done
        self.commands = False
        self.segment = self.start = 0  # where its first entry is
        self.future: asyncio.Future[bool] | None = None
        self.job: Future[None] | None = None
        self.open = True


class _StreamKeeper:
    """Makes one stream's shards durable."""

    __slots__ = ("_incarnation", "_journal", "load")

    def __init__(self, journal: Journal, incarnation: int) -> None:
        self._journal = journal
        self._incarnation = incarnation
        self.load = journal.load

    def touched(self, shard: Shard) -> None:
        shard.touched = True
        self._journal.touch(shard, self._incarnation)

    def settles(self, count: int) -> None:
        self._journal.settle(Settled(self._incarnation, count))

    def holds(self, shard: Shard, block: Block) -> None:
        self._journal.hold(shard, block)


class Journal:
    """The log of one data directory. All calls come on the broker's loop; without a loop every answer is preceded by a sync."""

    def __init__(
        self,
        directory: Path,
        lock: int,
        state: State,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:
        self.failed = ""
        self.segments: dict[int, Segment] = {}
        self._directory = directory
        self._lock = lock
        self._state = state
        self._segment_bytes = min(segment_bytes, 2**31)
        self._memory_bytes_max = memory_bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ThreadPoolExecutor(1, "streamlet-journal")
        self._writer = _Writer(directory)
        self._gathering = _Group()
        self._flying: _Group | None = None
        self._scheduled = False
        self._touched: list[tuple[Shard, int]] = []
        self._number = self._size = 0  # where the next entry goes
        self._safe_number = 0  # segments below this one are complete
        self._wrote = self._sweep_due = False
        self._held: deque[tuple[Shard, Block]] = deque()
        self._held_bytes = 0
        self._files: OrderedDict[int, int] = OrderedDict()
        self._cache: OrderedDict[tuple[int, int], tuple[Block, int]] = OrderedDict()
        self._cache_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- life -----------------------------------------------------------------------------------------------------------

    def resume(self, number: int, size: int) -> None:
        """Go on behind what was recovered; a file of no size is begun. Raises OSError."""
        if size == 0:
            self._writer.open(number)
            self.segments[number] = Segment(number, number)
        else:
            self._writer.reopen(number, size)
        self._number, self._size, self._safe_number = number, max(size, HEAD_BYTES), number
        self._sweep_due = True

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on answers wait, and the loop does not."""
        self._loop = loop
        self._tick()

    def keeper(self, incarnation: int) -> _StreamKeeper:
        """For a new stream's shards."""
        return _StreamKeeper(self, incarnation)

    def close(self) -> None:
        """Sync and let go of the directory. Any number of times."""
        if self._lock < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        if not self.failed:
            self.commit()
        if self._wrote and not self.failed:
            # It proves that all before it was safe: a later damage there is no torn tail.
            self._place([bytes((KIND_CLEAN,))])
            self.commit()
        self._thread.shutdown()
        self._writer.close()
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        os.close(self._lock)
        self._lock = -1

    # --- what the front does ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Before a change. Raises ApiError (500) when nothing can be made safe any more."""
        if self.failed or self._lock < 0:
            raise ApiError("InternalFailure", status=500)

    def collect(self) -> None:
        """Put what the shards have into the group: before a control operation, as what comes behind it depends on it."""
        touched, self._touched = self._touched, []
        for shard, incarnation in touched:
            shard.touched = False
            for block in shard.unlogged():
                parts = block_content(BlockHead(incarnation, shard.index, shard.second), block)
                segment, offset = self._place(parts)
                shard.wrote(block, segment.number, offset)
                segment.records = True
                segment.keep_skip(Skip(incarnation, shard.index, block.stop, block.total, block.arrival_ms(block.count - 1), shard.second))
                self._held_bytes += block.held
            self._gathering.shards.append((shard, shard.next_counter, not shard.is_open))

    def command(self, operation: str, members: bytes, *, account: str, region: str, owner: bool, now_ms: int, serial: int) -> None:
        """A control operation has gone through. `members` are JSON; `serial` is the state's before it."""
        raw = msgspec.Raw(members)
        self._keep(encode_command(Command(operation, raw, account, region, owner, now_ms, serial, self._state.control_delay_ms)))

    def settle(self, settled: Settled) -> None:
        """A delayed change takes effect, because somebody looks. Later commands depend on it, whatever the clock does until then."""
        if self._number and not self.failed:  # not while the log is replayed
            self.collect()
            self._keep(settled.encode())

    def _keep(self, content: bytes) -> None:
        segment, offset = self._place([content])
        segment.keep_command(offset, content)
        self._gathering.commands = True
        self._schedule()

    def ready(self, *, changed: bool) -> asyncio.Future[bool] | None:
        """What an answer has to wait for: False when it was not made safe. Raises ApiError without a loop, for the same reason."""
        if self._loop is None:
            self.commit()
            if changed:
                self.check()
            return None
        if changed or self._gathering.commands:
            self._schedule()
            return self._future(self._gathering)
        if self._flying is not None and self._flying.commands:
            return self._future(self._flying)
        return None

    def commit(self) -> None:
        """Return when all changes so far are safe, or `failed` says why not."""
        while not self.failed:
            if self._flying is None:
                self._launch()
            group = self._flying
            if group is None or group.job is None:
                return
            wait([group.job])
            self._finish(group)

    # --- what the shards ask for --------------------------------------------------------------------------------------------

    def touch(self, shard: Shard, incarnation: int) -> None:
        """There is something of this shard's to write."""
        self._touched.append((shard, incarnation))
        self._schedule()

    def hold(self, shard: Shard, block: Block) -> None:
        """A block lies in memory."""
        self._held.append((shard, block))

    def load(self, segment: int, offset: int) -> Block:
        """Read a block back. Raises ApiError (500) if it cannot be."""
        found = self._cache.get((segment, offset))
        if found is not None:
            self._cache.move_to_end((segment, offset))
            return found[0]
        try:
            raw = self._read(segment, offset)
        except OSError as error:
            _log.error("cannot read the log: %s: %s", segment_path(self._directory, segment), error.strerror)
            raise ApiError("InternalFailure", status=500) from error
        entry = entry_at(memoryview(raw), 0)
        if entry is None:
            _log.error("the log is damaged: %s at byte %d", segment_path(self._directory, segment), offset)
            raise ApiError("InternalFailure", status=500)
        _, block = decode_block(entry.content, with_text=True)
        self._cache[segment, offset] = block, len(raw)
        self._cache_bytes += len(raw)
        while self._cache_bytes > _CACHE_BYTES_MAX and len(self._cache) > 1:
            self._cache_bytes -= self._cache.popitem(last=False)[1][1]
        return block

    # --- groups -----------------------------------------------------------------------------------------------------------

    def _place(self, parts: _Parts) -> tuple[Segment, int]:
        """The entry's place in the log, where it will be written with its group."""
        group, length = self._gathering, PREFIX_BYTES + sum(map(len, parts))
        if self._size > HEAD_BYTES and self._size + length > self._segment_bytes:
            self._number, self._size = self._number + 1, HEAD_BYTES
            self.segments[self._number] = Segment(self._number, self._number)
            group.writes.append(_Write([], 0, self._number))
        if group.segment != self._number:
            group.segment, group.start = self._number, self._size
        offset = self._size
        group.writes.append(_Write(parts, group.start))
        self._size += length
        self._wrote = True
        return self.segments[self._number], offset

    def _future(self, group: _Group) -> asyncio.Future[bool]:
        assert self._loop is not None, "without a loop nobody waits"
        if group.future is None:
            group.future = self._loop.create_future()
            if self.failed:
                group.future.set_result(False)
        return group.future

    def _schedule(self) -> None:
        # At the end of the loop's turn: what other connections bring in the same turn is one group.
        if self._loop is not None and not self._scheduled and self._flying is None:
            self._scheduled = True
            self._loop.call_soon(self._launch)

    def _launch(self) -> None:
        self._scheduled = False
        if self._flying is not None or self.failed or self._lock < 0:
            return
        self.collect()
        group = self._gathering
        if not group.writes and not group.shards and group.future is None:
            return
        self._gathering, self._flying = _Group(), group
        group.job = self._thread.submit(self._writer.write, group.writes)
        if self._loop is not None:
            loop = self._loop
            group.job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finish, group))

    def _finish(self, group: _Group) -> None:
        if not group.open:
            return  # someone was in a hurry, and has waited for it
        group.open, self._flying = False, None
        assert group.job is not None, "only a group that was launched comes back"
        error = group.job.exception()
        if error is not None:
            self._fail(group, error)
            return
        if group.segment > self._safe_number:
            self._safe_number, self._sweep_due = group.segment, True
        self._sweep_due |= group.commands
        for shard, counter, closed in group.shards:
            shard.secured(counter, closed=closed)
        if group.future is not None and not group.future.done():
            group.future.set_result(True)
        self._let_go()
        if self._sweep_due and not self._gathering.commands:
            self.sweep()
        if self._touched or self._gathering.writes or self._gathering.future is not None:
            self._schedule()

    def _fail(self, group: _Group, error: BaseException) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
        self.failed = f"writing to {self._directory} failed: {reason}"
        _log.critical(
            "%s. No more writes are taken; what was acknowledged is safe. Make room or repair the disk, then restart", self.failed
        )
        for waiting in (group.future, self._gathering.future):
            if waiting is not None and not waiting.done():
                waiting.set_result(False)
        # What gathered goes the same way. Reads go on without waiting for it; the control operations in it still show.
        self._gathering = _Group()

    # --- memory and disk ----------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Back below the bound: the oldest blocks leave, and are read from the log from now on."""
        while self._held and self._held_bytes > self._memory_bytes_max:
            shard, block = self._held[0]
            if not shard.let_go(block):
                return
            self._held.popleft()
            self._held_bytes -= block.held

    def _tick(self) -> None:
        assert self._loop is not None, "the timer is the loop's"
        self._timer = self._loop.call_later(_SWEEP_S, self._tick)
        if not self._gathering.commands and (self._flying is None or not self._flying.commands):
            self.sweep()

    def sweep(self) -> None:
        """Free the disk of segments in which no record lives. All commands so far must be safe."""
        self._sweep_due = False
        full = [segment for segment in self.segments.values() if segment.number < self._safe_number and segment.records]
        if not full or self.failed or self._lock < 0:
            return
        now_ms = self._state.now_ms
        living: set[int] = set()
        incarnations = set()
        try:
            for stream in self._state.all_streams(now_ms):
                incarnations.add(stream.incarnation)
                stream.expire(now_ms)
                for shard in stream.shards.values():
                    living |= shard.segments()
        except ApiError:
            return  # the log could not be read, which says so itself
        if self._gathering.commands:
            self._sweep_due = True  # a deletion took effect just now: first it must be safe
            return
        for segment in full:
            if segment.number not in living:
                self._shrink(segment, incarnations)

    def _shrink(self, segment: Segment, incarnations: set[int]) -> None:
        before = self.segments.get(segment.covers_from - 1)
        merged = Segment(segment.number, segment.covers_from)
        covered: list[int] = []
        sources = [segment]
        if before is not None and not before.records:
            merged.covers_from = before.covers_from
            covered = [before.number]
            del self.segments[before.number]
            sources = [before, segment]
        behind = [other for other in self.segments.values() if other.number > segment.number]
        for source in sources:
            for key, kept in source.kept.items():
                if not isinstance(kept, Skip):
                    merged.kept[key] = kept
                elif kept.incarnation in incarnations or any(key in other.kept for other in behind):
                    # Also of a deleted stream, while records of the same shard follow: they go on from here.
                    merged.keep_skip(kept)
        self.segments[segment.number] = merged
        self.segments = dict(sorted(self.segments.items()))
        for number in (segment.number, *covered):
            file = self._files.pop(number, None)
            if file is not None:
                os.close(file)
        contents = [kept.encode() if isinstance(kept, Skip) else kept for kept in merged.kept.values()]
        job = self._thread.submit(_replace, self._directory, merged.number, merged.covers_from, contents, covered)
        if self._loop is None:
            wait([job])

    def _read(self, segment: int, offset: int) -> bytes:
        file = self._files.get(segment)
        if file is None:
            file = self._files[segment] = os.open(segment_path(self._directory, segment), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > _FILES_OPEN_MAX:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(segment)
        head = os.pread(file, 65_536, offset)
        length = PREFIX_BYTES + int.from_bytes(head[4:8], "little")
        if length > len(head):
            head += os.pread(file, length - len(head), offset + len(head))
        return head[:length]


class _Writer:
    """The file at the end of the log, on the journal's thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1

    def open(self, number: int) -> None:
        """Begin a segment."""
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(segment_path(self._directory, number), flags, 0o644)
        self._put([encode_head(number, number)])
        os.fdatasync(self._file)
        sync_directory(self._directory)

    def reopen(self, number: int, size: int) -> None:
        """Go on with a segment of this size; what lies behind it is cut off."""
        self._file = os.open(segment_path(self._directory, number), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)
        # A process that was killed before its sync has left what is sound in the cache only, the file's name included.
        os.fsync(self._file)
        sync_directory(self._directory)

    def write(self, writes: list[_Write]) -> None:
        """Write and sync a group."""
        pieces: _Parts = []
        for write in writes:
            if write.opens is None:
                pieces += frame(write.parts, write.group)
                continue
            self._put(pieces)
            pieces = []
            os.fdatasync(self._file)
            self.open(write.opens)
        if pieces:
            self._put(pieces)
            os.fdatasync(self._file)

    def close(self) -> None:
        """Any number of times."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, pieces: _Parts) -> None:
        for begin in range(0, len(pieces), _PIECES_MAX):
            some = pieces[begin : begin + _PIECES_MAX]
            left = sum(map(len, some))
            while left:
                wrote = os.writev(self._file, some)
                left -= wrote
                while some and wrote >= len(some[0]):
                    wrote -= len(some.pop(0))
                if some and wrote:
                    some[0] = memoryview(some[0])[wrote:]


def _replace(directory: Path, number: int, covers_from: int, contents: list[bytes], covered: list[int]) -> None:
    """Put a small segment in the place of those that it covers. At any moment either is complete."""
    path, fresh = segment_path(directory, number), segment_path(directory, number).with_suffix(".tmp")
    try:
        with fresh.open("wb") as file:
            file.write(encode_head(number, covers_from))
            for content in contents:
                for piece in frame([content], HEAD_BYTES):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_directory(directory)
        for old in covered:
            segment_path(directory, old).unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        _log.warning("expired records stay on the disk until the next start: %s: %s", path, error.strerror)


def segment_path(directory: Path, number: int) -> Path:
    """A segment's file."""
    return directory / f"{number:08d}.log"


def sync_directory(directory: Path) -> None:
    """Make names of files durable."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def lock_directory(directory: Path) -> int:
    """Hold the directory against other brokers, until the descriptor is closed. Raises ConfigurationError, OSError."""
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(file, 32, 0).decode(errors="replace").strip()
        os.close(file)
        raise ConfigurationError(
            f"--data-dir {directory} is in use by another broker (process {holder or 'unknown'}): stop it, or choose another directory"
        ) from None
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file
