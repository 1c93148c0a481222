"""`quoin doctor [BOARD]`: what is wrong with this machine or a board, and what to do about it.

Before `.venv` exists the entry script runs this file with the system's Python
alone, so that nothing but the standard library is imported before it is needed.
Each finding is a line: what was wanted, what was found, what to do next. The
status is 1 where something that is needed is missing.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.board import Board

SUMMARY = "name what is missing on this machine, or for a board, each with the next step"
PASSES_ON = False

HERE = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
DISK_MIB = 2048
MEMORY_MIB = 1024
# A unix socket's path has 107 bytes, and the lab's own names need some.
LONGEST_TEMPORARY = 60
_LIMIT_S = 20.0


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. `needed`: without it nothing runs."""

    wanted: str
    found: str
    next_step: str
    needed: bool = True

    def __str__(self) -> str:
        word = "missing" if self.needed else "warning"
        return f"{word}: wanted {self.wanted}; found {self.found}; next: {self.next_step}"


@dataclass(frozen=True)
class Place:
    """What is examined: a tree with `boards/` and `pyproject.toml`, and how much room it needs."""

    tree: Path
    disk_mib: int = DISK_MIB
    memory_mib: int = MEMORY_MIB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, which tree, and how much room is wanted."""
    parser.add_argument("board", nargs="?", help="a board's name; without one only this machine is examined")
    parser.add_argument("--tree", type=Path, default=HERE, metavar="DIR", help="the project (the one of this script)")
    parser.add_argument("--disk", type=int, default=DISK_MIB, metavar="MIB", help=f"free disk wanted ({DISK_MIB})")
    parser.add_argument("--ram", type=int, default=MEMORY_MIB, metavar="MIB", help=f"free memory ({MEMORY_MIB})")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Examine, print a line a finding, and say how it ended."""
    place = Place(args.tree.resolve(), args.disk, args.ram)
    findings = list(examine_machine(place))
    if args.board is not None:
        findings += examine_board(place, args.board)
    for finding in findings:
        print(finding)
    needed = sum(finding.needed for finding in findings)
    what = "this machine" if args.board is None else f"this machine and {args.board}"
    print(f"doctor: {what}: {needed} missing, {len(findings) - needed} warnings")
    return 1 if needed else 0


def examine_machine(place: Place) -> Iterator[Finding]:
    """All that any board needs."""
    for check in (python, programs, emulators, firmware, rust, packages, serial, disk, temporary, memory, budget):
        yield from check(place)


def python(_: Place) -> Iterator[Finding]:
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        yield Finding("Python 3.11 or later", version, "install a newer python3, or name one in QUOIN_PYTHON")


_PROGRAMS = {
    "git": ("git", "`quoin test --changed` and builds ask it for revisions"),
    "cc": ("gcc libc6-dev", "the plugin that counts instructions is compiled with it"),
    "ld.lld": ("lld", "the kernel is linked with it where Rust brings no linker"),
    "setpriv": ("util-linux", "without it QEMU could outlive the lab"),
    "qemu-img": ("qemu-utils", "snapshots lie in images that it makes"),
}


def programs(_: Place) -> Iterator[Finding]:
    for name, (package, why) in _PROGRAMS.items():
        if shutil.which(name) is None:
            yield Finding(f"{name} ({why})", "not in PATH", f"./quoin setup, or: apt-get install {package}")


_EMULATORS = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-system-riscv64")


def emulators(_: Place) -> Iterator[Finding]:
    for name in _EMULATORS:
        yield from emulator(name)


def emulator(name: str) -> Iterator[Finding]:
    """One emulator: there, answering, new enough."""
    wanted = f"{name} of at least 7.2"
    path = shutil.which(name)
    if path is None:
        yield Finding(wanted, "not in PATH", "./quoin setup")
        return
    said = _output([path, "--version"])
    match = re.search(r"version (\d+)\.(\d+)", said or "")
    if match is None:
        words = [*(said or "").strip().splitlines(), "nothing"][0]
        yield Finding(wanted, f"{path} --version says: {words}", "reinstall it: ./quoin setup")
    elif (int(match[1]), int(match[2])) < (7, 2):
        yield Finding(wanted, f"{path}, version {match[1]}.{match[2]}", "put a newer QEMU first in PATH")


def firmware(_: Place) -> Iterator[Finding]:
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        return
    folders = [Path(line) for line in (_output([qemu, "-L", "help"]) or "").splitlines() if line.startswith("/")]
    name = "opensbi-riscv64-generic-fw_dynamic.bin"
    if folders and not any((folder / name).exists() for folder in folders):
        found = f"none in {', '.join(map(str, folders))}"
        yield Finding(f"OpenSBI, {name}", found, "./quoin setup, or: apt-get install opensbi")


def rust(place: Place) -> Iterator[Finding]:
    if not (place.tree / "kernel-src").is_dir():
        return  # another kernel's tree: how it is built is its own affair
    try:
        from harness.build.errors import BuildError
        from harness.build.toolchain import discover
    except ImportError:
        yield Finding("Rust", "not examined: the lab is not installed", "./quoin setup", needed=False)
        return
    try:
        discover()
    except BuildError as error:
        yield Finding(error.wanted, error.found, error.next_step)


def packages(place: Place) -> Iterator[Finding]:
    path = place.tree / "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        yield Finding(str(path), str(error.strerror), "run doctor in a checkout, or name one with --tree", needed=False)
        return
    if sys.version_info < OLDEST_PYTHON:
        return
    import tomllib

    try:
        pins = tomllib.loads(text).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        yield Finding(f"{path} as TOML", str(error), "mend it, or: git checkout pyproject.toml")
        return
    for name, version in (pin.split("==", 1) for pin in pins if "==" in pin):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"{name} {version}", f"not installed for {sys.executable}", "./quoin setup (it makes .venv)")
            continue
        if found != version:
            yield Finding(f"{name} {version}", f"version {found}", "rm -r .venv, then ./quoin setup")


def serial(_: Place) -> Iterator[Finding]:
    try:
        module = importlib.import_module("serial")
    except ImportError:
        return  # told by `packages`: labgrid brings it
    if not hasattr(module, "Serial"):
        yield Finding(
            "pyserial as the module `serial`",
            f"another `serial` at {module.__file__}",
            "uninstall the package `serial`, then rm -r .venv and ./quoin setup",
        )


def disk(place: Place) -> Iterator[Finding]:
    build = place.tree / "build"
    try:
        build.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=build):
            pass
    except OSError as error:
        wanted = f"{build} as a folder to write to"
        yield Finding(wanted, error.strerror or str(error), f"move it away, or mend its rights: ls -ld {build}")
        return
    free = shutil.disk_usage(build).free >> 20
    if free < place.disk_mib:
        yield Finding(
            f"{place.disk_mib} MiB free on the disk of {build}",
            f"{free} MiB",
            "./quoin clean, or make room",
            needed=False,
        )


def temporary(_: Place) -> Iterator[Finding]:
    named = os.environ.get("TMPDIR")
    folder = Path(tempfile.gettempdir())
    if named and folder != Path(named):
        yield Finding(f"TMPDIR={named} as a folder to write to", f"none; {folder} is used", "unset TMPDIR or mend it")
    elif len(str(folder)) > LONGEST_TEMPORARY:
        yield Finding(
            f"a temporary folder of at most {LONGEST_TEMPORARY} letters, since a socket's path has 107 bytes",
            f"{len(str(folder))} in {folder}",
            "set TMPDIR to a shorter one",
        )


def memory(place: Place) -> Iterator[Finding]:
    free = _memory_mib()
    if free is not None and free < place.memory_mib:
        yield Finding(f"{place.memory_mib} MiB of free memory", f"{free} MiB", "end what holds it", needed=False)


def _memory_mib() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return None if match is None else int(match[1]) >> 10


def budget(_: Place) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        yield Finding("two cores or more", f"{cores}", "expect boots to take longer", needed=False)


# A board.


def examine_board(place: Place, name: str) -> Iterator[Finding]:
    """What is wrong with one board: its file, emulator, images, and whether it is free."""
    try:
        from harness.board import LabError
        from harness.hardware import places
    except ImportError as error:
        yield Finding("PyYAML and pyserial, to read board files", str(error), "./quoin setup")
        return
    try:
        boards = places.boards([name], place.tree / "boards")
    except LabError as error:
        told = re.search(r"^wanted (.*?); found: (.*?); next: (.*)$", str(error), re.DOTALL)
        if told is not None:
            yield Finding(told[1], told[2], told[3])
        else:
            yield Finding(f"a board file for {name}", str(error), "docs/boards.md describes every key")
        return
    checks: tuple[Callable[[Board], Iterator[Finding]], ...] = (
        board_features,
        board_emulator,
        board_images,
        board_room,
        board_lease,
    )
    from harness.cli.doctor_wires import board_wires

    for board in boards:
        found = [finding for check in checks for finding in check(board)]
        yield from found
        if not any(finding.needed for finding in found):
            yield from board_starts(board)
        yield from board_wires(board)


# What the lab's own verbs and this tree's suites ask for.
_FEATURES = (
    *("qmp", "gdbstub", "reset", "snapshot", "icount", "debug", "release", "nmi", "machine-check", "rtc"),
    *("cpu-hotplug", "cpu-online", "no-reboot", "stays-on", "jtag"),
)


def board_features(board: Board) -> Iterator[Finding]:
    """A project may have features of its own; one that is nearly the lab's is a slip."""
    for feature in sorted(board.features.difference(_FEATURES)):
        if near := difflib.get_close_matches(feature, _FEATURES, n=1):
            wanted = f"features of {board.name} that tests ask for, such as {near[0]!r}"
            yield Finding(wanted, repr(feature), f"mend features: in {board.path}", needed=False)


def board_starts(board: Board) -> Iterator[Finding]:
    """QEMU takes all that the file says, for the architecture that it names; no instruction is executed."""
    from harness.board import LabError
    from harness.machine import BootFiles, QemuMachine
    from harness.machine.events import Kind

    if board.wires is not None:
        return
    files = BootFiles(board.kernel, board.initrd)
    machine = QemuMachine(replace(board, exclusive=False), files, paused=True, admit="at once")
    try:
        machine.on()
        arch = machine.qmp("query-target")["arch"]
    except LabError as error:
        said = [event.name for event in machine.events if event.kind is Kind.STDERR and event.name]
        found = f"{board.binary} says: {' / '.join(said)}" if said else str(error).partition("\n")[0]
        yield Finding(f"a machine as in {board.path}", found, "mend what it names there")
    else:
        if arch != board.arch:
            wanted = f"an emulator of {board.arch} for {board.name}"
            yield Finding(wanted, f"{board.binary}, which is one of {arch}", f"mend arch: or binary: in {board.path}")
    finally:
        machine.off()


def board_emulator(board: Board) -> Iterator[Finding]:
    """Its own binary, if that is another, and the machine and CPU that it asks of it."""
    if board.wires is not None:
        return
    if board.binary not in _EMULATORS:
        yield from emulator(board.binary)
    path = shutil.which(board.binary)
    if path is None:
        return
    for what, value in (("machine", board.machine), ("cpu", board.cpu)):
        name = value.split(",", 1)[0]
        arguments = ["-machine", "none"] if what == "cpu" and board.arch == "x86_64" else []
        if what == "cpu" and board.arch != "x86_64":
            arguments = ["-machine", board.machine.split(",", 1)[0]]
        listed = _output([path, *arguments, f"-{what}", "help"])
        known = {word for line in (listed or "").splitlines() for word in line.split()[:2]}
        if known and name not in known:
            yield Finding(
                f"{what} {name!r} of {board.path}", f"{path} knows no such {what}", f"{board.binary} -{what} help"
            )


def board_images(board: Board) -> Iterator[Finding]:
    """The images that its file names are there, and for its architecture."""
    from harness.board import LabError
    from harness.machine.image import check_image

    if board.kernel is not None:
        try:
            check_image(board.kernel, board.arch)
        except LabError as error:
            yield Finding(f"a kernel for {board.name}", str(error), f"build it, or mend images: in {board.path}")
    if board.initrd is not None and not board.initrd.is_file():
        yield Finding(
            f"the archive of {board.name}", f"no {board.initrd}", f"build it, or mend images: in {board.path}"
        )
    for path in (board.firmware, board.firmware_vars):
        if path is not None and not path.is_file():
            yield Finding(
                f"the firmware of {board.name}", f"no {path}", f"apt-get install ovmf, or mend images: in {board.path}"
            )


def board_room(board: Board) -> Iterator[Finding]:
    """Its memory fits into this host's, and its CPUs into the budget."""
    if board.wires is not None:
        return
    from harness.board import memory_text
    from harness.board.admission import default_budget

    free = _memory_mib()
    if free is not None and board.memory_mib > free:
        yield Finding(
            f"{memory_text(board.memory_mib)} for {board.name}",
            f"{free} MiB free on this host",
            f"end what holds it, or give the board less in {board.path}",
        )
    if board.smp > default_budget():
        yield Finding(
            f"{board.smp} CPUs for {board.name}",
            f"a budget of {default_budget()} on this host",
            "it will run alone, and slowly: try --smp",
            needed=False,
        )


def board_lease(board: Board) -> Iterator[Finding]:
    """Nobody else has it."""
    from harness.board import holder_of, stale_of

    if not board.exclusive or (board.wires is not None and board.wires.place):
        return
    holder = holder_of(board.name)
    if holder is not None:
        yield Finding(f"{board.name} free", f"leased by {holder}", "wait for it, or end that process")
    elif (gone := stale_of(board.name)) is not None:
        yield Finding(
            f"{board.name} given back by its last session",
            f"a stale lease of {gone}",
            "nothing: the next session takes it; look why that one ended",
            needed=False,
        )


def _output(command: Sequence[str]) -> str | None:
    """What a program says; None where it cannot be run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.path[0] = str(HERE)
    parser = argparse.ArgumentParser(prog="quoin doctor", description=SUMMARY)
    add_arguments(parser)
    sys.exit(run(parser.parse_args(), []))
