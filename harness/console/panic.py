"""Seeing a panic when it is printed, not when a test next looks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.console.lines import Line, Lines
from harness.console.patterns import text_in

_LOCATED = re.compile(r"(?P<who>.*?): (?P<message>.*) at (?P<file>[^\s:]+):(?P<line>\d+):\d+$")
_END = "PANIC end"
_MOST_LINES = 2000


@dataclass(slots=True)
class PanicReport:
    """A panic as the target printed it. `complete` once its last line has come."""

    at_s: float
    lines: list[str] = field(default_factory=list)
    complete: bool = False
    # A test that asked for the panic has it, or one that did not has been told of it.
    acknowledged: bool = False
    told: bool = False

    @property
    def message(self) -> str:
        return self.lines[0]

    @property
    def location(self) -> tuple[str, int] | None:
        """File and line that the panic names."""
        match = _LOCATED.match(self.lines[0])
        return None if match is None else (match["file"], int(match["line"]))


class PanicWatcher:
    """Finds the first panic in a stream of lines.

    `pattern` is the board's; a prompt without a line end may stand before it.
    """

    def __init__(self, pattern: str, prompt: str) -> None:
        self.pattern = pattern
        self._pattern = re.compile(pattern)
        self._prompt = re.compile(prompt)
        self._text = text_in(pattern)
        self.report: PanicReport | None = None

    def anew(self) -> PanicWatcher:
        """A watcher for the same patterns that has seen nothing."""
        return PanicWatcher(self.pattern, self._prompt.pattern)

    def see(self, lines: Lines) -> None:
        """Look at lines; quick where none of them can begin a panic or belong to one."""
        if self.report.complete if self.report is not None else self._text not in lines.data:
            return
        for line in lines:
            self._see(line)

    def _see(self, line: Line) -> None:
        text = str(line)
        if self.report is None:
            found = self._pattern.search(text)
            if found is None and (prompt := self._prompt.match(text)):
                text = text[prompt.end() :]
                found = self._pattern.search(text)
            if found is not None:
                self.report = PanicReport(line.at_s, [text])
        elif not self.report.complete and len(self.report.lines) < _MOST_LINES:
            self.report.lines.append(text)
            self.report.complete = text == _END
