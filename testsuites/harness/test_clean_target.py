"""A target that each test finds as clean as after a boot, on real machines."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build import Artifacts
from harness.console import Session, clean_target
from harness.machine import MachineError, snapshot
from harness.machine.memory import Contents, GuestMemory
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict import Finding, Verdict, postmortem
from harness.verdict.postmortem import Images
from support.projects import BOARD, run_pytest

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


@pytest.mark.requirement("DEV-08")
def test_memory_is_what_it_was_to_the_byte(fresh_target: Session) -> None:
    point = fresh_target.clean_point
    if point is None:
        pytest.skip("each fresh target is a new boot here")
    # Programs write to pages that nobody had touched before, and to those of the kernel.
    fresh_target.console.command("test run boot:", 60)
    fresh_target.qmp("stop")
    assert fresh_target.machine.memory.save() != point.memory
    fresh_target.qmp("cont")
    fresh_target.broker.discard_input()
    snapshot.load(fresh_target.machine, point.memory)
    assert fresh_target.machine.memory.save() == point.memory
    fresh_target.mark_dirty("its console was not turned back")


def code_of(program: Path) -> bytes:
    """The first bytes of a program's code."""
    with program.open("rb") as file:
        segments = ELFFile(file).iter_segments("PT_LOAD")
        return next(bytes(segment.data()[:32]) for segment in segments if segment["p_flags"] & 1)


def pages_with(code: bytes, memory: Contents) -> set[int]:
    """The pages that begin with `code`."""
    return {start + at for start, data in memory.runs for at in range(0, len(data), 4096) if data.startswith(code, at)}


@pytest.mark.needs("release")
@pytest.mark.requirement("DEV-08")
def test_other_code_in_the_page_of_code_that_ran_is_what_runs_after_a_load(
    fresh_target: Session, artifacts: Artifacts
) -> None:
    session, point = fresh_target, fresh_target.clean_point
    if point is None:
        pytest.skip("each fresh target is a new boot here")
    codes = {path.name: code_of(path) for path in artifacts.programs}
    pages = []
    for case in ("smp:idle_cpus_sleep", "boot:clock_never_steps_back") * 2:
        assert f"ok {case}" in session.console.command(f"test run {case}", 60).splitlines()
        session.qmp("stop")
        pages.append(pages_with(codes[case.partition(":")[0]], session.machine.memory.save()))
        session.qmp("cont")
        clean_target.load(session, point)
    assert codes["smp"] != codes["boot"]
    assert len(pages[0]) == 1
    assert pages == pages[:1] * 4, "each program's code was in another page: this proves nothing"


@pytest.mark.requirement("DEV-08", "OBS-08")
def test_the_postmortem_of_a_machine_that_was_saved_has_its_memory(
    boot: Callable[..., Session], tmp_path: Path
) -> None:
    session = boot()
    clean_target.load(session, clean_target.save(session))
    session.console.command("ps")
    finding = Finding(Verdict.FAILED, "planted")
    folder = postmortem.write(tmp_path, session, finding, Images(None), test="planted", text="", place="here")
    assert "Reopen it" in (folder / "README").read_text()
    memory = session.machine.memory.save()
    machine = postmortem.reopen(postmortem.find(tmp_path, folder.name))
    try:
        assert memory.runs
        assert machine.memory.save() == memory
    finally:
        machine.off()


@pytest.mark.requirement("DEV-08")
def test_memory_is_restored_whatever_was_written_meanwhile() -> None:
    page = 4096
    memory = GuestMemory(64 * page)

    def write(data: bytes, *pages: int) -> None:
        for number in pages:
            os.pwrite(memory.fd, data, number * page)

    try:
        write(b"kept", 3, 4, 5, 9, 63)
        write(bytes(page), 4, 10)
        saved = memory.save()
        assert [(at // page, len(data) // page) for at, data in saved.runs] == [(3, 1), (5, 1), (9, 1), (63, 1)]
        write(b"new", 0, 2, 4, 6, 9, 20, 62)
        write(bytes(page), 3)
        assert memory.save() != saved
        memory.restore(saved)
        assert memory.save() == saved
        held = [os.pread(memory.fd, page, number * page).rstrip(b"\0") for number in range(64)]
        assert {number: data for number, data in enumerate(held) if data} == dict.fromkeys((3, 5, 9, 63), b"kept")
    finally:
        memory.close()


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
    done = run_pytest(folder, "--board", "tiny", "--junitxml=out.xml", *arguments)
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
