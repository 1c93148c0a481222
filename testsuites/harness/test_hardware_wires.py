"""The wires one by one, without an emulator: ports of serial servers, power and reset by command, cards, commands."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.board import BoardError, find_boards, read_board
from harness.console import Broker, Console, ConsoleFault, Session
from harness.hardware import HardwareError, PhysicalMachine, RawTcpLine, Rfc2217Line, sd_image
from harness.hardware.bench import ser2net
from harness.hardware.network_serial import NetworkLine
from harness.hardware.staging import commands
from harness.machine import BootFiles, MachineError
from harness.machine.tiny_guest import Then, write_tiny_guest
from support.faulty_tty import FaultyTty
from support.wired import SER2NET, TOP, free_ports, tty_board, uboot_board

needs_ser2net = pytest.mark.skipif(not SER2NET.exists(), reason="the package ser2net is not installed")
WAIT_S = 120.0
LINES: dict[str, Callable[..., NetworkLine]] = {"raw": RawTcpLine, "rfc2217": Rfc2217Line}


@needs_ser2net
@pytest.mark.requirement("TST-05", "DEV-09")
@pytest.mark.parametrize("protocol", LINES)
def test_a_serial_server_carries_every_byte_both_ways_and_may_come_back(protocol: str) -> None:
    everything = bytes(range(256)).replace(b"\x01", b"") * 40
    target, device = pty.openpty()
    tty.setraw(device)
    (port,) = free_ports(1)
    with ExitStack() as stack:
        stack.callback(os.close, target)
        stack.callback(os.close, device)
        served = stack.enter_context(ExitStack())
        served.enter_context(ser2net(os.ttyname(device), port, protocol, 115200))
        broker = Broker(LINES[protocol]("127.0.0.1", port, 57600, return_s=WAIT_S))
        stack.callback(broker.close)
        # By RFC 2217 the lab sets the line's speed; over raw TCP it is what the server was told.
        speed = {"raw": termios.B115200, "rfc2217": termios.B57600}[protocol]
        heard: list[bytes] = []
        broker.tap(heard.append)
        broker.start()
        console = Console(broker)
        console.send(everything)
        sent = b""
        while len(sent) < len(everything):
            sent += os.read(target, 65536)
        assert sent == everything
        assert termios.tcgetattr(device)[4:6] == [speed, speed]
        writer = threading.Thread(target=lambda: os.write(target, everything + b"the end\n"))
        writer.start()
        console.expect("the end\n", WAIT_S)
        writer.join()
        assert b"".join(heard) == everything.replace(b"\r\n", b"\n") + b"the end\n"
        # The server ends, and its successor serves the same port.
        served.close()
        with broker.changed:
            assert broker.changed.wait_for(lambda: broker.fault is not None, WAIT_S)
        stack.enter_context(ser2net(os.ttyname(device), port, protocol, 115200))
        with pytest.raises(ConsoleFault, match=rf"serial server gone: the connection to 127.0.0.1:{port} broke"):
            console.expect("anything", WAIT_S)
        console.skip()
        os.write(target, b"again\n")
        console.expect("^again\n", WAIT_S)


@pytest.mark.requirement("TST-05", "DEV-09")
def test_a_port_that_nobody_serves_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    for line in LINES.values():
        with pytest.raises(HardwareError, match=f"wanted the serial port at 127.0.0.1:{port}; found: .*refused"):
            line("127.0.0.1", port, 115200)


class Switched:
    """A board whose power command writes down when it was called."""

    def __init__(self, folder: Path, off_time_s: float = 0, reset: str = "") -> None:
        self.calls = folder / "calls"
        self.tty = FaultyTty(folder)
        power = folder / "power"
        power.write_text(f"#!/bin/sh\n[ ! -e {folder}/broken ] || exit 1\necho $1 $(date +%s%N) >> {self.calls}\n")
        power.chmod(0o755)
        self.board = tty_board(folder, self.tty.link, str(power), off_time_s, reset and f"{power} {reset}")
        self.image = folder / "image"
        write_tiny_guest(self.image, "ready\n", Then.SPIN)

    def told(self) -> list[tuple[str, int]]:
        """What the command was told, and when, in nanoseconds."""
        lines = [line.split() for line in self.calls.read_text().splitlines()]
        return [(what, int(at_ns)) for what, at_ns in lines]


@pytest.mark.requirement("DEV-09")
def test_power_comes_by_command_and_not_before_the_board_was_off_for_long_enough(tmp_path: Path) -> None:
    switched = Switched(tmp_path, off_time_s=0.3)
    machine = PhysicalMachine(switched.board, BootFiles(switched.image))
    with Session(machine, tmp_path / "console.log") as session:
        assert machine.state.value == "booting"
        (off, off_ns), (on, on_ns) = switched.told()
        assert (off, on) == ("off", "on")
        assert on_ns - off_ns >= 0.3e9
        switched.tty.says(b"ready\n")
        session.wait_ready(WAIT_S)
        assert session.health == "off for at least 0.3 s"
        with pytest.raises(MachineError, match=r"is a physical board and has no 'qmp'.*needs\('qmp'\)"):
            session.qmp("stop")
        assert not hasattr(session.machine, "memory")
        # It has no reset line: its power is cut, and stays off for as long.
        session.reset()
        (off, off_ns), (on, on_ns) = switched.told()[2:]
        assert (off, on) == ("off", "on")
        assert on_ns - off_ns >= 0.3e9
        switched.tty.says(b"ready\n")
        session.wait_ready(WAIT_S)
    assert [what for what, _ in switched.told()] == ["off", "on", "off", "on", "off"]
    assert machine.state.value == "off"


@pytest.mark.requirement("DEV-09")
def test_a_reset_line_is_pulled_by_command_and_the_power_stays_on(tmp_path: Path) -> None:
    switched = Switched(tmp_path, reset="pull")
    with Session(PhysicalMachine(switched.board, BootFiles(switched.image)), tmp_path / "console.log") as session:
        session.reset()
        assert [what for what, _ in switched.told()] == ["off", "on", "pull"]
        (tmp_path / "broken").touch()
        with pytest.raises(
            HardwareError, match=r"it is 'unknown' now\. .*: wanted to reset the board; found: `.* pull` ended "
        ):
            session.reset()
        (tmp_path / "broken").unlink()


@pytest.mark.requirement("DEV-09")
def test_a_board_without_a_place_for_its_boot_files_is_not_started(tmp_path: Path) -> None:
    switched = Switched(tmp_path)
    path = switched.board.path
    path.write_text(path.read_text().replace("        card: card.img\n", ""))
    machine = PhysicalMachine(read_board(path), BootFiles(switched.image))
    with pytest.raises(HardwareError, match=r"wanted it 'flashed', .* it is 'off' now.* names no place for boot files"):
        machine.on()


@pytest.mark.requirement("DEV-09")
def test_a_power_switch_that_fails_leaves_a_state_that_is_called_unknown(tmp_path: Path) -> None:
    switched = Switched(tmp_path)
    (tmp_path / "broken").touch()
    machine = PhysicalMachine(switched.board, BootFiles(switched.image))
    with pytest.raises(HardwareError) as error:
        machine.on()
    assert "wanted it 'off', and it came as far as 'unknown'; it is 'unknown' now" in str(error.value)
    assert re.search(
        r"wanted to switch the power off; found: `.* off` ended with status \d+ and said: ", str(error.value)
    )
    assert machine.lease is None


@pytest.mark.requirement("DEV-09")
def test_a_card_is_a_partition_table_and_a_fat_that_other_tools_read(tmp_path: Path) -> None:
    contents = {"image": b"kernel" * 5000, "boot.cpio": b"", "bcm2711-rpi-4-b.dtb": os.urandom(70001)}
    sources = {}
    for name, content in contents.items():
        sources[name] = tmp_path / name
        sources[name].write_bytes(content)
    card = tmp_path / "card.img"
    card.write_bytes(b"\xff" * 3_000_000)  # what was on it before is gone
    sd_image.write(card, sources)
    again = tmp_path / "again.img"
    sd_image.write(again, sources)
    disk = card.read_bytes()
    start, length = (int.from_bytes(disk[at : at + 4], "little") for at in (446 + 8, 446 + 12))
    written = slice(start * 512, start * 512 + 128 * 1024)
    assert disk[written] == again.read_bytes()[written]
    assert (disk[510:512], disk[450], len(disk)) == (b"\x55\xaa", 0x0E, (start + length) * 512)
    if shutil.which("mtype") is None:
        pytest.skip("the package mtools is not installed")
    for name, content in contents.items():
        read = subprocess.run(
            ["mtype", "-i", f"{card}@@{start * 512}", f"::{name}"], capture_output=True, timeout=60, check=False
        )
        assert read.stdout == content, read.stderr


@pytest.mark.requirement("DEV-09")
def test_a_card_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    with pytest.raises(HardwareError, match="wanted to write the card /proc/nothing; found: "):
        sd_image.write(Path("/proc/nothing"), {"image": tmp_path / "image"})


@pytest.mark.requirement("BTA-04", "DEV-09")
def test_a_loaders_commands_are_filled_in_and_what_it_cannot_quote_is_refused() -> None:
    values: dict[str, str | None] = {"image": "image", "initrd": None, "cmdline": "a=b c"}
    assert commands(["load {image}", "setenv bootargs '{cmdline}'", "booti ${filesize}"], values) == [
        "load image",
        "setenv bootargs 'a=b c'",
        "booti ${filesize}",
    ]
    with pytest.raises(HardwareError, match=r"'load {initrd}' wants 'initrd'"):
        commands(["load {initrd}"], values)
    with pytest.raises(HardwareError, match=r"no way to quote"):
        commands(["setenv bootargs '{cmdline}'"], {"cmdline": "a='b'"})


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("off_time_s: 0.1", "off_time: 0.1"), ["unknown key 'off_time'", "did you mean 'off_time_s'"]),
        (("off_time_s: 0.1", "off_time_s: -1"), ["'off_time_s' must be 0 or more, not -1"]),
        (("  NetworkSerialPort:", "  RawSerialPort: {}\n      NetworkSerialPort:"), ["has one console"]),
        (("UBootDriver:", "BareboxDriver:"), ["'load' are commands for a boot loader", "no UBootDriver"]),
        (("(?P<version>\\d", "(\\d"), ["'firmware' lacks the group (?P<version>...)"]),
        (("{python} -m", "{snake} -m"), ["'wires' is no command", "snake"]),
        (("smp: 1\n        memory", "memory"), ["lacks the key 'smp'"]),
        (("memory: 128M", "memory: 128M\n        exclusive: true"), ["unknown key 'exclusive'"]),
    ],
)
def test_a_wrong_word_about_wires_is_named_with_file_and_line(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    with pytest.raises(BoardError) as error:
        uboot_board(tmp_path, "riscv64", change)
    assert all(word in str(error.value) for word in words), error.value
    assert str(error.value).startswith(f"{tmp_path / 'boards'}/")


@pytest.mark.requirement("BLD-06")
def test_every_physical_board_of_the_tree_is_read_here_and_by_labgrid() -> None:
    boards = [board for board in find_boards(["*"], TOP / "boards") if board.wires is not None]
    assert {board.name for board in boards} >= {"uboot-aarch64", "uboot-riscv64", "raspberrypi4", "visionfive2"}
    program = (
        "import sys\n"
        "from labgrid import Environment\n"
        "from labgrid.protocol import ConsoleProtocol, PowerProtocol, ResetProtocol\n"
        "for path in sys.argv[1:]:\n"
        "    target = Environment(path).get_target('main')\n"
        "    for protocol in (ConsoleProtocol, PowerProtocol, ResetProtocol):\n"
        "        assert target.get_driver(protocol, activate=False) is not None\n"
        "    print(target.get_strategy().arch)\n"
    )
    command = [sys.executable, "-c", program, *(str(board.path) for board in boards)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.stdout.split() == [board.arch for board in boards], done.stderr


@pytest.mark.requirement("BLD-06")
def test_a_physical_board_is_what_stands_there_and_one_persons_at_a_time() -> None:
    board = read_board(TOP / "boards" / "uboot-aarch64.yaml")
    assert board.exclusive
    assert board.variant(smp=4, memory="128M").id == "uboot-aarch64-smp4"
    for wrong in ({"smp": 1}, {"memory": "1G"}, {"icount": True}, {"args": ("-S",)}, {"seed": 1}):
        with pytest.raises(BoardError, match="uboot-aarch64 is a physical board: "):
            board.variant(**wrong)
