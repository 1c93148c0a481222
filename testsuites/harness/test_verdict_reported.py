"""A verdict reaches its reader: in pytest's text, in JUnit, in the exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.build import Artifacts
from harness.console import ConsoleError, Session
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict import Verdict, judge
from harness.verdict.symbols import Symbols
from support.projects import BOARD, run_pytest

READY = "init: ready\n"
PATIENCE_S = 60.0
GUESTS = {
    "echo": (READY, Then.ECHO),
    "panic": (READY + "PANIC cpu0: oh at a.rs:1:2\nPANIC end\n", Then.SPIN),
    "reset": (READY, Then.RESET),
    "spin": (READY, Then.SPIN),
    "sleep": (READY, Then.SLEEP),
    "foreign": ("Other OS 1.0\nmounting root\n", Then.SLEEP),
}
TESTS = """
import os
import signal
from pathlib import Path

from harness.machine import BootFiles


def start(boot, guest, **how):
    return boot(files=BootFiles(Path(guest)), **how)


def test_assertion(boot):
    start(boot, "echo")
    assert 1 == 2, "one is not two"


def test_panic(boot):
    start(boot, "panic").console.expect("never", 60)


def test_reset(boot):
    start(boot, "reset").console.expect("never", 60)


def test_spin(boot):
    start(boot, "spin").console.expect("never", 0.5)


def test_sleep(boot):
    start(boot, "sleep").console.expect("never", 0.5)


def test_foreign(boot):
    session = start(boot, "foreign", ready=False)
    session.console.expect("mounting root", 60)
    session.wait_ready(0.5)


def test_killed(boot):
    session = start(boot, "echo")
    os.kill(session.machine.pid, signal.SIGKILL)
    session.console.expect("never", 60)
"""
# Of each test the verdict, and words of its cause.
TOLD = {
    "assertion": ("failed", "one is not two"),
    "panic": ("panicked", "oh at a.rs:1:2"),
    "reset": ("reset", "the guest reset the machine"),
    "spin": ("spinning", "no 'never' on the console"),
    "sleep": ("idle", "no 'never' on the console"),
    "foreign": ("never-booted", "it never printed a boot stage; its last line was 'mounting root'"),
    "killed": ("qemu-died", "was ended by SIGKILL"),
}


@pytest.mark.requirement("DEV-02", "DEV-08", "TST-30")
def test_each_verdict_stands_in_text_junit_and_exit_status(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "tiny.yaml").write_text(BOARD)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, (text, then) in GUESTS.items():
        write_tiny_guest(tmp_path / name, text, then)
    write_tiny_guest(tmp_path / "guest", *GUESTS["echo"])
    (tmp_path / "test_it.py").write_text(TESTS)
    done = run_pytest(tmp_path, "--board", "tiny", "--junitxml=out.xml")
    assert done.returncode == 1, done.stdout
    sections = done.stdout.split("\n_____")
    cases = {case.get("name"): case for case in ElementTree.parse(tmp_path / "out.xml").getroot().iter("testcase")}
    for name, (verdict, words) in TOLD.items():
        case = cases[f"test_{name}[tiny-smp1]"]
        assert [p.get("value") for p in case.iter("property") if p.get("name") == "verdict"] == [verdict], name
        (section,) = [text for text in sections if f" test_{name}[tiny-smp1] " in text.splitlines()[0]]
        assert f"Verdict: {verdict}" in section, section
        assert words in section.replace("\n", " "), section
        assert "console log: " in section and "run just this: pytest --board tiny" in section


@pytest.mark.requirement("DEV-02", "ERR-03")
@pytest.mark.needs("arch==x86_64", "gdbstub", "release")
def test_a_triple_fault_is_one_reset_and_no_loop(boot: Callable[..., Session], artifacts: Artifacts) -> None:
    session = boot(smp=1)
    # `push 0; push 0; lidt [rsp]; ud2`: without a table neither the exception nor the double fault has a handler
    # (Intel SDM vol. 3A, 6.15, interrupt 8).
    with session.gdb() as gdb:
        gdb.write_memory(
            Symbols(artifacts.kernel).address("syscall::log_read"), b"\x6a\0\x6a\0\x0f\x01\x1c\x24\x0f\x0b"
        )
    session.console.sendline("log")
    with pytest.raises(ConsoleError) as error:
        session.console.expect("never", PATIENCE_S)
    finding = judge(session, error.value)
    assert finding.verdict is Verdict.RESET, finding
    assert "guest-reset" in finding.cause and "'user'" in finding.cause
    assert session.machine.status() == "shutdown"
    assert [event.name for event in session.machine.events].count("SHUTDOWN") == 1
    # On, it would turn this test red itself.
    session.close()
