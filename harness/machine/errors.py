"""What goes wrong between the lab and an emulated machine."""

from harness.board import LabError


class MachineError(LabError):
    """A machine cannot be started or steered; the message says what to do."""


class Misuse(MachineError, ValueError):
    """A test asks for what there is not or cannot be: the test's own mistake, which no second run mends."""


class QemuRefused(MachineError):
    """QEMU lives, and refuses a command; the message has its words."""


class ImageError(MachineError):
    """A boot file is missing, unreadable, or made for another architecture."""


class QemuMissing(MachineError):
    """The emulator is not installed, or too old."""


class QemuDied(MachineError):
    """The emulator ended without being asked; the message carries its own words."""
