"""A hand on the machine: a real pty joined to a real guest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest

TOP = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pathlib import Path
from harness.board import read_board
from harness.console.terminal import interact
from harness.machine import BootFiles, QemuMachine
machine = QemuMachine(read_board(Path(sys.argv[1])).variant(smp=1), BootFiles(Path(sys.argv[2])))
code = interact(machine)
print("left with", code, machine.running)
"""


def hand(guest: Path) -> pexpect.spawn[str]:
    child = pexpect.spawn(
        sys.executable,
        ["-c", PROGRAM, str(TOP / "boards" / "qemu-riscv64.yaml"), str(guest)],
        cwd=str(TOP),
        encoding="utf-8",
        timeout=20,
    )
    child.delaybeforesend = None
    return child


@pytest.mark.requirement("DEV-02")
def test_what_is_typed_reaches_the_guest_and_the_way_out_is_one_key(tmp_path: Path) -> None:
    child = hand(write_tiny_guest(tmp_path / "guest", "hello\n", Then.ECHO))
    child.expect("Ctrl-] leaves")
    child.expect("hello\r\n")
    child.send("a\x03b")
    child.expect("a\x03b")
    child.send("\x1d")
    child.expect("left with 0 False")
    child.expect(pexpect.EOF)


@pytest.mark.requirement("DEV-02")
def test_the_end_of_the_machine_gives_the_terminal_back(tmp_path: Path) -> None:
    child = hand(write_tiny_guest(tmp_path / "guest", "bye\n", Then.POWER_OFF))
    child.expect("bye")
    child.expect("left with 0 False")
    child.expect(pexpect.EOF)


@pytest.mark.requirement("DEV-02")
def test_a_reset_that_nobody_asked_for_is_an_exit_code(tmp_path: Path) -> None:
    child = hand(write_tiny_guest(tmp_path / "guest", "oops\n", Then.RESET))
    child.expect("left with 1 False")
    child.expect(pexpect.EOF)


@pytest.mark.requirement("DEV-02")
def test_input_from_a_pipe_is_typed_and_its_end_leaves(tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "hello\n", Then.ECHO)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TOP / "boards" / "qemu-riscv64.yaml"), str(guest)],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "left with 0 False" in done.stdout, done.stderr
