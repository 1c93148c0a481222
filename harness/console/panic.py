"""Seeing a panic when it is printed, not when a test next looks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.console.lines import Line, Lines
from harness.console.patterns import text_in

_LOCATED = re.compile(r"(?P<who>.*?): (?P<message>.*) at (?P<file>[^\s:]+):(?P<line>\d+):\d+$")
# The last line of a panic, of each kernel that is known.
_END = re.compile(r"^PANIC end$|---\[ end Kernel panic")
# What a kernel's own words come to, where they do not say it. Linux's: init/do_mounts.c, init/main.c, kernel/exit.c.
_CAUSES = {
    r"Kernel panic.*VFS: Unable to mount root fs": (
        "it has no root file system: give it an initrd with /init, or root= and the driver of that disk"
    ),
    r"Kernel panic.*No working init found": (
        "its root file system has no program that it can start: give it /init, built for this machine"
    ),
    r"Kernel panic.*Attempted to kill init!": "its first process has ended: see what that said before",
}
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
    def cause(self) -> str:
        """The message, and what it comes to where the lab knows a kernel's words better than they say."""
        known = next((cause for words, cause in _CAUSES.items() if re.search(words, self.message)), None)
        return self.message if known is None else f"{self.message}: {known}"

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
                # Without what a kernel puts before each line, such as its clock: the same panic reads the same.
                self.report = PanicReport(line.at_s, [text[found.start() :]])
        elif not self.report.complete and len(self.report.lines) < _MOST_LINES:
            self.report.lines.append(text)
            self.report.complete = _END.search(text) is not None
