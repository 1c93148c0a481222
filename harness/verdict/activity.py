"""Is a silent machine spinning, asleep, or starved by the host?

The host's scheduler knows: it counts for each vCPU thread how long it ran and
how long it was ready to run and did not (Linux, /proc/PID/task/TID/schedstat).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from harness.machine import MachineError, QemuDied, QemuMachine

WINDOW_S = 0.25
# A vCPU in a halt loop takes a few per cent for timers; one that spins takes all it is given.
_BUSY = 0.25
_STARVED = 0.90


class Activity(enum.Enum):
    """What the vCPUs of a machine do."""

    SPINNING = "spinning"
    IDLE = "idle"
    STARVED = "starved"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Sample:
    """Share of the window that each CPU ran, and the share that it waited for the host."""

    activity: Activity
    ran: tuple[float, ...]
    waited: tuple[float, ...]

    def __str__(self) -> str:
        if self.activity is Activity.STARVED and not self.ran:
            return f"{self.activity.value}: the host has stopped QEMU (SIGSTOP, a debugger, a freezer)"
        shares = ", ".join(f"CPU {i} {share:.0%}" for i, share in enumerate(self.ran))
        return f"{self.activity.value}: over {WINDOW_S:g} s {shares}"


def sample(machine: QemuMachine) -> Sample | None:
    """Watch the vCPUs for a moment; None when QEMU is gone."""
    if _stopped_by_host(machine):
        # Its monitor would not answer, and a stopped thread does not count as one that waits.
        return Sample(Activity.STARVED, (), ())
    try:
        if machine.status() != "running":
            return Sample(Activity.STOPPED, (), ())
        threads = machine.vcpu_threads()
    except (MachineError, QemuDied):
        return None
    first = [_times(machine, thread) for thread in threads]
    if machine.wait_exit(WINDOW_S):
        return None
    second = [_times(machine, thread) for thread in threads]
    ran = tuple((b[0] - a[0]) / 1e9 / WINDOW_S for a, b in zip(first, second, strict=True))
    waited = tuple((b[1] - a[1]) / 1e9 / WINDOW_S for a, b in zip(first, second, strict=True))
    return Sample(_judge(ran, waited), ran, waited)


def _stopped_by_host(machine: QemuMachine) -> bool:
    """Whether the emulator's process is stopped (proc_pid_stat(5), states T and t)."""
    try:
        text = Path(f"/proc/{machine.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] in "Tt"


def _judge(ran: tuple[float, ...], waited: tuple[float, ...]) -> Activity:
    # It wanted at least half the time, and got less than a tenth of what it wanted.
    if any(r + w > 0.5 and r < (1 - _STARVED) * (r + w) for r, w in zip(ran, waited, strict=True)):
        return Activity.STARVED
    # Four spinning CPUs on one free core run a quarter each; what they wanted counts.
    if any(r > 0.02 and r + w > _BUSY for r, w in zip(ran, waited, strict=True)):
        return Activity.SPINNING
    return Activity.IDLE


def _times(machine: QemuMachine, thread: int) -> tuple[int, int]:
    """Nanoseconds that a thread has run, and has waited to run."""
    try:
        text = Path(f"/proc/{machine.pid}/task/{thread}/schedstat").read_text()
    except FileNotFoundError:
        return 0, 0
    ran, waited, _ = text.split()
    return int(ran), int(waited)
