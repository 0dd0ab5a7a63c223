"""Which partition of AWS is a region in? ARNs begin with it."""

from __future__ import annotations

from typing import Final

__all__ = ["partition_of"]

# AWS General Reference, and botocore's partitions.json.
_PARTITIONS: Final = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}


def partition_of(region: str) -> str:
    """`aws-cn` for Beijing and Ningxia, `aws-us-gov` for GovCloud, …; `aws` for all others, also for those that are made up."""
    return next((partition for prefix, partition in _PARTITIONS.items() if region.startswith(prefix)), "aws")
