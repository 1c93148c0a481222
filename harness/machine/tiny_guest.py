"""A RISC-V guest of some twenty instructions, to try the lab without a kernel.

It prints a text through SBI and then behaves as asked: well, or as badly as a
kernel can. The image is flat, with the header that `check_image` wants, and is
made here byte by byte; it needs no compiler.

Sources: RISC-V Unprivileged ISA 20191213, chapter 24 (encodings); RISC-V SBI
1.0, chapters 5 (legacy console) and 10 (system reset).
"""

from __future__ import annotations

import enum
import struct
from pathlib import Path

_LOAD_OFFSET = 0x200000
_HEADER_BYTES = 64
_ZERO, _S0, _A0, _A1, _A6, _A7 = 0, 8, 10, 11, 16, 17
_SBI_PUTCHAR, _SBI_GETCHAR, _SBI_SRST = 1, 2, 0x53525354


class Then(enum.Enum):
    """What the guest does when it has printed its text."""

    SPIN = "spin"
    SLEEP = "sleep"
    REPEAT = "repeat"
    RESET = "reset"
    POWER_OFF = "power off"
    ECHO = "echo"


def _i(opcode: int, funct3: int, rd: int, rs1: int, value: int) -> int:
    return (value & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def _addi(rd: int, rs1: int, value: int) -> int:
    return _i(0x13, 0, rd, rs1, value)


def _lui(rd: int, value: int) -> int:
    return (value & 0xFFFFF) << 12 | rd << 7 | 0x37


def _jump(offset: int) -> int:
    """`jal x0, offset`; offset in bytes."""
    value = offset & 0x1FFFFF
    field = (value >> 20 & 1) << 31 | (value >> 1 & 0x3FF) << 21 | (value >> 11 & 1) << 20 | (value >> 12 & 0xFF) << 12
    return field | 0x6F


def _branch(funct3: int, rs1: int, offset: int) -> int:
    """A branch that compares `rs1` with zero: 0 is beq, 4 is blt; offset in bytes."""
    value = offset & 0x1FFF
    high = (value >> 12 & 1) << 31 | (value >> 5 & 0x3F) << 25
    low = (value >> 1 & 0xF) << 8 | (value >> 11 & 1) << 7
    return high | rs1 << 15 | funct3 << 12 | low | 0x63


_ECALL, _WFI = 0x00000073, 0x10500073
_AUIPC_S0 = 0x17 | _S0 << 7
_LBU_A0_S0 = _i(0x03, 4, _A0, _S0, 0)


def _ending(then: Then) -> list[int]:
    """Instructions after the text; `REPEAT` jumps back over the 8 instructions of the printing."""
    if then is Then.SPIN:
        return [_jump(0)]
    if then is Then.SLEEP:
        return [_WFI, _jump(-4)]
    if then is Then.REPEAT:
        return [_jump(-4 * 8)]
    if then is Then.ECHO:
        return [_addi(_A7, _ZERO, _SBI_GETCHAR), _ECALL, _branch(4, _A0, -8), _addi(_A7, _ZERO, 1), _ECALL, _jump(-20)]
    kind = 1 if then is Then.RESET else 0
    low = _SBI_SRST & 0xFFF
    high = (_SBI_SRST >> 12) + (low >> 11)
    arguments = [_addi(_A0, _ZERO, kind), _addi(_A1, _ZERO, 0), _addi(_A6, _ZERO, 0)]
    return [*arguments, _lui(_A7, high), _addi(_A7, _A7, low), _ECALL, _jump(0)]


def tiny_guest(text: str, then: Then) -> bytes:
    """A flat RISC-V Image that prints `text` and then does as `then` says."""
    ending = _ending(then)
    text_at = 4 * (8 + len(ending))
    code = [
        _AUIPC_S0,
        _addi(_S0, _S0, text_at),
        _LBU_A0_S0,
        _branch(0, _A0, 5 * 4),
        _addi(_A7, _ZERO, _SBI_PUTCHAR),
        _ECALL,
        _addi(_S0, _S0, 1),
        _jump(-5 * 4),
        *ending,
    ]
    body = struct.pack(f"<{len(code)}I", *code) + text.encode() + b"\0"
    size = _HEADER_BYTES + len(body)
    header = struct.pack(
        "<IIQQQIIQ8s4sI", _jump(_HEADER_BYTES), 0, _LOAD_OFFSET, size, 0, 2, 0, 0, b"RISCV\0\0\0", b"RSC\x05", 0
    )
    return header + body


def write_tiny_guest(path: Path, text: str, then: Then) -> Path:
    """Write a tiny guest to `path`, and return it."""
    path.write_bytes(tiny_guest(text, then))
    return path
