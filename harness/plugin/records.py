"""Test records in a program's ELF, read without booting (docs/protocol.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.board import LabError

SECTION = ".quoin.tests"
_RECORD = struct.Struct("<9QII")
_LONGEST_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """One registered case: its name, where it stands, what it proves and needs."""

    program: str
    name: str
    file: str
    line: int
    requirements: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def case(self) -> str:
        """The name by which `run` asks for it."""
        return f"{self.program}:{self.name}"


def read_records(path: Path) -> list[Record]:
    """Cases of the program at `path`, in the order of the section. Raises LabError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(SECTION)
            if section is None:
                return []
            segments = [
                (s["p_vaddr"], s["p_filesz"], s.data()) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"
            ]
            data = section.data()
    except (OSError, ELFError) as error:
        raise LabError(f"{path}: cannot be read as an ELF file: {error}; build it again") from error
    if len(data) % _RECORD.size:
        raise LabError(f"{path}: {SECTION} has {len(data)} bytes, which is no multiple of {_RECORD.size}")

    def text(address: int, length: int) -> str:
        if length == 0:
            return ""
        for start, size, content in segments:
            if start <= address and address + length <= start + size and length <= _LONGEST_TEXT:
                return str(content[address - start : address - start + length].decode())
        raise LabError(f"{path}: a test record names text at {address:#x}, {length} bytes, which no segment holds")

    records = []
    for fields in _RECORD.iter_unpack(data):
        name, file_name, requirements, needs = (text(fields[i], fields[i + 1]) for i in (0, 2, 4, 6))
        records.append(Record(path.name, name, file_name, fields[9], tuple(requirements.split()), tuple(needs.split())))
    return records
