"""DeregisterStreamConsumer: how does a consumer go away?

Rules and oddities:
- By ARN, or by the stream's ARN and the consumer's name; with both, the ARN decides. Answers with an empty body.
- Gone at once, unless the state has a control delay; DELETING until then. Doing it again while DELETING changes nothing.
- Open subscriptions end with ResourceNotFoundException within the stream when it is gone.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._consumer import ConsumerRequest, consumer_arn_member, consumer_name, find_consumer
from streamlet.broker.schema import stream_arn

__all__ = ["OPERATION"]

_MEMBERS: Final = (stream_arn(), consumer_name(), consumer_arn_member())


def _run(call: Call, request: ConsumerRequest) -> None:
    stream, consumer = find_consumer(call, request)
    stream.consumers.deregister(consumer, call.now_ms, call.state.control_delay_ms)


OPERATION: Final = Operation("DeregisterStreamConsumer", _MEMBERS, ConsumerRequest, _run)
