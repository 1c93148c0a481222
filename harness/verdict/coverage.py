"""From executed blocks to source lines, by the very images that ran.

A line counts as executed when an instruction that it made was, wherever the
compiler put it: a call that was inlined counts for the line of the call and for
the lines inside. While tests run, code is only placed: named by the image that
it belongs to and its address there. Lines are looked up when somebody asks. Reading
DWARF takes half a second an ELF, so what was read is kept in a folder, by the
ELF's content, and outlives the ELF.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.board import LabError
from harness.build.artifacts import write_atomically
from harness.machine.counting import Block
from harness.verdict.dwarf import Lines

Covered = dict[str, set[int]]
# Executed code by the key of its image; a piece of it is `address+size`, hexadecimal, as linked.
Ran = dict[str, set[str]]
_UPPER_HALF = 1 << 63
_LAYOUT = 2


class Image:
    """The code of one ELF; `key` is of its content. Raises LabError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self.path = path
        try:
            data = path.read_bytes()
            self._elf: Any = ELFFile(io.BytesIO(data))
            self._code = [(s["p_vaddr"], s.data()) for s in self._elf.iter_segments("PT_LOAD") if s["p_flags"] & 1]
        except (OSError, ELFError) as error:
            raise LabError(f"{path}: coverage wants an ELF file with line numbers: {error}") from error
        self.key = hashlib.sha256(data).hexdigest()[:24]

    def has(self, block: Block) -> bool:
        """Whether this image has that code at that address."""
        return any(
            code.startswith(block.code, block.address - start)
            for start, code in self._code
            if start <= block.address < start + len(code)
        )

    def keep_lines(self, folder: Path) -> None:
        """Write its line table down, if that was not done before. Raises LabError."""
        from elftools.common.exceptions import ELFError

        path = folder / f"{self.key}-{_LAYOUT}.json"
        try:
            if not path.is_file():
                write_atomically(path, json.dumps(_read_lines(self._elf)).encode())
        except ELFError as error:
            raise LabError(f"{self.path}: coverage wants an ELF file with line numbers: {error}") from error


def _read_lines(elf: Any) -> dict[str, Any]:
    """The spans of an ELF, as far as they are of the workspace: its files have relative paths.

    Flat lists, which are read faster than nested ones: where spans start and end, and the set of lines that made each;
    the sets, of numbers of lines; the file of each line (a number) and its line there.
    """
    lines: dict[tuple[str, int], int] = {}
    sets: dict[tuple[int, ...], int] = {}
    starts, ends, made_by = [], [], []
    if elf.has_dwarf_info():
        for start, end, sources in Lines(elf).spans():
            own = {(s.file, s.line) for s in sources if s.line and s.file and not s.file.startswith("/")}
            if own:
                starts.append(start)
                ends.append(end)
                numbers = tuple(lines.setdefault(line, len(lines)) for line in sorted(own))
                made_by.append(sets.setdefault(numbers, len(sets)))
    files = list(dict.fromkeys(file for file, _ in lines))
    numbered = {file: number for number, file in enumerate(files)}
    return {
        "files": files,
        "file": [numbered[file] for file, _ in lines],
        "line": [line for _, line in lines],
        "sets": list(sets),
        "starts": starts,
        "ends": ends,
        "made_by": made_by,
    }


class Images:
    """What one board boots: a kernel and programs, which all lie at the same addresses."""

    def __init__(self, kernel: Path, programs: Sequence[Path]) -> None:
        self._kernel = Image(kernel)
        self._programs = [Image(path) for path in programs]
        self._placed: dict[int | None, dict[Block, tuple[tuple[Image, ...], str]]] = {}

    def __iter__(self) -> Iterator[Image]:
        return iter((self._kernel, *self._programs))

    def place(self, blocks: Iterable[Block], slide: int | None) -> Ran:
        """Where these blocks lie; `slide` is how far the kernel ran from its link address, None for not at all.

        A program's block belongs to the program that has its bytes. Where several have, those count that
        also ran a block that none other has.
        """
        known = self._placed.setdefault(slide, {})
        found: dict[tuple[Image, ...], list[str]] = {}
        for block in blocks:
            owners, text = known.get(block) or known.setdefault(block, self._place(block, slide))
            found.setdefault(owners, []).append(text)
        ran = {owners[0] for owners in found if len(owners) == 1}
        placed: Ran = {}
        for owners, pieces in found.items():
            for image in owners if len(owners) < 2 else [image for image in owners if image in ran] or owners:
                placed.setdefault(image.key, set()).update(pieces)
        return placed

    def _place(self, block: Block, slide: int | None) -> tuple[tuple[Image, ...], str]:
        if block.address >= _UPPER_HALF:
            kernel = () if slide is None else (self._kernel,)
            return kernel, f"{block.address - (slide or 0):x}+{block.size:x}"
        return tuple(image for image in self._programs if image.has(block)), f"{block.address:x}+{block.size:x}"


class LineTables:
    """The line tables in a folder. KeyError names an image that has none there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables: dict[str, _Table] = {}

    def covered(self, ran: Mapping[str, Iterable[str]]) -> Covered:
        """Lines that made this code."""
        found: Covered = {}
        for key, pieces in ran.items():
            table = self._table(key)
            sets = set().union(*map(table.__getitem__, pieces))
            table.name(set().union(*(table.sets[number] for number in sets)), found)
        return found

    def all_lines(self, keys: Iterable[str]) -> Covered:
        """Every line that made code of these images."""
        found: Covered = {}
        for key in keys:
            table = self._table(key)
            table.name(range(len(table.line)), found)
        return found

    def _table(self, key: str) -> _Table:
        if key not in self._tables:
            path = self._folder / f"{key}-{_LAYOUT}.json"
            if not path.is_file():
                raise KeyError(key)
            self._tables[key] = _Table(json.loads(path.read_text()))
        return self._tables[key]


class _Table(dict[str, frozenset[int]]):
    """Numbers of the sets of lines that made each piece of an image that was asked for."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__()
        self._files, self._file, self.line = data["files"], data["file"], data["line"]
        self.sets, self._made_by = data["sets"], data["made_by"]
        self._starts, self._ends = data["starts"], data["ends"]

    def __missing__(self, piece: str) -> frozenset[int]:
        start, size = (int(part, 16) for part in piece.split("+"))
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        last = bisect.bisect_left(self._starts, start + size)
        sets = frozenset(self._made_by[at] for at in range(first, last) if self._ends[at] > start)
        return self.setdefault(piece, sets)

    def name(self, numbers: Iterable[int], into: Covered) -> None:
        """Add the lines of these numbers."""
        for number in numbers:
            into.setdefault(self._files[self._file[number]], set()).add(self.line[number])


def summary(covered: Covered, known: Covered) -> list[str]:
    """A line a file: executed and known lines, and the share; the total last."""
    rows = [(file, len(covered.get(file, set()) & lines), len(lines)) for file, lines in sorted(known.items())]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len(row[0]) for row in rows)
    return [f"{file:{width}}  {run:6} of {lines:6}  {100 * run / max(lines, 1):5.1f} %" for file, run, lines in rows]
