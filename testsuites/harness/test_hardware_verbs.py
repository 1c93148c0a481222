"""`quoin flash`, `power`, `attach` and `console`: the same words for a board that is emulated and for one on wires."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from harness.board import Lease, holder_of
from support.wired import MISSING, TOP

# As long as a bench may wait for room on the host, and the boot.
WAIT_S = 900
WIRED = "uboot-riscv64"


def quoin(*words: str) -> str:
    command = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stays_on_until_it_is_switched_off(name: str) -> None:
    assert quoin("power", name, "status").endswith(f"{name} is off\n")
    try:
        assert f"on: {name}-smp4: " in quoin("power", name, "on")
        assert f"logs/power/{name}-smp4-" in quoin("attach")
        assert f"on: {name}-smp4: " in quoin("power", name, "status")
    finally:
        assert quoin("power", name, "off").endswith(f"{name} is off\n")
    assert f"logs/power/{name}-smp4-" not in quoin("attach")


@pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")
@pytest.mark.requirement("BLD-06", "DEV-08")
@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_switch_that_waits_for_its_board_tells_for_whom_and_goes_with_its_asker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals, status: int
) -> None:
    monkeypatch.setenv("QUOIN_LEASES", str(tmp_path))
    lease = Lease(WIRED)
    lease.take()
    command = [sys.executable, "-m", "harness.cli", "power", WIRED, "on"]
    try:
        with subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE, text=True) as waits:
            assert waits.stderr is not None
            said = waits.stderr.readline()
            (holder,) = map(int, Path(f"/proc/{waits.pid}/task/{waits.pid}/children").read_text().split())
            handle = os.pidfd_open(holder)
            waits.send_signal(how)
            assert waits.wait(WAIT_S) == status
            # Who is interrupted sees to it first; who is killed cannot.
            left = not select.select([handle], [], [], 0 if how == signal.SIGINT else 60)[0]
            if left:
                os.kill(holder, signal.SIGTERM)
            os.close(handle)
        assert f"quoin: waiting for {WIRED}: leased by " in said
        assert not left
    finally:
        lease.release()


def is_at_hand(name: str) -> None:
    command = ["-m", "harness.cli", "console", name]
    with pexpect.spawn(sys.executable, command, cwd=str(TOP), timeout=WAIT_S) as person:
        person.expect("init: ready")
        person.expect_exact("$ ")
        person.send("ps\r")
        person.expect("testd")
        person.send("\x1d")
        person.expect("log: ")
        person.expect(pexpect.EOF)
    assert person.exitstatus == 0


@pytest.mark.requirement("BLD-06", "DEV-08")
def test_an_emulated_board_is_flashed_and_switched_as_any_other() -> None:
    assert "qemu-riscv64: nothing to write, QEMU reads " in quoin("flash", "qemu-riscv64")
    stays_on_until_it_is_switched_off("qemu-riscv64")


@pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")
@pytest.mark.requirement("BLD-10", "BLD-06", "DEV-08")
def test_a_board_on_wires_is_flashed_switched_and_held_as_any_other() -> None:
    served, built = TOP / "build" / "bench" / WIRED / "tftp", TOP / "build" / "riscv64-release"
    assert f"{WIRED}: flashed with " in quoin("flash", WIRED)
    for name in ("image", "boot.cpio"):
        assert (served / name).read_bytes() == (built / name).read_bytes()
    stays_on_until_it_is_switched_off(WIRED)
    is_at_hand(WIRED)
    assert holder_of(WIRED) is None
