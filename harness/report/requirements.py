"""The rows of requirements that tests say they prove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.build.errors import BuildError


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement: its id, its words, and how Quoin reads them (empty: as they stand)."""

    id: str
    text: str
    reading: str


def read_rows(path: Path) -> list[Row]:
    """The requirements. Raises BuildError when the file is missing or has no such columns."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BuildError(f"requirements at {path}", error.strerror or str(error)) from error
    columns = lines[0].split("\t") if lines else []
    if not {"id", "requirement", "reading"} <= set(columns):
        raise BuildError(f"columns id, requirement and reading in {path}", ", ".join(columns) or "an empty file")
    rows = []
    for line in lines[1:]:
        cells = dict(zip(columns, line.split("\t") + [""] * len(columns), strict=False))
        rows.append(Row(cells["id"], cells["requirement"], cells["reading"]))
    return rows
