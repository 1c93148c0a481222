"""What goes wrong between the lab and a physical board."""

from harness.board import LabError


class HardwareError(LabError):
    """A device of the lab is missing, taken or gone; the message says what to do."""
