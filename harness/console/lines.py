"""Console lines, and how a stream of bytes is cut into them."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

SOH = b"\x01"
# A guest that never ends a line must not fill the host's memory.
LONGEST = 16384
_SHOWN = 500


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

    @property
    def shown(self) -> str:
        """The line for a report: of a guest that ends no line its beginning, and how long it is."""
        more = f"… ({len(self.text)} bytes)" if len(self.text) > _SHOWN else ""
        return f"{self.text[:_SHOWN].decode(errors='replace')}{more}"


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that came together, each with its `\\n`: made into `Line`s only for who looks at them."""

    data: bytes
    at_s: float
    direction: Direction

    def __iter__(self) -> Iterator[Line]:
        for text in self.data[:-1].split(b"\n"):
            yield Line(text, self.at_s, self.direction)

    def __len__(self) -> int:
        return self.data.count(b"\n")


class Recent:
    """The newest lines of a console, at most `most`; `count` numbers all that ever came."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most
        self._kept = 0
        self._pieces: deque[tuple[int, Lines]] = deque()

    def add(self, lines: Lines) -> None:
        count = len(lines)
        self.count += count
        self._kept += count
        self._pieces.append((count, lines))
        while self._kept - (first := self._pieces[0][0]) >= self._most:
            self._kept -= first
            self._pieces.popleft()

    def __iter__(self) -> Iterator[Line]:
        return iter(self.since(0))

    def __len__(self) -> int:
        return min(self._kept, self._most)

    def since(self, count: int) -> list[Line]:
        """What is kept of the lines that came after the first `count`."""
        wanted = min(self.count - count, len(self))
        found = [line for _, lines in self._pieces for line in lines]
        return found[len(found) - wanted :]

    def copy(self) -> Recent:
        """The same lines, to keep while this goes on."""
        twin = Recent(self._most)
        twin.count, twin._kept, twin._pieces = self.count, self._kept, self._pieces.copy()
        return twin


class LineCutter:
    """Cuts lines once, as bytes come in; how the stream was cut into pieces changes nothing.

    A frame's SOH begins a line wherever it stands, because a prompt has no line
    end and a frame may follow it. A carriage return where a line begins is none of
    it. A longer line than `LONGEST` is cut.
    """

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest

    @property
    def rest(self) -> bytes:
        """The line that has not ended yet."""
        return self._rest

    def cut(self, piece: bytes) -> bytes:
        """Lines completed by `piece`, each with `\\n` for its line end."""
        data = (self._rest + piece).lstrip(b"\r")
        while b"\n\r" in data:  # GRUB ends its lines so
            data = data.replace(b"\n\r", b"\n")
        if SOH in piece:
            # Before each SOH a line end, but no second one, and none before the first byte.
            begins = data.startswith(SOH)
            data = data.replace(b"\n" + SOH, SOH).replace(SOH, b"\n" + SOH)[begins:]
        whole, end, rest = data.rpartition(b"\n")
        lines = _shortened(whole + end)
        while len(rest) > LONGEST:
            lines += rest[:LONGEST] + b"\n"
            rest = rest[LONGEST:]
        self._rest = rest
        while b"\r\n" in lines:
            lines = lines.replace(b"\r\n", b"\n")
        return lines


def _shortened(lines: bytes) -> bytes:
    """The same, with lines longer than LONGEST cut."""
    if len(lines) <= LONGEST:
        return lines
    parts: list[bytes] = []
    at = done = 0
    while at < len(lines):
        end = lines.rfind(b"\n", at, at + LONGEST + 1)
        if end < 0:
            parts += lines[done : at + LONGEST], b"\n"
            at = done = at + LONGEST
        else:
            at = end + 1
    return b"".join(parts) + lines[done:]
