"""Admission by vCPU budget, over all processes of one user on one host.

Emulated CPUs are host threads that spin while they boot: eight boots at once
on two cores take 25 times as long as one. Each CPU of a machine therefore holds
one slot, a locked file, while the machine lives; the locks go with the process,
however it ends.

Slots are counted by thread: machines of one thread run in turn, so a thread
needs as many as its largest machine. Who holds slots and wants more than are free
must not keep them while it waits: two who held some and waited for the rest would
wait for each other. So its machines stand still, it gives back all that it holds,
and waits for the whole; nobody waits with slots in hand, and no more vCPUs run
than there are slots.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.board.errors import AdmissionError

_SMALLEST = 4
_RETRY_S = 0.02
# Most waits are shorter: the machine before is being switched off.
_QUIET_S = 2.0
_LONGEST_COMMAND = 100
Tell = Callable[[str], None]


def default_budget() -> int:
    """vCPUs that may run at once: twice the cores of this process, at least one board of four."""
    return max(_SMALLEST, 2 * len(os.sched_getaffinity(0)))


def slots_directory() -> Path:
    """Where the slots of this user lie; the same for every checkout."""
    return Path(tempfile.gettempdir()) / f"quoin-vcpu-{os.getuid()}"


class Pausable(Protocol):
    """A machine that holds slots."""

    def pause(self) -> None:
        """Stand still, if it runs."""

    def resume(self) -> None:
        """Go on, if `pause` has stopped it."""


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """What a machine has taken: `vcpus` slots in the name of the thread `owner`."""

    owner: int
    vcpus: int
    machine: Pausable | None


class Admission:
    """The vCPU slots of this user, as seen by one process."""

    def __init__(self, budget: int | None = None, directory: Path | None = None) -> None:
        self.budget = default_budget() if budget is None else budget
        self._directory = slots_directory() if directory is None else directory
        self._mutex = threading.Lock()
        self._held: dict[int, list[int]] = {}
        self._places: dict[int, list[Place]] = {}

    @contextmanager
    def lease(self, vcpus: int, timeout_s: float = 600.0) -> Iterator[None]:
        """Hold `vcpus` slots. Raises AdmissionError when they are not free in time."""
        place = self.take(vcpus, timeout_s)
        try:
            yield
        finally:
            self.give_back(place)

    def take(
        self, vcpus: int, timeout_s: float = 600.0, machine: Pausable | None = None, tell: Tell | None = None
    ) -> Place:
        """Take slots for a machine; the answer is for `give_back`. `tell` hears once for whom it waits, after 2 s.

        A machine of more CPUs than there are slots takes all of them, and so runs alone. Other machines of this
        thread may be paused meanwhile. Raises AdmissionError when the slots are not free in time.
        """
        owner = threading.get_ident()
        with self._mutex:
            places = self._places.setdefault(owner, [])
            held = self._held.setdefault(owner, [])
            others = list(places)
            missing = self._need([*others, Place(owner, vcpus, machine)]) - len(held)
        if missing > 0:
            self._grow(held, missing, [other.machine for other in others if other.machine is not None], timeout_s, tell)
        place = Place(owner, vcpus, machine)
        with self._mutex:
            places.append(place)
        return place

    def give_back(self, place: Place) -> None:
        """Return what `take` gave, from any thread."""
        with self._mutex:
            places, held = self._places[place.owner], self._held[place.owner]
            places.remove(place)
            keep = self._need(places)
            while len(held) > keep:
                os.close(held.pop())

    def _need(self, places: list[Place]) -> int:
        return min(max((place.vcpus for place in places), default=0), self.budget)

    def _grow(self, held: list[int], count: int, machines: list[Pausable], timeout_s: float, tell: Tell | None) -> None:
        """Hold `count` slots more; when they are not free now, by giving all back and waiting for the whole."""
        before = len(held)
        taken = self._free(count) if before else self._acquire(count, timeout_s, tell)
        if len(taken) == count:
            with self._mutex:
                held.extend(taken)
            return
        for machine in machines:
            machine.pause()
        with self._mutex:
            for slot in [*taken, *held]:
                os.close(slot)
            held.clear()
        try:
            again = self._acquire(before + count, timeout_s, tell)
        except AdmissionError:
            # What ran before goes on only within the budget; if even that has no room, it stays paused.
            self._restore(held, self._acquire(before, timeout_s), machines)
            raise
        self._restore(held, again, machines)

    def _restore(self, held: list[int], slots: list[int], machines: list[Pausable]) -> None:
        with self._mutex:
            held.extend(slots)
        for machine in machines:
            machine.resume()

    def _free(self, count: int) -> list[int]:
        """At most `count` slots that nobody holds now."""
        taken: list[int] = []
        for index in range(self.budget):
            slot = self._try(f"slot-{index}") if len(taken) < count else None
            if slot is not None:
                taken.append(slot)
        return taken

    def _acquire(self, count: int, timeout_s: float, tell: Tell | None = None) -> list[int]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        began = time.monotonic()
        never = threading.Event()
        # One waiter collects at a time, so two half-served ones cannot block each other.
        gate: int | None = None
        taken: list[int] = []
        try:
            while True:
                gate = self._try("gate") if gate is None else gate
                if gate is not None:
                    taken += self._free(count - len(taken))
                    if len(taken) == count:
                        return taken
                waited = time.monotonic() - began
                if waited > timeout_s:
                    break
                if tell is not None and waited > _QUIET_S:
                    tell(
                        f"waiting for {count} of {self.budget} vCPU slots, {timeout_s:g} s at most; "
                        f"they are held by {self.holders()}"
                    )
                    tell = None
                never.wait(_RETRY_S)
        finally:
            if gate is not None:
                os.close(gate)
            if len(taken) < count:
                for slot in taken:
                    os.close(slot)
        raise AdmissionError(
            f"{count} of {self.budget} vCPU slots did not become free within {timeout_s:g} s: "
            f"other machines are running on this host, of {self.holders()} (slots in {self._directory}); "
            "end them, or wait and run again"
        )

    def holders(self) -> str:
        """Which processes hold slots, or collect them, and how many each."""
        found: Counter[int] = Counter()
        for index in range(self.budget):
            name = f"slot-{index}"
            slot = self._try(name)
            if slot is not None:
                os.close(slot)
            else:
                with suppress(OSError, ValueError):  # it was given back meanwhile
                    found[int((self._directory / name).read_text())] += 1
        del found[os.getpid()]  # collected so far
        return "; ".join(f"{_process(pid)}: {count}" for pid, count in found.items()) or "nobody any more"

    def _try(self, name: str) -> int | None:
        slot = os.open(self._directory / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            return None
        with suppress(OSError):  # a full disk: others do not learn who it is
            os.ftruncate(slot, 0)
            os.write(slot, str(os.getpid()).encode())
        return slot


def _process(pid: int) -> str:
    """A process as a person knows it: its number, command and folder."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        command = " ".join(words.split())
        if len(command) > _LONGEST_COMMAND:
            command = command[:_LONGEST_COMMAND] + "…"
        return f"process {pid} ({command} in {Path(f'/proc/{pid}/cwd').readlink()})"
    except OSError:
        return f"process {pid}"


_admission: Admission | None = None


def admission() -> Admission:
    """The slots of this process, made on first use."""
    global _admission
    if _admission is None:
        _admission = Admission()
    return _admission
