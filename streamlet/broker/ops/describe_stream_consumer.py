"""DescribeStreamConsumer: what is a consumer like?

Rules and oddities:
- By ARN, or by the stream's ARN and the consumer's name; both together are accepted, and the ARN decides.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.ops._base import Call, Operation, arn
from streamlet.broker.ops._consumer import ConsumerRequest, consumer_arn_member, consumer_name, consumer_shape, find_consumer
from streamlet.broker.schema import stream_arn

__all__ = ["OPERATION"]

_MEMBERS: Final = (stream_arn(), consumer_name(), consumer_arn_member())


def _run(call: Call, request: ConsumerRequest) -> dict[str, Any]:
    stream, consumer = find_consumer(call, request)
    shape = consumer_shape(call, stream, consumer, consumer.status(call.now_ms))
    return {"ConsumerDescription": {**shape, "StreamARN": arn(call, stream)}}


OPERATION: Final = Operation("DescribeStreamConsumer", _MEMBERS, ConsumerRequest, _run)
