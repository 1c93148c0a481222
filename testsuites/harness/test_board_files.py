"""Board files: read, checked, and understood by labgrid too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.board import BoardError, LabError, find_boards, known_boards, memory_mib, read_board
from harness.cli import lab
from harness.hardware import HardwareError
from harness.hardware.lab_target import LabTarget
from harness.plugin.discipline import read_quarantine
from harness.report.matrix import read_matrix

TOP = Path(__file__).resolve().parents[2]
BOARDS = TOP / "boards"
QEMU_BOARDS = ("qemu-aarch64", "qemu-riscv64", "qemu-x86_64")

GOOD = """\
imports:
  - harness.machine.labgrid_driver
targets:
  main:
    drivers:
      QuoinQemuDriver:
        arch: riscv64
        binary: qemu-system-riscv64
        machine: virt
        cpu: rv64
        smp: 4
        memory: 128M
        ready: '^init: ready'
"""


def board_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.requirement("BLD-06", "DEV-02")
@pytest.mark.parametrize("name", QEMU_BOARDS)
def test_each_architecture_has_a_checked_in_board_with_four_cpus(name: str) -> None:
    board = read_board(BOARDS / f"{name}.yaml")
    assert (board.name, board.smp, board.memory_mib) == (name, 4, 128)
    assert board.id == f"{name}-smp4"


@pytest.mark.requirement("BLD-06")
def test_labgrid_loads_every_board_and_finds_power_console_and_reset() -> None:
    program = (
        "import sys\n"
        "from labgrid import Environment\n"
        "from labgrid.protocol import ConsoleProtocol, PowerProtocol, ResetProtocol\n"
        "for path in sys.argv[1:]:\n"
        "    target = Environment(path).get_target('main')\n"
        "    for protocol in (ConsoleProtocol, PowerProtocol, ResetProtocol):\n"
        "        assert target.get_driver(protocol) is not None\n"
        "    print(path)\n"
    )
    paths = [str(path) for path in sorted(BOARDS.glob("qemu-*.yaml"))]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths], cwd=TOP, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == paths, done.stderr


@pytest.mark.requirement("BLD-06")
def test_an_unknown_board_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(BoardError) as error:
        find_boards(["qemu-riscv46"], BOARDS)
    assert "did you mean 'qemu-riscv64'?" in str(error.value)
    assert all(name in str(error.value) for name in QEMU_BOARDS)


@pytest.mark.requirement("BLD-06")
def test_globs_choose_boards_once_and_in_order() -> None:
    names = [board.name for board in find_boards(["qemu-r*", "qemu-*"], BOARDS)]
    assert names[0] == "qemu-riscv64"
    assert sorted(names) == sorted(name for name in known_boards(BOARDS) if name.startswith("qemu-"))


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("smp: 4", "smpp: 4"), 11, ["unknown key 'smpp'", "did you mean 'smp'", "allowed: arch, args"]),
        (("smp: 4", "smp: four"), 11, ["'smp' must be int", "'four'"]),
        (("smp: 4", "smp: 0"), 11, ["takes 1 to 8 CPUs, not 0"]),
        (("memory: 128M", "memory: 128"), 12, ["'memory' must be str, not 128"]),
        (("memory: 128M", "memory: 128K"), 12, ["written like 128M or 2G", "'128K'"]),
        (("arch: riscv64", "arch: riscv"), 7, ["unknown arch 'riscv'", "x86_64, aarch64, riscv64"]),
        (("ready: '^init: ready'", "ready: '['"), 13, ["'ready' is no regular expression"]),
        (("        cpu: rv64\n", ""), 6, ["lacks the key 'cpu'"]),
        (("targets:", "target:"), 3, ["unknown key 'target'", "did you mean 'targets'"]),
        (("smp: 4", "smp: 4\n        smp: 2"), 12, ["key 'smp' stands twice"]),
        (("smp: 4", "smp: [4"), 11, ["not YAML"]),
        (("smp: 4", "smp: 4\n        kernel: mine"), 12, ["'mine'", "images: lacks"]),
        (("virt", "vi\x07rt"), 9, ["not YAML", "special characters", "'\\x07'"]),
        (("smp: 4", "smp: !mine 4"), 11, ["the value of 'smp' cannot be read", "!mine"]),
        (("smp: 4", "smp: !!int four"), 11, ["the value of 'smp' cannot be read", "'four'"]),
        (("smp: 4", "? [smp]\n        : 4"), 11, ["a key in", "must be a word"]),
        (("smp: 4", "smp: 4\n        panic:"), 12, ["'panic' must be str, not None"]),
        (("smp: 4", "smp: 4\n        boot_timeout_s: 0"), 12, ["'boot_timeout_s' must be more than 0, not 0"]),
        (("smp: 4", "smp: 4\n        boot_timeout_s: .nan"), 12, ["'boot_timeout_s' must be more than 0, not nan"]),
        (("    drivers:", "    features: qmp\n    drivers:"), 5, ["'features' must be a list of words, not 'qmp'"]),
        (("smp: 4", "smp: 4\n        cpu_online: echo {cpu}"), 12, ["'cpu_online' lacks {cpu} or {online}"]),
        (("ready: '^init: ready'", "ready: ''"), 13, ["'ready' wants a pattern that not every line fits, not ''"]),
        (("smp: 4", "smp: 4\n        panic: 'x*'"), 12, ["'panic' wants a pattern that not every line fits"]),
        (("smp: 4", "smp: 4\n        initrd_at: -1"), 12, ["'initrd_at' is 0 or more, not -1"]),
        (("smp: 4", "smp: 4\n        args: [{a: 1}]"), 12, ["'args' are QEMU's words", "{'a': 1}"]),
        (("smp: 4", "smp: 4\n        args: [on]"), 12, ["in quotes", "not True"]),
        (("    drivers:", "    features: [{a: 1}]\n    drivers:"), 5, ["'features' must be a list of words"]),
        (("ready'", "ready'\n        kernel: x\nimages: {x: ~nobody-here/x}"), 14, ["is no file", "home directory"]),
        (("targets:", "images: [mine]\ntargets:"), 3, ["'images' must be a mapping of names to paths"]),
        (("targets:", "images: {mine: 5}\ntargets:"), 3, ["'images' must be a mapping of names to paths"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_file_and_line(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    path = board_file(tmp_path, GOOD.replace(*change))
    with pytest.raises(BoardError) as error:
        read_board(path)
    text = str(error.value)
    assert text.startswith(f"{path}:"), text
    if "not YAML" not in text:
        assert text.startswith(f"{path}:{line}: "), text
    assert all(word in text for word in words), text


@pytest.mark.requirement("BLD-06", "DEV-09", "ERR-01")
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("uboot-riscv64", ("protocol: raw", "protocol: nosuch"), "'protocol' of NetworkSerialPort is one of raw"),
        ("uboot-riscv64", ("port: 27111", "port: abc"), "'port' of NetworkSerialPort is a number from 1 to 65535"),
        ("uboot-riscv64", ("model: simplerest", "model: nosuch"), "'model' of NetworkPowerPort is one of apc, "),
        ("uboot-riscv64", ("index: 0", "index: -1"), "'index' of NetworkPowerPort is a number from 0 on"),
        ("pc-x86_64", ("speed: 115200", "speed: fast"), "'speed' of RawSerialPort is a number from 1 on"),
        ("pc-x86_64", ("targets:", "options: [1]\ntargets:"), "'options' must be a mapping"),
    ],
)
def test_wires_that_cannot_be_are_named_with_file_and_line(
    name: str, change: tuple[str, str], words: str, tmp_path: Path
) -> None:
    before, after = change
    text = (BOARDS / f"{name}.yaml").read_text()
    assert before in text
    path = board_file(tmp_path, text.replace(before, after, 1))
    line = text[: text.index(before)].count("\n") + 1
    with pytest.raises(BoardError) as error:
        read_board(path)
    assert str(error.value).startswith(f"{path}:{line}: {words}"), str(error.value)
    path.write_text(text.replace(before, f"{before.split(': ')[0]}: !template $LG_MINE", 1))
    if before != "targets:":
        read_board(path)


@pytest.mark.requirement("DEV-09", "ERR-01")
def test_what_labgrid_refuses_with_an_error_of_pythons_is_told_with_the_boards_file(tmp_path: Path) -> None:
    text = (BOARDS / "pc-x86_64.yaml").read_text()
    path = board_file(tmp_path, text.replace("url: 'http://power.lab/relay/4'", "url: 4"))
    with pytest.raises(HardwareError, match=f"wanted to read the board file; labgrid says: .*; next: .* {path}"):
        LabTarget(read_board(path))


@pytest.mark.requirement("BLD-06")
def test_a_board_of_another_project_names_its_own_images(tmp_path: Path) -> None:
    text = GOOD.replace("smp: 4", "smp: 4\n        kernel: mine\n        cmdline: a=b") + "images:\n  mine: out/Image\n"
    board = read_board(board_file(tmp_path, text))
    assert board.kernel == (tmp_path / "out" / "Image").resolve()
    assert board.cmdline == "a=b"


@pytest.mark.requirement("BLD-06", "TST-26")
def test_a_board_switches_cpus_where_its_file_has_the_command_and_nowhere_else(tmp_path: Path) -> None:
    features = GOOD.replace("    drivers:", "    features: [qmp, cpu-online]\n    drivers:")
    assert "cpu-online" not in read_board(board_file(tmp_path, features)).features
    command = GOOD.replace("smp: 4", "smp: 4\n        cpu_online: cpu {cpu} {online}")
    assert "cpu-online" in read_board(board_file(tmp_path, command)).features


@pytest.mark.requirement("BLD-06", "DEV-09", "DOC-19")
@pytest.mark.parametrize("path", sorted(BOARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_board_file_keeps_what_it_promises(path: Path) -> None:
    board = read_board(path)
    (target,) = yaml.safe_load(path.read_text())["targets"].values()
    drivers, resources = target["drivers"], target.get("resources", {})
    resets = [name for name in drivers if name.endswith("ResetDriver")]
    if board.wires is None:
        assert not resources
        return
    assert ("reset" in board.features) == bool(resets), "the feature is a reset line"
    assert not board.features & {"qmp", "gdbstub", "snapshot", "icount", "nmi", "machine-check", "cpu-hotplug", "rtc"}
    load = " ".join(board.wires.load)
    assert ("tftp" in load) == ("TFTPProvider" in resources), "who loads by TFTP has a folder for it, and who not not"
    if "load mmc" in load:
        assert board.wires.card or "USBStorageDriver" in drivers
    if board.wires.log_ring:
        assert resets and "UBootDriver" in drivers, "a log ring is read by U-Boot after a reset that keeps memory"


@pytest.mark.requirement("BLD-06")
def test_variants_show_in_the_id_and_are_held_to_what_the_board_can_do() -> None:
    board = read_board(BOARDS / "qemu-aarch64.yaml")
    assert board.variant(smp=8, memory="2G").id == "qemu-aarch64-smp8-2G"
    assert board.variant(memory="128M").id == "qemu-aarch64-smp4"
    with pytest.raises(BoardError, match="takes 1 to 8 CPUs, not 9"):
        board.variant(smp=9)
    assert memory_mib("2G") == 2048


@pytest.mark.requirement("ERR-01")
@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"- a: 1\n- expires: 2027-13-45\n", 2, "month must be in 1..12"),
        (b"a: 1\nb: \xff\xfe\n", 2, "byte 0xff is no UTF-8"),
        (b"a: 1\nb: !mine 4\n", 2, "!mine"),
        (b"a: 1\nb: \x07\n", 2, "special characters"),
        (b"a: [1\n", 2, "expected ',' or ']'"),
        (b"[" * 5000, 1, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_by_all_who_read_it_with_file_and_line(
    data: bytes, line: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    for read in (read_quarantine, lambda path: read_matrix(path, BOARDS), lab._of_file):
        with pytest.raises((LabError, pytest.UsageError)) as error:
            read(path)
        assert f"{path}:{line}: not YAML: " in str(error.value)
        assert words in str(error.value)
