"""Physical boards: power, flashing, boot loaders, health, and the serial line that a console comes over."""

from harness.hardware.errors import HardwareError
from harness.hardware.network_serial import RawTcpLine, Rfc2217Line
from harness.hardware.physical import PhysicalMachine, State
from harness.hardware.serial_tty import SerialTty

__all__ = ["HardwareError", "PhysicalMachine", "RawTcpLine", "Rfc2217Line", "SerialTty", "State"]
