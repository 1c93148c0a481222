"""What a suite may see instead of the text that it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.board import LabError

if TYPE_CHECKING:
    from harness.console.panic import PanicReport


class ConsoleError(Exception):
    """The console did not bring what was waited for."""


class ExpectTimeout(ConsoleError):
    """The deadline passed first."""


class ConsoleClosed(ConsoleError):
    """The other end of the console is gone."""


class TargetPanicked(ConsoleError):
    """The target panicked while something else was waited for."""

    def __init__(self, report: PanicReport) -> None:
        super().__init__(report.message)
        self.report = report
        report.told = True


class ConsoleFault(LabError):
    """Bytes were torn or lost on the console: no result can be trusted."""
