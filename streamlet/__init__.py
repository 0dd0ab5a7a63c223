"""Kinesis stream processing for asyncio: one handler for Lambda and for a worker, exactly once into Parquet.

`import streamlet` loads what a Lambda needs and nothing heavy; a name below that needs more is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamlet.app import App
from streamlet.errors import (
    ConfigurationError,
    DecodeError,
    HandlerError,
    RecordError,
    RowError,
    ServiceError,
    StreamletError,
    UsageError,
)
from streamlet.model.batch import Batch
from streamlet.model.position import Position
from streamlet.model.record import Record
from streamlet.spec import EventSourceMapping

if TYPE_CHECKING:
    from streamlet.broker import Broker
    from streamlet.core.rolling import Roll
    from streamlet.destinations.file import FileDestination
    from streamlet.destinations.s3 import S3Destination
    from streamlet.destinations.sns import SnsDestination
    from streamlet.destinations.sqs import SqsDestination
    from streamlet.engine.invoke import RecordFailed
    from streamlet.producer import Producer
    from streamlet.runtimes.consumer import Consumer
    from streamlet.sinks.parquet import ParquetSink

__version__ = "0.1.0.dev0"

__all__ = [
    "App",
    "Batch",
    "Broker",
    "ConfigurationError",
    "Consumer",
    "DecodeError",
    "EventSourceMapping",
    "FileDestination",
    "HandlerError",
    "ParquetSink",
    "Position",
    "Producer",
    "Record",
    "RecordError",
    "RecordFailed",
    "Roll",
    "RowError",
    "S3Destination",
    "ServiceError",
    "SnsDestination",
    "SqsDestination",
    "StreamletError",
    "UsageError",
]

_LAZY = {
    "Broker": "streamlet.broker",
    "Consumer": "streamlet.runtimes.consumer",
    "FileDestination": "streamlet.destinations.file",
    "ParquetSink": "streamlet.sinks.parquet",
    "Producer": "streamlet.producer",
    "RecordFailed": "streamlet.engine.invoke",
    "Roll": "streamlet.core.rolling",
    "S3Destination": "streamlet.destinations.s3",
    "SnsDestination": "streamlet.destinations.sns",
    "SqsDestination": "streamlet.destinations.sqs",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'streamlet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
