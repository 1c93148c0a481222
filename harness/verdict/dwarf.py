"""Lines and inlined calls of an ELF, from its DWARF sections.

All of it is read once, on the first question (half a second for a kernel), and
then found by bisection. Source: DWARF 5, sections 3.3.8 (inlined calls), 6.2
(line numbers).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """A line of a source file; `function` where it is one that was inlined."""

    file: str
    line: int
    function: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class _Inlined:
    """A call that was inlined: where it stands, what was called, and from which line."""

    start: int
    end: int
    depth: int
    function: str
    called_at: Source


class Lines:
    """What stands at an address of one ELF. `elf` is an ELFFile with DWARF sections."""

    def __init__(self, elf: Any) -> None:
        self._dwarf: Any = elf.get_dwarf_info()
        rows: list[tuple[int, str | None, int]] = []
        inlined: list[_Inlined] = []
        for unit in self._dwarf.iter_CUs():
            program = self._dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            names = _file_names(program)
            rows += _rows(program, names)
            inlined += self._calls(unit, names)
        # Where one sequence ends and the next begins, the beginning counts.
        rows.sort(key=lambda row: (row[0], row[1] is not None))
        self._rows = rows
        self._starts = [row[0] for row in rows]
        self._inlined = sorted(inlined, key=lambda call: call.start)
        self._inlined_starts = [call.start for call in self._inlined]
        self._longest = max((call.end - call.start for call in inlined), default=0)

    def at(self, address: int) -> list[Source]:
        """From the innermost inlined function outwards; the last is in the function itself."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or self._rows[index][1] is None:
            return []
        _, file, line = self._rows[index]
        assert file is not None
        first = bisect.bisect_left(self._inlined_starts, address - self._longest)
        last = bisect.bisect_right(self._inlined_starts, address)
        calls = [call for call in self._inlined[first:last] if call.end > address]
        calls.sort(key=lambda call: -call.depth)
        found = [Source(file, line)]
        for call in calls:
            found[-1] = Source(found[-1].file, found[-1].line, call.function)
            found.append(call.called_at)
        return found

    def spans(self) -> Iterator[tuple[int, int, list[Source]]]:
        """Each stretch of code that has one answer of `at`: its first address, the one behind it, that answer."""
        bounds = {row[0] for row in self._rows}
        bounds.update(self._inlined_starts)
        bounds.update(call.end for call in self._inlined)
        for start, end in itertools.pairwise(sorted(bounds)):
            if sources := self.at(start):
                yield start, end, sources

    def _calls(self, unit: Any, names: list[str]) -> Iterator[_Inlined]:
        depth = 0
        for entry in unit.iter_DIEs():
            if entry.is_null():
                depth -= 1
                continue
            if entry.tag == "DW_TAG_inlined_subroutine":
                file = entry.attributes.get("DW_AT_call_file")
                line = entry.attributes.get("DW_AT_call_line")
                if file is not None and line is not None:
                    at = Source(names[file.value], line.value)
                    name = _function_name(entry)
                    for start, end in self._ranges(unit, entry):
                        yield _Inlined(start, end, depth, name, at)
            depth += entry.has_children

    def _ranges(self, unit: Any, entry: Any) -> Iterator[tuple[int, int]]:
        low, high, ranges = (entry.attributes.get(f"DW_AT_{key}") for key in ("low_pc", "high_pc", "ranges"))
        if low is not None and high is not None:
            end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
            yield low.value, end
            return
        lists = self._dwarf.range_lists()
        if ranges is None or lists is None:
            return
        top = unit.get_top_DIE().attributes.get("DW_AT_low_pc")
        base = top.value if top is not None else 0
        for item in lists.get_range_list_at_offset(ranges.value, cu=unit):
            if hasattr(item, "base_address"):
                base = item.base_address
                continue
            offset = 0 if getattr(item, "is_absolute", False) else base
            yield item.begin_offset + offset, item.end_offset + offset


def _rows(program: Any, names: list[str]) -> Iterator[tuple[int, str | None, int]]:
    """Address, file and line of each row; no file where a sequence ends."""
    for entry in program.get_entries():
        state = entry.state
        if state is not None:
            yield state.address, None if state.end_sequence else names[state.file], state.line


def _file_names(program: Any) -> list[str]:
    """Paths by the numbers that the line program uses."""
    header = program.header
    modern = header["version"] >= 5
    folders = [_text(folder) for folder in header["include_directory"]]
    # Before version 5 numbers begin with 1, and folder 0 is where the compiler ran.
    names = [] if modern else ["?"]
    for entry in header["file_entry"]:
        name, index = _text(entry.name), entry.dir_index - (0 if modern else 1)
        absolute = name.startswith("/") or not 0 <= index < len(folders)
        names.append(name if absolute else f"{folders[index]}/{name}")
    return names


def _function_name(entry: Any) -> str:
    """The linkage name of what was inlined, or its plain name."""
    for _ in range(4):
        for key in ("DW_AT_linkage_name", "DW_AT_name"):
            if key in entry.attributes:
                return _text(entry.attributes[key].value)
        for key in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if key in entry.attributes:
                entry = entry.get_DIE_from_attribute(key)
                break
        else:
            break
    return "?"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
