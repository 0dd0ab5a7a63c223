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
    from streamlet.model.s3 import S3Object
    from streamlet.model.window import Window
    from streamlet.producer import Producer
    from streamlet.runtimes.consumer import Consumer
    from streamlet.runtimes.lambda_context import LambdaContext, lambda_context
    from streamlet.runtimes.worker import Worker, WorkerOptions
    from streamlet.sinks.parquet import ParquetSink
    from streamlet.stores.idempotency import MemoryIdempotency
    from streamlet.stores.idempotency_dynamodb import DynamoDBIdempotency
    from streamlet.stores.idempotency_sqlite import SqliteIdempotency

__version__ = "0.1.0.dev0"

__all__ = [
    "App",
    "Batch",
    "Broker",
    "ConfigurationError",
    "Consumer",
    "DecodeError",
    "DynamoDBIdempotency",
    "EventSourceMapping",
    "FileDestination",
    "HandlerError",
    "LambdaContext",
    "MemoryIdempotency",
    "ParquetSink",
    "Position",
    "Producer",
    "Record",
    "RecordError",
    "RecordFailed",
    "Roll",
    "RowError",
    "S3Destination",
    "S3Object",
    "ServiceError",
    "SnsDestination",
    "SqliteIdempotency",
    "SqsDestination",
    "StreamletError",
    "UsageError",
    "Window",
    "Worker",
    "WorkerOptions",
    "lambda_context",
]

_LAZY = {
    "Broker": "streamlet.broker",
    "Consumer": "streamlet.runtimes.consumer",
    "DynamoDBIdempotency": "streamlet.stores.idempotency_dynamodb",
    "FileDestination": "streamlet.destinations.file",
    "LambdaContext": "streamlet.runtimes.lambda_context",
    "MemoryIdempotency": "streamlet.stores.idempotency",
    "ParquetSink": "streamlet.sinks.parquet",
    "Producer": "streamlet.producer",
    "RecordFailed": "streamlet.engine.invoke",
    "Roll": "streamlet.core.rolling",
    "S3Destination": "streamlet.destinations.s3",
    "S3Object": "streamlet.model.s3",
    "SnsDestination": "streamlet.destinations.sns",
    "SqliteIdempotency": "streamlet.stores.idempotency_sqlite",
    "SqsDestination": "streamlet.destinations.sqs",
    "Window": "streamlet.model.window",
    "Worker": "streamlet.runtimes.worker",
    "WorkerOptions": "streamlet.runtimes.worker",
    "lambda_context": "streamlet.runtimes.lambda_context",
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
