"""Small ELF files made by hand, for tests of what reads them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MACHINE_NUMBERS = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
PT_LOAD, PT_NOTE = 1, 4
READ_EXECUTE, READ_WRITE = 5, 6
_HEADER, _PROGRAM_HEADER = 64, 56


@dataclass(frozen=True)
class Load:
    """A PT_LOAD to make: physical address, content, size in memory, rights."""

    address: int
    data: bytes
    memory_size: int
    flags: int = READ_EXECUTE


def note(owner: bytes, kind: int, payload: bytes) -> bytes:
    """One ELF note, padded."""
    name = owner + b"\0"
    return (
        struct.pack("<III", len(name), len(payload), kind)
        + name
        + bytes(-len(name) % 4)
        + payload
        + bytes(-len(payload) % 4)
    )


BUILD_ID = bytes(range(20))
BUILD_ID_NOTE = note(b"GNU", 3, BUILD_ID)
PVH_NOTE = note(b"Xen", 18, struct.pack("<I", 0x100000))


def make_elf(arch: str, loads: list[Load], notes: bytes = b"", symbols: bytes = b"", virtual_offset: int = 0) -> bytes:
    """An ELF file of `loads` and one PT_NOTE; `symbols` stands for all that stripping removes, behind the segments."""
    count = len(loads) + bool(notes)
    offset = _HEADER + count * _PROGRAM_HEADER
    headers, body = b"", b""
    for load in loads:
        at = offset + len(body)
        headers += struct.pack(
            "<IIQQQQQQ",
            PT_LOAD,
            load.flags,
            at,
            load.address + virtual_offset,
            load.address,
            len(load.data),
            load.memory_size,
            1,
        )
        body += load.data
    if notes:
        at = offset + len(body)
        headers += struct.pack("<IIQQQQQQ", PT_NOTE, 4, at, 0, 0, len(notes), len(notes), 4)
        body += notes
    section_table = offset + len(body) + len(symbols)
    sections = bytes(64)  # one null section, so that there is a table to strip
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        2,
        MACHINE_NUMBERS[arch],
        1,
        loads[0].address if loads else 0,
        _HEADER,
        section_table,
        0,
        _HEADER,
        _PROGRAM_HEADER,
        count,
        64,
        1,
        0,
    )
    return header + headers + body + symbols + sections


def image_header(arch: str, image_size: int) -> bytes:
    """The 64 bytes at the start of a Linux Image."""
    magic = {"aarch64": b"ARM\x64", "riscv64": b"RSC\x05"}[arch]
    header = bytearray(64)
    struct.pack_into("<Q", header, 16, image_size)
    header[56:60] = magic
    return bytes(header)


def make_kernel(arch: str, *, padding: int = 64, symbols: bytes = b"SYMBOLS") -> bytes:
    """A kernel that would pass for one: header or PVH note, build id, some .bss."""
    if arch == "x86_64":
        return make_elf(arch, [Load(0x100000, b"\x90" * padding, padding + 4096)], BUILD_ID_NOTE + PVH_NOTE, symbols)
    size = 64 + padding
    text = image_header(arch, size + 4096) + bytes(padding)
    return make_elf(arch, [Load(0x80200000, text, size + 4096)], BUILD_ID_NOTE, symbols)
