"""Which operations are there? One module each, with its notes on top; the missing ones are in UNSUPPORTED.md."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from streamlet.broker.ops import (
    add_tags_to_stream,
    create_stream,
    decrease_stream_retention_period,
    delete_stream,
    describe_stream,
    describe_stream_summary,
    get_records,
    get_shard_iterator,
    increase_stream_retention_period,
    list_shards,
    list_streams,
    list_tags_for_stream,
    merge_shards,
    put_record,
    put_records,
    remove_tags_from_stream,
    split_shard,
    update_shard_count,
)
from streamlet.broker.ops._base import Operation

__all__ = ["OPERATIONS"]

OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        module.OPERATION.name: module.OPERATION
        for module in (
            add_tags_to_stream,
            create_stream,
            decrease_stream_retention_period,
            delete_stream,
            describe_stream,
            describe_stream_summary,
            get_records,
            get_shard_iterator,
            increase_stream_retention_period,
            list_shards,
            list_streams,
            list_tags_for_stream,
            merge_shards,
            put_record,
            put_records,
            remove_tags_from_stream,
            split_shard,
            update_shard_count,
        )
    }
)
