"""A target that each test finds as clean as after a boot, on real machines."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.console import Session, clean_target
from harness.machine import MachineError, snapshot
from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment

ROUNDS = 200


@pytest.mark.requirement("DEV-08", "TST-01")
@pytest.mark.parametrize("number", range(3))
def test_nothing_of_the_test_before_shows_on_a_fresh_target(fresh_target: Session, number: int) -> None:
    console = fresh_target.console
    console.expect(r"^\$ \Z")
    assert str(console.last_lines(1)[0]).startswith("init: ready")
    assert console.command("cpus").startswith("4 of 4 CPUs online")
    fresh_target.channel.ping()
    # All that a load must sweep away: an answer not waited for, half a line, frames under way.
    console.send("mem\nhalf a line")
    fresh_target.channel.send("ping", 10)
    console.send("x" * 100)


def timer_armed(session: Session) -> bool:
    """Whether a timer of a CPU is still to come, as the machine itself shows it."""
    cpus = range(session.board.smp)
    if session.board.arch == "x86_64":
        dumps = [session.machine.monitor(f"info lapic {cpu}") for cpu in cpus]
        counts = [re.findall(r"current_count = (\d+)", dump) for dump in dumps]
        assert all(len(found) == 1 for found in counts), dumps
        return any(found != ["0"] for found in counts)
    with session.gdb() as gdb:
        for cpu in cpus:
            gdb.select(cpu)
            # Arm ARM, CNTV_CTL_EL0: ENABLE is bit 0, IMASK bit 1.
            if any(gdb.read_register(f"CNT{timer}_CTL_EL0") & 3 == 1 for timer in "PV"):
                return True
    return False


# QEMU 7.2 shows a RISC-V stimecmp to nobody.
@pytest.mark.needs("arch!=riscv64")
@pytest.mark.requirement("DEV-08")
def test_no_timer_is_armed_on_a_fresh_target(fresh_target: Session) -> None:
    assert snapshot.wait_idle(fresh_target.machine, 20)
    assert not timer_armed(fresh_target)
    fresh_target.console.sendline("sleep 600000")
    fresh_target.console.expect(r"sleep 600000\n")
    assert snapshot.wait_idle(fresh_target.machine, 20)
    assert timer_armed(fresh_target)


@pytest.mark.requirement("DEV-08")
def test_input_that_the_guest_does_not_read_is_no_input_of_the_next_test(fresh_target: Session) -> None:
    if fresh_target.clean_point is None:
        pytest.skip("each fresh target is a new boot here")
    # A guest that stands still reads nothing, as one that spins with interrupts off.
    fresh_target.qmp("stop")
    fresh_target.machine.console_socket.send(b"x" * 4096)
    with pytest.raises(MachineError, match="does not read its input"):
        clean_target.load(fresh_target, fresh_target.clean_point)
    fresh_target.mark_dirty("its input is stuck")


@pytest.mark.requirement("DEV-08")
def test_a_board_without_snapshots_boots_anew_and_says_so(boot: Callable[..., Session]) -> None:
    session = boot()
    session.board = replace(session.board, features=session.board.features - {"snapshot"})
    with pytest.raises(MachineError, match="does not name the feature 'snapshot'"):
        clean_target.save(session)


@pytest.mark.requirement("DEV-08", "TST-01")
def test_a_timer_of_before_the_load_neither_fires_nor_hides_a_new_one(fresh_target: Session) -> None:
    session, point = fresh_target, fresh_target.clean_point
    if point is None:
        pytest.skip("each fresh target is a new boot here")
    for _ in range(ROUNDS):
        session.console.sendline("sleep 600000")
        session.console.expect(r"sleep 600000\n")
        clean_target.load(session, point)
        assert session.console.command("sleep 2", 60) == ""
        clean_target.load(session, point)


TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_first_line(fresh_target, number):
    assert fresh_target.ready_line
    fresh_target.console.send("abc")
    fresh_target.console.expect("abc", 5)

def test_fails(fresh_target):
    assert fresh_target.ready_line is None
"""


def run_tiny(folder: Path, features: str, *arguments: str) -> tuple[list[str], list[str]]:
    """Outcomes of the tests above on a small machine, and how each got its clean target."""
    (folder / "boards").mkdir(exist_ok=True)
    (folder / "boards" / "tiny.yaml").write_text(BOARD.replace("[qmp]", features))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    write_tiny_guest(folder / "guest", "init: ready\n", Then.ECHO)
    (folder / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        command("--board", "tiny", "--junitxml=out.xml", *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    cases = list(ElementTree.parse(folder / "out.xml").iter("testcase"))
    outcomes = [f"{case.get('name')} {'failed' if case.find('failure') is not None else 'passed'}" for case in cases]
    how = [p.get("value") or "" for case in cases for p in case.iter("property") if p.get("name") == "fresh_target"]
    return outcomes, how


@pytest.mark.requirement("DEV-08", "DEV-02")
def test_a_board_without_snapshots_is_reset_or_booted_and_the_report_says_so(tmp_path: Path) -> None:
    expected = [f"test_first_line[tiny-smp1-{n}] passed" for n in range(3)] + ["test_fails[tiny-smp1] failed"]
    unnamed = f"{tmp_path}/boards/tiny.yaml does not name the feature 'snapshot'"
    by_reset, how = run_tiny(tmp_path, "[qmp, reset]")
    assert by_reset == expected
    assert how == ["booted"] + [f"reset: {unnamed}"] * 3
    by_boot, how = run_tiny(tmp_path, "[qmp]")
    assert by_boot == expected
    assert how == ["booted"] + [f"booted: {unnamed}"] * 3
    # A guest that never sleeps cannot be saved at a moment that means anything.
    busy, how = run_tiny(tmp_path, "[qmp, reset, snapshot]")
    assert busy == expected
    assert re.match(r"reset: tiny-smp1 was not idle", how[1])
    cold, how = run_tiny(tmp_path, "[qmp, reset, snapshot]", "--cold")
    assert cold == expected
    assert how == ["booted: --cold"] * 4
