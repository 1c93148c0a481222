"""Target specifications of our own: what they are made of, what is built with them, and that it boots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build import BuildError, build
from harness.build.artifacts import ARCHES, Arch, Artifacts
from harness.build.own_targets import FOLDER, specification, with_source
from harness.build.toolchain import Toolchain, discover
from harness.console import Session
from harness.machine import BootFiles

# RISC-V ELF psABI, "File Header": bits of e_flags.
FLOAT_ABI, DOUBLE = 0x6, 0x4


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    found = discover()
    return dataclasses.replace(found, candidate=dataclasses.replace(found.candidate, has_source=True))


@pytest.mark.requirement("BLD-03")
@pytest.mark.parametrize("arch", ARCHES)
def test_a_specification_is_the_compilers_own_with_our_differences(toolchain: Toolchain, arch: Arch) -> None:
    spec = specification(toolchain, arch)
    ours = json.loads((FOLDER / f"{arch}.json").read_text())
    assert ours.items() <= spec.items()
    assert spec["arch"] == arch, "of the compiler's"
    assert spec["relocation-model"] == "pie" and spec["position-independent-executables"]
    assert {"riscv64": "medium", "aarch64": "tiny", "x86_64": "kernel"}[arch] == spec["code-model"]
    if arch != "riscv64":  # whose ABI has no red zone
        assert spec["disable-redzone"]
    features = spec["features"].split(",")
    assert {"x86_64": "+soft-float", "aarch64": "-neon", "riscv64": "+zifencei"}[arch] in features
    assert "+d" not in features and "+f" not in features, "neither kernel nor programs compute with floating point"


@pytest.mark.requirement("BLD-03")
def test_a_compiler_without_its_source_is_told(toolchain: Toolchain) -> None:
    without = dataclasses.replace(toolchain.candidate, has_source=False)
    with pytest.raises(BuildError, match="rust-src") as error:
        with_source(dataclasses.replace(toolchain, candidate=without))
    assert "rustup component add rust-src" in str(error.value)


@pytest.mark.requirement("BLD-03")
@pytest.mark.needs("arch==riscv64", "release")
def test_what_is_built_for_an_own_target_boots(boot: Callable[..., Session], artifacts: Artifacts) -> None:
    own = build(artifacts.arch, own_target=True)
    assert own.directory != artifacts.directory
    assert float_abi(artifacts.kernel) == DOUBLE and float_abi(own.kernel) == 0
    session = boot(files=BootFiles(own.image, own.archive))
    assert own.build_id in "\n".join(session.first_lines), "it is this kernel that runs"
    session.console.command("ps")


def float_abi(path: Path) -> int:
    with path.open("rb") as file:
        return int(ELFFile(file)["e_flags"]) & FLOAT_ABI
