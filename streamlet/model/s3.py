"""What does S3 tell about an object?"""

from __future__ import annotations

from datetime import datetime

import msgspec

__all__ = ["S3Object"]


class S3Object(msgspec.Struct, frozen=True):
    """One notification about one object.

    `key` is the object's key as it is (in the event it is quoted). `event_name` is S3's, as `ObjectCreated:Put`. `size` (bytes),
    `etag` and `version_id` are None where S3 does not tell them: a deletion has no size, a bucket without versions no version.
    `sequencer` orders the notifications of one key: compare as text, the shorter one padded with zeros on its right.
    """

    bucket: str
    key: str
    event_name: str
    event_time: datetime
    size: int | None = None
    etag: str | None = None
    version_id: str | None = None
    sequencer: str | None = None
    region: str = ""

    @property
    def url(self) -> str:
        """s3://bucket/key, for readers of files."""
        return f"s3://{self.bucket}/{self.key}"
