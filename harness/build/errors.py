"""What goes wrong in a build, said in four parts: wanted, found, log, next step."""

from __future__ import annotations

from pathlib import Path


class BuildError(Exception):
    """A build or a part of one could not be made.

    `wanted` and `found` are one line each, `log` is where the whole story is
    (None where there is none), `next_step` is something to type or to do.
    """

    def __init__(self, wanted: str, found: str, *, log: Path | None = None, next_step: str = "") -> None:
        self.wanted = wanted
        self.found = found
        self.log = log
        self.next_step = next_step
        parts = [f"wanted {wanted}", f"found {found}"]
        if log is not None:
            parts.append(f"log {log}")
        if next_step:
            parts.append(f"next: {next_step}")
        super().__init__("; ".join(parts))

    def lines(self) -> list[str]:
        """The same four parts, one a line, for people."""
        lines = [f"wanted: {self.wanted}", f"found:  {self.found}"]
        if self.log is not None:
            lines.append(f"log:    {self.log}")
        if self.next_step:
            lines.append(f"next:   {self.next_step}")
        return lines
