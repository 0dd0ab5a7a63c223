"""What does the log look like, byte by byte?

    segment   = "STRMLET" NUL | version u32 | number u64 | covers_from u64 | crc u32          numbers are little-endian
    entry     = marker (4) | length u32 | group u32 | crc u32 | kind (1) and content, together `length` bytes
    block     = incarnation u64 | shard u32 | first counter u64 | records u32 | arrivals u32 | put second u64
                | ends u32 each | running sizes u32 each | arrival u64 each | text
    command   = JSON of Command
    settled   = incarnation u64 | how many of the stream's delayed changes have taken effect u64

`crc` is CRC-32 of length, group and content. `group` is where in this file the group began that the entry was written
with (the end of the file's head for one that began in the file before). A group is only begun after the one before it
is on the disk. So a valid entry proves that everything ahead of its group had been safe, which tells the two kinds of
damage apart: a tail that was being written when the lights went out, and a loss of what had been acknowledged.

A file that covers earlier ones (`covers_from` below its number) replaces them: their records have expired.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from streamlet.broker.blocks import U32, Block

__all__ = [
    "HEAD_BYTES",
    "KIND_BLOCK",
    "KIND_CLEAN",
    "KIND_COMMAND",
    "KIND_SETTLED",
    "KIND_SKIP",
    "PREFIX_BYTES",
    "VERSION",
    "BlockHead",
    "Command",
    "Damage",
    "Entry",
    "Head",
    "Settled",
    "Skip",
    "block_content",
    "decode_block",
    "decode_command",
    "decode_settled",
    "decode_skip",
    "encode_command",
    "encode_head",
    "entry_at",
    "frame",
    "proven_until",
    "read_entries",
    "read_head",
]

VERSION: Final = 1
_MAGIC: Final = b"STRMLET\0"
_HEAD: Final = struct.Struct("<8sIQQ")
HEAD_BYTES: Final = _HEAD.size + 4
_MARKER: Final = b"\xf5\xc1\xfe\xe1"  # no byte of it occurs in UTF-8, so that no text looks like the beginning of an entry
_PREFIX: Final = struct.Struct("<4sIII")
_SUMMED: Final = struct.Struct("<II")
PREFIX_BYTES: Final = _PREFIX.size
KIND_BLOCK: Final = 1
KIND_COMMAND: Final = 2
KIND_SKIP: Final = 3
KIND_CLEAN: Final = 4
KIND_SETTLED: Final = 5
_BLOCK: Final = struct.Struct("<BQIQIIQ")
_SKIP: Final = struct.Struct("<BQIQQqQ")
_SETTLED: Final = struct.Struct("<BQQ")
_SWAP: Final = sys.byteorder != "little"


class Head(NamedTuple):
    """A segment's head."""

    version: int
    number: int
    covers_from: int


class Entry(NamedTuple):
    """One entry. `content` begins with the kind."""

    offset: int
    end: int
    group: int
    content: memoryview


class Damage(NamedTuple):
    """From `offset` on, what is there is no entry."""

    offset: int


class Command(msgspec.Struct, frozen=True):
    """A control operation that went through, with all that its outcome depended on."""

    operation: str
    members: msgspec.Raw
    account: str
    region: str
    owner: bool
    now_ms: int
    serial: int
    control_delay_ms: int


class BlockHead(NamedTuple):
    """Whose records a block holds."""

    incarnation: int
    shard: int
    second: int


class Skip(NamedTuple):
    """A shard's books up to a counter below which everything has expired."""

    incarnation: int
    shard: int
    next_counter: int
    total: int
    newest_ms: int
    second: int

    def encode(self) -> bytes:
        """The content of an entry."""
        return _SKIP.pack(KIND_SKIP, *self)


class Settled(NamedTuple):
    """A delayed change of a stream has taken effect, its so-and-so-many-th. Who looked first, and when, the commands do not tell."""

    incarnation: int
    number: int

    def encode(self) -> bytes:
        """The content of an entry."""
        return _SETTLED.pack(KIND_SETTLED, *self)


def encode_head(number: int, covers_from: int) -> bytes:
    """The head of a segment's file."""
    head = _HEAD.pack(_MAGIC, VERSION, number, covers_from)
    return head + crc32(head).to_bytes(4, "little")


def read_head(raw: bytes) -> Head | None:
    """The head, or None if it is none. Another version's is told as it is."""
    if len(raw) < HEAD_BYTES or crc32(raw[: _HEAD.size]) != int.from_bytes(raw[_HEAD.size : HEAD_BYTES], "little"):
        return None
    magic, version, number, covers_from = _HEAD.unpack_from(raw)
    return Head(version, number, covers_from) if magic == _MAGIC else None


def frame(parts: Sequence[bytes | memoryview], group: int) -> list[bytes | memoryview]:
    """An entry around its content, in pieces to be written one after the other."""
    length = sum(map(len, parts))
    total = crc32(_SUMMED.pack(length, group))
    for part in parts:
        total = crc32(part, total)
    return [_PREFIX.pack(_MARKER, length, group, total), *parts]


def block_content(head: BlockHead, block: Block) -> list[bytes | memoryview]:
    """A block's content in pieces. It must be sealed."""
    text, ends, sizes, arrivals = block.parts()
    start = _BLOCK.pack(KIND_BLOCK, head.incarnation, head.shard, block.first, block.count, len(arrivals), head.second)
    return [start + _bytes(ends) + _bytes(sizes) + _bytes(arrivals), text]


def decode_block(content: memoryview, *, with_text: bool) -> tuple[BlockHead, Block]:
    """The block of an entry; without its text where that is left in the log."""
    _, incarnation, shard, first, count, arrivals, second = _BLOCK.unpack_from(content)
    at = _BLOCK.size
    stops = (at + 4 * count, at + 8 * count, at + 8 * count + 8 * arrivals)
    block = Block(
        first,
        0,
        bytes(content[stops[2] :]) if with_text else b"",
        _array(U32, content[at : stops[0]]),
        _array(U32, content[stops[0] : stops[1]]),
        _array("q", content[stops[1] : stops[2]]),
    )
    return BlockHead(incarnation, shard, second), block


def decode_command(content: memoryview) -> Command:
    """The command of an entry."""
    return msgspec.json.decode(content[1:], type=Command)


def decode_skip(content: memoryview) -> Skip:
    """The skip of an entry."""
    return Skip(*_SKIP.unpack(content)[1:])


def decode_settled(content: memoryview) -> Settled:
    """The Settled of an entry."""
    return Settled(*_SETTLED.unpack(content)[1:])


def entry_at(raw: memoryview, offset: int) -> Entry | None:
    """The entry that begins at an offset, if a whole and sound one does."""
    if offset + _PREFIX.size >= len(raw):
        return None
    marker, length, group, total = _PREFIX.unpack_from(raw, offset)
    begin, end = offset + _PREFIX.size, offset + _PREFIX.size + length
    if marker != _MARKER or length == 0 or end > len(raw):
        return None
    content = raw[begin:end]
    if crc32(content, crc32(_SUMMED.pack(length, group))) != total:
        return None
    return Entry(offset, end, group, content)


def read_entries(raw: memoryview, start: int) -> Iterator[Entry | Damage]:
    """All entries from an offset on; the last item is a Damage if something follows that is none."""
    while start < len(raw):
        entry = entry_at(raw, start)
        if entry is None:
            yield Damage(start)
            return
        yield entry
        start = entry.end


def proven_until(raw: bytes, damage: int) -> int:
    """Up to which offset the sound entries behind a damage prove that everything had been safe; 0 if there are none."""
    view, proven, at = memoryview(raw), 0, damage
    while (at := raw.find(_MARKER, at + 1)) >= 0:
        entry = entry_at(view, at)
        if entry is not None:
            proven = max(proven, entry.group)
            at = entry.end - 1
    return proven


def encode_command(command: Command) -> bytes:
    """The content of an entry."""
    return bytes((KIND_COMMAND,)) + msgspec.json.encode(command)


def _bytes(numbers: array[Any]) -> bytes:
    if _SWAP:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _array(kind: str, raw: memoryview) -> array[int]:
    numbers: array[int] = array(kind)
    numbers.frombytes(raw)
    if _SWAP:
        numbers.byteswap()
    return numbers
