"""Boards on wires: a bench of fakes behind ser2net and a power switch, with U-Boot and this tree's kernel on it."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from harness.board import Board, holder_of
from harness.build import build
from harness.console import ConsoleClosed, ExpectTimeout, Session
from harness.hardware import HardwareError, PhysicalMachine, RawTcpLine, State, grub, log_ring
from harness.machine import BootFiles
from harness.machine.attach import running
from harness.verdict.postmortem import LOG_RING, Images, write
from harness.verdict.verdict import Verdict, judge
from support.wired import MISSING, MISSING_GRUB, TOP, no_tap, uboot_board, wired_board

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")

WAIT_S = 120.0
# As long as a bench may wait for room on the host, and the boot.
ROOM_S = 900.0


SLIRP = ("    device: virtio-net-device", "    device: virtio-net-device\n    tftp: slirp")


def with_tap(folder: Path) -> Board:
    """A board that has its TFTP through a tap, or a skip."""
    if why := no_tap():
        pytest.skip(f"no tap in a network namespace: {why}")
    return uboot_board(folder, "riscv64")


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
    answer = requests.get(url, timeout=ROOM_S) if value is None else requests.put(url, data=value, timeout=ROOM_S)
    assert answer.ok, answer.text
    return answer.text


def _resources(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(board.path.read_text())["targets"]["main"]["resources"]
    return found


@pytest.mark.requirement("BTA-03", "BTA-04", "DEV-09", "BLD-05")
@pytest.mark.parametrize(("arch", "tftp"), [("aarch64", "slirp"), ("riscv64", "tap")])
def test_a_board_on_wires_comes_up_by_power_u_boot_and_tftp(tmp_path: Path, arch: str, tftp: str) -> None:
    if tftp == "slirp":
        board = uboot_board(tmp_path, arch, SLIRP)
        by = "bench: TFTP is QEMU's own (slirp) on {}; no tap in a network namespace: the board file wants slirp\n"
    else:
        board = with_tap(tmp_path)
        by = "bench: TFTP is dnsmasq on {}, through a tap in a network namespace\n"
    folder = (board.path.parent / _resources(board)["TFTPProvider"]["internal"]).resolve()
    with on(board, files_of(arch, "a=b"), tmp_path) as session:
        assert session.physical is not None
        session.wait_ready(WAIT_S)
        assert session.physical.state is State.READY
        assert "boot: entry: command line 'a=b'" in session.first_lines
        assert session.health is not None
        assert f"image {_told_build(session)}" in session.health
        # The version that the firmware told on this boot, and no other.
        told = next(line for line in session.first_lines if line.startswith("U-Boot "))
        assert f"firmware {told.split()[1]}, " in session.health
        assert by.format(folder) in (tmp_path / "console.log").read_text()
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


GRUB = pytest.mark.skipif(bool(MISSING_GRUB), reason=f"not installed, see `quoin setup`: {', '.join(MISSING_GRUB)}")
# More than a line of GRUB's has, and words that its shell takes for its own.
WORDS = "a=b " + " ".join(f"word{number}=" + "x" * 40 for number in range(8))


@GRUB
@pytest.mark.requirement("BTX-05", "BTX-06", "DEV-09", "BLD-05")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_pc_on_wires_comes_up_by_power_grub_and_a_disk_that_the_lab_wrote(tmp_path: Path, firmware: str) -> None:
    board = wired_board(tmp_path, f"grub-{firmware}-x86_64")
    with on(board, files_of("x86_64", WORDS), tmp_path) as session:
        assert session.physical is not None
        session.wait_ready(WAIT_S)
        assert session.physical.state.value == "ready"
        assert f"boot: entry: command line '{WORDS}'" in session.first_lines
        assert session.health is not None
        assert f"image {_told_build(session)}" in session.health
        assert "firmware 2." in session.health
        assert "testd" in session.console.command("ps", WAIT_S)
        session.reset()
        session.wait_ready(WAIT_S)
        assert session.alive
    assert session.physical.state is State.OFF


@GRUB
@pytest.mark.requirement("DEV-09", "TST-05")
def test_what_grub_refuses_leaves_the_board_off_and_says_so(tmp_path: Path) -> None:
    board = wired_board(tmp_path, "grub-bios-x86_64", ("module2 /{initrd}", "module2 /no-such-file"))
    with pytest.raises(HardwareError) as error, on(board, files_of("x86_64"), tmp_path):
        pass
    text = str(error.value)
    assert f"{board.name}: wanted it 'booting', and it came as far as 'loader'; it is 'off' now" in text
    assert "the boot loader did not do 'module2 /no-such-file' (status " in text
    assert "file `/no-such-file' not found" in text  # GRUB's own words


@pytest.mark.requirement("DEV-09")
def test_a_disk_that_cannot_be_made_is_told_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(HardwareError, match=r"grub-mkrescue.*next: quoin setup"):
        grub.write(tmp_path / "disk", {})
    (tools / "grub-mkrescue").write_text("#!/bin/sh\necho 'xorriso is missing' >&2\n")
    (tools / "grub-mkrescue").chmod(0o755)
    with pytest.raises(HardwareError, match="exit status 0: xorriso is missing; next: quoin setup"):
        grub.write(tmp_path / "disk", {})
    assert not (tmp_path / "disk").exists()


def _told_build(session: Session) -> str:
    first = next(line for line in session.first_lines if line.startswith("quoin "))
    return first.rpartition("build=")[2]


@pytest.mark.requirement("DEV-09", "OBS-09")
@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_what_a_kernel_that_hangs_had_last_written_is_read_by_the_loader_after_a_reset(
    tmp_path: Path, arch: str
) -> None:
    board = uboot_board(tmp_path, arch)
    with on(board, files_of(arch, "first=boot"), tmp_path) as session:
        session.wait_ready(WAIT_S)
        session.console.command("ps", WAIT_S)
        with pytest.raises(ExpectTimeout) as error:
            session.console.expect("never printed", 0.5)
        finding = judge(session, error.value)
        images = Images(None)
        folder = write(tmp_path / "postmortem", session, finding, images, test="test_it", text="it hung", place="")
        ring = (folder / LOG_RING).read_text()
        # It stands in its loader now, and no test goes on with it.
        assert session.physical is not None
        assert session.physical.state is State.LOADER
        assert not session.alive
    assert "What the kernel had last written" in (folder / "README").read_text()
    said = [line for line in session.first_lines if line.startswith("boot: ")]
    begin = next(number for number, line in enumerate(said) if "in this log at" in line)
    # From the ring's begin on, whole lines in order, and what a program has said since then.
    assert [line for line in ring.splitlines() if line.startswith("boot: ")][-len(said[begin:]) :] == said[begin:]
    assert "init: ready" in ring


@pytest.mark.requirement("DEV-09")
def test_memory_that_is_no_log_ring_is_told() -> None:
    with pytest.raises(HardwareError, match=r"wanted the log ring at 0x1000; found: 0000.*: the reset lost memory"):
        log_ring.read(lambda address, count: bytes(count), 0x1000)


@pytest.mark.requirement("DEV-09")
def test_a_log_ring_that_went_round_is_told_from_its_oldest_byte_on() -> None:
    room = 100
    text = "".join(f"line {number}\n" for number in range(40)).encode()
    kept = bytearray(room)
    for at, byte in enumerate(text):
        kept[at % room] = byte
    words = [int.from_bytes(b"quoinlog", "little"), room + 40, len(text), 1]
    check = 2**64 - 1
    for word, bits in zip(words, (0, 16, 32, 48), strict=True):
        check ^= (word << bits) % 2**64 | word >> (64 - bits)
    memory = struct.pack("<5Q", *words, check) + kept
    assert log_ring.read(lambda address, count: memory[address : address + count], 0).encode() == text[-room:]
    with pytest.raises(HardwareError, match="which is none"):
        log_ring.read(lambda address, count: (memory[:32] + b"?" * 8 + kept)[address : address + count], 0)


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
    assert "the boot loader did not do 'tftpboot 0x81000000 no-such-file' (status 1)" in text
    assert "TFTP error: '" in text  # the last lines of the console; the words are its server's
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
import threading
import time
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


def bench_of(board: Board, before: Sequence[str] = (), **environment: str) -> subprocess.Popen[bytes]:
    """The bench alone, as the lab would start it, perhaps with words before its command."""
    command = [*before, sys.executable, "-m", "harness.hardware.bench", str(board.path)]
    environ = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)


def _end(process: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)


def networks() -> set[str]:
    """The network namespaces that somebody here lives in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):  # ended just now, or another user's
            found.add(str(link.readlink()))
    return found


@pytest.mark.requirement("DEV-09")
def test_a_bench_that_is_killed_leaves_no_network_and_nobody_in_it(tmp_path: Path) -> None:
    board = with_tap(tmp_path)
    with bench_of(board) as bench, ExitStack() as stack:
        assert bench.stdout is not None
        stack.callback(bench.kill)
        assert b"dnsmasq" in bench.stdout.readline()
        assert bench.stdout.readline() == b"ready\n"
        assert relay(board, 0, "1") == "1"
        children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
        ends = {pid: os.pidfd_open(int(pid)) for pid in children}
        for end in ends.values():
            stack.callback(_end, end)
        # It is another network than the lab's, and the server is in it.
        spaces = {str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in children}
        (network,) = spaces - {str(Path("/proc/self/ns/net").readlink())}
        assert network in networks()
        bench.kill()
        for end in ends.values():
            assert select.select([end], [], [], WAIT_S)[0]
        assert network not in networks()


@pytest.mark.requirement("DEV-09", "TST-05")
def test_a_bench_that_can_have_no_tap_says_why_and_has_slirp(tmp_path: Path) -> None:
    board = uboot_board(tmp_path, "riscv64")
    tool = tmp_path / "bin" / "unshare"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'unshare failed:' >&2\necho 'not on this host' >&2\nexit 1\n")
    tool.chmod(0o755)
    with bench_of(board, PATH=f"{tool.parent}:{os.environ['PATH']}") as bench:
        assert bench.stdout is not None
        assert bench.stdin is not None
        said = bench.stdout.readline().decode()
        assert bench.stdout.readline() == b"ready\n"
        bench.stdin.close()
        assert bench.wait(WAIT_S) == 0
    assert said.startswith("bench: TFTP is QEMU's own (slirp) on ")
    assert said.endswith("; no tap in a network namespace: unshare failed:; not on this host\n")


@pytest.mark.requirement("DEV-09", "TST-05")
def test_a_bench_of_a_user_without_rights_has_slirp_and_says_why(tmp_path: Path) -> None:
    # In a user namespace that maps nobody there is no root, and none can be had: a further one is refused there
    # (user_namespaces(7)). The files are ours all the same.
    nobody = ["unshare", "--user", "--"]
    if subprocess.run([*nobody, "true"], capture_output=True, check=False).returncode:
        if os.geteuid() == 0:
            pytest.skip("this host's root may not have a user namespace, and so nobody can be without rights")
        nobody = []  # who may have none has no tap either
    board = uboot_board(tmp_path, "riscv64")
    with bench_of(board, before=nobody) as bench:
        assert bench.stdout is not None
        assert bench.stdin is not None
        said = bench.stdout.readline().decode()
        assert bench.stdout.readline() == b"ready\n"
        assert relay(board, 0, "1") == "1"
        deadline = time.monotonic() + WAIT_S
        while True:
            children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
            commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
            if all(commands) or time.monotonic() > deadline:  # in the middle of execve it is empty
                break
            threading.Event().wait(0.01)
        bench.stdin.close()
        assert bench.wait(WAIT_S) == 0
    assert re.match(r"bench: TFTP is QEMU's own \(slirp\) on .*; no tap in a network namespace: unshare: \S.*\n", said)
    assert any(b"\0user,restrict=on,tftp=" in command for command in commands), commands


@pytest.mark.requirement("DEV-09", "TST-05")
def test_a_way_of_tftp_that_there_is_not_is_named(tmp_path: Path) -> None:
    board = uboot_board(tmp_path, "riscv64", (SLIRP[0], SLIRP[1].replace("slirp", "pigeon")))
    with bench_of(board) as bench:
        said, _ = bench.communicate(timeout=WAIT_S)
    assert said.decode() == "bench: options: bench: tftp: is slirp or left out, not 'pigeon'\n"


LABGRID = """
import sys
import threading
import time
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
