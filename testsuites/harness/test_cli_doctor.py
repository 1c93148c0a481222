"""The doctor names each of these faults, planted for real, and says what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.board import Lease
from harness.board.leases import FOLDER
from harness.cli.doctor import Place, examine_board
from support.elf_files import make_kernel
from support.projects import BOARD, TOP, environment

pytestmark = pytest.mark.requirement("ERR-01", "DEV-02")


@dataclass
class Patient:
    """A project of its own, in an environment of its own."""

    folder: Path
    tree: Path
    variables: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    keep: list[Lease] = field(default_factory=list)

    def board(self, text: str = BOARD) -> None:
        (self.tree / "boards" / "mine.yaml").write_text(text)
        self.arguments = ["mine", *self.arguments]

    def program(self, name: str, text: str) -> None:
        """Puts a program before all others."""
        folder = self.folder / "first"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        self.variables["PATH"] = f"{folder}:{os.environ['PATH']}"

    def without(self, name: str) -> None:
        """A PATH on which everything is but `name`."""
        folder = self.folder / "rest"
        folder.mkdir()
        for place in reversed(os.environ["PATH"].split(":")):
            for found in Path(place).iterdir() if Path(place).is_dir() else ():
                if found.name != name:
                    link = folder / found.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(found)
        self.variables["PATH"] = str(folder)

    def module(self, name: str, text: str = "") -> Path:
        """Puts a Python module before all others."""
        path = self.folder / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.variables["PYTHONPATH"] = f"{self.folder / 'modules'}:{TOP}"
        return path

    def see_doctor(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", "doctor", *self.arguments, "--tree", str(self.tree)],
            cwd=self.folder,
            env={**environment(), **self.variables},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    tree = tmp_path / "tree"
    (tree / "boards").mkdir(parents=True)
    shutil.copy(TOP / "pyproject.toml", tree)
    return Patient(tmp_path, tree)


FAULTS: dict[str, tuple[Callable[[Patient], object], str]] = {}
WARNINGS = {"disk nearly full", "little memory", "stale lease", "more CPUs than the budget"}


def plant(name: str, wanted: str) -> Callable[[Callable[[Patient], object]], Callable[[Patient], object]]:
    """Registers a way to plant a fault, and the words by which the doctor must name it."""

    def register(how: Callable[[Patient], object]) -> Callable[[Patient], object]:
        FAULTS[name] = how, wanted
        return how

    return register


for tool, words in [
    ("git", "wanted git"),
    ("cc", "wanted cc"),
    ("setpriv", "wanted setpriv"),
    ("qemu-img", "wanted qemu-img"),
    ("qemu-system-aarch64", "wanted qemu-system-aarch64 of at least 7.2; found not in PATH"),
]:
    plant(f"no {tool}", words)(lambda patient, tool=tool: patient.without(tool))  # type: ignore[misc]


@plant("QEMU too old", "qemu-system-x86_64 of at least 7.2; found ")
def _(patient: Patient) -> None:
    patient.program("qemu-system-x86_64", "echo QEMU emulator version 5.2.0")


@plant("QEMU that does not answer", "--version says: cannot load library")
def _(patient: Patient) -> None:
    patient.program("qemu-system-riscv64", "echo cannot load library >&2; exit 127")


@plant("no firmware", "wanted OpenSBI, opensbi-riscv64-generic-fw_dynamic.bin; found none in /nowhere")
def _(patient: Patient) -> None:
    patient.program(
        "qemu-system-riscv64", '[ "$1" = -L ] && echo /nowhere && exit 0\necho QEMU emulator version 7.2.22'
    )


@plant("a named compiler that is none", "as QUOIN_RUSTC says; found a program that does not answer")
def _(patient: Patient) -> None:
    (patient.tree / "kernel-src").mkdir()
    folder = patient.folder / "rust"
    folder.mkdir()
    for name in ("rustc", "cargo"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    patient.variables["QUOIN_RUSTC"] = str(folder / "rustc")


@plant("a compiler that is too old", "older than 1.88.0")
def _(patient: Patient) -> None:
    (patient.tree / "kernel-src").mkdir()
    folder = patient.folder / "rust"
    folder.mkdir()
    text = "#!/bin/sh\necho 'rustc 1.70.0'; echo 'host: x86_64-unknown-linux-gnu'; echo 'release: 1.70.0'\n"
    for name in ("rustc", "cargo"):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    patient.variables["QUOIN_RUSTC"] = str(folder / "rustc")


@plant("a package that is missing", "wanted quoin-absent 1.0; found not installed")
def _(patient: Patient) -> None:
    text = (patient.tree / "pyproject.toml").read_text()
    (patient.tree / "pyproject.toml").write_text(text.replace('"pexpect==', '"quoin-absent==1.0",\n    "pexpect=='))


@plant("a package of another version", "wanted pexpect 4.9.0; found version 0.1")
def _(patient: Patient) -> None:
    patient.module("pexpect-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: pexpect\nVersion: 0.1\n")


@plant("another package in pyserial's place", "wanted pyserial as the module `serial`; found another `serial`")
def _(patient: Patient) -> None:
    patient.module("serial/__init__.py")


@plant("a project file that is no TOML", "pyproject.toml as TOML")
def _(patient: Patient) -> None:
    (patient.tree / "pyproject.toml").write_text("[project\n")


@plant("no build folder", "build as a folder to write to; found")
def _(patient: Patient) -> None:
    (patient.tree / "build").write_text("a file\n")


@plant("disk nearly full", "wanted 999999999 MiB free on the disk")
def _(patient: Patient) -> None:
    patient.arguments += ["--disk", "999999999"]


@plant("little memory", "wanted 999999999 MiB of free memory")
def _(patient: Patient) -> None:
    patient.arguments += ["--ram", "999999999"]


@plant("a temporary folder that is none", "as a folder to write to; found none")
def _(patient: Patient) -> None:
    patient.variables["TMPDIR"] = "/nowhere"


@plant("a temporary folder with a long name", "a temporary folder of at most 60 letters")
def _(patient: Patient) -> None:
    folder = patient.folder / ("long" * 20)
    folder.mkdir()
    patient.variables["TMPDIR"] = str(folder)


@plant("an unknown board", "unknown board 'mine'")
def _(patient: Patient) -> None:
    patient.arguments = ["mine"]


@plant("a board file that is no YAML", "not YAML")
def _(patient: Patient) -> None:
    patient.board("targets: [\n")


@plant("a board file with an unknown key", "unknown key 'smpp' in")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("smp: 1", "smp: 1\n        smpp: 2"))


@plant("a board file that lacks a key", "lacks the key 'cpu'")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("        cpu: rv64\n", ""))


@plant("a board without its image", "no such image")
def _(patient: Patient) -> None:
    patient.board()


@plant("a board with another architecture's image", "image for x86_64, but the board is riscv64")
def _(patient: Patient) -> None:
    (patient.tree / "guest").write_bytes(make_kernel("x86_64"))
    patient.board()


@plant("a board whose machine QEMU does not know", "machine 'virtt' of")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("machine: virt", "machine: virtt"))


@plant("a board whose CPU QEMU does not know", "cpu 'rv65' of")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("cpu: rv64", "cpu: rv65"))


@plant("a board with an emulator of its own that is not there", "wanted qemu-system-mine of at least 7.2")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("binary: qemu-system-riscv64", "binary: qemu-system-mine"))


@plant("a board larger than this host", "wanted 4000G for mine")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("memory: 128M", "memory: 4000G"))


@plant("more CPUs than the budget", "CPUs for mine; found a budget of")
def _(patient: Patient) -> None:
    patient.board(BOARD.replace("smp: 1", "smp: 500\n        max_smp: 512"))
    (patient.tree / "guest").write_bytes(make_kernel("riscv64"))


EXCLUSIVE = BOARD.replace("kernel: guest", "kernel: guest\n        exclusive: true")


@plant("a board that another session has", "wanted mine free; found leased by")
def _(patient: Patient) -> None:
    patient.board(EXCLUSIVE)
    leases = patient.folder / "leases"
    patient.variables[FOLDER] = str(leases)
    lease = Lease("mine", leases)
    lease.take(0.0)
    patient.keep.append(lease)


@plant("stale lease", f"a stale lease of eve on {socket.gethostname()}, process 7")
def _(patient: Patient) -> None:
    patient.board(EXCLUSIVE)
    (patient.tree / "guest").write_bytes(make_kernel("riscv64"))
    leases = patient.folder / "leases"
    leases.mkdir()
    patient.variables[FOLDER] = str(leases)
    host = socket.gethostname()
    told = {"board": "mine", "host": host, "user": "eve", "pid": 7, "since_s": 1.0, "at_s": 1.0, "doing": "test_b"}
    (leases / "mine.json").write_text(json.dumps(told))


def test_there_are_twenty_faults_and_more() -> None:
    assert len(FAULTS) >= 20


@pytest.mark.parametrize("name", FAULTS)
def test_the_doctor_names_the_fault_and_the_next_step(name: str, patient: Patient) -> None:
    how, wanted = FAULTS[name]
    how(patient)
    try:
        told = patient.see_doctor()
    finally:
        for lease in patient.keep:
            lease.release()
    lines = [line for line in told.stdout.splitlines() if wanted in line]
    assert len(lines) == 1, told.stdout + told.stderr
    assert "; next: " in lines[0]
    assert lines[0].startswith("warning: " if name in WARNINGS else "missing: ")
    assert told.returncode == (0 if name in WARNINGS else 1), told.stdout + told.stderr
    assert "Traceback" not in told.stderr


def test_a_healthy_machine_and_board_have_nothing_missing(patient: Patient) -> None:
    (patient.tree / "guest").write_bytes(make_kernel("riscv64"))
    patient.board()
    told = patient.see_doctor()
    assert told.returncode == 0, told.stdout + told.stderr
    assert "doctor: this machine and mine: 0 missing" in told.stdout


@pytest.mark.requirement("BLD-06")
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("cpu: rv64", "cpu: rv64,nosuchprop=on"), "Property 'rv64-riscv-cpu.nosuchprop' not found"),
        (("machine: virt", "machine: virt,nosuch=on"), "Property 'virt-machine.nosuch' not found"),
        (("smp: 1", "smp: 1\n        args: ['-device', 'nosuchdev']"), "'nosuchdev' is not a valid device"),
        (("memory: 128M", "memory: 1M"), "regions are overlapping"),
        (("arch: riscv64", "arch: x86_64"), "qemu-system-riscv64, which is one of riscv64"),
    ],
)
def test_what_the_emulator_refuses_is_told_in_its_words(
    change: tuple[str, str], found: str, patient: Patient, tmp_path: Path
) -> None:
    before, after = change
    (patient.tree / "guest").write_bytes(make_kernel("x86_64" if "x86_64" in after else "riscv64"))
    patient.board(BOARD.replace(before, after))
    findings = list(examine_board(Place(patient.tree), "mine"))
    assert [finding.needed for finding in findings] == [True], findings
    assert found in findings[0].found
    assert str(patient.tree / "boards" / "mine.yaml") in findings[0].next_step + findings[0].wanted


@pytest.mark.requirement("BLD-06")
def test_a_feature_that_is_nearly_one_of_the_labs_is_a_warning(patient: Patient) -> None:
    (patient.tree / "guest").write_bytes(make_kernel("riscv64"))
    patient.board(BOARD.replace("[qmp]", "[qmmp, of-mine]"))
    (finding,) = examine_board(Place(patient.tree), "mine")
    assert (finding.needed, finding.found) == (False, "'qmmp'")
    assert "such as 'qmp'" in finding.wanted


def test_the_doctor_comes_before_anything_is_installed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("quoin", "pyproject.toml"):
        shutil.copy(TOP / name, tree / name)
    shutil.copytree(TOP / "harness", tree / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    told = subprocess.run(
        [tree / "quoin", "doctor", "--disk", "1"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert not (tree / ".venv").exists(), "the doctor installed something"
    assert "Traceback" not in told.stderr, told.stderr
    assert "doctor: this machine: " in told.stdout, told.stderr
