"""Where records go that were given up: Lambda's on-failure document, to a file, to SQS, SNS or S3."""

from __future__ import annotations

from streamlet.errors import ConfigurationError
from streamlet.ports import Destination

__all__ = ["from_arn"]


def from_arn(arn: str) -> Destination:
    """The destination that an ARN names, as in DestinationConfig.OnFailure. Raises ConfigurationError, with AWS's limits."""
    from streamlet.destinations.aws import parse_arn

    parsed = parse_arn(arn) if len(arn) <= 350 else None
    match parsed.service if parsed is not None else "":
        case "sqs":
            from streamlet.destinations.sqs import SqsDestination

            return SqsDestination(arn)
        case "sns":
            from streamlet.destinations.sns import SnsDestination

            return SnsDestination(arn)
        case "s3":
            from streamlet.destinations.s3 import S3Destination

            return S3Destination(arn)
        case _:
            raise ConfigurationError(
                f"{arn!r} is no on-failure destination: use the ARN of an SQS queue, an SNS topic or an S3 bucket, at most 350 characters, "
                "as in arn:aws:sqs:eu-west-1:123456789012:failed"
            )
