"""Machines that start from firmware in flash: variables of their own, and a clean target all the same."""

from __future__ import annotations

import hashlib
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness.board import BoardError, read_board
from harness.console import Session, clean_target
from harness.machine import BootFiles, ImageError, QemuMachine
from harness.machine.image import image_arch
from harness.machine.tiny_efi import tiny_efi, write_tiny_efi
from support.projects import run_pytest

OVMF = Path("/usr/share/OVMF")
CODE, VARS = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
BOARD = f"""\
targets:
  main:
    features: [qmp, gdbstub, reset, snapshot]
    drivers:
      QuoinQemuDriver:
        arch: x86_64
        binary: qemu-system-x86_64
        machine: q35
        cpu: max
        smp: 1
        memory: 128M
        ready: '^efi: ready'
        kernel: guest
        firmware: code
        firmware_vars: variables
images:
  guest: ../guest.efi
  code: {CODE}
  variables: ../variables.fd
"""
TESTS = """
import pytest

RAM = 0x100000

@pytest.mark.parametrize("number", range(3))
def test_clean(fresh_target, number):
    assert fresh_target.ready_line == "efi: ready"
    with fresh_target.gdb() as gdb:
        assert gdb.read_memory(RAM, 8) != b"a stain!"
        gdb.write_memory(RAM, b"a stain!")
        assert gdb.read_memory(RAM, 8) == b"a stain!"
    fresh_target.qmp("inject-nmi")  # the firmware's own handler tells it: the machine runs on after a load
    fresh_target.console.expect(r"X64 Exception Type - 02", 60)
"""
needs_ovmf = pytest.mark.skipif(not (CODE.is_file() and VARS.is_file()), reason="the package ovmf is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose board `ovmf` starts a UEFI application."""
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "ovmf.yaml").write_text(BOARD)
    (tmp_path / "variables.fd").write_bytes(VARS.read_bytes() if VARS.is_file() else b"")
    write_tiny_efi(tmp_path / "guest.efi", "\r\nefi: ready\r\n")
    return tmp_path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_ovmf
@pytest.mark.requirement("DEV-08", "TST-01")
def test_a_fresh_target_under_ovmf_is_loaded_and_not_booted(project: Path) -> None:
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "test_it.py").write_text(TESTS)
    done = run_pytest(project, "--board", "ovmf", "--junitxml=out.xml")
    assert done.returncode == 0, done.stdout
    properties = ElementTree.parse(project / "out.xml").iter("property")
    how = [p.get("value") for p in properties if p.get("name") == "fresh_target"]
    assert how == ["booted", "loaded from a snapshot", "loaded from a snapshot"]


@needs_ovmf
@pytest.mark.requirement("DEV-08")
def test_what_firmware_writes_stays_in_the_machines_own_copy(project: Path) -> None:
    board = read_board(project / "boards" / "ovmf.yaml")
    assert board.firmware_vars is not None
    before = digest(board.firmware_vars)
    machine = QemuMachine(board, BootFiles(board.kernel))
    with Session(machine, project / "console.log") as session:
        session.wait_ready()
        flash = [drive["inserted"] for drive in session.qmp("query-block") if "inserted" in drive]
        written = [drive for drive in flash if not drive["ro"]]
        assert [drive["drv"] for drive in written] == ["qcow2"]
        assert Path(written[0]["file"]).parent == machine.scratch
        assert [Path(drive["file"]) for drive in flash if drive["ro"]] == [CODE]
        clean_target.save(session)
        session.qmp("stop")
        compare = ["qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", str(board.firmware_vars)]
        compared = subprocess.run([*compare, written[0]["file"]], capture_output=True, text=True, timeout=60)
        assert compared.returncode == 1, compared.stdout + compared.stderr  # 1: they differ
    assert digest(board.firmware_vars) == before


@pytest.mark.requirement("DEV-08", "ERR-01")
def test_firmware_that_is_not_there_is_named_before_qemu_starts(project: Path) -> None:
    path = project / "boards" / "ovmf.yaml"
    path.write_text(BOARD.replace(str(CODE), "/nowhere/code.fd"))
    board = read_board(path)
    with pytest.raises(ImageError, match=r"/nowhere/code\.fd: no such firmware; .*ovmf.yaml"):
        QemuMachine(board, BootFiles(board.kernel)).on()
    path.write_text(BOARD.replace("        firmware: code\n", ""))
    with pytest.raises(BoardError, match="'firmware_vars' stands without 'firmware'"):
        read_board(path)


@pytest.mark.requirement("BLD-01")
def test_a_uefi_application_is_an_image_of_its_architecture(tmp_path: Path) -> None:
    assert image_arch(write_tiny_efi(tmp_path / "x86.efi", "hello")) == "x86_64"
    arm = tmp_path / "arm.efi"
    arm.write_bytes(tiny_efi("hello").replace(b"PE\0\0\x64\x86", b"PE\0\0\x64\xaa"))
    assert image_arch(arm) == "aarch64"
    arm.write_bytes(b"MZ" + bytes(100))
    with pytest.raises(ImageError, match="no kernel image"):
        image_arch(arm)
