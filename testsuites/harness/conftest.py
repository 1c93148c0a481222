"""What all tests of the lab need."""

from __future__ import annotations

import signal

# Children of a shell's background job ignore SIGINT, and so would every child of the tests that interrupts one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
