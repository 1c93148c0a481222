"""What the lab raises when the lab, and not the kernel, is at fault."""


class LabError(Exception):
    """A fault of the lab or of its input.

    The message says what was wanted, what was found and what to do next; it is
    shown to people as it stands, without a traceback.
    """


class BoardError(LabError):
    """A board file is missing, unreadable or says something that it may not."""


class NeedsError(LabError):
    """A `needs` expression cannot be read."""


class LeaseError(LabError):
    """A board that only one may have is another's."""


class AdmissionError(LabError):
    """No room for another machine within the vCPU budget before the deadline."""
