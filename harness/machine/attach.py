"""A second hand on a machine: gdb from another process, while a test runs on it.

Who switches a machine on leaves a record of it in its scratch folder, beside a
monitor for others. Who attaches has the file `hold` there locked; as long as
it does, the owner's clock stands. The lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine import loop
from harness.machine.errors import MachineError
from harness.machine.gdbstub import GdbStub
from harness.machine.scratch import PREFIX

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

MONITOR = "qmp"
_RECORD = "machine.json"
_HOLD = "hold"
_ANSWER_S = 10.0
_LOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A machine that some process of this user has on. `log` is its console's; `since_s` counts from 1970.

    Its first `monitor_cpus` CPUs run no kernel.
    """

    folder: Path
    board: str
    id: str
    arch: str
    pid: int
    owner: int
    kernel: Path | None
    log: Path
    since_s: float
    monitor_cpus: int = 0

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.since_s))
        what = f"QEMU is process {self.pid}" if self.pid else "a physical board"
        return f"{self.id}: {what}, on since {since} for process {self.owner}, log {self.log}"


def record(machine: Running) -> None:
    """Tell other processes of a machine that is on. Raises MachineError where the disk does not take it."""
    facts = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(machine).items()}
    new = machine.folder / f"{_RECORD}.new"
    try:
        new.write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{new} cannot be written: {error.strerror}; make room on that disk") from error
    new.rename(machine.folder / _RECORD)


def running() -> list[Running]:
    """All machines of this user that are on, the oldest first."""
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_RECORD}"):
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # Who recorded it holds the folder's lock as long as it lives.
            if not _locked(path.parent):
                continue
            kernel, log = facts["kernel"], Path(facts["log"])
            paths = {"folder": path.parent, "log": log, "kernel": None if kernel is None else Path(kernel)}
            found.append(Running(**{**facts, **paths}))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # It was switched off just now, or is another user's, or of another version of the lab.
    return sorted(found, key=lambda one: one.since_s)


def choose(found: Sequence[Running], board: str, tops: Sequence[Path], pid: int | None) -> Running | None:
    """The machine on `board`, a name or an id, that was switched on in one of the folders `tops`, or has QEMU's `pid`.

    Raises MachineError where several fit, or none has that process.
    """
    if pid is not None:
        fitting = [one for one in found if one.pid == pid]
    else:
        fitting = [
            one for one in found if board in (one.board, one.id) and any(one.log.is_relative_to(top) for top in tops)
        ]
    if len(fitting) > 1:
        raise MachineError("\n".join([f"{len(fitting)} machines fit {board}; add --pid", *map(str, fitting)]))
    if not fitting and pid is not None:
        known = [str(one) for one in found] or ["no machine is on"]
        raise MachineError("\n".join([f"no machine of the lab is process {pid}; there are", *known]))
    return fitting[0] if fitting else None


# Holding.


def held(folder: Path) -> bool:
    """Whether another process holds the machine whose scratch folder this is."""
    path = folder / _HOLD
    return path.exists() and _locked(path)


@contextmanager
def hold(machine: Running) -> Iterator[Path]:
    """Hold a machine with a gdb stub open; the answer is the stub's socket. Then it goes on as it was before.

    The owner hears only that the machine stops and goes on. Held, it sees a
    lock; so its clock begins to stand with the first stop, and goes on with the
    first start after the lock is given back.

    Raises MachineError where somebody else holds it, or its owner uses the stub.
    """
    path = machine.folder / "gdb"
    with ExitStack() as stack:
        unlock = stack.enter_context(_lock(machine))
        monitor = stack.enter_context(_monitor(machine))
        went = _open(monitor, path, machine)
        try:
            yield path
        finally:
            # It may have been switched off meanwhile: then nothing is left to mend.
            with contextlib.suppress(OSError, MachineError):
                # A gdb that was killed has left its breakpoints; a detach takes them away, and lets it run.
                GdbStub(path, machine.arch).close()
                monitor.execute("stop")
                monitor.line("gdbserver none")
                unlock()
                if went:
                    monitor.execute("cont")


def _open(monitor: _Monitor, path: Path, machine: Running) -> bool:
    """Stop the machine and open its stub; whether it ran before."""
    stub = [str(device["filename"]) for device in monitor.execute("query-chardev") if device["label"] == "gdb"]
    if path.exists() and not all(name.startswith("disconnected:") for name in stub):
        raise MachineError(f"a test looks inside it by gdb's protocol just now; try again; {machine}")
    went = bool(monitor.execute("query-status")["running"])
    monitor.execute("stop")
    monitor.line(f"gdbserver unix:{path},server=on,wait=off")
    if not path.exists():
        raise MachineError(f"QEMU opened no gdb stub; {machine}")
    return went


@contextmanager
def _lock(machine: Running) -> Iterator[Callable[[], None]]:
    """Lock a machine for this process alone; the answer gives it back before the end of the block."""
    descriptor = os.open(machine.folder / _HOLD, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Who only looks whether it is locked has it for an instant too.
                if time.monotonic() > deadline:
                    raise MachineError(f"somebody holds it already; {machine}") from None
                threading.Event().wait(_LOCK_S / 20)
        yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


class _Monitor:
    """QEMU's monitor for others than the owner."""

    def __init__(self, client: QMPClient, machine: Running) -> None:
        self._client = client
        self._machine = machine

    def execute(self, command: str, **arguments: Any) -> Any:
        from qemu.qmp import QMPError

        try:
            return loop.run(self._client.execute(command, arguments or None), _ANSWER_S)
        except (QMPError, TimeoutError) as error:
            raise MachineError(f"QEMU did not do {command!r}: {error}; {self._machine}") from error

    def line(self, text: str) -> None:
        self.execute("human-monitor-command", **{"command-line": text})


@contextmanager
def _monitor(machine: Running) -> Iterator[_Monitor]:
    from qemu.qmp import QMPClient, QMPError

    client = QMPClient(machine.id)
    try:
        loop.run(client.connect(str(machine.folder / MONITOR)), _ANSWER_S)
    except (QMPError, OSError, TimeoutError) as error:
        raise MachineError(f"its monitor does not answer: {error}; {machine}") from error
    try:
        yield _Monitor(client, machine)
    finally:
        # QEMU may have ended, and the connection with it.
        with contextlib.suppress(EOFError, OSError, QMPError):
            loop.run(client.disconnect(), _ANSWER_S)


def _locked(path: Path) -> bool:
    """Whether a process has `path` locked for itself (flock)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
