"""What may be wrong with a board on wires: each fault planted at real wires, named by the doctor with the next step."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.cli import doctor_wires
from harness.cli.doctor import Finding, Place, examine_board
from harness.hardware import HardwareError, grub, sd_image
from harness.hardware.bench import ser2net
from harness.machine.scratch import PREFIX
from support.faulty_tty import FaultyTty, heard_at
from support.projects import environment
from support.wired import MISSING, SER2NET, TOP, TTY, free_ports, uboot_board

pytestmark = pytest.mark.requirement("DEV-09", "ERR-01")
BANNER = b"\r\nU-Boot 2023.01 (Jan 10 2023)\r\nCPU:   rv64imafdc\r\nDRAM:  128 MiB, all of it there and in order\r\n"
NAME = "mine"


@dataclass
class Bench:
    """A board on a tty: a command switches it, and it says what the test wants it to say when it is switched on."""

    folder: Path
    tty: FaultyTty
    says: bytes = BANNER
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        (self.folder / "boards").mkdir()
        self.switched = self.folder / "switched"
        os.mkfifo(self.switched)
        power = self.folder / "power"
        # The board waits at the other end of the pipe; whatever else the switch is told it just does.
        power.write_text(f'#!/bin/sh\n[ "$1" = off ] || echo > {self.switched}\n')
        power.chmod(0o755)
        self.text = TTY.format(port=self.tty.link, power=power, reset="", off_time_s=0)
        self.text = self.text.replace(
            "        card: card.img\n", r"        firmware: '^U-Boot (?P<version>\d\S+)'" + "\n"
        )
        self.change("features: [reset]", "features: []")
        self.change("smp: 1", "smp: 1\n        boot_timeout_s: 5")
        self.board = threading.Thread(target=self._speak, daemon=True)

    def change(self, before: str, after: str) -> None:
        assert before in self.text, before
        self.text = self.text.replace(before, after)

    def serial_server(self, device: str, port: int) -> None:
        """The console comes over the network, from a ser2net that serves `device`."""
        self.stack.enter_context(ser2net(device, port, "raw", 115200))
        self.over_network(port)

    def over_network(self, port: int) -> None:
        network = f"NetworkSerialPort:\n        host: localhost\n        port: {port}\n        protocol: raw"
        self.change(f"RawSerialPort:\n        port: {self.tty.link}", network)

    def power_at(self, port: int) -> None:
        """The power comes from a switch on the network."""
        command = self.folder / "power"
        switch = f"ExternalPowerDriver:\n        cmd_on: {command} on\n        cmd_off: {command} off"
        self.change(switch, "NetworkPowerDriver: {}")
        host = f"'http://127.0.0.1:{port}/{{index}}/{{value}}'"
        port_on_it = f"      NetworkPowerPort: {{model: simplerest, host: {host}, index: 0}}\n"
        self.change("    drivers:\n", f"{port_on_it}    drivers:\n")

    def _speak(self) -> None:
        with self.switched.open() as pipe:
            pipe.read()
        self.tty.says(self.says)

    def see_doctor(self) -> list[Finding]:
        (self.folder / "boards" / f"{NAME}.yaml").write_text(self.text)
        self.board.start()
        return list(examine_board(Place(self.folder), NAME))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("QUOIN_LEASES", str(tmp_path / "leases"))
    # A switch that says nothing is waited for ten seconds otherwise.
    monkeypatch.setattr(doctor_wires, "_SWITCH_S", 0.5)
    return Bench(tmp_path, FaultyTty(tmp_path))


FAULTS: dict[str, tuple[Callable[[Bench], object], str, str]] = {}


def plant(name: str, wanted: str, next_step: str) -> Callable[[Callable[[Bench], object]], None]:
    """Registers a way to plant a fault, and the words by which the doctor must name it and the next step."""

    def register(how: Callable[[Bench], object]) -> None:
        FAULTS[name] = how, wanted, next_step

    return register


@plant("wrong port", "wanted the serial port /dev/serial/by-id/none; found no such device; there are: ", "mend port:")
def _(bench: Bench) -> None:
    bench.change(str(bench.tty.link), "/dev/serial/by-id/none")


@plant("port held", "found another process has it: ", "end that, or wait for it")
def _(bench: Bench) -> None:
    program = (
        f"import serial\nport = serial.Serial({str(bench.tty.link)!r}, exclusive=True)\nprint(flush=True)\ninput()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    bench.stack.enter_context(holder)
    assert holder.stdout is not None
    holder.stdout.readline()
    FAULTS["port held"] = (*FAULTS["port held"][:1], f"(process {holder.pid})", FAULTS["port held"][2])


@plant("dead ser2net", "wanted the serial port at localhost:", "does ser2net run there")
def _(bench: Bench) -> None:
    bench.over_network(*free_ports(1))


@plant("ser2net without its tty", "found the server closes the connection at once", "has it the tty")
def _(bench: Bench) -> None:
    if not SER2NET.exists():
        pytest.skip("the package ser2net is not installed")
    bench.serial_server("/dev/nothing", *free_ports(1))


@plant("wrong baud", "wanted text from mine at 115200 baud; found ", "set speed: of ")
def _(bench: Bench) -> None:
    bench.says = heard_at(BANNER * 3, 57600, 115200)


@plant("silent board", "wanted text from mine when it is switched on; found not a byte", "TX goes to RX")
def _(bench: Bench) -> None:
    bench.says = b""
    bench.change("boot_timeout_s: 5", "boot_timeout_s: 0.5")


@plant("another firmware", "that says what its file expects; found no '^U-Boot", "compare firmware: ")
def _(bench: Bench) -> None:
    bench.says = b"barebox 2023.01.0\r\n"
    bench.change("boot_timeout_s: 5", "boot_timeout_s: 2")


@plant("a loader with another prompt", "that says what its file expects; found no ", "UBootDriver's prompt: in ")
def _(bench: Bench) -> None:
    loader = "      UBootDriver: {prompt: 'StarFive # ', login_timeout: 1}\n"
    bench.change("      SerialDriver: {}\n", f"      SerialDriver: {{}}\n{loader}")


@plant("old firmware", "wanted firmware of at least 2023.04; found 2023.01", "flash a newer one")
def _(bench: Bench) -> None:
    bench.change("off_time_s: 0", "off_time_s: 0\n        oldest_firmware: '2023.04'")


@plant("power switch silent", "wanted to ask the power switch; found labgrid says: no answer", "look at resources")
def _(bench: Bench) -> None:
    deaf = bench.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    bench.power_at(deaf.getsockname()[1])


@plant("power switch gone", "wanted to ask the power switch; found nobody answers at http://127.0.0.1:", "is it on, ")
def _(bench: Bench) -> None:
    bench.power_at(*free_ports(1))


@plant("power command fails", "/power off` ended with status 3 and said: out of order", "mend it in ")
def _(bench: Bench) -> None:
    (bench.folder / "power").write_text("#!/bin/sh\necho out of order\nexit 3\n")


@plant("reset line missing", "wanted a reset line for mine, as its features say; found no reset driver", "wire one")
def _(bench: Bench) -> None:
    bench.change("features: []", "features: [reset]")


@plant("TFTP folder unwritable", "the folder of TFTP, to write boot files to; found ", "sudo install -d")
def _(bench: Bench) -> None:
    (bench.folder / "file").touch()
    served = f"      TFTPProvider: {{internal: {bench.folder}/file/tftp/, external: ''}}\n"
    bench.change("    drivers:\n", f"{served}    drivers:\n")


@plant("no card", "the card of mine, to write to; found no such device", "mend card:")
def _(bench: Bench) -> None:
    bench.change("off_time_s: 0", "off_time_s: 0\n        card: /dev/quoin-none")


@plant("no SD mux", "wanted to find the SD mux; found no USBSDMuxDevice {", "plug it in, or mend match: in ")
def _(bench: Bench) -> None:
    mux = "      USBSDMuxDevice:\n        match: {ID_SERIAL_SHORT: '000000.00001'}\n"
    bench.change("    drivers:\n", f"{mux}    drivers:\n      USBSDMuxDriver: {{}}\n")


@plant("no wires", "wanted the wires that `false` makes; found it said: nothing", "look at ")
def _(bench: Bench) -> None:
    bench.change("off_time_s: 0", "off_time_s: 0\n        wires: 'false'")


@plant(
    "a wire that labgrid does not know", "to read the board file; found TinCanAndString, which is no ", "mend it in "
)
def _(bench: Bench) -> None:
    bench.change("    drivers:\n", "      TinCanAndString: {}\n    drivers:\n")


WARNINGS = {"reset line missing"}


@pytest.mark.parametrize("name", FAULTS)
def test_the_doctor_names_what_is_wrong_at_the_wires(name: str, bench: Bench) -> None:
    with bench.stack:
        FAULTS[name][0](bench)
        found = bench.see_doctor()
    _, wanted, next_step = FAULTS[name]
    fitting = [one for one in found if wanted in str(one)]
    assert len(fitting) == 1, [str(one) for one in found]
    assert next_step in fitting[0].next_step
    assert fitting[0].needed == (name not in WARNINGS)
    assert len(found) == 1, [str(one) for one in found]


def test_a_card_that_is_a_file_may_be_made_with_its_folders_and_a_device_may_not(bench: Bench) -> None:
    bench.change("off_time_s: 0", "off_time_s: 0\n        card: not/yet/card.img")
    assert [str(one) for one in bench.see_doctor()] == []
    device = Path("/dev/quoin-none")
    for write in (sd_image.write, grub.write):
        with pytest.raises(HardwareError, match=f"wanted to write the card {device}; found: no such device; next: "):
            write(device, {})
        assert not device.exists()


def test_a_doctor_that_is_killed_leaves_the_consoles_log_and_nothing_else(bench: Bench) -> None:
    bench.says = b""
    (bench.folder / "boards" / f"{NAME}.yaml").write_text(bench.text.replace("timeout_s: 5", "timeout_s: 500"))
    shutil.copy(TOP / "pyproject.toml", bench.folder)
    log = bench.folder / "build" / "logs" / "doctor" / f"{NAME}-smp1.log"
    command = [sys.executable, "-m", "harness.cli", "doctor", NAME, "--tree", str(bench.folder)]
    with tempfile.TemporaryDirectory(prefix="quoin-") as temporary:
        with subprocess.Popen(command, env={**environment(), "TMPDIR": temporary}) as doctor:
            try:
                bench.board.start()
                bench.board.join()  # its power is on
            finally:
                doctor.kill()
        assert log.is_file()
        # What is of the machine is locked, and taken away by the next one.
        assert [path.name for path in Path(temporary).iterdir() if not path.name.startswith(PREFIX)] == []


def test_a_board_whose_wires_are_whole_has_no_findings_and_is_left_off(bench: Bench) -> None:
    assert [str(one) for one in bench.see_doctor()] == []
    # It was on, and said so.
    bench.board.join()


@pytest.mark.skipif(bool(MISSING), reason=f"not installed, see `quoin setup`: {', '.join(MISSING)}")
def test_a_board_of_the_bench_has_no_findings_down_to_its_loaders_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOIN_LEASES", str(tmp_path / "leases"))
    board = uboot_board(tmp_path, "riscv64")
    assert [str(one) for one in examine_board(Place(tmp_path), board.name)] == []


def test_a_tty_that_this_user_may_not_open_is_told_with_its_group(bench: Bench) -> None:
    (bench.folder / "boards" / f"{NAME}.yaml").write_text(bench.text)
    shutil.copy(TOP / "pyproject.toml", bench.folder)
    bench.tty.device.chmod(0)
    # Who may do everything is told nothing: without that right root is as everybody.
    drop = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", "--"] if os.getuid() == 0 else []
    command += [sys.executable, "-m", "harness.cli", "doctor", NAME, "--tree", str(bench.folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    group = bench.tty.device.group()
    line = next((line for line in done.stdout.splitlines() if "the serial port" in line), done.stdout + done.stderr)
    assert f"found no permission; next: join its group, `sudo usermod -aG {group} $USER`" in line
    assert done.returncode == 1
