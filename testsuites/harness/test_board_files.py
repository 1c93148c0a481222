"""Board files: read, checked, and understood by labgrid too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.board import BoardError, find_boards, known_boards, memory_mib, read_board

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
        (("    drivers:", "    features: qmp\n    drivers:"), 5, ["'features' must be a list, not 'qmp'"]),
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


@pytest.mark.requirement("BLD-06")
def test_a_board_of_another_project_names_its_own_images(tmp_path: Path) -> None:
    text = GOOD.replace("smp: 4", "smp: 4\n        kernel: mine\n        cmdline: a=b") + "images:\n  mine: out/Image\n"
    board = read_board(board_file(tmp_path, text))
    assert board.kernel == (tmp_path / "out" / "Image").resolve()
    assert board.cmdline == "a=b"


@pytest.mark.requirement("BLD-06")
def test_variants_show_in_the_id_and_are_held_to_what_the_board_can_do() -> None:
    board = read_board(BOARDS / "qemu-aarch64.yaml")
    assert board.variant(smp=8, memory="2G").id == "qemu-aarch64-smp8-2G"
    assert board.variant(memory="128M").id == "qemu-aarch64-smp4"
    with pytest.raises(BoardError, match="takes 1 to 8 CPUs, not 9"):
        board.variant(smp=9)
    assert memory_mib("2G") == 2048
