"""An x86_64 guest of some thirty instructions with two serial ports: what it hears on one it says on the other.

It prints a text on the first port, and then carries bytes between the two for ever. It is entered in 32-bit mode
by its PVH note; the file is made here byte by byte and needs no compiler.

Sources: System V gABI chapters 4 and 5, Xen public/elfnote.h and arch-x86/hvm/start_info.h (the entry: flat
segments, interrupts off); 16550 data sheet (line status, bit 0: has received, bit 5: may send); Intel SDM vol. 2.
"""

from __future__ import annotations

import struct
from pathlib import Path

from harness.machine.tiny_efi import PRINT

_AT = 0x100000
_HEADERS, _NOTE = 64 + 2 * 56, 20
_XEN_PHYS32_ENTRY = 18
_EM_X86_64, _ET_EXEC, _PT_LOAD, _PT_NOTE, _RWX = 62, 2, 1, 4, 7
_COM1, _COM2 = 0x3F8, 0x2F8


def _carry(source: int, target: int) -> bytes:
    """Instructions that carry one byte, where there is one, and go on behind themselves."""
    send = bytes.fromhex(f"66ba{_le(target + 5)}eca82074fb88d866ba{_le(target)}ee")  # may it send? so send bl
    take = bytes.fromhex(f"66ba{_le(source)}ec88c3")  # mov dx, source; in al, dx; mov bl, al
    look = bytes.fromhex(f"66ba{_le(source + 5)}eca80174")  # mov dx, source+5; in al, dx; test al, 1; jz behind
    return look + bytes([len(take) + len(send)]) + take + send


def _le(port: int) -> str:
    return port.to_bytes(2, "little").hex()


def tiny_bridge(text: str) -> bytes:
    """An ELF file with a PVH entry that prints `text` and carries bytes between COM1 and COM2."""
    entry = _AT + _HEADERS + _NOTE
    bridge = _carry(_COM1, _COM2) + _carry(_COM2, _COM1)
    bridge += bytes([0xEB, 256 - len(bridge) - 2])
    code = b"\xbe" + struct.pack("<I", entry + 5 + len(PRINT) + len(bridge)) + PRINT + bridge  # mov esi, text
    body = code + text.encode() + b"\0"
    size = _HEADERS + _NOTE + len(body)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, _ET_EXEC, _EM_X86_64, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, _RWX, 0, _AT, _AT, size, size, 0x1000)
    at = _AT + _HEADERS
    named = struct.pack("<IIQQQQQQ", _PT_NOTE, _RWX, _HEADERS, at, at, _NOTE, _NOTE, 4)
    note = struct.pack("<III4sI", 4, 4, _XEN_PHYS32_ENTRY, b"Xen\0", entry)
    return header + load + named + note + body


def write_tiny_bridge(path: Path, text: str) -> Path:
    """Write a tiny bridge to `path`, and return it."""
    path.write_bytes(tiny_bridge(text))
    return path
