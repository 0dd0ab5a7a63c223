"""What was the state when the broker went down? The log, replayed through the same operations.

Commands run again at their own time, with what their outcome depended on. Blocks of records only leave their place in
the log with their shard: reading them is for later, so that a start does not cost what the log weighs in memory.

A change that was pending (a reshard with a delay) was applied in its day by whoever looked first, at a time that a clock
may have gone back from since. So that it was applied stands in the log.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Faults
from streamlet.broker.ops import OPERATIONS
from streamlet.broker.ops._base import Call
from streamlet.broker.persist.entries import (
    HEAD_BYTES,
    KIND_BLOCK,
    KIND_COMMAND,
    KIND_SETTLED,
    KIND_SKIP,
    VERSION,
    Damage,
    Entry,
    Skip,
    decode_block,
    decode_command,
    decode_settled,
    decode_skip,
    proven_until,
    read_entries,
    read_head,
)
from streamlet.broker.persist.journal import Journal, Segment, lock_directory, segment_path
from streamlet.broker.shard import Shard
from streamlet.broker.state import State
from streamlet.broker.stream import Stream
from streamlet.errors import ConfigurationError

__all__ = ["open_journal"]

_log: Final = logging.getLogger("streamlet.broker")
_SHARDS_ANY: Final = 2**31  # a limit that was lowered since does not undo what was made


def open_journal(directory: str | os.PathLike[str], state: State, *, segment_bytes: int, memory_bytes_max: int) -> Journal:
    """Bring an empty state to where the directory's log left off, and go on writing there.

    Raises ConfigurationError if the directory cannot be used, is in use, or its log is damaged.
    """
    place = Path(directory)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(place)
        journal = Journal(place, lock, state, segment_bytes=segment_bytes, memory_bytes_max=memory_bytes_max)
        try:
            state.keeper = journal.keeper
            _Recovery(place, state, journal).run()
        except BaseException:
            journal.failed = "it was not recovered"
            journal.close()
            raise
    except OSError as error:
        raise ConfigurationError(f"--data-dir {place}: {error.strerror or error}") from error
    return journal


class _Recovery:
    def __init__(self, directory: Path, state: State, journal: Journal) -> None:
        self._directory = directory
        self._state = state
        self._journal = journal
        self._faults = Faults(state)
        self._streams: dict[int, Stream] = {}

    def run(self) -> None:
        for stale in self._directory.glob("*.tmp"):
            stale.unlink()
        segments = self._find()
        number, size = 1, 0
        limits = self._state.shards_max, self._state.control_delay_ms
        try:
            for segment in segments:
                self._journal.segments[segment.number] = segment
                number = segment.number
                size = self._replay(segment, last=segment is segments[-1])
        finally:
            self._state.shards_max, self._state.control_delay_ms = limits
        self._journal.resume(number, size)

    def _find(self) -> list[Segment]:
        """The files in order, without those that a later one replaces."""
        found: list[Segment] = []
        paths = sorted(self._directory.glob("[0-9]" * 8 + ".log"))
        for path in reversed(paths):
            number = int(path.stem)
            if found and number >= found[-1].covers_from:
                path.unlink()  # a kill came between the new file and this
                continue
            with path.open("rb") as file:
                raw = file.read(HEAD_BYTES)
            head = read_head(raw)
            if head is None and path is paths[-1] and path.stat().st_size <= HEAD_BYTES:
                _log.warning("%s: cut off at byte 0, %d bytes dropped: its beginning was not written completely", path, path.stat().st_size)
                path.unlink()
                continue
            if head is not None and head.version != VERSION:
                raise ConfigurationError(f"{path} is of version {head.version}, this broker reads {VERSION}: start the one that wrote it")
            if head is None or head.number != number:
                raise _damaged(path, 0)
            if found and head.number != found[-1].covers_from - 1:
                raise _missing(segment_path(self._directory, found[-1].covers_from - 1))
            found.append(Segment(number, head.covers_from))
        if found and found[-1].covers_from != 1:
            raise _missing(segment_path(self._directory, found[-1].covers_from - 1))
        return found[::-1]

    def _replay(self, segment: Segment, *, last: bool) -> int:
        """Answers the size of what is sound."""
        path = segment_path(self._directory, segment.number)
        raw = path.read_bytes()
        size = HEAD_BYTES
        for entry in read_entries(memoryview(raw), HEAD_BYTES):
            if isinstance(entry, Damage):
                if not last or proven_until(raw, entry.offset) > entry.offset:
                    raise _damaged(path, entry.offset)
                dropped = len(raw) - entry.offset
                _log.warning("%s: cut off at byte %d, %d bytes dropped: the last write was not complete", path, entry.offset, dropped)
                break
            size = entry.end
            try:
                self._apply(segment, entry)
            except (ApiError, AssertionError, LookupError, msgspec.MsgspecError) as error:
                raise ConfigurationError(
                    f"{path}: the entry at byte {entry.offset} does not fit to what lies before it ({error!r}): "
                    "start the version of the broker that wrote it, or use an empty --data-dir"
                ) from error
        return size

    def _apply(self, segment: Segment, entry: Entry) -> None:
        kind = entry.content[0]
        if kind == KIND_BLOCK:
            segment.records = True
            head, block = decode_block(entry.content, with_text=False)
            shard = self._shard(head.incarnation, head.shard)
            if shard is not None:
                shard.recall(block, head.second, segment.number, entry.offset)
                newest_ms = block.arrival_ms(block.count - 1)
                segment.keep_skip(Skip(head.incarnation, head.shard, block.stop, block.total, newest_ms, shard.second))
        elif kind == KIND_COMMAND:
            content = bytes(entry.content)
            segment.keep_command(entry.offset, content)
            self._run(entry.content)
        elif kind == KIND_SETTLED:
            segment.keep_command(entry.offset, bytes(entry.content))
            settled = decode_settled(entry.content)
            stream = self._stream(settled.incarnation)
            while stream is not None and stream.settled < settled.number:
                stream.settle_next()
        elif kind == KIND_SKIP:
            skip = decode_skip(entry.content)
            segment.keep_skip(skip)
            shard = self._shard(skip.incarnation, skip.shard)
            if shard is not None:
                shard.skip(skip.next_counter, skip.total, skip.newest_ms, skip.second)

    def _run(self, content: memoryview) -> None:
        command, state = decode_command(content), self._state
        operation = OPERATIONS[command.operation]
        members = msgspec.json.decode(command.members, type=operation.request)
        state.serial = command.serial
        state.shards_max, state.control_delay_ms = _SHARDS_ANY, command.control_delay_ms
        operation.run(Call(state, self._faults, command.account, command.region, command.now_ms, command.owner), members)

    def _shard(self, incarnation: int, index: int) -> Shard | None:
        """The shard, unless it has gone with its stream, or by age."""
        stream = self._stream(incarnation)
        if stream is None:
            return None
        # One that has gone by age had successors.
        assert index in stream.shards or index < max(stream.shards, default=0), f"no shard {index} was ever made"
        return stream.shards.get(index)

    def _stream(self, incarnation: int) -> Stream | None:
        if incarnation not in self._streams:
            self._streams = self._state.by_incarnation()
        return self._streams.get(incarnation)


def _damaged(path: Path, offset: int) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is damaged at byte {offset}, and acknowledged records lie there: restore the file from a copy, or use an empty --data-dir. "
        f"To go on without what lies behind the damage: `truncate -s {offset} {path}`, and remove the files with higher numbers"
    )


def _missing(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is missing: restore it from a copy, or use an empty --data-dir")
