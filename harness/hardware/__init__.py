"""Physical boards: the serial line that a console comes over."""

from harness.hardware.errors import HardwareError
from harness.hardware.serial_tty import SerialTty

__all__ = ["HardwareError", "SerialTty"]
