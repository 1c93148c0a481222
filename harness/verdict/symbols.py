"""From addresses to names, files and lines, by the very ELF that ran."""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.board import LabError
from harness.verdict.dwarf import Lines

_FIRST_LINE = re.compile(r"^quoin \S+ \S+ slide=(0x[0-9a-f]+) build=([0-9a-f]+)")
_FRAME = re.compile(r"^(PANIC cpu\d+: #\d+ )(0x[0-9a-f]+)")
_HASH = re.compile(r"::h[0-9a-f]{16}$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address lies: `symbol+offset`, with file and line where the ELF has them.

    `inlined` are the calls inside that function which the compiler dissolved,
    innermost first.
    """

    symbol: str
    offset: int
    file: str | None = None
    line: int | None = None
    inlined: tuple[str, ...] = ()

    def __str__(self) -> str:
        at = f" at {self.file}:{self.line}" if self.file else ""
        inside = f" (inlined: {' < '.join(self.inlined)})" if self.inlined else ""
        return f"{self.symbol}+{self.offset:#x}{at}{inside}"


# What elftools raises, beside its own errors, for a file that is cut off or has other bytes in it.
CORRUPT = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, struct.error)


class Symbols:
    """Functions and line numbers of one ELF. Raises LabError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self.path = path
        self._lines: Lines | None = None
        try:
            self._file = path.open("rb")
            self._elf: Any = ELFFile(self._file)
            entries = self._entries()
            self.build_id()
        except (OSError, ELFError, *CORRUPT) as error:
            raise LabError(f"{path}: no ELF file with symbols: {error}") from error
        self._table = sorted(entries, key=lambda entry: (entry[0], entry[1]))
        self._starts = [start for start, _, _ in self._table]

    def _entries(self) -> list[tuple[int, int, str]]:
        table: Any = self._elf.get_section_by_name(".symtab")
        if table is None:
            return []
        return [
            (s["st_value"], s["st_size"], s.name)
            for s in table.iter_symbols()
            if s["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE", "STT_OBJECT")
            and s["st_value"]
            and s.name
            and not s.name.startswith((".L", "$"))
        ]

    def address(self, name: str) -> int:
        """Link address of the symbol `name`: mangled, demangled, or its last parts (`panic::stop`).

        Raises LabError when no symbol or more than one matches.
        """
        found = {start for start, _, raw in self._table if raw == name}
        found = found or {start for start, _, raw in self._table if demangle(raw) == name}
        found = found or {s for s, _, raw in self._table if demangle(raw).endswith(f"::{name}")}
        if len(found) != 1:
            raise LabError(f"{self.path}: {len(found)} symbols match {name!r}; one is wanted")
        return int(found.pop())

    def build_id(self) -> str | None:
        """GNU build id, in hexadecimal, if the ELF has one."""
        section: Any = self._elf.get_section_by_name(".note.gnu.build-id")
        notes = [] if section is None else list(section.iter_notes())
        for note in notes:
            if note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
        return None

    def place(self, address: int) -> Place | None:
        """The function that holds a link address, and its line."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, size, name = self._table[index]
        if size and address >= start + size:
            return None
        from elftools.common.exceptions import ELFError

        try:
            if self._lines is None and self._elf.has_dwarf_info():
                self._lines = Lines(self._elf)
            sources = [] if self._lines is None else self._lines.at(address)
        except (ELFError, *CORRUPT):
            sources = []  # the name is known all the same
        inlined = tuple(f"{demangle(s.function or '?')} at {s}" for s in sources[:-1])
        own = sources[-1] if sources else None
        return Place(demangle(name), address - start, own.file if own else None, own.line if own else None, inlined)


def demangle(name: str) -> str:
    """A readable name for Rust's manglings (`_R...`, `_ZN...E`); others are left as they are."""
    from rust_demangler import demangle as readable
    from rust_demangler.rust_legacy import UnableToLegacyDemangle
    from rust_demangler.rust_v0 import UnableTov0Demangle

    if not name.startswith(("_R", "_ZN")):
        return name
    try:
        return _HASH.sub("", readable(name))
    except (UnableToLegacyDemangle, UnableTov0Demangle, IndexError, ValueError):
        return name


def slide_of(lines: Iterable[str]) -> tuple[int, str] | None:
    """Slide and build id that the kernel's first line tells."""
    for line in lines:
        if match := _FIRST_LINE.match(line):
            return int(match[1], 16), match[2]
    return None


def symbolise(report: Iterable[str], symbols: Symbols, slide: int) -> list[str]:
    """The lines of a panic with a place behind each address of a backtrace.

    All but the address that the panic's own message names are return addresses:
    the call lies before them, perhaps as the last instruction of its function.
    """
    result: list[str] = []
    for line in report:
        match = _FRAME.match(line)
        if match is None:
            result.append(line)
            continue
        exact = bool(result) and result[0].endswith(f" pc {match[2]}")
        back = 0 if exact else 1
        place = symbols.place(int(match[2], 16) - slide - back)
        place = place and replace(place, offset=place.offset + back)
        result.append(f"{line}  {place}" if place else line)
    return result
