"""What goes with on-demand mode only? Warm throughput and automatic distribution; checks shared by the calls that set them.

The wordings are ours: the service's are not known.
"""

from __future__ import annotations

from typing import Final

from streamlet.broker.errors import ApiError, invalid_argument
from streamlet.broker.limits import ON_DEMAND_STREAMS_MAX, WARM_MIBPS_MAX
from streamlet.broker.ops._base import Call, Request
from streamlet.broker.schema import Member

__all__ = ["STRATEGIES", "ModeDetails", "check_distribution", "check_on_demand_limit", "check_warm", "mode_details"]

STRATEGIES: Final = ("AUTO", "USER_PARTITION_KEY")


class ModeDetails(Request, kw_only=True, gc=False):
    """StreamModeDetails."""

    stream_mode: str


def mode_details(*, required: bool = False) -> Member:
    """The member StreamModeDetails."""
    return Member(
        "StreamModeDetails",
        "structure",
        required,
        members=(Member("StreamMode", "string", required=True, enum=("PROVISIONED", "ON_DEMAND")),),
    )


def check_warm(call: Call, mode: str, mibps: int) -> None:
    """Raises InvalidArgumentException or LimitExceededException where a stream cannot be kept warm."""
    if mode != "ON_DEMAND":
        raise invalid_argument("WarmThroughputMiBps is supported for streams in On-Demand mode only.")
    if not call.state.settings(call.place).committed(call.now_ms):
        raise invalid_argument(
            f"WarmThroughputMiBps needs MinimumThroughputBillingCommitment enabled in the account {call.account}: "
            "call UpdateAccountSettings first."
        )
    if mibps > WARM_MIBPS_MAX:
        raise ApiError("LimitExceededException", f"WarmThroughputMiBps {mibps} is above the limit of {WARM_MIBPS_MAX} MiBps for a stream.")


def check_distribution(mode: str, strategy: str) -> None:
    """Raises InvalidArgumentException for AUTO on a provisioned stream."""
    if strategy == "AUTO" and mode != "ON_DEMAND":
        raise invalid_argument("RecordDistributionStrategy AUTO is supported for streams in On-Demand mode only.")


def check_on_demand_limit(call: Call, place: tuple[str, str]) -> None:
    """Raises LimitExceededException if one more on-demand stream would be too many."""
    count = sum(stream.mode == "ON_DEMAND" for stream in call.state.streams_of(*place, call.now_ms))
    if count >= ON_DEMAND_STREAMS_MAX:
        raise ApiError(
            "LimitExceededException",
            f"The account {call.account} has {count} streams in On-Demand mode; the limit is {ON_DEMAND_STREAMS_MAX}.",
        )
