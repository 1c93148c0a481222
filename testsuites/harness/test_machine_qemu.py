"""The emulated board: started, steered, ended, and honest about each of these.

The guests are OpenSBI alone, or a RISC-V image of twenty instructions: all but
the last test need no kernel.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.board import Board, read_board
from harness.build import Artifacts
from harness.console import Session
from harness.machine import BootFiles, ImageError, Kind, MachineError, QemuDied, QemuMachine, QemuMissing, find_qemu
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict.symbols import Symbols

TOP = Path(__file__).resolve().parents[2]
FIRMWARE = BootFiles(None)


@pytest.fixture
def riscv() -> Board:
    return read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)


@pytest.fixture
def firmware(riscv: Board) -> Iterator[QemuMachine]:
    machine = QemuMachine(riscv, FIRMWARE)
    machine.on()
    yield machine
    machine.off()


def read_until(machine: QemuMachine, wanted: bytes, timeout_s: float = 10.0) -> bytes:
    deadline = time.monotonic() + timeout_s
    text = b""
    while wanted not in text:
        left = deadline - time.monotonic()
        assert left > 0, f"no {wanted!r} in {text[-300:]!r}"
        if select.select([machine.console_socket], [], [], left)[0]:
            piece = machine.console_socket.recv(65536)
            assert piece, f"console closed after {text[-300:]!r}"
            text += piece
    return text


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_gone(pid: int, timeout_s: float = 5.0) -> bool:
    """Wait until a process that may be nobody's child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], timeout_s)[0])
    finally:
        os.close(handle)


@pytest.mark.requirement("BLD-06")
def test_the_first_byte_of_the_console_is_not_lost(firmware: QemuMachine) -> None:
    assert read_until(firmware, b"OpenSBI v").lstrip().startswith(b"OpenSBI v")


@pytest.mark.requirement("BLD-06")
def test_off_leaves_no_process_and_can_be_called_twice(firmware: QemuMachine) -> None:
    pid = firmware.pid
    assert pid is not None and is_running(pid)
    firmware.off()
    firmware.off()
    assert not is_running(pid)
    with pytest.raises(MachineError, match="is off"):
        firmware.qmp("query-status")


@pytest.mark.requirement("BLD-06")
def test_cycle_and_reset_start_the_guest_again(firmware: QemuMachine) -> None:
    read_until(firmware, b"MEDELEG")
    firmware.reset()
    assert firmware.status() == "running"
    read_until(firmware, b"MEDELEG")
    assert firmware.guest_reset is None
    firmware.cycle()
    read_until(firmware, b"OpenSBI v")


@pytest.mark.requirement("BLD-06")
def test_events_are_kept_until_somebody_asks(firmware: QemuMachine) -> None:
    firmware.qmp("stop")
    firmware.qmp("cont")
    assert firmware.wait_event("STOP", 5.0).kind is Kind.QMP
    assert firmware.wait_event("RESUME", 5.0).at_s >= firmware.wait_event("STOP", 5.0).at_s
    with pytest.raises(TimeoutError, match="no POWERDOWN event"):
        firmware.wait_event("POWERDOWN", 0.05)


@pytest.mark.requirement("BLD-06")
def test_a_refused_command_carries_qemus_reason(firmware: QemuMachine) -> None:
    with pytest.raises(MachineError, match="refused 'nonsense'"):
        firmware.qmp("nonsense")


@pytest.mark.requirement("BLD-06")
def test_death_at_start_is_reported_at_once_in_qemus_own_words(riscv: Board) -> None:
    machine = QemuMachine(riscv, FIRMWARE, extra_args=["-device", "no-such-device"])
    with pytest.raises(QemuDied) as error:
        machine.on()
    assert "'no-such-device' is not a valid device model name" in str(error.value)
    assert "To see it yourself: qemu-system-riscv64" in str(error.value)
    assert not machine.running


@pytest.mark.requirement("BLD-06")
def test_death_in_the_middle_is_an_event_with_the_signal(firmware: QemuMachine) -> None:
    assert firmware.pid is not None
    os.kill(firmware.pid, signal.SIGSEGV)
    assert firmware.wait_exit(5.0)
    assert "was ended by SIGSEGV" in str(firmware.death())
    with pytest.raises(MachineError):
        firmware.qmp("query-status")


@pytest.mark.requirement("BLD-06")
def test_a_missing_emulator_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuMissing, match=r"qemu-system-aarch64 is not installed.*install qemu-system-arm"):
        find_qemu("qemu-system-aarch64")


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("QEMU emulator version 6.2.0 (Debian)", "is version 6.2.0, but 7.2 or later is needed"),
        ("something else", "does not answer as QEMU does: something else"),
    ],
)
def test_an_old_or_strange_emulator_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, words: str
) -> None:
    fake = tmp_path / "qemu-system-riscv64"
    fake.write_text(f"#!/bin/sh\necho '{answer}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(QemuMissing, match=words):
        find_qemu("qemu-system-riscv64")


@pytest.mark.requirement("BLD-06")
def test_a_wrong_image_starts_no_emulator(riscv: Board, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"no kernel at all")
    machine = QemuMachine(riscv, BootFiles(path))
    with pytest.raises(ImageError):
        machine.on()
    assert machine.events == [] and machine.pid is None
    guest = write_tiny_guest(tmp_path / "guest", "", Then.SPIN)
    with pytest.raises(ImageError, match="no such boot archive"):
        QemuMachine(riscv, BootFiles(guest, tmp_path / "boot.cpio")).on()


@pytest.mark.requirement("BLD-06")
def test_a_reset_by_the_guest_stops_the_machine_once(riscv: Board, tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "round\n", Then.RESET)
    machine = QemuMachine(riscv, BootFiles(guest))
    machine.on()
    try:
        assert read_until(machine, b"round").count(b"round") == 1
        machine.wait_event("SHUTDOWN", 10.0)
        assert machine.guest_reset is not None
        assert machine.status() == "shutdown"
    finally:
        machine.off()


@pytest.mark.requirement("BLD-06")
def test_a_reset_by_the_guest_can_be_let_through(riscv: Board, tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "round\n", Then.RESET)
    machine = QemuMachine(riscv, BootFiles(guest), on_reset="restart")
    machine.on()
    try:
        for _ in range(3):
            read_until(machine, b"round")
    finally:
        machine.off()


@pytest.mark.requirement("BLD-06")
def test_power_off_by_the_guest_is_not_a_death(riscv: Board, tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "bye\n", Then.POWER_OFF)
    machine = QemuMachine(riscv, BootFiles(guest))
    machine.on()
    try:
        read_until(machine, b"bye")
        assert machine.wait_exit(10.0)
        assert machine.guest_off is not None
        assert machine.guest_reset is None
    finally:
        machine.off()


LEFT_ALONE = """
import sys
from pathlib import Path
from harness.board import read_board
from harness.machine import BootFiles, QemuMachine
machine = QemuMachine(read_board(Path(sys.argv[1])).variant(smp=1), BootFiles(None))
machine.on()
print(machine.pid, flush=True)
machine.wait_exit(60)
"""


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_emulator_does_not_outlive_the_lab(riscv: Board, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT_ALONE, str(riscv.path)], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    pid = 0
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        process.communicate(timeout=10)
        assert wait_gone(pid), f"QEMU {pid} still runs"
    finally:
        process.kill()
        process.communicate(timeout=10)
        if pid and is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.requirement("OBS-09")
def test_the_gdb_stub_reads_and_writes_memory_and_registers(riscv: Board, tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "here", Then.SPIN)
    with Session(QemuMachine(riscv, BootFiles(guest)), tmp_path / "console.log") as session:
        session.console.expect("here", 10)
        with session.gdb() as gdb:
            gdb.select(0)
            assert gdb.read_register("pc") >= 0x80000000
            gdb.write_register("t0", 0x1234_5678_9ABC_DEF0)
            assert gdb.read_register("t0") == 0x1234_5678_9ABC_DEF0
            gdb.physical(True)
            data = bytes(range(256)) * 9
            gdb.write_memory(0x84000000, data)
            assert gdb.read_memory(0x84000000, len(data)) == data
            with pytest.raises(MachineError, match="1 bytes written at 0x40000000 are not there"):
                gdb.write_memory(0x40000000, b"x")
            with pytest.raises(MachineError, match="no register 'rax'"):
                gdb.read_register("rax")
        assert session.machine.status() == "running"


@pytest.mark.requirement("OBS-09")
def test_a_breakpoint_stops_the_guest_where_it_was_set(riscv: Board, tmp_path: Path) -> None:
    guest = write_tiny_guest(tmp_path / "guest", "x", Then.REPEAT)
    # A guest that prints needs somebody who reads, or it waits for its port.
    with Session(QemuMachine(riscv, BootFiles(guest)), tmp_path / "console.log") as session, session.gdb() as gdb:
        start = 0x80200000 + 64
        gdb.set_breakpoint(start)
        gdb.resume()
        assert gdb.wait_stop(5.0).startswith("T05")
        assert gdb.read_register("pc") == start
        gdb.clear_breakpoint(start)
        gdb.resume()
        with pytest.raises(TimeoutError):
            gdb.wait_stop(0.1)
        gdb.interrupt()


@pytest.mark.requirement("OBS-09")
@pytest.mark.needs("arch==riscv64", "gdbstub", "release")
def test_a_kernels_memory_is_reached_while_its_cpu_is_in_firmware(machine: Session, artifacts: Artifacts) -> None:
    address = Symbols(artifacts.kernel).address("syscall::log_read")
    with machine.gdb() as gdb:
        code, mode = gdb.read_memory(address, 4), gdb.read_register("priv")
        gdb.write_register("priv", 3)
        gdb.write_memory(address, bytes(4))
        assert gdb.read_memory(address, 4) == bytes(4)
        assert gdb.read_register("priv") == 3
        gdb.write_register("priv", mode)
        assert gdb.read_memory(address, 4) == bytes(4)
        gdb.write_memory(address, code)
