"""Is this file a kernel for this architecture? Asked before an emulator is started.

QEMU loads almost anything and then stays silent; a wrong image would read as a
kernel that never boots.
"""

from __future__ import annotations

import struct
from pathlib import Path

from harness.machine.errors import ImageError

# ELF specification, e_machine.
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64"}
# Linux Documentation/arch/{arm64/booting,riscv/boot-image-header}.rst, offset 0x38.
_FLAT_MAGICS = {b"ARM\x64": "aarch64", b"RSC\x05": "riscv64"}
_MAGIC_OFFSET = 0x38
# Microsoft PE Format: where the header's offset stands, and its machine numbers. A UEFI application is such a file.
_PE_OFFSET = 0x3C
_PE_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x5064: "riscv64"}
_ENOUGH = 4096


def image_arch(path: Path) -> str:
    """Architecture of a kernel image: ELF, flat Image or UEFI application. Raises ImageError if it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_ENOUGH)
    except FileNotFoundError:
        raise ImageError(
            f"{path}: no such image; build it with `quoin build`, or, where images: names it, as it is built"
        ) from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if head[:4] == b"\x7fELF" and len(head) >= 20:
        (machine,) = struct.unpack_from("<H", head, 18)
        if machine not in _ELF_MACHINES:
            raise ImageError(f"{path}: an ELF file for unknown machine number {machine}")
        return _ELF_MACHINES[machine]
    magic = head[_MAGIC_OFFSET : _MAGIC_OFFSET + 4]
    if magic in _FLAT_MAGICS:
        return _FLAT_MAGICS[magic]
    if head[:2] == b"MZ" and len(head) >= 64:
        (at,) = struct.unpack_from("<I", head, _PE_OFFSET)
        machine = int.from_bytes(head[at + 4 : at + 6], "little")
        if head[at : at + 4] == b"PE\0\0" and machine in _PE_MACHINES:
            return _PE_MACHINES[machine]
    raise ImageError(
        f"{path}: no kernel image: neither an ELF file, nor a flat Image for aarch64 or riscv64, "
        f"nor a UEFI application (its first bytes are {head[:8].hex(' ') or 'none'}); build it with `quoin build`"
    )


def check_image(path: Path, arch: str) -> None:
    """Raise ImageError unless `path` is a kernel that QEMU can boot as `arch`."""
    found = image_arch(path)
    if found != arch:
        raise ImageError(
            f"{path}: image for {found}, but the board is {arch}; choose a {found} board or build for {arch}"
        )
    # QEMU hands a device tree to a flat Image only, so an ELF would boot without one.
    with path.open("rb") as file:
        if arch == "aarch64" and file.read(4) == b"\x7fELF":
            raise ImageError(f"{path}: QEMU gives an aarch64 ELF no device tree; boot the flat Image beside it")
