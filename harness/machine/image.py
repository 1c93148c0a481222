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
_ENOUGH = 64


def image_arch(path: Path) -> str:
    """Architecture of a kernel image, ELF or flat Image. Raises ImageError if it is neither."""
    try:
        with path.open("rb") as file:
            head = file.read(_ENOUGH)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image; build it with `quoin build`") from None
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
    raise ImageError(
        f"{path}: no kernel image: neither an ELF file nor a flat Image for aarch64 or riscv64 "
        f"(its first bytes are {head[:8].hex(' ') or 'none'}); build it with `quoin build`"
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
