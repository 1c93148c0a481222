"""Calling cargo on the kernel's workspace, and reading what it says.

Cargo finds out by itself what to compile; this module gives it the chosen
toolchain, one target folder for all, and turns its JSON messages into a list of
binaries, each marked kernel or user program by the folder of its package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.build import own_targets
from harness.build.artifacts import SOURCE, TOP, Arch, OnLine, Profile
from harness.build.errors import BuildError
from harness.build.process import stream, stream_apart
from harness.build.toolchain import TARGETS, Toolchain

TARGET_DIRECTORY = TOP / "build" / "cargo"
_TOLD_LINES = 12
# The crates whose pure parts are tested on the machine that builds.
_HOST_CRATES = ("-p", "abi", "-p", "kernel")


@dataclass(frozen=True, slots=True)
class Binary:
    """One linked program: its name, and the ELF that cargo left."""

    name: str
    path: Path
    is_kernel: bool


def binaries(messages: Iterable[str], source: Path) -> list[Binary]:
    """The programs of this workspace among cargo's JSON `messages` (one object a line; other lines are passed over)."""
    found: list[Binary] = []
    for line in messages:
        if not line.startswith("{"):
            continue
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact" or message.get("executable") is None:
            continue
        if "bin" not in message["target"]["kind"]:
            continue
        package = Path(message["manifest_path"]).parent
        if not package.is_relative_to(source):
            continue
        is_kernel = not package.is_relative_to(source / "user")
        found.append(Binary(message["target"]["name"], Path(message["executable"]), is_kernel))
    return sorted(found, key=lambda b: b.name)


def first_error(lines: Sequence[str]) -> str:
    """The first error in cargo's words, with the few lines that show where; or its last line."""
    for number, line in enumerate(lines):
        # A build script's panic names the cause better than cargo's "failed to run custom build command".
        if "panicked at" in line:
            return " ".join(part.strip() for part in lines[number : number + 2])
    for number, line in enumerate(lines):
        if line.startswith("error") and "could not compile" not in line:
            told = [line]
            for following in lines[number + 1 : number + _TOLD_LINES]:
                if not following.strip():
                    break
                told.append(following)
            return "\n".join(told)
    return next((line for line in reversed(lines) if line.strip()), "nothing said")


def build_workspace(
    toolchain: Toolchain,
    arch: Arch,
    profile: Profile,
    log: Path,
    on_line: OnLine,
    source: Path = SOURCE,
    target_directory: Path = TARGET_DIRECTORY,
    *,
    own_target: bool = False,
) -> list[Binary]:
    """Compile and link every binary of the workspace for `arch`; `log` keeps cargo's own words. Raises BuildError.

    `own_target` compiles for the specification in kernel-src/targets, and not for the standard one.
    """
    if not (source / "Cargo.toml").is_file():
        raise BuildError(
            f"the kernel's workspace at {source}", "no Cargo.toml there", next_step="git checkout kernel-src"
        )
    target: str | Path = TARGETS[arch]
    more: list[str] = []
    if own_target:
        toolchain = own_targets.with_source(toolchain)
        target = own_targets.write_specification(toolchain, arch, log.parent)
        more = own_targets.cargo_flags(toolchain)
    command: list[str | Path] = [
        str(toolchain.cargo),
        "build",
        "--workspace",
        "--bins",
        "--target",
        target,
        "--target-dir",
        str(target_directory),
        "--message-format",
        "json-render-diagnostics",
        *(["--release"] if profile == "release" else []),
        *toolchain.cargo_flags(),
        *more,
    ]
    told: list[str] = []
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            print("$", *command, file=file)

            def note(line: str) -> None:
                told.append(line)
                print(line, file=file)
                on_line(line)

            status, messages = stream_apart(command, cwd=source, env=toolchain.environment(os.environ), on_stderr=note)
    except OSError as error:
        raise BuildError(f"to run {command[0]} and write {log}", error.strerror or str(error)) from error
    if status != 0:
        raise BuildError(
            f"a {profile} build for {arch}",
            first_error(told),
            log=log,
            next_step=f"mend it, then: quoin build {arch}",
        )
    return binaries(messages, source)


def run_host_test(toolchain: Toolchain, name: str, on_line: OnLine, source: Path = SOURCE) -> tuple[int, list[str]]:
    """`cargo test` of one file of the kernel's tests, on this machine: exit status and output."""
    command: list[str | Path] = [
        toolchain.cargo,
        "test",
        *_HOST_CRATES,
        "--test",
        name,
        "--target-dir",
        TARGET_DIRECTORY / "host",
    ]
    return stream(command, cwd=source, env=toolchain.environment(os.environ), on_line=on_line)


def clippy(toolchain: Toolchain, arch: Arch, on_line: OnLine, source: Path = SOURCE) -> tuple[int, list[str]]:
    """`cargo clippy` of everything for `arch`, where a warning is an error: exit status and output."""
    command: list[str | Path] = [
        toolchain.cargo,
        "clippy",
        "--workspace",
        "--lib",
        "--bins",
        "--target",
        TARGETS[arch],
        "--target-dir",
        TARGET_DIRECTORY,
        *toolchain.cargo_flags(),
        "--",
        "-D",
        "warnings",
    ]
    return stream(command, cwd=source, env=toolchain.environment(os.environ), on_line=on_line)


def host_clippy(toolchain: Toolchain, on_line: OnLine, source: Path = SOURCE) -> tuple[int, list[str]]:
    """`cargo clippy` of the host-side tests, where a warning is an error: exit status and output."""
    command: list[str | Path] = [
        toolchain.cargo,
        "clippy",
        *_HOST_CRATES,
        "--tests",
        "--target-dir",
        TARGET_DIRECTORY / "host",
        "--",
        "-D",
        "warnings",
    ]
    return stream(command, cwd=source, env=toolchain.environment(os.environ), on_line=on_line)


def format_check(toolchain: Toolchain, on_line: OnLine, source: Path = SOURCE) -> tuple[int, list[str]]:
    """`cargo fmt --check`: exit status and what differs."""
    command: list[str | Path] = [toolchain.cargo, "fmt", "--all", "--", "--check"]
    return stream(command, cwd=source, env=toolchain.environment(os.environ), on_line=on_line)
