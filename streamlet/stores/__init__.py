"""Where leases and checkpoints are kept. `open_store` turns a state URL into a store.

- sqlite: one file for all workers of one machine; survives kills and power loss
- memory: one process; the reference that the contract suite was written against
"""

from __future__ import annotations

import re
from typing import Final

from streamlet.errors import ConfigurationError
from streamlet.ports import LeaseStore

__all__ = ["open_store"]

_FORMS: Final = "sqlite:///FILE (sqlite:////ABSOLUTE/FILE) for the workers of one machine, or memory:// for one process"


def open_store(url: str, table: str = "leases") -> LeaseStore:
    """The store that `url` names, not yet opened. Every application and stream has a `table` of its own, since a lease's key
    is only its shard's id. Raises ConfigurationError for a URL that names no store.

    Two calls with `memory://` give two stores: workers of one process share leases by sharing the store.
    """
    scheme, separator, rest = url.partition("://")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", table):
        # DynamoDB's rule for table names, so that a name can move there.
        raise ConfigurationError(f"lease table name {table!r}: use 1-255 letters, digits, '_', '.' and '-'")
    match scheme if separator else "":
        case "memory" if not rest:
            from streamlet.stores.memory import MemoryLeaseStore

            return MemoryLeaseStore()
        case "sqlite" if rest.startswith("/") and len(rest) > 1:
            from streamlet.stores.sqlite import SqliteLeaseStore

            return SqliteLeaseStore(rest[1:], table=table)
        case "dynamodb":
            raise ConfigurationError(f"state {url!r}: dynamodb:// is not available yet; use {_FORMS}")
        case "sqlite":
            raise ConfigurationError(f"state {url!r} names no file: three slashes before a relative path, four before an absolute one")
        case _:
            raise ConfigurationError(f"state {url!r} names no store; use {_FORMS} (dynamodb:// is not available yet)")
