"""`quoin setup`: what this machine lacks, installed where that is allowed.

What is missing is found by looking at what works (an emulator that answers with
a version, a toolchain that can build), never at what a package manager claims.
`plan` turns the findings into apt calls and is tested on plain data.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUMMARY = "install what is missing: emulators, Rust, linker; or print the exact command"
PASSES_ON = False

FIRMWARE = Path("/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin")
# What boards under UEFI, and boards on wires that the bench fakes, are made of. What needs it is skipped without.
BOARDS = {
    "ovmf": Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
    "u-boot-qemu": Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
    "ser2net": Path("/usr/sbin/ser2net"),
    "dnsmasq-base": Path("/usr/sbin/dnsmasq"),
    "iproute2": Path("/usr/sbin/ip"),
    "mtools": Path("/usr/bin/mtype"),
    "grub-common": Path("/usr/bin/grub-mkrescue"),
    "grub-pc-bin": Path("/usr/lib/grub/i386-pc/multiboot2.mod"),
    "grub-efi-amd64-bin": Path("/usr/lib/grub/x86_64-efi/multiboot2.mod"),
    "xorriso": Path("/usr/bin/xorriso"),
    "device-tree-compiler": Path("/usr/bin/dtc"),
}
EMULATORS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-riscv64": "qemu-system-misc",
}
TOOLS = {"qemu-img": "qemu-utils", "cc": "gcc libc6-dev", "ld.lld": "lld", "git": "git", "ps": "procps"}
# Nothing needs them to build, boot or judge: what is lost without each.
OPTIONAL = {"gdb-multiarch": "`quoin replay` and `quoin gdb` only print gdb's command"}
DEBIAN_RUST = ("rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "rustfmt-web", "libstd-rust-web-dev")


@dataclass(frozen=True)
class Missing:
    """What this machine lacks: each entry with the reason, in words for people."""

    emulators: tuple[tuple[str, str], ...] = ()
    tools: tuple[tuple[str, str], ...] = ()
    rust: str = ""  # empty: a toolchain was found
    firmware: str = ""

    def __bool__(self) -> bool:
        return bool(self.emulators or self.tools or self.rust or self.firmware)

    def lines(self) -> list[str]:
        """One line a finding."""
        told = [f"{name}: {why}" for name, why in (*self.emulators, *self.tools)]
        return told + [line for line in (self.rust, self.firmware) if line]


def plan(missing: Missing, rust_packages: Sequence[str]) -> list[list[str]]:
    """Package lists, one an apt call, in an order that apt accepts.

    qemu-system-x86 goes alone and first: where a newer qemu-utils is installed, apt refuses to take the
    emulators together, but takes the newer one out by itself for the first. qemu-utils comes after them.
    """
    wanted = {package for name, _ in missing.emulators for package in [EMULATORS[name]]}
    tools = {package for name, _ in missing.tools for package in TOOLS[name].split()}
    rest = tools - {"qemu-utils"}
    if missing.rust:
        rest |= set(rust_packages)
    if missing.firmware:
        rest.add("opensbi")
    calls = [
        ["qemu-system-x86"] if "qemu-system-x86" in wanted else [],
        sorted(wanted - {"qemu-system-x86"}),
        ["qemu-utils"] if "qemu-utils" in tools or wanted else [],
        sorted(rest),
    ]
    return [call for call in calls if call]


def apt_commands(calls: Sequence[Sequence[str]]) -> list[list[str]]:
    """The apt-get calls for `plan`'s lists, without who runs them."""
    install = ["apt-get", "install", "-y", "--no-install-recommends"]
    return [["apt-get", "update"], *([*install, *call] for call in calls)]


def rust_packages(searched: str) -> list[str]:
    """Which packages bring a new enough Rust, out of what `apt-cache search --names-only` prints.

    Debian has rustc-web; Ubuntu has rustc-1.NN for many NN, each with its source.
    """
    from harness.build.toolchain import MINIMUM

    names = {line.split(" ", 1)[0] for line in searched.splitlines() if line}
    if "rustc-web" in names:
        return [name for name in DEBIAN_RUST if name in names]
    minors = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"rustc-1\.(\d+)", name)))
    modern = [minor for minor in minors if minor >= MINIMUM[1]]
    if not modern:
        return []
    newest = modern[-1]
    kinds = ("rustc-1.{}", "cargo-1.{}", "rust-1.{}-src", "rust-1.{}-clippy", "rustfmt-1.{}")
    return [name for kind in kinds if (name := kind.format(newest)) in names]


def look() -> Missing:
    """Look at this machine."""
    from harness.board import LabError
    from harness.build.errors import BuildError
    from harness.build.toolchain import discover
    from harness.machine.qemu_binary import find_qemu

    emulators: list[tuple[str, str]] = []
    for binary in EMULATORS:
        try:
            find_qemu(binary)
        except LabError as error:
            emulators.append((binary, str(error)))
    tools = tuple((name, "not in PATH") for name in TOOLS if shutil.which(name) is None)
    rust = ""
    try:
        discover()
    except BuildError as error:
        rust = f"Rust: {error}"
    firmware = "" if FIRMWARE.exists() or emulators else f"OpenSBI: {FIRMWARE} is not there"
    return Missing(tuple(emulators), tools, rust, firmware)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to look only."""
    parser.add_argument(
        "--check", action="store_true", help="install nothing: say what is missing, status 1 if anything"
    )
    parser.add_argument("--optional", action="store_true", help=f"install also: {', '.join(OPTIONAL)}")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Find what is missing and install it, or say how."""
    ensure(install=not args.check)
    wanted = without()
    by = None if args.check or not wanted else privilege()
    if by is not None:
        from harness.build.errors import BuildError

        try:
            for command in apt_commands([list(wanted)]):
                _apt([*by, *command])
        except BuildError as error:
            print(f"setup: {error}")
    for package, lost in without().items():
        print(f"setup: {lost} are skipped; they need: sudo apt-get install {package}")
    from harness.build.toolchain import discover

    for line in optional(install=args.optional and not args.check):
        print(line)
    print(f"toolchain: {discover().describe()}")
    print("setup: nothing is missing")
    return 0


def without() -> dict[str, str]:
    """Packages that are missing and without which only some tests are skipped: what those are."""
    lost = {package: "some boards" for package, file in BOARDS.items() if not file.exists()}
    return lost if shutil.which("chromium") else {**lost, "chromium": "tests of the report in a browser"}


def optional(*, install: bool) -> list[str]:
    """Install what is good to have, where `install` says so; a line for each that is missing. Raises BuildError."""
    from harness.build.errors import BuildError

    def left() -> list[str]:
        return [name for name in OPTIONAL if shutil.which(name) is None]

    if install and (wanted := left()):
        commands, by = apt_commands([wanted]), privilege()
        if by is None:
            told = " && ".join(shlex.join(["sudo", *command]) for command in commands)
            raise BuildError(", ".join(wanted), "not installed, and apt may not be used here", next_step=told)
        for command in commands:
            _apt([*by, *command])
    return [f"optional: {name} is missing, so {OPTIONAL[name]}; next: ./quoin setup --optional" for name in left()]


def ensure(*, install: bool = True) -> None:
    """Return when this machine has all that is needed. Raises BuildError with the exact commands otherwise."""
    from harness.build.errors import BuildError

    missing = look()
    if not missing:
        return
    packages = rust_packages(_searched()) if missing.rust else []
    calls = plan(missing, packages)
    by = privilege() if install else None
    if by is None:
        raise _cannot(missing, calls, "apt may not be used here" if install else "--check installs nothing")
    for line in missing.lines():
        print(f"setup: missing: {line}", flush=True)
    commands = apt_commands(calls)
    _apt([*by, *commands[0]])
    if missing.rust and not packages:  # package lists were empty before the update
        commands = apt_commands(plan(missing, rust_packages(_searched())))
    for command in commands[1:]:
        _apt([*by, *command])
    left = look()
    if left:
        raise BuildError(
            "nothing missing after apt", "; ".join(left.lines()), next_step="see docs/dependencies.md for versions"
        )


def privilege() -> list[str] | None:
    """What goes before apt-get: nothing for root, sudo where it asks no password; None where apt may not be used."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def _cannot(missing: Missing, calls: Sequence[Sequence[str]], reason: str) -> Exception:
    from harness.build.errors import BuildError

    commands = " && ".join(shlex.join(["sudo", *command]) for command in apt_commands(calls))
    return BuildError(
        "an emulator for each board, and Rust", "; ".join(missing.lines()) + f" ({reason})", next_step=commands
    )


def _searched() -> str:
    """Names of Rust packages that apt knows; nothing where there is no apt."""
    if shutil.which("apt-cache") is None:
        return ""
    command = ["apt-cache", "search", "--names-only", r"^(rustc|cargo|rust|rustfmt|libstd-rust)-(web|1\.[0-9]+)"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _apt(command: list[str]) -> None:
    """Run apt-get without questions. Raises BuildError."""
    from harness.build.errors import BuildError

    print(f"setup: {shlex.join(command)}", flush=True)
    at = command.index("apt-get")
    quiet = [*command[:at], "env", "DEBIAN_FRONTEND=noninteractive", *command[at:]]
    status = subprocess.run(quiet, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
    if status != 0:
        raise BuildError(
            f"apt-get to succeed: {shlex.join(command)}",
            f"exit status {status}, its words are above",
            next_step="mend apt's sources or the network, then run quoin setup again",
        )
