"""What does a handler see of a KPL aggregate? Its user records; all else counts the record of the stream that holds them.

AWS knows nothing of aggregates: its mapping batches, bisects, counts attempts and ages, and names in failure documents, by the
record of the stream. So they are taken apart at the last moment, when a handler is called, in the worker as in Lambda; and an
outcome is brought back to the records of the stream:

    what came of the user records                 what it means for the records of the stream
    all done                                      all done
    user record k failed                          the record that holds k failed, and all after it; those before it are done
    k is not the first of its aggregate           the user records before it in the aggregate come again with it. Their rows are
                                                  left out until then, and what engine/each remembers is not run again
    an exception of the whole batch               all failed
    an aggregate holds no user records            it is done when what is before it is

What begins with the magic and is no aggregate is plain data, as the Kinesis Client Library has it. That library knows the hash range
of its shard, and leaves out user records that are another shard's since a resharding; Lambda's event does not tell the range, and
both runtimes hand such records out.

One more place takes an aggregate apart: a reader that begins inside one, since a checkpoint of that library's stands there, hands out
the rest of it (sources/polling). Else what is written here stands behind a whole record of the stream, with a sub-sequence number of 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import msgspec

from streamlet.kpl import MAGIC
from streamlet.model.record import Record

__all__ = ["UserRecords", "holds_aggregates", "taken_apart"]

_FIRST: Final = MAGIC[0]


class UserRecords(msgspec.Struct, frozen=True):
    """Records of a stream, taken apart. `begins`: for each of them, where in `records` its own begin."""

    records: Sequence[Record]
    begins: Sequence[int]

    def holder(self, index: int) -> int:
        """Which record of the stream holds the user record `index`, counted from 0?"""
        return bisect_right(self.begins, index) - 1

    def whole(self, index: int) -> int:
        """How many user records are in the records of the stream before the one that holds `index`?"""
        return self.begins[self.holder(index)]


def holds_aggregates(records: Sequence[Record]) -> bool:
    """Is it worth while to take these apart? Fast, and wrong only where a payload begins with the magic by chance."""
    for record in records:
        data = record.data
        if data and data[0] == _FIRST and data.startswith(MAGIC):  # one byte is seen in half the time of four
            return True
    return False


def taken_apart(records: Sequence[Record]) -> UserRecords:
    """The user records of these; a record that is no aggregate is its own. A full batch of 6 MB may hold a hundred thousand, which
    take a part of a second: not for the event loop."""
    from streamlet.kpl.deaggregate import deaggregate  # brings in hashlib: a function without aggregates does not pay for it

    out: list[Record] = []
    begins: list[int] = []
    for record in records:
        begins.append(len(out))
        users = None if record.sub_sequence_number else deaggregate(record.data)  # a user record is never taken apart again
        if users is None:
            out.append(record)
            continue
        number, at_s = record.sequence_number, record.arrived_at_s
        shard_id, stream, decoder = record.shard_id, record.stream, record.decoder
        out += [Record(user.data, user.partition_key, number, sub, at_s, shard_id, stream, decoder) for sub, user in enumerate(users)]
    return UserRecords(out, begins)
