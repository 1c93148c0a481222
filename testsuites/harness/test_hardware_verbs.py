"""`quoin flash`, `power` and `console`: the same words for a board that is emulated and for one on wires."""

from __future__ import annotations

import subprocess
import sys

import pexpect
import pytest

from harness.board import holder_of
from support.wired import MISSING, TOP

WAIT_S = 600
on_wires = pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")
BOARDS = ["qemu-riscv64", pytest.param("uboot-riscv64", marks=on_wires)]


def quoin(*words: str) -> str:
    command = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.requirement("BLD-06", "DEV-08")
@pytest.mark.parametrize("name", BOARDS)
def test_a_board_stays_on_until_it_is_switched_off(name: str) -> None:
    assert quoin("power", name, "status").endswith(f"{name} is off\n")
    try:
        assert f"on: {name}-smp4: " in quoin("power", name, "on")
        assert f"logs/power/{name}-smp4-" in quoin("attach")
        assert f"on: {name}-smp4: " in quoin("power", name, "status")
    finally:
        assert quoin("power", name, "off").endswith(f"{name} is off\n")
    assert f"logs/power/{name}-smp4-" not in quoin("attach")
    assert holder_of(name) is None


@on_wires
@pytest.mark.requirement("BLD-10", "BLD-06")
def test_flash_puts_the_build_where_the_board_finds_it() -> None:
    served = TOP / "build" / "bench" / "uboot-riscv64" / "tftp"
    (served / "image").unlink(missing_ok=True)
    assert "uboot-riscv64: flashed with " in quoin("flash", "uboot-riscv64")
    built = TOP / "build" / "riscv64-release"
    assert (served / "image").read_bytes() == (built / "image").read_bytes()
    assert (served / "boot.cpio").read_bytes() == (built / "boot.cpio").read_bytes()
    assert "qemu-riscv64: nothing to write, QEMU reads " in quoin("flash", "qemu-riscv64")


@on_wires
@pytest.mark.requirement("BLD-06", "DEV-08")
def test_a_hand_on_a_board_on_wires_is_a_hand_on_any_board() -> None:
    command = ["-m", "harness.cli", "console", "uboot-riscv64"]
    with pexpect.spawn(sys.executable, command, cwd=str(TOP), timeout=WAIT_S) as person:
        person.expect("init: ready")
        person.expect_exact("$ ")
        person.send("ps\r")
        person.expect("testd")
        person.send("\x1d")
        person.expect("log: ")
        person.expect(pexpect.EOF)
    assert person.exitstatus == 0
