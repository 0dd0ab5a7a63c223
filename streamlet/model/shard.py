"""What is a shard, and who are its parents?"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["HASH_KEY_MAX", "Shard"]

HASH_KEY_MAX: Final = 2**128 - 1


class Shard(msgspec.Struct, frozen=True):
    """A shard of a stream, as ListShards tells it.

    `starting_hash_key` and `ending_hash_key` are inclusive, 0 … 2**128-1. `parents` holds one shard id after a split,
    two after a merge, none for a shard that the stream was created with. `closed` shards take no more records.
    """

    shard_id: str
    starting_hash_key: int
    ending_hash_key: int
    parents: tuple[str, ...] = ()
    closed: bool = False
    starting_sequence_number: str = "0"
