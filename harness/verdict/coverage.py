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
_Line = tuple[str, int]
_UPPER_HALF = 1 << 63
_LAYOUT = 1


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
            start <= block.address and code[block.address - start :].startswith(block.code)
            for start, code in self._code
            if block.address < start + len(code)
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

    def __init__(self, kernel: Path, programs: Sequence[Path]) -> None:
        self._kernel = Image(kernel)
        self._programs = [Image(path) for path in programs]
        self._known: dict[int | None, dict[Block, tuple[tuple[Image, ...], str]]] = {}

    def __iter__(self) -> Iterator[Image]:
        return iter((self._kernel, *self._programs))

    def place(self, blocks: Iterable[Block], slide: int | None) -> Ran:
        """Where these blocks lie; `slide` is how far the kernel ran from its link address, None for not at all.

        A program's block belongs to the program that has its bytes. Where several have, those count that
        also ran a block that none other has.
        """
        known = self._known.setdefault(slide, {})
        found = [known.get(block) or known.setdefault(block, self._place(block, slide)) for block in blocks]
        ran = {owners[0] for owners, _ in found if len(owners) == 1}
        placed: Ran = {}
        for owners, text in found:
            for image in owners if len(owners) < 2 else [image for image in owners if image in ran] or owners:
                placed.setdefault(image.key, set()).add(text)
        return placed

    def _place(self, block: Block, slide: int | None) -> tuple[tuple[Image, ...], str]:
        if block.address < _UPPER_HALF:
            return tuple(image for image in self._programs if image.has(block)), f"{block.address:x}+{block.size:x}"
        return () if slide is None else (self._kernel,), f"{block.address - (slide or 0):x}+{block.size:x}"


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
            for file, line in set[_Line]().union(*map(table.__getitem__, pieces)):
                found.setdefault(file, set()).add(line)
        return found

    def all_lines(self, keys: Iterable[str]) -> Covered:
        """Every line that made code of these images."""
        found: Covered = {}
        for key in keys:
            for _, _, sources in self._table(key).spans:
                for file, line in sources:
                    found.setdefault(file, set()).add(line)
        return found

    def _table(self, key: str) -> _Table:
        if key not in self._tables:
            path = self._folder / f"{key}-{_LAYOUT}.json"
            if not path.is_file():
                raise KeyError(key)
            self._tables[key] = _Table(json.loads(path.read_text()))
        return self._tables[key]


class _Table(dict[str, frozenset[_Line]]):
    """The lines of each piece of one image that was asked for."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        # Tuples all the way down: Python's garbage collector soon leaves those alone, and there are a hundred thousand.
        self.spans: list[tuple[int, int, tuple[_Line, ...]]] = [
            (start, end, tuple((data["files"][file], line) for file, line in sources))
            for start, end, sources in data["spans"]
        ]
        self._starts = [start for start, _, _ in self.spans]

    def __missing__(self, piece: str) -> frozenset[_Line]:
        start, size = (int(part, 16) for part in piece.split("+"))
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        spans = self.spans[first : bisect.bisect_left(self._starts, start + size)]
        lines = frozenset(line for low, high, own in spans if low < start + size and high > start for line in own)
        return self.setdefault(piece, lines)


def summary(covered: Covered, known: Covered) -> list[str]:
    """A line a file: executed and known lines, and the share; the total last."""
    rows = [(file, len(covered.get(file, set()) & lines), len(lines)) for file, lines in sorted(known.items())]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len(row[0]) for row in rows)
    return [f"{file:{width}}  {run:6} of {lines:6}  {100 * run / max(lines, 1):5.1f} %" for file, run, lines in rows]
