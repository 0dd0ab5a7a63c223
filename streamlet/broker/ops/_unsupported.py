"""Which operations does the service have that this broker has not, and what do they answer?

They go through the same checks as the others (authorization, types, required members) and then say that they are not
here. UnknownOperationException, since no SDK retries it.
"""

from __future__ import annotations

from typing import Any, Final

from streamlet.broker.errors import ApiError
from streamlet.broker.ops._base import Call, Operation, Request
from streamlet.broker.schema import Member

__all__ = ["UNSUPPORTED"]


def _text(name: str) -> Member:
    return Member(name, "string", required=True)


def _structure(name: str, *required: Member) -> Member:
    return Member(name, "structure", required=True, members=required)


def _structures(name: str, high: int, *required: Member) -> Member:
    return Member(name, "list", required=True, low=1, high=high, members=required)


_QUEUE: Final = (_text("QueueARN"),)
_CHANNEL: Final = (_text("ChannelARN"),)
_ACKNOWLEDGED: Final = (_text("QueueARN"), _structures("Entries", 10, _text("ReceiptHandle")))
_DELAYED: Final = (
    _text("QueueARN"),
    _structures("Entries", 10, _text("ReceiptHandle"), Member("VisibilityTimeoutSeconds", "integer", required=True)),
)
_REQUIRED: Final[dict[str, tuple[Member, ...]]] = {
    "CreateChannel": (
        _text("ChannelName"),
        _text("ServiceExecutionRoleARN"),
        _structures("StreamConfigurationList", 10_000, _text("StreamARN"), _structure("RecordConfiguration", _text("RecordFormatType"))),
    ),
    "UpdateChannel": _CHANNEL,
    "DescribeChannel": _CHANNEL,
    "DeleteChannel": _CHANNEL,
    "ListChannels": (),
    "CreateQueue": (
        _text("QueueName"),
        _structures("StreamConfigurationList", 1, _text("StreamARN"), _structure("StartingPosition", _text("Type"))),
    ),
    "UpdateQueue": (_text("QueueARN"), Member("QueueAttributes", "structure", required=True)),
    "DescribeQueue": _QUEUE,
    "DeleteQueue": _QUEUE,
    "ListQueues": (),
    "ReceiveQueueRecords": _QUEUE,
    "ReceiveDeadLetterQueueRecords": _QUEUE,
    "AcknowledgeQueueRecords": _ACKNOWLEDGED,
    "AcknowledgeDeadLetterQueueRecords": _ACKNOWLEDGED,
    "UpdateQueueRecordsVisibility": _DELAYED,
    "UpdateDeadLetterQueueRecordsVisibility": _DELAYED,
    "RestoreDeadLetterQueueRecords": _ACKNOWLEDGED,
}


def _refusal(name: str) -> Any:
    def run(_call: Call, _request: Request) -> None:
        raise ApiError("UnknownOperationException", f"This broker does not have {name}: it has no queues and no channels.")

    return run


UNSUPPORTED: Final = {name: Operation(name, members, Request, _refusal(name)) for name, members in _REQUIRED.items()}
