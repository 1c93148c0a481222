"""Target specifications of Quoin's own, beside the standard ones that it is built for.

`kernel-src/targets/ARCH.json` holds only what differs from the standard
target, as this very rustc prints it: the form of a specification is not stable,
and a whole one in the tree would be wrong for the next compiler. What each
gains is measured by testsuites/bench/test_own_targets.py.

Source: rustc book, "Custom Targets"; cargo's unstable features, "json-target-spec".
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from harness.build.artifacts import SOURCE, Arch, write_atomically
from harness.build.errors import BuildError
from harness.build.toolchain import TARGETS, Toolchain, own_target

FOLDER = SOURCE / "targets"
_LIMIT_S = 60.0


def with_source(toolchain: Toolchain) -> Toolchain:
    """`toolchain`, building `core` too, which no compiler brings for a target of ours. Raises BuildError."""
    if not toolchain.candidate.has_source:
        raise BuildError(
            "rust-src, to build core for a target of our own",
            f"none with {toolchain.candidate.name}",
            next_step="rustup component add rust-src, or build for the standard targets",
        )
    return dataclasses.replace(toolchain, build_std=True)


def specification(toolchain: Toolchain, arch: Arch) -> dict[str, Any]:
    """The standard target of `arch` as this rustc has it, and ours over it. Raises BuildError."""
    # About its tier and who made it; rustc warns of it in a file.
    standard = {key: value for key, value in _standard(toolchain, arch).items() if key != "metadata"}
    ours = FOLDER / f"{arch}.json"
    try:
        return standard | dict(json.loads(ours.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"a JSON object in {ours}", str(error), next_step=f"git checkout {FOLDER}") from error


def write_specification(toolchain: Toolchain, arch: Arch, folder: Path) -> Path:
    """Write the specification of `arch` into `folder`, under the name that cargo takes for the target's."""
    path = folder / f"{own_target(arch)}.json"
    write_atomically(path, json.dumps(specification(toolchain, arch), indent=2).encode())
    return path


def cargo_flags(toolchain: Toolchain) -> list[str]:
    """What cargo wants besides, to take a specification from a file: newer ones a flag that older ones do not know."""
    flag = "json-target-spec"
    return [f"-Z{flag}"] if flag in _ask(toolchain, [str(toolchain.cargo), "-Z", "help"]) else []


def _standard(toolchain: Toolchain, arch: Arch) -> dict[str, Any]:
    rustc = str(toolchain.candidate.bin / "rustc")
    command = [rustc, "-Zunstable-options", "--print", "target-spec-json", "--target", TARGETS[arch]]
    spec: dict[str, Any] = json.loads(_ask(toolchain, command))
    return spec


def _ask(toolchain: Toolchain, command: list[str]) -> str:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIMIT_S,
            env=with_source(toolchain).environment(os.environ),
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise BuildError(f"an answer to `{' '.join(command)}`", said) from error
