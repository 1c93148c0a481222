"""The clock by which a target hangs: time that it had, and not time that passed.

A guest is not late while it cannot run. So the clock stands still while the
machine is stopped (by gdb, by a held attach), and the time does not count in
which the host kept the vCPU that waited most from running (Linux,
/proc/PID/task/TID/schedstat). A host that gives a machine next to nothing must
not keep a test for ever, either: after twenty times its limit, and a minute at
least, every wait ends; but time in which somebody's hand held the machine, gdb
of another process or an attach, is no time at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.machine import Event, Kind, MachineError, QemuDied, QemuMachine

MOST = 20.0
LEAST_S = 60.0
# Between looks at the clock near a deadline, so that a clock that stands does not make its reader spin.
_LOOK_S = 0.01


class _Stopwatch:
    def __init__(self) -> None:
        self._total_s = 0.0
        self._since_s: float | None = None

    def turn(self, on: bool, now: float) -> None:
        if on and self._since_s is None:
            self._since_s = now
        elif not on and self._since_s is not None:
            self._total_s += now - self._since_s
            self._since_s = None

    def read(self, now: float) -> float:
        return self._total_s + (0.0 if self._since_s is None else now - self._since_s)


class HangClock:
    """Seconds that a machine has had, from any zero; `now` may be called from any thread."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine
        self._mutex = threading.Lock()
        self._holds = 0
        self._stopped = False
        self._held = False
        self._standing = _Stopwatch()
        self._in_hand = _Stopwatch()
        self._waited_s = 0.0
        try:
            self._threads = machine.vcpu_threads()
        except (MachineError, QemuDied):
            self._threads = []
        machine.listen(self._on_event)

    def now(self) -> float:
        with self._mutex:
            monotonic = time.monotonic()
            stood = self._standing.read(monotonic)
        return monotonic - stood - self._starved_s()

    def host(self) -> float:
        """Seconds of the host, without those in which somebody held the machine."""
        if self._held and not self._machine.held:
            # Who held it was killed, or had found it stopped: no start has told of the end.
            self._change(held=False)
        with self._mutex:
            monotonic = time.monotonic()
            return monotonic - self._in_hand.read(monotonic)

    def hold(self) -> None:
        """Let the clock stand still, until as many `release`."""
        self._change(holds=1)

    def release(self) -> None:
        self._change(holds=-1)

    def _change(self, holds: int = 0, stopped: bool | None = None, held: bool | None = None) -> None:
        with self._mutex:
            now = time.monotonic()
            self._holds += holds
            self._stopped = self._stopped if stopped is None else stopped
            self._held = self._held if held is None else held
            in_hand = self._held or self._holds > 0
            self._in_hand.turn(in_hand, now)
            self._standing.turn(in_hand or self._stopped, now)

    def _on_event(self, event: Event) -> None:
        if event.kind is Kind.QMP and event.name in ("STOP", "RESUME"):
            # Under gdb it may go on for a while; who holds it gives it back before the last start.
            self._change(stopped=event.name == "STOP", held=self._machine.held)

    def _starved_s(self) -> float:
        """How long the vCPU that waited most was ready to run and did not; after QEMU's end as it was before."""
        waited = [_waited_s(self._machine.pid, thread) for thread in self._threads]
        self._waited_s = max([self._waited_s, *waited])
        return self._waited_s


def _waited_s(pid: int | None, thread: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Deadline:
    """The end of a wait: so long by `clock`, and by the host's no longer than a host may starve a machine.

    `clock` is dear to read and never goes faster than time. So it is read when the wait begins to last, and again
    only when it can be over.
    """

    def __init__(
        self, clock: Callable[[], float], timeout_s: float, host: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._host = host
        self._timeout_s = timeout_s
        self._end_s = host() + max(MOST * timeout_s, LEAST_S)
        self._at: float | None = None
        # Until then, by the monotonic clock, the wait cannot be over.
        self._sure_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds to wait before one looks again; 0 when the wait is over."""
        if self._at is None:
            self._at = self._clock() + self._timeout_s
        left = self._sure_s - time.monotonic()
        if left <= 0:
            left = self._at - self._clock()
            self._sure_s = time.monotonic() + left
        host = self._end_s - self._host()
        return 0.0 if left <= 0 or host <= 0 else max(min(left, host), _LOOK_S)
