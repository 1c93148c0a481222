"""The versions that a number depends on: compiler, linker, emulator and firmware."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from pathlib import Path

from harness.board import Board
from harness.build.toolchain import discover
from harness.machine.qemu_binary import find_qemu
from harness.measure.metrics import MetricError

_LIMIT_S = 60.0
# What QEMU runs before a kernel given by -kernel (7.2, hw/i386/x86.c, hw/riscv/boot.c); AArch64's virt runs nothing.
_FIRMWARE = {"x86_64": "bios-256k.bin", "riscv64": "opensbi-riscv64-generic-fw_dynamic.bin"}


def versions(board: Board) -> dict[str, str]:
    """Tool versions behind a number of `board`, by tool. Raises BuildError, QemuMissing and MetricError.

    Firmware has no version that all of it tells, so its name and the start of its SHA-256 stand for it.
    """
    found = {"qemu": _first_line(find_qemu(board.binary)), "firmware": _firmware(board.arch, find_qemu(board.binary))}
    return found if board.kernel is not None else {**_compilers(), **found}


@functools.cache
def _compilers() -> dict[str, str]:
    toolchain = discover()
    source = " build-std" if toolchain.build_std else ""
    linker = "rust-lld" if toolchain.linker is None else _first_line(str(toolchain.linker))
    # The first words of `rustc -vV`: version, and commit with date; then come lines of `key: value`.
    rustc = toolchain.candidate.identity.split(" binary:")[0]
    return {"rustc": rustc + source, "linker": linker}


@functools.cache
def _first_line(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    return done.stdout.partition("\n")[0].strip()


@functools.cache
def _firmware(arch: str, qemu: str) -> str:
    if arch not in _FIRMWARE:
        return "none"
    done = subprocess.run([qemu, "-L", "help"], capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    for folder in done.stdout.split("\n"):
        path = Path(folder) / _FIRMWARE[arch]
        if folder and path.is_file():
            return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    raise MetricError(f"{qemu} has no {_FIRMWARE[arch]} in {' '.join(done.stdout.split())}; run `./quoin setup`")


@functools.cache
def revision(top: Path) -> str:
    """The git revision of the files at `top`; `none` outside of git.

    Where they have changes, new files that git does not ignore included, there follow `+` and the start of a SHA-256
    of them.
    """
    commit = _git(top, "describe", "--always", "--abbrev=12", "--exclude=*").decode().strip()
    changes = _git(top, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    new = _git(top, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
    if not commit or not (changes or new):
        return commit or "none"
    digest = hashlib.sha256(changes)
    for name in new:
        digest.update(b"\0" + name + b"\0" + hashlib.sha256(_content(top / os.fsdecode(name))).digest())
    return f"{commit}+{digest.hexdigest()[:8]}"


def _content(path: Path) -> bytes:
    try:
        return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    except OSError:
        return b""  # gone again, or a repository of its own


def _git(top: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=top, capture_output=True, timeout=_LIMIT_S, check=False)
    return done.stdout if done.returncode == 0 else b""
