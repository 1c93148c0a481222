"""A UEFI application for x86_64 of some twenty instructions, to try firmware without a kernel.

It prints a text on the first serial port and sleeps for ever with interrupts
off. The file is made here byte by byte; it needs no compiler. QEMU hands it to
the firmware as `-kernel`, and OVMF starts what it is handed.

Sources: Microsoft PE Format (COFF and PE32+ headers), UEFI 2.10 section 2.1.1;
Intel SDM vol. 2 (encodings) and
vol. 3A 11.5.1 (local vector table); 16550 data sheet (line status, bit 5: may send).
"""

from __future__ import annotations

import struct
from pathlib import Path

_X86_64, _EXECUTABLE_LARGE, _PE32_PLUS, _EFI_APPLICATION, _CODE_RX = 0x8664, 0x22, 0x20B, 10, 0x60000020
_PAGE, _PE_AT, _DIRECTORIES = 0x1000, 0x40, 16

# Prints the text at (R|E)SI and goes on behind itself; the same bytes in 32-bit and in 64-bit mode.
PRINT = bytes.fromhex(
    "ac84c07414"  # next: lodsb; test al, al; jz behind
    "88c366bafd03"  # mov bl, al; mov dx, 0x3fd
    "eca82074fb"  # wait: in al, dx; test al, 0x20; jz wait
    "88d866baf803ee"  # mov al, bl; mov dx, 0x3f8; out dx, al
    "ebe7"  # jmp next
)
_SLEEP = bytes.fromhex(
    # Interrupts that stay pending would wake the CPU's thread again and again, so timers are masked at their source.
    "fab0ffe621e6a1"  # sleep: cli; mov al, 0xff; out 0x21, al; out 0xa1, al
    "b82003e0fec70000000100"  # mov eax, 0xfee00320 (LVT timer); mov dword [rax], 0x10000 (masked)
    "f4ebfd"  # hlt; jmp back to it
)
_CODE = bytes.fromhex("488d352e000000") + PRINT + _SLEEP  # lea rsi, [rip + text]


def tiny_efi(text: str) -> bytes:
    """A PE32+ image that prints `text` and sleeps."""
    body = _CODE + text.encode() + b"\0"
    size = -(-len(body) // _PAGE) * _PAGE
    optional = struct.pack("<HBBIIIII", _PE32_PLUS, 0, 0, size, 0, 0, _PAGE, _PAGE)
    optional += struct.pack("<QIIHHHHHHI", 0, _PAGE, _PAGE, 0, 0, 0, 0, 0, 0, 0)
    optional += struct.pack("<IIIHH", _PAGE + size, _PAGE, 0, _EFI_APPLICATION, 0)
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, _DIRECTORIES) + bytes(8 * _DIRECTORIES)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", _X86_64, 1, 0, 0, 0, len(optional), _EXECUTABLE_LARGE)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(body), _PAGE, size, _PAGE, 0, 0, 0, 0, _CODE_RX)
    head = struct.pack("<2s58xI", b"MZ", _PE_AT) + coff + optional + section
    return head.ljust(_PAGE, b"\0") + body.ljust(size, b"\0")


def write_tiny_efi(path: Path, text: str) -> Path:
    """Write a tiny application to `path`, and return it."""
    path.write_bytes(tiny_efi(text))
    return path
