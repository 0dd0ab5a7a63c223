"""A local Kinesis: what does the service do, without the service? In process, in a thread, or as `streamlet broker`.

    wire       HTTP request -> operation -> answer; order of checks, authorization, error bodies
    http       where a request ends (a parser that owns no socket)
    schema     types and constraints, in the service's words
    ops/       one module per operation; ops/UNSUPPORTED.md lists the others
    state      streams, shards, records (synchronous, is given the clock)
    sequence   sequence numbers; tokens: iterators and listing tokens
    limits     quotas as a table; quotas: the rates, when they are enforced
    faults     what goes wrong on purpose; occasions: what a call is about; admin: faults over HTTP
    server     sockets, start and stop

It shares no code with the client: a fake that shares the client's logic shares its bugs.
"""

from __future__ import annotations

from streamlet.broker.errors import ApiError
from streamlet.broker.faults import Faults
from streamlet.broker.server import Broker, serve

__all__ = ["ApiError", "Broker", "Faults", "serve"]
