"""Which shards may be read now, and which leases are missing?

The rules, and why:

    table empty, LATEST        open shards, at LATEST               what was written before is not asked for
    table empty, otherwise     every listed shard, at the position  a shard that was closed before AT_TIMESTAMP yields nothing
    a listed shard with a      at TRIM_HORIZON                      everything in a descendant is new; to a fixpoint, so that
    leased ancestor                                                 generations that came and went during a stop are all read
    an open shard without      at TRIM_HORIZON                      a hole: its ancestors' leases are gone; losing nothing
    any leased ancestor                                             matters more than reading twice
    a closed one without       LATEST: none                         it ended before the first start
                               otherwise at the position            whatever became of its lease, it was asked for

A lease may be taken when every parent is settled: its lease says SHARD_END, or it has none. Leases are created all or none, so
the lease of a parent that is to be read is there before its child's.
(reference: amazon-kinesis-client, HierarchicalShardSyncer and BlockOnParentShardTask; there, leases of several generations
are created one at a time.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from streamlet.model.position import LATEST, SHARD_END, TRIM_HORIZON, Position
from streamlet.model.shard import Shard

__all__ = ["LeaseRow", "finished_to_delete", "leases_to_create", "may_start"]


class LeaseRow(Protocol):
    """What this module reads of a lease."""

    @property
    def checkpoint(self) -> Position:
        """How far it is."""
        ...

    @property
    def parents(self) -> tuple[str, ...]:
        """Shard ids."""
        ...


R = TypeVar("R", bound=LeaseRow)


def leases_to_create(shards: Sequence[Shard], known: Mapping[str, LeaseRow], initial: Position) -> list[tuple[Shard, Position]]:
    """The missing leases with their starting positions, parents before children."""
    if not known:
        return [(shard, initial) for shard in _in_order(shards) if initial != LATEST or not shard.closed]
    out: list[tuple[Shard, Position]] = []
    leased = set(known)
    for shard in _in_order(shards):
        if shard.shard_id in leased:
            continue
        followed = any(parent in leased for parent in shard.parents)
        if followed or not shard.closed or initial != LATEST:
            leased.add(shard.shard_id)
            out.append((shard, TRIM_HORIZON if followed or not shard.closed else initial))
    return out


def may_start(parents: Iterable[str], leases: Mapping[str, LeaseRow]) -> bool:
    """Is everything before the shard settled?"""
    return all(leases[parent].checkpoint == SHARD_END for parent in parents if parent in leases)


def finished_to_delete(shards: Sequence[Shard], leases: Mapping[str, LeaseRow]) -> list[str]:
    """Leases at SHARD_END whose shard retention has removed, and whose children have all begun: nothing depends on them."""
    listed = {shard.shard_id for shard in shards}
    waiting = {
        parent for lease in leases.values() if lease.checkpoint.is_sentinel and lease.checkpoint != SHARD_END for parent in lease.parents
    }
    # A child that has no lease yet is known for a descendant only by its parent's lease.
    waiting.update(parent for shard in shards if shard.shard_id not in leases for parent in shard.parents)
    children = {parent for lease in leases.values() for parent in lease.parents}
    return [
        key
        for key, lease in leases.items()
        if lease.checkpoint == SHARD_END and key not in listed and key in children and key not in waiting
    ]


def _in_order(shards: Sequence[Shard]) -> list[Shard]:
    """Parents before children. A parent that is not listed is of the past. A stack, since a lineage has no bound on its depth."""
    by_id = {shard.shard_id: shard for shard in shards}
    out: dict[str, Shard] = {}
    for shard in shards:
        stack = [] if shard.shard_id in out else [shard]
        while stack:
            assert len(stack) <= len(by_id), f"shard {shard.shard_id} is its own ancestor"
            ahead = next((by_id[parent] for parent in stack[-1].parents if parent in by_id and parent not in out), None)
            if ahead is not None:
                stack.append(ahead)
            else:
                done = stack.pop()
                out[done.shard_id] = done
    return list(out.values())
