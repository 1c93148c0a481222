"""Debian's kernel on the lab's fixtures: its panic without a root file system, its shell, reset and power."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.board import Board
from harness.console import Console, ConsoleClosed, Session, TargetPanicked
from harness.machine import BootFiles, Misuse
from harness.plugin.faults import Faults
from harness.verdict import Verdict, judge
from harness.verdict.activity import sample

Boot = Callable[..., Session]
LIMIT_S = 120


@pytest.mark.requirement("TST-29", "OBS-14")
def test_without_a_root_file_system_it_panics_and_the_verdict_says_what_it_lacks(board: Board, boot: Boot) -> None:
    session = boot(files=BootFiles(board.kernel), ready=False)
    with pytest.raises(TargetPanicked) as panicked:
        session.wait_ready()
    finding = judge(session, panicked.value)
    assert finding.verdict is Verdict.PANICKED
    assert finding.cause.startswith("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)")
    assert "it has no root file system: give it an initrd" in finding.cause
    assert finding.details[-1].endswith("]---"), "the report is whole"


@pytest.mark.requirement("TST-29", "DEV-01")
@pytest.mark.parametrize("round", [1, 2])
def test_each_test_has_a_clean_target(fresh_target: Session, round: int) -> None:
    assert fresh_target.console.command("ls /left 2>/dev/null") == ""
    assert fresh_target.console.command(f"touch /left; echo {round}").split() == [str(round)]


@pytest.mark.requirement("TST-29", "DEV-01")
def test_the_console_is_a_shell(board: Board, machine: Session, console: Console) -> None:
    assert (machine.ready_line or "").startswith("init: ready, Linux ")
    assert console.command("uname -m").strip() == board.arch
    console.sendline("cat /proc/cmdline")
    assert b"console=" in console.expect(r"^.*console=\w+.*$").group()
    console.sendline("seq 3")
    assert [console.expect(r"^(\d)\r?$")[1] for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.requirement("TST-29", "TST-26")
def test_the_reset_button_is_not_a_reset_by_the_kernel(machine: Session, console: Console) -> None:
    machine.mark_dirty("it is reset")
    console.command("touch /left")
    machine.reset()
    machine.wait_ready()
    assert console.command("ls /left 2>/dev/null") == ""
    machine.reset_expected = True
    console.sendline("reboot -f")
    with pytest.raises(ConsoleClosed, match="guest-reset"):
        console.expect("never", 60)
    assert machine.machine.guest_reset is not None


@pytest.mark.requirement("TST-29", "TST-26", "DEV-08")
@pytest.mark.needs("cpu-online")
def test_a_cpu_goes_off_and_comes_back_under_load(boot: Boot, faults: Faults) -> None:
    session = boot(smp=2)

    def online() -> tuple[str, str]:
        """The kernel's CPUs: those that it calls online, and how many it describes."""
        said = session.console.command("cat /sys/devices/system/cpu/online; grep -c ^processor /proc/cpuinfo")
        first, second = said.split()
        return first, second

    def at_work() -> int:
        """How many of QEMU's CPU threads have something to do; one that is halted for good never has.

        Which is the kernel's CPU 1 is not always the second: on RISC-V the first that comes to the firmware boots.
        """
        found = sample(session.machine)
        assert found is not None and len(found.ran) == 2
        return sum(ran + waited > 0.1 for ran, waited in zip(found.ran, found.waited, strict=True))

    def comes_to(wanted: int) -> bool:
        """Whether so many are in the end: a CPU that the kernel calls off has its way to the firmware before it."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if at_work() == wanted:
                return True
        return False

    assert online() == ("0-1", "2")
    session.console.command("for load in 1 2 3 4; do while :; do :; done & done")
    assert comes_to(2)
    faults.cpu_off(1)
    assert online() == ("0", "1")
    assert comes_to(1)
    with pytest.raises(Misuse, match=r"wanted CPUs of .*-smp2, 0 to 1; found: "):
        faults.cpu_off(2)
    with pytest.raises(Misuse, match=r"wanted CPU 0 of .*-smp2 to go off; found: .* says "):
        faults.cpu_off(0)  # the last one
    faults.cpu_on(1)
    assert online() == ("0-1", "2")
    assert comes_to(2)


@pytest.mark.requirement("TST-29", "TST-26", "DEV-08")
@pytest.mark.needs("arch==x86_64")
def test_a_watchdog_that_is_not_fed_resets_the_machine_and_the_verdict_says_so(boot: Boot) -> None:
    session = boot(args=("-device", "i6300esb"))
    session.console.command("insmod /watchdog.ko; insmod /i6300esb.ko heartbeat=2", LIMIT_S)
    session.console.sendline("exec 3>/dev/watchdog; echo fed once >&3")
    with pytest.raises(ConsoleClosed) as ended:
        session.console.expect("never", LIMIT_S)
    finding = judge(session, ended.value)
    assert finding.verdict is Verdict.RESET
    assert finding.cause.startswith("the machine's watchdog reset it, which the guest did not feed (")
    session.reset_expected = True
