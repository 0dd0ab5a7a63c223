"""What does a function print? Lines that a terminal can show, however much and whatever comes.

Long lines are cut, and of an invocation that prints without end only the first lines are kept: a function may print garbage,
and that must cost neither memory nor the terminal. Lambda's client writes the lines of a traceback with carriage returns
between them, which are line ends here.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LINES_MAX", "LINE_BYTES_MAX", "Lines", "printable"]

LINE_BYTES_MAX: Final = 4_096
LINES_MAX: Final = 1_000
_ENDS: Final = re.compile(rb"[\r\n]+")


class Lines:
    """Cuts a stream of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""
        self._cut = 0  # bytes of the line in hand that were left out
        self._shown = 0
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *whole, rest = _ENDS.split(data)
        out: list[str] = []
        for piece in whole:
            self._grow(piece)
            out += self._take()
        self._grow(rest)
        return out

    def end(self) -> list[str]:
        """An invocation is over: what it left without a line end, and how much was left out. The count begins anew."""
        out = self._take()
        if self._dropped:
            out.append(f"… {self._dropped:,} more lines are left out")
        self._shown = self._dropped = 0
        return out

    def _grow(self, piece: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._rest)
        self._rest += piece[:room]
        self._cut += max(0, len(piece) - room)

    def _take(self) -> list[str]:
        line, cut, self._rest, self._cut = self._rest, self._cut, b"", 0
        if not line:
            return []
        if self._shown >= LINES_MAX:
            self._dropped += 1
            return []
        self._shown += 1
        return [printable(line.decode("utf-8", "replace")) + (f" … ({cut:,} more bytes)" if cut else "")]


def printable(text: str) -> str:
    """One line of text, without what would move the cursor or colour the terminal."""
    text = text.expandtabs(4).replace("\xa0", " ").rstrip()
    return text if text.isprintable() else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
