"""Console lines, and how a stream of bytes is cut into them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

SOH = b"\x01"
# A guest that never ends a line must not fill the host's memory.
LONGEST = 16384


class Direction(enum.Enum):
    """Which way a line went; the value is its sign in a log."""

    FROM_TARGET = "|"
    TO_TARGET = ">"
    HOST = "!"


@dataclass(frozen=True, slots=True)
class Line:
    """One console line: bytes without the line end, when (monotonic), and which way."""

    text: bytes
    at_s: float
    direction: Direction

    @property
    def is_frame(self) -> bool:
        return self.text.startswith(SOH)

    def __str__(self) -> str:
        return self.text.decode(errors="replace")


class LineCutter:
    """Cuts lines once, as bytes come in.

    A frame's SOH begins a line wherever it stands, because a prompt has no line
    end and a frame may follow it.
    """

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest

    @property
    def rest(self) -> bytes:
        """The line that has not ended yet."""
        return self._rest

    def cut(self, piece: bytes) -> list[bytes]:
        """Lines completed by `piece`, without their line ends."""
        if SOH in piece:
            piece = piece.replace(SOH, b"\n" + SOH)
            if piece.startswith(b"\n" + SOH) and not self._rest:
                piece = piece[1:]
            piece = piece.replace(b"\n\n" + SOH, b"\n" + SOH)
        *lines, rest = (self._rest + piece).split(b"\n")
        while len(rest) > LONGEST:
            lines.append(rest[:LONGEST])
            rest = rest[LONGEST:]
        self._rest = rest
        return [line.rstrip(b"\r") for line in lines]
