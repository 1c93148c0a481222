"""A guest that drives devices: Debian's U-Boot with a disk, a network card and a PCI Express slot.

Time is ten thousand times as dear to it as to a processor (`-icount shift=10`: an
instruction takes a microsecond), so that its countdowns and timeouts cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.board import Board
from harness.console import Console, Session
from harness.machine import BootFiles

_FOLDER = Path("/usr/lib/u-boot")
_LIMIT_S = 60.0
SECTOR = 512
DISK, NIC, SLOT_DEVICE = "disk", "nic", "rng"


@dataclass(frozen=True)
class Kind:
    """U-Boot for an architecture: how QEMU is told, its verb for disks, the disk's device, memory it may use."""

    image: tuple[str, str]
    disk_verb: str
    disk_device: str
    memory: int


KINDS = {
    "x86_64": Kind(("-bios", "qemu-x86_64/u-boot.rom"), "scsi", "ide-hd,bus=ide.0", 0x100_0000),
    "aarch64": Kind(("-bios", "qemu_arm64/u-boot.bin"), "virtio", "virtio-blk-device", 0x4100_0000),
    "riscv64": Kind(("-kernel", "qemu-riscv64_smode/uboot.elf"), "virtio", "virtio-blk-device", 0x8100_0000),
}


class UBootGuest:
    """U-Boot at its prompt, on a machine of the test's own; `disk` is a raw image."""

    def __init__(self, board: Board, boot: Callable[..., Session], disk: Path, werror: str = "report") -> None:
        self.kind = KINDS[board.arch]
        option, name = self.kind.image
        if not (_FOLDER / name).is_file():
            pytest.skip("U-Boot is not installed, see `quoin setup`")
        args: tuple[str, ...] = (option, str(_FOLDER / name), "-icount", "shift=10,align=off,sleep=on")
        args += ("-blockdev", f"driver=file,node-name=file,filename={disk}")
        args += ("-blockdev", f"driver=raw,node-name={DISK},file=file")
        args += ("-device", f"{self.kind.disk_device},drive={DISK},id=blk,werror={werror},rerror=report")
        args += ("-netdev", "user,id=lan,restrict=on", "-device", f"e1000,netdev=lan,id={NIC},addr=4")
        args += (
            "-device",
            "pcie-root-port,id=hole,chassis=1,addr=5",
            "-device",
            f"virtio-rng-pci,id={SLOT_DEVICE},bus=hole",
        )
        if board.arch == "x86_64":  # else the slot is ACPI's, which U-Boot does not speak
            args += ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
        self.session = boot(files=BootFiles(None), args=args, ready=False, smp=1, icount=True)
        self.console: Console = self.session.console
        self.console.expect("Hit any key to stop autoboot", _LIMIT_S)
        self.console.send("\n")
        self.console.expect("=> ", _LIMIT_S)
        self.does("blkcache configure 0 0")
        if self.kind.disk_verb == "scsi":
            self.does("scsi scan")

    def run(self, command: str) -> tuple[int, str]:
        """The status of a command, and what it printed."""
        self.console.send(f"{command}; echo status=$?\n")
        match = self.console.expect(r"status=(\d+)", _LIMIT_S)
        return int(match[1]), self.console.before.decode(errors="replace")

    def does(self, command: str) -> str:
        """What a command printed that was done."""
        status, said = self.run(command)
        assert status == 0, said
        return said

    def writes(self, sector: int, text: bytes) -> str:
        """Write a sector that begins with up to 4 bytes of text; what it said."""
        self.does(f"mw.l {self.kind.memory:#x} {int.from_bytes(text, 'little'):#x}")
        return self.run(f"{self.kind.disk_verb} write {self.kind.memory:#x} {sector} 1")[1]

    def reads(self, sector: int) -> tuple[str, bytes]:
        """Read a sector: what it said, and the first 4 bytes that are in memory then."""
        self.does(f"mw.l {self.kind.memory:#x} 0")
        said = self.run(f"{self.kind.disk_verb} read {self.kind.memory:#x} {sector} 1")[1]
        shown = re.search(r"\b[0-9a-f]{8}: ((?:[0-9a-f]{2} ){4})", self.does(f"md.b {self.kind.memory:#x} 4"))
        assert shown is not None
        return said, bytes.fromhex(shown[1])
