"""Which operations are there? One module each, with its notes on top; the missing ones are in UNSUPPORTED.md."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from streamlet.broker.ops._base import Operation
from streamlet.broker.ops._unsupported import UNSUPPORTED
from streamlet.broker.schema import STREAM_ID, Member

__all__ = ["OPERATIONS", "UNSUPPORTED"]

_MODULES: Final = (
    "add_tags_to_stream",
    "create_stream",
    "decrease_stream_retention_period",
    "delete_resource_policy",
    "delete_stream",
    "deregister_stream_consumer",
    "describe_account_settings",
    "describe_limits",
    "describe_stream",
    "describe_stream_consumer",
    "describe_stream_summary",
    "disable_enhanced_monitoring",
    "enable_enhanced_monitoring",
    "get_records",
    "get_resource_policy",
    "get_shard_iterator",
    "increase_stream_retention_period",
    "list_shards",
    "list_stream_consumers",
    "list_streams",
    "list_tags_for_resource",
    "list_tags_for_stream",
    "merge_shards",
    "put_record",
    "put_records",
    "put_resource_policy",
    "register_stream_consumer",
    "remove_tags_from_stream",
    "split_shard",
    "start_stream_encryption",
    "stop_stream_encryption",
    "subscribe_to_shard",
    "tag_resource",
    "untag_resource",
    "update_account_settings",
    "update_max_record_size",
    "update_shard_count",
    "update_stream_mode",
    "update_stream_record_distribution_strategy",
    "update_stream_warm_throughput",
)

# Every call about a stream that is there already has the member StreamId: its form is checked, and it has no effect.
_STREAM_ID: Final = Member("StreamId", "string", low=1, high=24, pattern=STREAM_ID)
_WITHOUT_STREAM: Final = frozenset({"CreateStream", "DescribeAccountSettings", "DescribeLimits", "ListStreams", "UpdateAccountSettings"})


def _operation(module: str) -> Operation:
    operation: Operation = import_module(f"{__name__}.{module}").OPERATION
    if operation.name in _WITHOUT_STREAM:
        return operation
    return operation._replace(members=(*operation.members, _STREAM_ID))


OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType({found.name: found for found in map(_operation, _MODULES)})
