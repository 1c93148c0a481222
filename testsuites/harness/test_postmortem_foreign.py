"""Postmortems of a kernel of which nothing is known but its image, and what counts as one cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict import postmortem
from support.projects import BOARD, lay_out, run_pytest

TESTS = """
import pytest

def test_one(machine):
    assert not machine

@pytest.mark.parametrize("number", range(3))
def test_two(machine, number):
    assert number < 0

def test_three(machine):
    machine.console.expect("never", 0.3)
"""


@pytest.mark.requirement("OBS-14", "TST-30")
def test_a_flat_image_leaves_registers_and_each_assertion_is_a_cause_of_its_own(tmp_path: Path) -> None:
    lay_out(tmp_path, TESTS, board=BOARD.replace("[qmp]", "[qmp, gdbstub]"))
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SPIN)
    ran = run_pytest(tmp_path, "-q", "--board", "tiny")
    assert "5 failed" in ran.stdout, ran.stdout[-6000:]
    found = postmortem.kept(tmp_path / postmortem.FOLDER)
    names = [one.test.removeprefix("test_it.py::") for one in found]
    twice = ["test_two[tiny-smp1-1]", "test_two[tiny-smp1-2]"]
    assert names == ["test_one[tiny-smp1]", *twice, "test_three[tiny-smp1]"], "of three failures at one place, two"
    for one in found:
        text = (one.path / "README").read_text()
        assert re.search(r"Not looked into: \S+/guest: no ELF file with symbols", text), text
        cpu = text.split("\nCPU 0\n")[1]
        assert re.search(r"^  #0 0x[0-9a-f]{16} \?$", cpu, re.MULTILINE), cpu
        assert re.search(r"^ pc +[0-9a-f]{16}$", cpu, re.MULTILINE), cpu
        assert one.reopens
        assert not (one.path / "kernel.elf").exists(), "gdb has no use for a flat image"
