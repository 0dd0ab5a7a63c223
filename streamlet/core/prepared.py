"""What does a prepared checkpoint remember, and is a re-made range the same one?

Between prepare and commit a worker may die. What is stored with the lease must let any successor make the very same files:
the exact range, the runs of records that were given up inside it (they are left out of the files and told to the
destination), and for each file its key, its number of rows and a digest of the positions of its rows. A re-made file that
differs in one of these was made by a handler that is not deterministic, and the shard stops rather than double or lose a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamlet.errors import InternalError
from streamlet.model.position import Position

__all__ = ["GivenUp", "PreparedFile", "PreparedRange", "differences"]


class GivenUp(msgspec.Struct, frozen=True, array_like=True):
    """A run of records, first … last, that was given up, with what the failure document says of it."""

    first: str
    first_sub: int
    last: str
    last_sub: int
    condition: str
    invoke_count: int
    function_error: str | None
    error: str
    timestamp_s: float

    def covers(self, position: Position) -> bool:
        """Is the record at `position` one of the run?"""
        return Position(int(self.first), self.first_sub) <= position <= Position(int(self.last), self.last_sub)


class PreparedFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of the range: its key, rows, and the digest of their positions."""

    key: str
    rows: int
    digest: str


class PreparedRange(msgspec.Struct, frozen=True):
    """The state of a prepared checkpoint. `last` stands in the lease as `pending`, too."""

    first: str
    first_sub: int
    last: str
    last_sub: int
    given_up: tuple[GivenUp, ...]
    files: tuple[PreparedFile, ...]
    version: int = 1

    @property
    def first_position(self) -> Position:
        """First record of the range."""
        return Position(int(self.first), self.first_sub)

    @property
    def last_position(self) -> Position:
        """Last record of the range."""
        return Position(int(self.last), self.last_sub)

    def encode(self) -> bytes:
        """As stored in `pendingCheckpointState`."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, state: bytes) -> PreparedRange:
        """The reverse. Raises InternalError for bytes that streamlet did not write."""
        try:
            prepared = msgspec.json.decode(state, type=cls)
        except msgspec.MsgspecError as error:
            raise InternalError(f"the prepared checkpoint holds a state that streamlet did not write: {error}") from error
        if prepared.version != 1:
            raise InternalError(f"the prepared checkpoint is of version {prepared.version}; this streamlet knows version 1")
        return prepared


def differences(prepared: Sequence[PreparedFile], remade: Sequence[PreparedFile]) -> list[str]:
    """In words, each way in which the re-made files are not the prepared ones. Empty when they are the same."""
    old = {file.key: file for file in prepared}
    new = {file.key: file for file in remade}
    out = [f"{key} was prepared and is not made any more" for key in old.keys() - new.keys()]
    out += [f"{key} was not prepared" for key in new.keys() - old.keys()]
    for key in old.keys() & new.keys():
        if old[key].rows != new[key].rows:
            out.append(f"{key} had {old[key].rows} rows and has {new[key].rows} now")
        elif old[key].digest != new[key].digest:
            out.append(f"{key} holds other records than before")
    return sorted(out)
