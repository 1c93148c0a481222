"""From addresses to names, files and lines, by the very ELF that ran."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.board import LabError

_FIRST_LINE = re.compile(r"^quoin \S+ \S+ slide=(0x[0-9a-f]+) build=([0-9a-f]+)")
_FRAME = re.compile(r"^(PANIC cpu\d+: #\d+ )(0x[0-9a-f]+)")
_HASH = re.compile(r"::h[0-9a-f]{16}$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address lies: `symbol+offset`, and file and line where the ELF has them."""

    symbol: str
    offset: int
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        at = f" at {self.file}:{self.line}" if self.file else ""
        return f"{self.symbol}+{self.offset:#x}{at}"


class Symbols:
    """Functions and line numbers of one ELF. Raises LabError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self.path = path
        try:
            self._file = path.open("rb")
            self._elf: Any = ELFFile(self._file)
        except (OSError, ELFError) as error:
            raise LabError(f"{path}: no ELF file with symbols: {error}") from error
        table: Any = self._elf.get_section_by_name(".symtab")
        entries = (
            []
            if table is None
            else [
                (s["st_value"], s["st_size"], s.name)
                for s in table.iter_symbols()
                if s["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE", "STT_OBJECT")
                and s["st_value"]
                and s.name
                and not s.name.startswith((".L", "$"))
            ]
        )
        self._table = sorted(entries, key=lambda entry: (entry[0], entry[1]))
        self._starts = [start for start, _, _ in self._table]

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
        file, line = self._line(address)
        return Place(demangle(name), address - start, file, line)

    def _line(self, address: int) -> tuple[str | None, int | None]:
        if not self._elf.has_dwarf_info():
            return None, None
        dwarf = self._elf.get_dwarf_info()
        for unit in dwarf.iter_CUs():
            if not _covers(dwarf, unit, address):
                continue
            program = dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            previous = None
            for entry in program.get_entries():
                state = entry.state
                if state is None:
                    continue
                if previous is not None and previous.address <= address < state.address:
                    return _file_name(program, previous.file), previous.line
                previous = None if state.end_sequence else state
        return None, None


def _covers(dwarf: Any, unit: Any, address: int) -> bool:
    top = unit.get_top_DIE()
    low, high, ranges = (top.attributes.get(f"DW_AT_{k}") for k in ("low_pc", "high_pc", "ranges"))
    if low is not None and high is not None:
        form = high.form
        end = high.value if form == "DW_FORM_addr" else low.value + high.value
        return bool(low.value <= address < end)
    if ranges is None:
        return False
    lists = dwarf.range_lists()
    if lists is None:
        return True
    base = low.value if low is not None else 0
    for entry in lists.get_range_list_at_offset(ranges.value, cu=unit):
        if hasattr(entry, "base_address"):
            base = entry.base_address
            continue
        offset = 0 if getattr(entry, "is_absolute", False) else base
        if entry.begin_offset + offset <= address < entry.end_offset + offset:
            return True
    return False


def _file_name(program: Any, index: int) -> str:
    header = program.header
    entry = header["file_entry"][index if header["version"] >= 5 else index - 1]
    directory = entry.dir_index
    directories = header["include_directory"]
    if header["version"] < 5:
        directory -= 1
    name = _text(entry.name)
    if 0 <= directory < len(directories) and not name.startswith("/"):
        return f"{_text(directories[directory])}/{name}"
    return name


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


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
