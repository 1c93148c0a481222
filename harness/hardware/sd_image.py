"""SD cards: a partition table and one FAT16 partition with the boot files, written without any tool.

The layout is Microsoft's (FAT: General Overview of On-Disk Format, 1.03), with
long names; boot ROMs and boot loaders of all boards read it. A card is a block
device or a file that stands for one. What lies between the table and the first
partition, a loader for the boot ROM perhaps, is left alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.hardware.errors import HardwareError

_SECTOR = 512
_CLUSTER_SECTORS = 8
_CLUSTER = _SECTOR * _CLUSTER_SECTORS
# The first partition begins at 1 MiB, as everybody's does.
_START = 2048
_RESERVED, _FATS, _ROOT_ENTRIES = 1, 2, 512
# FAT16 has 4085 to 65524 clusters; by their number readers tell it from FAT12 and FAT32.
_LEAST, _MOST = 4085, 65524
_ROOM_CLUSTERS = 1024
_END = 0xFFFF
_FAT16_LBA = 0x0E
_ARCHIVE, _LONG_NAME = 0x20, 0x0F
# 1980-01-01, the first day there is: the same files make the same card.
_DATE = 0x0021


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    short: bytes
    content: bytes
    cluster: int

    @property
    def clusters(self) -> int:
        return -(-len(self.content) // _CLUSTER)


def is_unplugged(card: Path) -> bool:
    """Whether a card is a device that is not there; a file in its place would be taken for one that was written."""
    return card.is_relative_to("/dev") and not card.is_relative_to("/dev/shm") and not card.exists()


def write(card: Path, files: Mapping[str, Path]) -> None:
    """Write a card with `files` in its root folder, by name. Raises HardwareError."""
    if is_unplugged(card):
        raise HardwareError(f"wanted to write the card {card}; found: no such device; next: plug it in")
    try:
        placed = _placed({name: path.read_bytes() for name, path in files.items()})
        clusters = max(_LEAST, sum(file.clusters for file in placed) + _ROOM_CLUSTERS)
        if clusters > _MOST:
            raise HardwareError(f"{card}: the boot files take more than a FAT16 partition's {_MOST * _CLUSTER} bytes")
        fat_sectors = -(-(clusters + 2) * 2 // _SECTOR)
        data = _RESERVED + _FATS * fat_sectors + _ROOT_ENTRIES * 32 // _SECTOR
        total = data + clusters * _CLUSTER_SECTORS
        card.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(card, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as disk:
            if card.is_file():
                disk.truncate((_START + total) * _SECTOR)
            disk.write(_partition_table(total))
            disk.seek(_START * _SECTOR)
            disk.write(_boot_sector(total, fat_sectors))
            disk.write(_table(placed).ljust(fat_sectors * _SECTOR, b"\0") * _FATS)
            disk.write(b"".join(map(_entries, placed)).ljust(_ROOT_ENTRIES * 32, b"\0"))
            for file in placed:
                disk.seek((_START + data + (file.cluster - 2) * _CLUSTER_SECTORS) * _SECTOR)
                disk.write(file.content.ljust(file.clusters * _CLUSTER, b"\0"))
            disk.flush()
            os.fsync(disk.fileno())
    except OSError as error:
        raise HardwareError(
            f"wanted to write the card {card}; found: {error}; next: is it there, and yours?"
        ) from error


def _placed(contents: Mapping[str, bytes]) -> list[_File]:
    placed, cluster = [], 2
    for number, (name, content) in enumerate(sorted(contents.items()), 1):
        file = _File(name, _short(name, number), content, cluster if content else 0)
        placed.append(file)
        cluster += file.clusters
    return placed


def _partition_table(sectors: int) -> bytes:
    # CHS addresses are the ones that say: look at the LBA.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", _FAT16_LBA, b"\xfe\xff\xff", _START, sectors)
    return (bytes(440) + b"Quon\0\0" + entry).ljust(510, b"\0") + b"\x55\xaa"


def _boot_sector(sectors: int, fat_sectors: int) -> bytes:
    small = sectors if sectors < 1 << 16 else 0
    bpb = struct.pack(
        "<3s8sHBHBHHBHHHII",
        b"\xeb\x3c\x90",
        b"QUOIN   ",
        _SECTOR,
        _CLUSTER_SECTORS,
        _RESERVED,
        _FATS,
        _ROOT_ENTRIES,
        small,
        0xF8,
        fat_sectors,
        63,
        255,
        _START,
        0 if small else sectors,
    )
    extended = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x51754F49, b"QUOIN      ", b"FAT16   ")
    return (bpb + extended).ljust(510, b"\0") + b"\x55\xaa"


def _table(files: list[_File]) -> bytes:
    table = [0xFFF8, _END]
    for file in files:
        chain = range(file.cluster + 1, file.cluster + file.clusters)
        table += [*chain, _END] if file.clusters else []
    return struct.pack(f"<{len(table)}H", *table)


def _short(name: str, number: int) -> bytes:
    """A name of eight and three letters that only this file has; the long one is what is read."""
    stem, _, end = name.upper().rpartition(".")
    if not stem:
        stem, end = end, ""
    letters = "".join(letter for letter in stem if letter.isascii() and letter.isalnum())
    kind = "".join(letter for letter in end if letter.isascii() and letter.isalnum())[:3]
    tail = f"~{number}"
    return f"{letters[: 8 - len(tail)]}{tail}".ljust(8).encode() + kind.ljust(3).encode()


def _entries(file: _File) -> bytes:
    """The directory entries of a file: its long name in pieces of 13 letters, the last first, then the short one."""
    check = 0
    for byte in file.short:
        check = (((check & 1) << 7) + (check >> 1) + byte) & 0xFF
    name = file.name.encode("utf-16-le")
    name += b"\0\0" if len(name) % 26 else b""
    pieces = [name[at : at + 26].ljust(26, b"\xff") for at in range(0, len(name), 26)]
    found = b""
    for order, piece in reversed(list(enumerate(pieces, 1))):
        last = 0x40 if order == len(pieces) else 0
        head = struct.pack("<B10sBBB", last | order, piece[:10], _LONG_NAME, 0, check)
        found += head + piece[10:22] + b"\0\0" + piece[22:]
    short = (file.short, _ARCHIVE, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, file.cluster, len(file.content))
    return found + struct.pack("<11sBBBHHHHHHHI", *short)
