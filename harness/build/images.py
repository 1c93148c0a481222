"""From ELF files to what a machine boots.

AArch64 and RISC-V boot a flat Linux Image (QEMU hands an ELF no device tree);
x86_64 boots the ELF itself by its PVH note, without symbols. The programs
travel in a cpio archive. All of it depends on the inputs only: the same ELF
gives the same bytes.

Formats: Linux Documentation/arm64/booting.rst and riscv/boot-image-header.rst
(64-byte headers), System V gABI chapter 5 (program headers), cpio "newc" as
in Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.build.artifacts import Arch
from harness.build.errors import BuildError

MACHINES: Mapping[Arch, str] = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "riscv64": "EM_RISCV"}
_HEADER_BYTES = 64
_IMAGE_SIZE_AT = 16
_MAGIC_AT = 56
_MAGIC: Mapping[Arch, bytes] = {"aarch64": b"ARM\x64", "riscv64": b"RSC\x05"}
_XEN_PHYS32_ENTRY = 18  # Xen public/elfnote.h: the note by which QEMU finds a PVH entry
_ELF64_HEADER_BYTES = 64
_E_SHOFF_AT = 0x28
_E_SHENTSIZE_AT = 0x3A  # then e_shnum, e_shstrndx


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: where it goes, what of it is in the file, and how much memory it takes, in bytes."""

    address: int
    memory_size: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Elf:
    """What this module needs to know of an ELF file."""

    path: Path
    raw: bytes
    arch: Arch
    segments: tuple[Segment, ...]
    file_end: int  # end of the program headers and of every segment in the file
    build_id: str
    has_pvh: bool


def read_elf(path: Path) -> Elf:
    """Read `path`; BuildError when it is missing, not a 64-bit little-endian ELF, or of an unknown machine."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BuildError(f"an ELF file at {path}", error.strerror or str(error), next_step="quoin build") from error
    try:
        elf = ELFFile(BytesIO(raw))
        if elf.elfclass != 64 or not elf.little_endian:
            raise BuildError(f"a 64-bit little-endian ELF at {path}", f"{elf.elfclass} bits")
        arch = next((a for a, machine in MACHINES.items() if machine == elf["e_machine"]), None)
        if arch is None:
            raise BuildError(f"an ELF for {', '.join(MACHINES)} at {path}", str(elf["e_machine"]))
        segments: list[Segment] = []
        file_end = elf["e_phoff"] + elf["e_phnum"] * elf["e_phentsize"]
        has_pvh = False
        build_id = ""
        for segment in elf.iter_segments():
            if segment["p_filesz"]:
                file_end = max(file_end, segment["p_offset"] + segment["p_filesz"])
            if segment["p_type"] == "PT_LOAD":
                segments.append(
                    Segment(segment["p_paddr"], segment["p_memsz"], segment["p_flags"], bytes(segment.data()))
                )
            elif segment["p_type"] == "PT_NOTE":
                for note in segment.iter_notes():
                    if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                        build_id = str(note["n_desc"])
                    has_pvh = has_pvh or (note["n_name"] == "Xen" and note["n_type"] == _XEN_PHYS32_ENTRY)
        if file_end > len(raw):
            raise BuildError(
                f"{file_end} bytes in {path}", f"{len(raw)}: the file is cut short", next_step="quoin build"
            )
    except ELFError as error:
        raise BuildError(f"an ELF file at {path}", f"other content ({error})", next_step="quoin build") from error
    segments.sort(key=lambda s: s.address)
    return Elf(path, raw, arch, tuple(segments), file_end, build_id, has_pvh)


def boot_image(elf: Elf) -> bytes:
    """What the machine boots, for the kernel `elf`. Raises BuildError when it would not boot."""
    if not elf.segments:
        raise BuildError(f"loadable segments in {elf.path}", "none")
    if elf.arch == "x86_64":
        if not elf.has_pvh:
            raise BuildError(f"a PVH entry note in {elf.path}", "none, so QEMU's -kernel would refuse it")
        return stripped(elf)
    return flat(elf)


def stripped(elf: Elf) -> bytes:
    """The ELF without its sections: header, program headers and segments, all at the offsets they had."""
    raw = bytearray(elf.raw[: elf.file_end])
    struct.pack_into("<Q", raw, _E_SHOFF_AT, 0)
    struct.pack_into("<HHH", raw, _E_SHENTSIZE_AT, 0, 0, 0)
    return bytes(raw)


def flat(elf: Elf) -> bytes:
    """A Linux Image: memory from the lowest load address, its zero-filled tail left to the header's `image_size`.

    Raises BuildError when the header is not one, or promises less memory than the segments take
    (the boot loader would then put the device tree into `.bss`).
    """
    start = elf.segments[0].address
    filled = [s for s in elf.segments if s.data]
    image = bytearray(max(s.address + len(s.data) for s in filled) - start)
    for segment in filled:
        image[segment.address - start : segment.address - start + len(segment.data)] = segment.data
    check_header(bytes(image), elf.arch, str(elf.path))
    promised = struct.unpack_from("<Q", image, _IMAGE_SIZE_AT)[0]
    taken = max(s.address + s.memory_size for s in elf.segments) - start
    if promised < taken:
        raise BuildError(
            f"image_size of at least {taken:#x} in the header of {elf.path} (.bss and .got included)",
            f"{promised:#x}",
            next_step="take image_size from the linker script's end symbol",
        )
    return bytes(image)


def check_header(image: bytes, arch: Arch, name: str) -> None:
    """BuildError unless `image` begins with the 64-byte Linux Image header of `arch`, naming what it is instead."""
    if len(image) >= _HEADER_BYTES and image[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC[arch]:
        return
    raise BuildError(f"a Linux Image for {arch} in {name}", what_is(image))


def what_is(image: bytes) -> str:
    """A boot image in words, from its first bytes: which kind, and for which architecture."""
    for arch, magic in _MAGIC.items():
        if image[_MAGIC_AT : _MAGIC_AT + 4] == magic:
            return f"a Linux Image for {arch}"
    if image[:4] == b"\x7fELF" and len(image) >= _ELF64_HEADER_BYTES:
        machine = struct.unpack_from("<H", image, 0x12)[0]
        names = {62: "x86_64", 183: "aarch64", 243: "riscv64"}  # gABI e_machine
        return f"an ELF for {names.get(machine, f'machine {machine}')}"
    return "an empty file" if not image else "neither an ELF nor a Linux Image"


def cpio(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A cpio "newc" archive of executable files: sorted by name, without owner and time.

    The same input gives the same bytes. Raises BuildError on a name with a path, or one that stands twice.
    """
    out = bytearray()
    ordered = sorted(members)
    names = [name for name, _ in ordered]
    if len(set(names)) != len(names) or any("/" in name or not name for name in names):
        raise BuildError("archive members with plain names, each once", ", ".join(names))
    for number, (name, data) in enumerate(ordered, start=1):
        _member(out, number, 0o100755, name, data)
    _member(out, 0, 0, "TRAILER!!!", b"")
    return bytes(out)


def _member(out: bytearray, inode: int, mode: int, name: str, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields)
    out += encoded
    out += bytes(-len(out) % 4)
    out += data
    out += bytes(-len(out) % 4)


def section_sizes(elf: Elf) -> dict[str, int]:
    """Bytes of the kernel by what they are: text, rodata, data, bss; from the segments' rights."""
    sizes = {"text": 0, "rodata": 0, "data": 0, "bss": 0}
    for segment in elf.segments:
        executable, writable = segment.flags & 1, segment.flags & 2
        kind = "text" if executable else "data" if writable else "rodata"
        sizes[kind] += len(segment.data)
        sizes["bss"] += segment.memory_size - len(segment.data)
    return sizes
