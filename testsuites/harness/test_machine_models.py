"""QEMU's models of real boards: what their files say beside the usual, and how far the kernel comes on them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import Board, BoardError, read_board
from harness.build import build
from harness.console import Session
from harness.machine import BootFiles, ImageError, MachineError, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.plugin.counting import run_case
from harness.plugin.matrix import too_old
from support.wired import TOP

BOARDS = TOP / "boards"
WAIT_S = 120.0


def model(name: str) -> Board:
    return read_board(BOARDS / f"{name}.yaml")


@pytest.mark.requirement("BLD-06", "BTA-04", "SMP-07")
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed, see `quoin setup`")
def test_sbsa_ref_is_ready_and_names_the_step_that_is_missing(tmp_path: Path) -> None:
    built = build("aarch64")
    machine = QemuMachine(model("sbsa-ref"), BootFiles(built.image, built.archive, "a=b"))
    with Session(machine, tmp_path / "console.log") as session:
        session.wait_ready(WAIT_S)
        assert "boot: entry: command line 'a=b'" in session.first_lines
        # Its other CPUs are switched on by PSCI, which is firmware's.
        assert "boot: cpus: cpu1 (hardware 0x1) did not start: Unsupported" in session.first_lines
        assert "boot: cpus: 1 of 2 online" in session.first_lines
        assert "testd" in session.console.command("ps", WAIT_S)


@pytest.mark.requirement("CTX-08", "CTX-02")
@pytest.mark.parametrize("cpu", ["rv64", "rv64,d=false", "rv64,d=false,f=false"])
def test_registers_of_an_fpu_are_given_where_every_cpu_has_them(tmp_path: Path, cpu: str) -> None:
    built = build("riscv64")
    machine = QemuMachine(replace(model("qemu-riscv64"), cpu=cpu), BootFiles(built.image, built.archive))
    with Session(machine, tmp_path / "console.log") as session:
        session.wait_ready(WAIT_S)
        lines = run_case(session, "fault:an_fpu_is_given_where_there_is_one")
    assert f"guest: an FPU: {str(cpu == 'rv64').lower()}" in lines


def emulator(folder: Path, version: str) -> None:
    folder.mkdir()
    (folder / "qemu-system-aarch64").write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")
    (folder / "qemu-system-aarch64").chmod(0o755)


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(("version", "refused"), [("8.2.1", True), ("9.0.0", False), ("10.0.2", False)])
def test_a_model_that_an_emulator_lacks_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, refused: bool
) -> None:
    emulator(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    why = too_old(model("raspi4b"))
    assert (why is not None) == refused
    if why is not None:
        assert why.startswith("raspi4b: ")
        assert f"is version {version}, but 9.0 or later is needed" in why
    assert too_old(model("raspi3b")) is None


@pytest.mark.requirement("BLD-06")
def test_a_model_has_the_size_of_its_board_and_its_monitor_beside_it() -> None:
    raspi3b, sifive_u = model("raspi3b"), model("sifive_u")
    for wrong in ({"smp": 1}, {"memory": "128M"}):
        with pytest.raises(BoardError, match="raspi3b is a model of a real board: it has "):
            raspi3b.variant(**wrong)
    assert raspi3b.variant(smp=4, memory="1G").id == "raspi3b-smp4"
    words = QemuMachine(sifive_u.variant(smp=2), BootFiles(None)).command()
    assert words[words.index("-smp") + 1] == "3"


@pytest.mark.requirement("BLD-06", "OBS-09")
def test_the_gdb_stub_has_the_cpus_after_the_monitor(tmp_path: Path) -> None:
    board = model("sifive_u").variant(smp=2)
    guest = write_tiny_guest(tmp_path / "guest", "x", Then.REPEAT)
    start = 0x8020_0000 + 64
    with Session(QemuMachine(board, BootFiles(guest)), tmp_path / "console.log") as session:
        session.console.expect("xxx", WAIT_S)
        with session.gdb() as gdb:
            before = []
            for cpu in range(2):
                gdb.select(cpu)
                assert gdb.read_register("mhartid") == 1 + cpu
                before.append(gdb.read_register("t6"))
                gdb.write_register("t6", 0x1000 + cpu)
            for cpu in range(2):
                gdb.select(cpu)
                assert gdb.read_register("t6") == 0x1000 + cpu
                gdb.write_register("t6", before[cpu])
            with pytest.raises(MachineError, match=r"wanted CPU 2; .* 3 CPUs, of which the first 1 run no kernel"):
                gdb.select(2)
            gdb.set_breakpoint(start)
            gdb.resume()
            assert gdb.wait_stop(WAIT_S).startswith("T05")
            assert gdb.read_register("pc") == start
            runs = gdb.read_register("mhartid") - 1
            gdb.clear_breakpoint(start)
            gdb.resume([1 - runs])
            with pytest.raises(TimeoutError):
                gdb.wait_stop(0.3)
            gdb.interrupt()
            gdb.select(runs)
            assert gdb.read_register("pc") == start, "it was to stand still"
            # Left set, in both clusters: leaving takes it away, and lets the machine go on.
            gdb.set_breakpoint(start)
        assert session.machine.status() == "running"
        session.console.expect("x" * 100, WAIT_S)


@pytest.mark.requirement("BLD-06")
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed, see `quoin setup`")
def test_a_device_tree_that_cannot_be_compiled_is_told_in_the_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "raspi3b.dts").write_text("/dts-v1/; / { nonsense };")
    (tmp_path / "raspi3b.yaml").write_text((BOARDS / "raspi3b.yaml").read_text())
    board = read_board(tmp_path / "raspi3b.yaml")
    machine = QemuMachine(board, BootFiles(None))
    assert machine.shell_command().startswith("dtc -I dts -O dtb -o raspi3b.dtb ")
    with pytest.raises(MachineError, match=r"dtc did not compile .*raspi3b.dts: .*syntax error"):
        machine.on()
    (tmp_path / "raspi3b.dts").unlink()
    with pytest.raises(ImageError, match="no such device tree"):
        machine.on()
    assert not machine.running


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("monitor_cpus: -1", "'monitor_cpus' is 0 or more, not -1"),
        ("oldest_qemu: '10'", "'oldest_qemu' is as '10.0', not '10'"),
        ("device_tree: leaf", "'device_tree' names 'leaf', which images: lacks"),
    ],
)
def test_a_wrong_word_about_a_model_is_named(tmp_path: Path, line: str, words: str) -> None:
    text = (BOARDS / "sifive_u.yaml").read_text().replace("monitor_cpus: 1", line)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BoardError) as error:
        read_board(tmp_path / "mine.yaml")
    assert words in str(error.value)
