"""Admission by vCPU budget, over all processes of one user on one host.

Emulated CPUs are host threads that spin while they boot: eight boots at once
on two cores take 25 times as long as one. Each CPU of a machine therefore holds
one slot, a locked file, while the machine lives; the locks go with the process,
however it ends.

Slots are counted by thread: machines of one thread run in turn, so a thread
needs as many as its largest machine. Who holds slots and wants more cannot wait
for them: two who held some and waited for the rest would wait for each other.
It takes what is free, and for the rest the one place beyond the budget, which
one process has at a time; so at most one machine ever runs beyond it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.board.errors import AdmissionError

_SMALLEST = 4
_RETRY_S = 0.02


def default_budget() -> int:
    """vCPUs that may run at once: twice the cores of this process, at least one board of four."""
    return max(_SMALLEST, 2 * len(os.sched_getaffinity(0)))


def slots_directory() -> Path:
    """Where the slots of this user lie; the same for every checkout."""
    return Path(tempfile.gettempdir()) / f"quoin-vcpu-{os.getuid()}"


class Admission:
    """The vCPU slots of this user, as seen by one process."""

    def __init__(self, budget: int | None = None, directory: Path | None = None) -> None:
        self.budget = default_budget() if budget is None else budget
        self._directory = slots_directory() if directory is None else directory
        self._mutex = threading.Lock()
        self._held: dict[int, list[int]] = {}
        self._wanted: dict[int, list[int]] = {}
        self._beyond: int | None = None

    @contextmanager
    def lease(self, vcpus: int, timeout_s: float = 600.0) -> Iterator[None]:
        """Hold `vcpus` slots. Raises AdmissionError when they are not free in time."""
        owner = self.take(vcpus, timeout_s)
        try:
            yield
        finally:
            self.give_back(owner, vcpus)

    def take(self, vcpus: int, timeout_s: float = 600.0) -> int:
        """Take slots for a machine; the answer is handed to `give_back` with the same count."""
        owner = threading.get_ident()
        with self._mutex:
            wanted = self._wanted.setdefault(owner, [])
            held = self._held.setdefault(owner, [])
            missing = min(max([*wanted, vcpus]), self.budget) - len(held)
        if missing > 0:
            taken = self._grow(missing, timeout_s) if held else self._acquire(missing, timeout_s)
            with self._mutex:
                held.extend(taken)
        with self._mutex:
            wanted.append(vcpus)
        return owner

    def give_back(self, owner: int, vcpus: int) -> None:
        """Return what `take` gave, from any thread."""
        with self._mutex:
            wanted = self._wanted[owner]
            wanted.remove(vcpus)
            held = self._held[owner]
            keep = min(max(wanted, default=0), self.budget)
            while len(held) > keep:
                os.close(held.pop())
            if not any(self._held.values()) and self._beyond is not None:
                os.close(self._beyond)
                self._beyond = None

    def _grow(self, count: int, timeout_s: float) -> list[int]:
        """As many of `count` slots as are free, with the place beyond the budget where that is not enough."""
        taken = self._free(count)
        if len(taken) < count and self._beyond is None:
            self._beyond = self._lock("beyond", time.monotonic() + timeout_s, threading.Event())
            if self._beyond is None:
                for slot in taken:
                    os.close(slot)
                raise self._refusal(count, timeout_s)
        return taken

    def _free(self, count: int) -> list[int]:
        """At most `count` slots that nobody holds now."""
        taken: list[int] = []
        for index in range(self.budget):
            slot = self._try(f"slot-{index}") if len(taken) < count else None
            if slot is not None:
                taken.append(slot)
        return taken

    def _acquire(self, count: int, timeout_s: float) -> list[int]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + timeout_s
        never = threading.Event()
        # One waiter collects at a time, so two half-served ones cannot block each other.
        gate = self._lock("gate", deadline, never)
        taken: list[int] = []
        try:
            while gate is not None:
                taken += self._free(count - len(taken))
                if len(taken) == count:
                    return taken
                if time.monotonic() > deadline:
                    break
                never.wait(_RETRY_S)
        finally:
            if gate is not None:
                os.close(gate)
            if len(taken) < count:
                for slot in taken:
                    os.close(slot)
        raise self._refusal(count, timeout_s)

    def _refusal(self, count: int, timeout_s: float) -> AdmissionError:
        return AdmissionError(
            f"{count} of {self.budget} vCPU slots did not become free within {timeout_s:g} s: "
            f"other machines are running on this host (slots in {self._directory}); "
            "end them, or wait and run again"
        )

    def _try(self, name: str) -> int | None:
        slot = os.open(self._directory / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            return None
        return slot

    def _lock(self, name: str, deadline: float, never: threading.Event) -> int | None:
        while True:
            slot = self._try(name)
            if slot is not None or time.monotonic() > deadline:
                return slot
            never.wait(_RETRY_S)


_admission: Admission | None = None


def admission() -> Admission:
    """The slots of this process, made on first use."""
    global _admission
    if _admission is None:
        _admission = Admission()
    return _admission
