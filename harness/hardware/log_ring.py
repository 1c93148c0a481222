"""The kernel's log ring, read by a boot loader after a reset: what a hung kernel had last written.

The ring is a header (five little-endian 64-bit words: `quoinlog`, its size,
bytes written, boots, and a sum of these) and the bytes behind it, written round
and round (kernel-src/kernel/src/mm/ring.rs).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from harness.hardware.errors import HardwareError

# As many bytes are read, the newest: on a line of 115200 baud U-Boot's dump of them takes seven seconds.
NEWEST = 16384
_HEADER = struct.Struct("<8s4Q")
_LARGEST = 1 << 24
_MASK = (1 << 64) - 1


def read(memory: Callable[[int, int], bytes], at: int) -> str:
    """The newest text of the ring at a physical address; `memory(address, length)` reads. Raises HardwareError."""
    found = memory(at, _HEADER.size)
    magic, size, written, boots, check = _HEADER.unpack(found)
    sum_ = int.from_bytes(magic, "little") ^ _turned(size, 16) ^ _turned(written, 32) ^ _turned(boots, 48) ^ _MASK
    if magic != b"quoinlog" or not _HEADER.size < size <= _LARGEST or check != sum_:
        raise HardwareError(
            f"wanted the log ring at {at:#x}; found: {found.hex()}, which is none: the reset lost memory, or the boot "
            "loader has used it"
        )
    room = size - _HEADER.size
    left = min(written, room, NEWEST)
    text = b""
    while left:
        begin = (written - left) % room
        count = min(left, room - begin)
        text += memory(at + _HEADER.size + begin, count)
        left -= count
    return text.decode(errors="replace")


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK
