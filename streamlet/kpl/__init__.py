"""How does the Kinesis Producer Library pack many records of a user into one of the stream?

Here is only what such a record begins with, so that a stream without any pays for nothing more than a look at four bytes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAGIC"]

MAGIC: Final = b"\xf3\x89\x9a\xc2"
