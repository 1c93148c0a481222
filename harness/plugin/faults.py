"""The fixture `faults`: what goes wrong with a machine, one verb each, on the machine that the test took last.

What a board cannot do is a skip that names what it lacks. A machine that had a
fault is nobody else's: the next test gets a new boot.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness.plugin.fixtures import log_folder
from harness.plugin.keys import MACHINES

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.machine import GdbStub, QemuMachine
    from harness.machine.counting import Instructions

SEED = "--faults-seed"
_LIMIT_S = 120.0
_CONSOLE_END_S = 20.0
_LAST = 2**64 - 1
# Machine checks (SDM vol. 3B, 16.3): of a bank's status VAL, UC, EN and PCC, of the global one RIPV and MCIP.
_VALID, _UNCORRECTED, _ENABLED, _CONTEXT_CORRUPT = 1 << 63, 1 << 61, 1 << 60, 1 << 57
_RESTARTABLE, _IN_PROGRESS = 1 << 0, 1 << 2


@dataclass(frozen=True, slots=True)
class PowerCut:
    """A machine whose power was cut, switched off, and the instructions that each CPU had executed."""

    session: Session
    executed: tuple[Instructions, ...]


class Faults:
    """The verbs. They raise Misuse for what there is not or cannot be, and skip the test where the board cannot.

    QemuDied, and MachineError for what is nobody's mistake, come through from QEMU.
    """

    def __init__(self, item: pytest.Item, boot: Callable[..., Session], stack: ExitStack, seed: int | None) -> None:
        self._item = item
        self._boot = boot
        self._stack = stack
        self._chosen: Session | None = None
        self._stopped: GdbStub | None = None
        self._cuts = itertools.count(1)
        self.seed: int = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self.random = random.Random(self.seed)
        """For a test that draws faults; the seed is told where it fails."""

    def on(self, session: Session) -> Faults:
        """The verbs for another machine of this test."""
        other = Faults(self._item, self._boot, self._stack, self.seed)
        other._chosen, other.random = session, self.random
        return other

    # The whole machine, and its CPUs.

    def freeze(self) -> None:
        """Stop all CPUs and the guest's clocks."""
        self._machine("freeze", "qmp").qmp("stop")

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._machine("thaw", "qmp").qmp("cont")

    def stop_cpus(self, *cpus: int) -> None:
        """Stop CPUs, by number from 0; the others, and the clocks, go on. Those stopped before go on as well.

        Raises Misuse for a CPU that the machine has not, and for none.
        """
        machine = self._machine(f"stop CPUs {cpus}", "gdbstub")
        self._check_cpus(machine.board, *cpus)
        self._start()
        self._stopped = gdb = machine.gdb()
        self._stack.callback(gdb.close)
        gdb.resume([cpu for cpu in range(machine.board.smp) if cpu not in cpus])

    def start_cpus(self) -> None:
        """Let all CPUs go on after `stop_cpus`."""
        self._machine("start CPUs", "gdbstub")
        self._start()

    def cpu_off(self, cpu: int) -> None:
        """Let the target switch a CPU off, by number from 0, with its own command: `cpu_online` of its board file.

        The console is at its prompt then. Raises Misuse for a CPU that the machine has not, and where the target
        complains.
        """
        self._switch_cpu(cpu, "off")

    def cpu_on(self, cpu: int) -> None:
        """Let the target switch it on again; as `cpu_off`."""
        self._switch_cpu(cpu, "on")

    def _switch_cpu(self, cpu: int, state: Literal["on", "off"]) -> None:
        from harness.machine import Misuse

        session = self._session(f"CPU {cpu} goes {state}", "cpu-online")
        board = session.board
        self._check_cpus(board, cpu)
        command = board.cpu_online.replace("{cpu}", str(cpu)).replace("{online}", "1" if state == "on" else "0")
        said = session.console.command(command, _LIMIT_S).strip()
        if said:
            raise Misuse(f"wanted CPU {cpu} of {board.id} to go {state}; found: {command!r} says {said!r}")

    def add_cpu(self) -> str:
        """Plug one more CPU in; its id. Boot with args=("-smp", "4,maxcpus=5") to have room for one."""
        from harness.machine.faults import add_cpu

        return add_cpu(self._machine("add a CPU", "cpu-hotplug"))

    def nmi(self) -> None:
        """A non-maskable interrupt on all CPUs."""
        self._machine("NMI", "nmi").qmp("inject-nmi")

    def machine_check(self, cpu: int = 0, *, restartable: bool = False) -> None:
        """An uncorrected machine check on a CPU, by number from 0; `restartable`: what it interrupts is not hurt."""
        status = _VALID | _UNCORRECTED | _ENABLED | (0 if restartable else _CONTEXT_CORRUPT)
        state = _IN_PROGRESS | (_RESTARTABLE if restartable else 0)
        machine = self._machine(f"machine check on CPU {cpu}", "machine-check")
        self._check_cpus(machine.board, cpu)
        machine.monitor(f"mce {cpu} 1 {status:#x} {state:#x} 0 0")

    def rtc_jumps(self, to: datetime.datetime) -> None:
        """Set the real-time clock behind the guest's back; `to` has its time zone.

        Raises Misuse where it has none, and for a time that the clock cannot show.
        """
        from harness.machine import Misuse
        from harness.machine.faults import set_rtc

        if not isinstance(to, datetime.datetime) or to.tzinfo is None:
            raise Misuse(f"wanted a time with its time zone, such as tzinfo=datetime.UTC; found: {to!r}")
        set_rtc(self._machine(f"the clock jumps to {to}", "rtc"), to)

    # Power.

    def cut_power(self) -> None:
        """Cut the power now. What the board's disks have is left; `boot` is the power's return."""
        session = self._session("power cut")
        session.close()

    def cut_power_at(
        self,
        place: int | str,
        nth: int = 1,
        *,
        when_armed: Callable[[], None] = lambda: None,
        timeout_s: float = _LIMIT_S,
    ) -> None:
        """Cut the power before the `nth` execution of an instruction, by address or as a function's first.

        `when_armed` may bring the machine there. Raises TimeoutError where no CPU comes within `timeout_s` of the host,
        Misuse for a function that the kernel has not.
        """
        from harness.machine import Misuse

        session = self._session(f"power cut at {place}", "gdbstub")
        address = place if isinstance(place, int) else self._address(session, place)
        if nth < 1 or not 0 <= address <= _LAST:
            raise Misuse(
                f"wanted a power cut at an address from 0 to {_LAST:#x}, at its first execution or a later one; "
                f"found: {address:#x}, nth={nth}"
            )
        with session.gdb() as gdb:
            gdb.set_breakpoint(address)
            when_armed()
            for _ in range(nth):
                gdb.resume()
                gdb.wait_stop(timeout_s)
            gdb.stay_stopped()
            session.close()

    def cut_power_after(self, instructions: int, cpu: int = 0, *, timeout_s: float = _LIMIT_S, **boot: Any) -> PowerCut:
        """Boot a machine, and cut its power when a CPU has executed so many instructions.

        The CPU's next one is not begun. Takes what `boot` takes besides; with one CPU and icount=True the same number
        is the same moment each time. Raises Misuse for a CPU that the machine has not, and where it executes fewer
        within `timeout_s` of the host.
        """
        from harness.machine import Misuse
        from harness.machine.counting import Counting

        board: Board = self._item.callspec.params["board"]  # type: ignore[attr-defined]  # of a function
        self._need(board, "qmp")
        self._check_cpus(board if boot.get("smp") is None else replace(board, smp=boot["smp"]), cpu)
        if not 1 <= instructions <= _LAST:
            raise Misuse(f"wanted a power cut after 1 to {_LAST} instructions; found: {instructions}")
        path = log_folder(self._item) / f"power-cut-{next(self._cuts)}"
        counting = self._stack.enter_context(Counting(path, cut=(cpu, instructions)))
        boot["args"] = (*boot.get("args", ()), *counting.arguments(board))
        session = self._boot(ready=False, paused=True, **boot)
        with self.on(session)._expected(f"power cut after {instructions} instructions of CPU {cpu}"):
            session.qmp("cont")
        if not session.machine.wait_exit(timeout_s):
            done = counting.counts()[cpu].total
            raise Misuse(
                f"CPU {cpu} of {session.board.id} executed {done} instructions of {instructions} within {timeout_s:g} s"
            )
        broker = session.broker
        with broker.changed:  # what it has printed is read to the end
            broker.changed.wait_for(lambda: broker.closed is not None, _CONSOLE_END_S)
        session.close()
        return PowerCut(session, counting.counts())

    # Devices.

    def link_down(self, device: str) -> None:
        """Pull a network device's cable; `device` is its id, or that of its netdev."""
        self._link(device, "down")

    def link_up(self, device: str) -> None:
        """Put the cable back."""
        self._link(device, "up")

    def _link(self, device: str, state: Literal["up", "down"]) -> None:
        from harness.machine.faults import asked

        machine = self._machine(f"link of {device} {state}", "qmp")
        asked(machine, f"the link of {device!r} {state}", "set_link", name=device, up=state == "up")

    def disk_full(self, node: str) -> None:
        """Let a disk's writes fail for want of space. The device's `werror` says whether its guest is told or stops."""
        from harness.machine.faults import fail_disk

        fail_disk(self._machine(f"disk {node} full", "qmp"), node, reads=False, writes=True, full=True)

    def disk_error(self, node: str, *, reads: bool = True, writes: bool = True) -> None:
        """Let a disk's reads or writes fail (EIO). `node` is named on QEMU's command line: driver=raw,node-name=…"""
        from harness.machine.faults import fail_disk

        fail_disk(self._machine(f"disk {node} fails", "qmp"), node, reads=reads, writes=writes)

    def disk_mended(self, node: str) -> None:
        """Undo `disk_full` or `disk_error`; a guest that was stopped for it tries again."""
        from harness.machine.faults import mend_disk

        mend_disk(self._machine(f"disk {node} mended", "qmp"), node)

    def unplug(self, device: str, timeout_s: float = 0.0) -> bool:
        """Unplug a device by its id; whether it is gone within `timeout_s`. One on PCI Express asks its guest first."""
        from harness.machine.faults import unplug

        return unplug(self._machine(f"{device} unplugged", "qmp"), device, timeout_s)

    def unplugged(self, device: str, timeout_s: float = _LIMIT_S) -> bool:
        """Wait until the guest has let go of a device that it was asked for; whether it has within `timeout_s`."""
        from harness.machine.faults import unplugged

        return unplugged(self._machine(f"{device} let go", "qmp"), device, timeout_s)

    # The console, on the lab's side of the wire.

    def console_noise(self, share: float) -> None:
        """Turn a bit in this share of the bytes that come from the target. `faults.seed` brings the same ones."""
        self._check_share(share)
        self._bad_line(share, 0.0)

    def console_loss(self, share: float) -> None:
        """Lose this share of the bytes that come from the target."""
        self._check_share(share)
        self._bad_line(0.0, share)

    def typing_loss(self, share: float) -> None:
        """Lose this share of the bytes that go to the target."""
        from harness.console.noise import Noise

        self._check_share(share)
        broker = self._session(f"typing: {share:.1%} lost").broker
        self._tell_seed()
        broker.speak = Noise(0.0, share, self.random.randrange(1 << 32))

    def console_clear(self) -> None:
        """A good line again."""
        broker = self._session("a good line again").broker
        broker.hear = broker.speak = None

    def console_cut(self) -> None:
        """Cut the console. A serial line comes back, as one does that was unplugged; an emulated board's does not."""
        session = self._session("console cut")
        session.cut_expected = True
        session.broker.cut()

    def _bad_line(self, noise: float, loss: float) -> None:
        from harness.console.noise import Noise

        broker = self._session(f"console: {noise:.1%} changed, {loss:.1%} lost").broker
        self._tell_seed()
        broker.hear = Noise(noise, loss, self.random.randrange(1 << 32))

    # What they share.

    def _session(self, what: str, *needs: str) -> Session:
        """The machine that the fault is for; its log tells of the fault, and no other test gets it."""
        from harness.machine import Misuse

        session = self._chosen
        if session is None:
            taken = self._item.stash.get(MACHINES, [])
            if not taken:
                raise pytest.UsageError(
                    f"{self._item.nodeid} has no machine for a fault yet: ask for `machine` or `boot`"
                )
            session = taken[-1].session
        self._need(session.board, *needs)
        if session.closed:
            raise Misuse(
                f"wanted {session.board.id} on, for a fault: {what}; found: it is off; "
                "next: boot another, or plant this fault before its power is cut"
            )
        session.mark_dirty(f"{self._item.nodeid} planted a fault: {what}")
        session.broker.note(f"fault: {what}")
        return session

    def _machine(self, what: str, *needs: str) -> QemuMachine:
        return self._session(what, *needs).machine

    @staticmethod
    def _need(board: Board, *needs: str) -> None:
        from harness.board import lacks

        if (reason := lacks(board, needs)) is not None:
            pytest.skip(reason)

    @staticmethod
    def _check_cpus(board: Board, *cpus: int) -> None:
        from harness.machine import Misuse

        if not cpus or not set(cpus) <= set(range(board.smp)):
            raise Misuse(f"wanted CPUs of {board.id}, 0 to {board.smp - 1}; found: {cpus}")

    @staticmethod
    def _check_share(share: float) -> None:
        from harness.machine import Misuse

        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise Misuse(f"wanted a share of the bytes from 0 to 1; found: {share!r}")

    @contextlib.contextmanager
    def _expected(self, what: str) -> Iterator[None]:
        """A command that the machine may not live to answer."""
        from harness.machine import QemuDied

        self._session(what)
        with contextlib.suppress(QemuDied):
            yield

    def _start(self) -> None:
        if self._stopped is not None:
            self._stopped.close()
            self._stopped = None

    def _address(self, session: Session, function: str) -> int:
        from harness.board import LabError
        from harness.machine import Misuse
        from harness.plugin.reporting import kernel_of
        from harness.verdict.symbols import Symbols, slide_of

        kernel, told = kernel_of(self._item, session), slide_of(session.first_lines)
        if kernel is None or told is None:
            raise pytest.UsageError(
                f"{session.board.id} has told no kernel's slide yet: give an address, not {function!r}"
            )
        symbols = Symbols(kernel)
        try:
            return symbols.address(function) + told[0]
        except LabError as error:
            raise Misuse(f"wanted one function {function!r} of the kernel; found: {error}") from error

    def _tell_seed(self) -> None:
        text = f"seed {self.seed}; again: {SEED} {self.seed}"
        self._item.add_report_section("call", "faults", text)


@pytest.fixture
def faults(request: pytest.FixtureRequest, board: Board, boot: Callable[..., Session]) -> Iterator[Faults]:
    """What goes wrong with the machine that this test took last, one verb each."""
    with ExitStack() as stack:
        yield Faults(request.node, boot, stack, request.config.getoption(SEED))
