"""A whole machine saved once and loaded again, within the life of one QEMU.

Devices go into a qcow2 image that no device uses and that is added to the
running machine, so that a board without a disk can be saved too. HMP's `savevm`
and `loadvm` are one round trip each; the QMP jobs that do the same need several
and are no faster. Main memory, which takes QEMU longer than all else together,
is left out of it and kept by the lab (harness/machine/memory.py).
"""

from __future__ import annotations

import array
import fcntl
import subprocess
import termios
import time
from pathlib import Path

from harness.machine.errors import MachineError
from harness.machine.memory import Contents
from harness.machine.qemu import QemuMachine

_TAG = "ready"
_NODE = "clean-target"
_CREATE_TIMEOUT_S = 20.0
# Longer than the period of any common clock tick, so that a kernel that ticks is not called idle.
_QUIET_S = 0.02
# A shell takes what was typed in milliseconds; a new boot is not much dearer than waiting longer for it.
_INPUT_TIMEOUT_S = 0.5
_INPUT_LOOK_S = 0.002


class NoSnapshot(MachineError):
    """This machine cannot be saved or loaded; the message says why."""


def wait_idle(machine: QemuMachine, timeout_s: float) -> bool:
    """Wait until every vCPU sleeps; whether that was so within `timeout_s`.

    A vCPU sleeps when its host thread neither runs nor waits to run, and has
    not run for 20 ms (Linux, /proc/PID/task/TID/stat and schedstat).
    """
    threads = machine.vcpu_threads()
    deadline = time.monotonic() + timeout_s
    before = None
    while time.monotonic() < deadline:
        now = [_ran_ns(machine, thread) for thread in threads]
        if now == before and None not in now:
            return True
        before = now
        if machine.wait_exit(_QUIET_S):
            return False
    return False


def save(machine: QemuMachine) -> Contents:
    """Save the machine, which must be stopped, for `load`; once in its life. Raises NoSnapshot."""
    path = machine.scratch / f"{_NODE}.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"]
    try:
        subprocess.run(create, check=True, capture_output=True, timeout=_CREATE_TIMEOUT_S)
    except FileNotFoundError:
        raise NoSnapshot("qemu-img is not installed; run `quoin setup`") from None
    except subprocess.CalledProcessError as error:
        raise NoSnapshot(f"qemu-img made no image: {error.stderr.decode(errors='replace').strip()}") from error
    file = {"driver": "file", "filename": str(path)}
    # The image ends with the machine: nothing of it need ever reach a disk.
    cache = {"no-flush": True}
    machine.qmp("blockdev-add", **{"driver": "qcow2", "node-name": _NODE, "file": file, "cache": cache})
    machine.leave_out_memory(True)
    _monitor(machine, "savevm")
    return machine.memory.save()


def load(machine: QemuMachine, memory: Contents) -> None:
    """Make the running machine what it was at `save`, and leave it stopped.

    Nothing may be sent meanwhile. Raises NoSnapshot where the guest leaves input
    unread: no load takes back what waits in the socket.
    """
    deadline = time.monotonic() + _INPUT_TIMEOUT_S
    while (unread := _unread_bytes(machine)) and time.monotonic() < deadline:
        machine.wait_exit(_INPUT_LOOK_S)
    if unread:
        raise NoSnapshot(f"{machine.board.id} does not read its input, and would find it again after a load")
    machine.qmp("stop")
    # Devices look into their queues in memory as they are loaded.
    machine.memory.restore(memory)
    # Once only: loading twice without running between ends QEMU 7.2 for AArch64 by SIGSEGV.
    _monitor(machine, "loadvm")
    # It begins with a reset, which puts the images that were booted into memory again.
    machine.memory.restore(memory)


def _monitor(machine: QemuMachine, verb: str) -> None:
    if answer := machine.monitor(f"{verb} {_TAG}").strip():
        raise NoSnapshot(f"QEMU refused {verb}: {answer}")


def _unread_bytes(machine: QemuMachine) -> int:
    """Size of what was sent to the guest and still waits in the socket (unix(7), SIOCOUTQ)."""
    size = array.array("i", [0])
    fcntl.ioctl(machine.console_socket, termios.TIOCOUTQ, size)
    return size[0]


def _ran_ns(machine: QemuMachine, thread: int) -> int | None:
    """Nanoseconds that a sleeping thread has run so far; None when it does not sleep."""
    task = Path(f"/proc/{machine.pid}/task/{thread}")
    try:
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        ran = int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ran if state == "S" else None
