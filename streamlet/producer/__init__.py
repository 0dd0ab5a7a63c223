"""Putting records into a stream: packed, in order per partition key, never dropped.

producer   how do records get from a caller into the stream?
pending    what does a caller hold until a record is there?
"""

from __future__ import annotations

from streamlet.producer.pending import PutPending, PutResult
from streamlet.producer.producer import Producer

__all__ = ["Producer", "PutPending", "PutResult"]
