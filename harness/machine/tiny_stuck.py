"""A guest for each architecture that prints a text and is stuck: it spins with interrupts off.

It is what a kernel is to the lab that never gets past a stage of its boot. The
images are made here byte by byte, as QEMU takes Quoin's own on each
architecture: an ELF file with a PVH entry, and flat Images.

Sources: Intel SDM vol. 2 (encodings), Xen's public/elfnote.h (the PVH note),
ELF-64 Object File Format 1.5; Arm ARM DDI 0487, C6 (encodings), Linux
Documentation/arch/arm64/booting.rst, PL011 TRM DDI 0183, 3.3 (registers; QEMU's
`virt` has it at 0x0900_0000).
"""

from __future__ import annotations

import struct
from pathlib import Path

from harness.machine.tiny_efi import PRINT
from harness.machine.tiny_guest import Then, tiny_guest

_LOAD_AT = 0x100000
_ELF_HEADER, _PROGRAM_HEADER = 64, 56
_PT_LOAD, _PT_NOTE, _RWX, _EXECUTABLE, _X86_64 = 1, 4, 7, 2, 62
_XEN_PHYS32_ENTRY = 18
_SPIN_X86 = b"\xeb\xfe"
_SPIN_ARM = 0x14000000


def _pvh_elf(text: str) -> bytes:
    """Entered in 32-bit protected mode with interrupts off."""
    at = _ELF_HEADER + 2 * _PROGRAM_HEADER
    code_bytes = 5 + len(PRINT) + len(_SPIN_X86)
    code = b"\xbe" + struct.pack("<I", _LOAD_AT + at + code_bytes) + PRINT + _SPIN_X86  # mov esi, text
    body = code + text.encode() + b"\0"
    body += bytes(-len(body) % 8)
    note = struct.pack("<III4sQ", 4, 8, _XEN_PHYS32_ENTRY, b"Xen\0", _LOAD_AT + at)
    size = at + len(body) + len(note)
    header = struct.pack("<4sBBB9xHHI", b"\x7fELF", 2, 1, 1, _EXECUTABLE, _X86_64, 1)
    header += struct.pack("<QQQIHHHHHH", _LOAD_AT + at, _ELF_HEADER, 0, 0, _ELF_HEADER, _PROGRAM_HEADER, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, _RWX, 0, _LOAD_AT, _LOAD_AT, size, size, 4096)
    note_at = at + len(body)
    told = struct.pack(
        "<IIQQQQQQ", _PT_NOTE, 4, note_at, _LOAD_AT + note_at, _LOAD_AT + note_at, len(note), len(note), 4
    )
    return header + load + told + body + note


def _arm_image(text: str) -> bytes:
    """Entered at EL1 with translation and interrupts off."""
    code = struct.pack(
        "<9I",
        0x10000001 | 9 << 5,  # adr x1, text: nine instructions on
        0xD2A12002,  # movz x2, #0x900, lsl 16
        0x38401420,  # next: ldrb w0, [x1], #1
        0x34000000 | 5 << 5,  # cbz w0, spin
        0xB9401843,  # wait: ldr w3, [x2, #0x18]
        0x372FFFE3,  # tbnz w3, #5, wait: the FIFO is full
        0xB9000040,  # str w0, [x2]
        0x14000000 | -5 & 0x3FFFFFF,  # b next
        _SPIN_ARM,
    )
    body = code + text.encode() + b"\0"
    head = struct.pack("<IIQQQQQQ4sI", 0x14000000 | 16, 0, 0, 64 + len(body), 0, 0, 0, 0, b"ARM\x64", 0)
    return head + body


def write_stuck_guest(path: Path, arch: str, text: str) -> Path:
    """Write a guest for `arch`, one of the three, that prints `text` and spins; return its path."""
    if arch == "x86_64":
        path.write_bytes(_pvh_elf(text))
    elif arch == "aarch64":
        path.write_bytes(_arm_image(text))
    else:
        path.write_bytes(tiny_guest(text, Then.SPIN))
    return path
