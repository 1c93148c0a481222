"""Boards on wires: a bench of fakes behind ser2net and a power switch, with U-Boot and this tree's kernel on it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from harness.board import Board, holder_of
from harness.build import build
from harness.console import ConsoleClosed, Session
from harness.hardware import HardwareError, PhysicalMachine, RawTcpLine, State
from harness.machine import BootFiles
from harness.machine.attach import running
from harness.verdict.verdict import Verdict, judge
from support.wired import MISSING, TOP, uboot_board

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")

WAIT_S = 120.0
# As long as a bench may wait for room on the host, and the boot.
ROOM_S = 900.0


def files_of(arch: Any, cmdline: str = "") -> BootFiles:
    built = build(arch)
    return BootFiles(built.image, built.archive, cmdline)


@contextmanager
def on(board: Board, files: BootFiles, folder: Path) -> Iterator[Session]:
    with Session(PhysicalMachine(board, files), folder / "console.log") as session:
        yield session


def relay(board: Board, number: int, value: str | None = None) -> str:
    """What the bench's power switch says, asked or told behind the lab's back."""
    url = f"{_resources(board)['HttpDigitalOutput']['url'].rsplit('/', 1)[0]}/{number}"
    answer = requests.get(url, timeout=60) if value is None else requests.put(url, data=value, timeout=60)
    assert answer.ok, answer.text
    return answer.text


def _resources(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(board.path.read_text())["targets"]["main"]["resources"]
    return found


@pytest.mark.requirement("BTA-03", "BTA-04", "DEV-09", "BLD-05")
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_a_board_on_wires_comes_up_by_power_u_boot_and_tftp(tmp_path: Path, arch: str) -> None:
    board = uboot_board(tmp_path, arch)
    with on(board, files_of(arch, "a=b"), tmp_path) as session:
        assert session.physical is not None
        session.wait_ready(WAIT_S)
        assert session.physical.state is State.READY
        assert "boot: entry: command line 'a=b'" in session.first_lines
        assert session.health is not None
        assert f"image {_told_build(session)}" in session.health
        assert "firmware 20" in session.health
        assert "bench: TFTP is QEMU's own (slirp)" in (tmp_path / "console.log").read_text()
        assert "testd" in session.console.command("ps", WAIT_S)
        session.channel.ping(WAIT_S)
        assert [one.board for one in running() if one.folder == session.machine.scratch] == [board.name]
        # The reset line: the same image comes up again through the boot loader.
        session.reset()
        session.wait_ready(WAIT_S)
        assert session.alive
        # A reset that nobody asked for is the target's: the firmware's first line comes a second time.
        relay(board, 1, "1")
        with pytest.raises(ConsoleClosed) as error:
            session.console.expect("never printed", WAIT_S)
        assert judge(session, error.value).verdict is Verdict.RESET
        assert not session.alive
    assert session.physical.state is State.OFF
    assert session.physical.lease is None


def _told_build(session: Session) -> str:
    first = next(line for line in session.first_lines if line.startswith("quoin "))
    return first.rpartition("build=")[2]


@pytest.mark.requirement("BTA-03", "DEV-09", "BLD-05")
def test_a_card_that_the_lab_wrote_boots_a_board_on_a_tty(tmp_path: Path) -> None:
    tty = tmp_path / "tty"
    board = uboot_board(
        tmp_path,
        "aarch64",
        ("NetworkSerialPort:", "RawSerialPort:"),
        ("        host: localhost\n", ""),
        ("        protocol: rfc2217\n", ""),
        ("tftpboot 0x40400000 {image}", "load virtio 0:1 0x40400000 {image}"),
        ("tftpboot 0x44000000 {initrd}", "load virtio 0:1 0x44000000 {initrd}"),
        ("        off_time_s", "        card: ../card.img\n        off_time_s"),
        ("    device: virtio-net-device", "    card: virtio-blk-device\n    device: virtio-net-device"),
        ("      TFTPProvider:\n        internal: ../build/bench/uboot-aarch64/tftp/\n        external: ''\n", ""),
    )
    port = _resources(board)["RawSerialPort"]["port"]
    board.path.write_text(board.path.read_text().replace(f"port: {port}\n", f"port: {tty}\n", 1))
    with on(board, files_of("aarch64"), tmp_path) as session:
        session.wait_ready(WAIT_S)
        assert "testd" in session.console.command("ps", WAIT_S)
    assert not tty.exists()


@pytest.mark.requirement("DEV-09", "TST-05")
def test_what_fails_leaves_the_board_off_and_says_how_far_it_came(tmp_path: Path) -> None:
    board = uboot_board(tmp_path, "riscv64", ("{image}", "no-such-file"))
    with pytest.raises(HardwareError) as error, on(board, files_of("riscv64"), tmp_path):
        pass
    text = str(error.value)
    assert f"{board.name}: wanted it 'booting', and it came as far as 'loader'; it is 'off' now" in text
    assert "U-Boot did not do 'tftpboot 0x81000000 no-such-file' (status 1)" in text
    assert "File not found" in text  # the last lines of the console
    assert f"console log: {tmp_path / 'console.log'}" in text
    assert judge(None, error.value).verdict is Verdict.LAB_FAULT


@pytest.mark.requirement("DEV-09")
def test_a_board_that_runs_another_image_is_not_trusted(tmp_path: Path) -> None:
    files = files_of("riscv64")
    assert files.kernel is not None
    board = uboot_board(tmp_path, "riscv64", ("{image}", "old"))
    served = (board.path.parent / "../build/bench/uboot-riscv64/tftp").resolve()
    served.mkdir(parents=True)
    (served / "old").write_bytes(files.kernel.read_bytes())
    with on(board, files, tmp_path) as session:
        # The same bytes under another name: it is the id that counts.
        session.wait_ready(WAIT_S)
        told = bytes.fromhex(_told_build(session))
    other = tmp_path / "image"
    other.write_bytes(files.kernel.read_bytes().replace(told, bytes(20)))
    with on(board, BootFiles(other, files.initrd), tmp_path) as session:
        with pytest.raises(HardwareError) as error:
            session.wait_ready(WAIT_S)
        assert session.physical is not None
        assert session.physical.state is State.OFF
        assert not session.alive
    assert f"health: {board.name} runs the image {told.hex()}, which is not {other}" in str(error.value)
    assert "wanted it 'ready', and it came as far as 'booting'; it is 'off' now" in str(error.value)


HOLDER = """
import sys
from pathlib import Path
from harness.board import read_board
from harness.hardware import PhysicalMachine
from harness.machine import BootFiles
machine = PhysicalMachine(read_board(Path(sys.argv[1])), BootFiles(None))
machine.on()
print(machine._wires.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.requirement("DEV-09")
def test_a_lab_that_is_killed_leaves_no_wires_and_no_board(tmp_path: Path) -> None:
    board = uboot_board(tmp_path, "riscv64")
    command = [sys.executable, "-c", HOLDER, str(board.path)]
    with subprocess.Popen(command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        bench = os.pidfd_open(int(lab.stdout.readline()))
        try:
            assert relay(board, 0) == "1"
            lab.kill()
            assert select.select([bench], [], [], WAIT_S)[0]
        finally:
            os.close(bench)
    with pytest.raises(requests.ConnectionError):
        relay(board, 0)
    with pytest.raises(HardwareError, match="refused"):
        RawTcpLine("127.0.0.1", _resources(board)["NetworkSerialPort"]["port"], 115200)
    assert holder_of(board.name) is None


LABGRID = """
import sys
from labgrid import Environment
target = Environment(sys.argv[1]).get_target("main")
strategy = target.get_strategy()
strategy.transition("ready")
console = target.get_driver("ConsoleProtocol")
console.sendline("ps")
console.expect("testd", timeout=60)
power = target.get_driver("PowerProtocol")
print("on", power.get())
strategy.transition("off")
print("on", power.get())
"""


@pytest.mark.requirement("BLD-06", "DEV-09")
def test_labgrids_own_tools_bring_the_same_file_to_ready(tmp_path: Path) -> None:
    board = uboot_board(tmp_path, "riscv64")
    build("riscv64")
    command = [sys.executable, "-c", LABGRID, str(board.path)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=ROOM_S, check=False)
    assert done.stdout.split("\n")[-3:-1] == ["on True", "on False"], done.stderr
