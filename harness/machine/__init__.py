"""Emulated boards: the QEMU process, its monitor, its gdb stub."""

from harness.machine.errors import ImageError, MachineError, Misuse, QemuDied, QemuMissing
from harness.machine.events import Event, Kind
from harness.machine.gdbstub import GdbStub
from harness.machine.image import check_image, image_arch
from harness.machine.qemu import BootFiles, QemuMachine
from harness.machine.qemu_binary import find_qemu

__all__ = [
    "BootFiles",
    "Event",
    "GdbStub",
    "ImageError",
    "Kind",
    "MachineError",
    "Misuse",
    "QemuDied",
    "QemuMachine",
    "QemuMissing",
    "check_image",
    "find_qemu",
    "image_arch",
]
