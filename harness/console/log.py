"""A console log on disk: every line with its time and direction."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from harness.console.lines import Direction, Line, Lines

# A guest that prints for ever must not fill the disk.
LARGEST = 64 << 20


class Sink(Protocol):
    """Takes lines from the broker, on the broker's thread."""

    def see(self, lines: Lines) -> None: ...
    def flush(self) -> None: ...


class LogFile:
    """Writes lines to a file. A full disk is kept as `fault`; the file then ends with a whole line.

    Shape of a line: seconds since `start_s`, sign of the direction, text.
    """

    def __init__(self, path: Path, start_s: float) -> None:
        self.path = path
        self.fault: OSError | None = None
        self._start_s = start_s
        self._size = 0
        self._full = False
        self._whole = 0
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=1 << 16)
        except OSError as error:
            self.fault = error

    def line(self, line: Line) -> None:
        """Write one line."""
        self.see(Lines(line.text + b"\n", line.at_s, line.direction))

    def see(self, lines: Lines) -> None:
        """Write lines that came together."""
        if self._file is None or self._full:
            return
        sign, at_s = lines.direction.value.encode(), lines.at_s - self._start_s
        head = b"%12.6f %s " % (at_s, sign)
        text = lines.data[:-1].replace(b"\x01", b"<SOH>").replace(b"\x1b", b"<ESC>")
        data = head + text.replace(b"\n", b"\n" + head) + b"\n"
        if self._size + len(data) > LARGEST:
            data = data[: data.rfind(b"\n", 0, LARGEST - self._size) + 1]
            note = f"the log stops here: it reached {LARGEST >> 20} MiB"
            data += b"%12.6f %s %s\n" % (at_s, Direction.HOST.value.encode(), note.encode())
            self._full = True
        self._size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        if self._file is None:
            return
        try:
            self._file.flush()
            self._whole = self._size
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fail(self, error: OSError) -> None:
        """Keep the fault, and cut the file after the last whole line."""
        self.fault = error
        file, self._file = self._file, None
        assert file is not None
        file.raw.close()  # type: ignore[attr-defined]  # closing the buffer would write again
        if not self.path.is_file():
            return
        with self.path.open("r+b") as whole:
            whole.seek(self._whole)
            written = whole.read()
            whole.truncate(self._whole + written.rfind(b"\n") + 1)
