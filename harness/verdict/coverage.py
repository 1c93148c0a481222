"""From executed blocks to source lines, by the very images that ran.

A line counts as executed when an instruction that it made was, wherever the
compiler put it: a call that was inlined counts for the line of the call and for
the lines inside. Reading DWARF takes half a second an ELF, so what was read is
kept in a folder, by the ELF's content.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.board import LabError
from harness.build.artifacts import write_atomically
from harness.machine.counting import Block
from harness.verdict.dwarf import Lines

Covered = dict[str, set[int]]
_Line = tuple[str, int]
_UPPER_HALF = 1 << 63
_LAYOUT = 1


class Image:
    """The code of one ELF, and its lines in files of the workspace. Raises LabError where it cannot be read."""

    def __init__(self, path: Path, cache: Path) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            with path.open("rb") as file:
                elf: Any = ELFFile(file)
                self._code = [(s["p_vaddr"], s.data()) for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1]
                file.seek(0)
                key = hashlib.sha256(file.read()).hexdigest()[:24]
                kept = cache / f"{key}-{_LAYOUT}.json"
                if not kept.is_file():
                    write_atomically(kept, json.dumps(_read_lines(elf)).encode())
        except (OSError, ELFError) as error:
            raise LabError(f"{path}: coverage wants an ELF file with line numbers: {error}") from error
        table = json.loads(kept.read_text())
        # Tuples all the way down: Python's garbage collector soon leaves those alone, and there are a hundred thousand.
        self._spans: list[tuple[int, int, tuple[_Line, ...]]] = [
            (start, end, tuple((table["files"][file], line) for file, line in sources))
            for start, end, sources in table["spans"]
        ]
        self._starts = [start for start, _, _ in self._spans]

    def has(self, block: Block) -> bool:
        """Whether this image has that code at that address."""
        return any(
            start <= block.address and code[block.address - start :].startswith(block.code)
            for start, code in self._code
            if block.address < start + len(code)
        )

    def lines(self, start: int, size: int) -> Iterable[tuple[str, int]]:
        """Files and lines that made the `size` bytes of code at `start`."""
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        for low, high, sources in self._spans[first : bisect.bisect_left(self._starts, start + size)]:
            if low < start + size and high > start:
                yield from sources

    def all_lines(self) -> Covered:
        """Every line that made code."""
        found: Covered = {}
        for _, _, sources in self._spans:
            for file, line in sources:
                found.setdefault(file, set()).add(line)
        return found


def _read_lines(elf: Any) -> dict[str, Any]:
    """The spans of an ELF, as far as they are of the workspace: its files have relative paths."""
    files: dict[str, int] = {}
    spans: list[tuple[int, int, list[tuple[int, int]]]] = []
    if elf.has_dwarf_info():
        for start, end, sources in Lines(elf).spans():
            own = {(s.file, s.line) for s in sources if s.line and s.file and not s.file.startswith("/")}
            if own:
                numbered = sorted((files.setdefault(file, len(files)), line) for file, line in sorted(own))
                spans.append((start, end, numbered))
    return {"files": list(files), "spans": spans}


class Images:
    """What one board boots: a kernel and programs, which all lie at the same addresses."""

    def __init__(self, kernel: Path, programs: Sequence[Path], cache: Path) -> None:
        self._kernel = Image(kernel, cache)
        self._programs = [Image(path, cache) for path in programs]
        self._owners: dict[Block, list[Image]] = {}
        self._lines: dict[tuple[Image, int], dict[Block, frozenset[_Line]]] = {}

    def covered(self, blocks: Collection[Block], slide: int | None) -> Covered:
        """Lines that made these blocks; `slide` is how far the kernel ran from its link address, None for not at all.

        A program's block belongs to the program that has its bytes. Where several have, those count that
        also ran a block that none other has.
        """
        kernel = [block for block in blocks if block.address >= _UPPER_HALF]
        programs = [(block, self._owners_of(block)) for block in blocks if block.address < _UPPER_HALF]
        ran = {owners[0] for _, owners in programs if len(owners) == 1}
        by_image: dict[Image, list[Block]] = {}
        for block, owners in programs:
            for image in [image for image in owners if image in ran] or owners:
                by_image.setdefault(image, []).append(block)
        lines: set[_Line] = set() if slide is None else self._lines_of(self._kernel, kernel, slide)
        for image, own in by_image.items():
            lines |= self._lines_of(image, own, 0)
        found: Covered = {}
        for file, line in lines:
            found.setdefault(file, set()).add(line)
        return found

    def _owners_of(self, block: Block) -> list[Image]:
        if block not in self._owners:
            self._owners[block] = [image for image in self._programs if image.has(block)]
        return self._owners[block]

    def _lines_of(self, image: Image, blocks: Sequence[Block], slide: int) -> set[_Line]:
        # A boot executes some ten thousand blocks, nearly all of which the boot before has executed too.
        known = self._lines.setdefault((image, slide), {})
        for block in itertools.filterfalse(known.__contains__, blocks):
            known[block] = frozenset(image.lines(block.address - slide, block.size))
        return set().union(*map(known.__getitem__, blocks))

    def all_lines(self) -> Covered:
        """Every line that made code."""
        found: Covered = {}
        for image in (self._kernel, *self._programs):
            for file, lines in image.all_lines().items():
                found.setdefault(file, set()).update(lines)
        return found


def summary(covered: Covered, known: Covered) -> list[str]:
    """A line a file: executed and known lines, and the share; the total last."""
    rows = [(file, len(covered.get(file, set()) & lines), len(lines)) for file, lines in sorted(known.items())]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len(row[0]) for row in rows)
    return [f"{file:{width}}  {run:6} of {lines:6}  {100 * run / max(lines, 1):5.1f} %" for file, run, lines in rows]
