"""What do the broker's tests share? A broker without sockets on a clock that only moves when told, and a running one with boto3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from streamlet.broker import Broker
from streamlet.broker.inline import InlineBroker


def _connect(url: str) -> Any:
    return boto3.client(
        "kinesis",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id="123456789012",
        aws_secret_access_key="secret",
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}, parameter_validation=False),
    )


@pytest.fixture
def world() -> InlineBroker:
    """A broker with the stream `s` of one shard."""
    made = InlineBroker()
    made.ask("CreateStream", StreamName="s", ShardCount=1)
    return made


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker.in_thread(streams={"s": 1}) as running:
        yield running


@pytest.fixture
def connect() -> Callable[[str], Any]:
    """Makes an unmodified boto3 client that does not retry."""
    return _connect


@pytest.fixture
def client(broker: Broker) -> Iterator[Any]:
    made = _connect(broker.endpoint_url)
    yield made
    made.close()
