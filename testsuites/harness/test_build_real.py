"""The kernel itself, built for each architecture: what boots, and what stays for debugging."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build import ARCHES, Arch, build, load, programs_of
from harness.build.artifacts import SOURCE, TOP
from harness.build.images import read_elf, what_is

BASE_PROGRAMS = {"init", "testd", "shell"}


def names_of_functions(path: Path) -> set[str]:
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {symbol.name for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"}


@pytest.mark.requirement("BLD-02", "BLD-05", "DEV-02")
@pytest.mark.parametrize("arch", ARCHES)
def test_one_command_builds_kernel_and_programs_for(arch: Arch) -> None:
    built = build(arch)
    assert read_elf(built.kernel).arch == arch
    assert {path.name for path in built.programs} >= BASE_PROGRAMS
    assert {read_elf(path).arch for path in built.programs} == {arch}
    assert what_is(built.image.read_bytes()).endswith(arch)
    assert built.archive.read_bytes().startswith(b"070701")
    assert programs_of(arch) == built.programs
    assert load(built.directory).build_id == built.build_id


@pytest.mark.requirement("TST-04")
@pytest.mark.parametrize("arch", ARCHES)
def test_every_test_program_of_the_workspace_is_built(arch: Arch) -> None:
    asked = {path.parent.name for path in (SOURCE / "user/tests").glob("*/Cargo.toml")}
    assert asked <= {path.name for path in build(arch).programs}


@pytest.mark.requirement("BLD-09")
@pytest.mark.parametrize("arch", ARCHES)
def test_release_symbols_stay_out_of_what_boots(arch: Arch) -> None:
    built = build(arch)
    assert names_of_functions(built.kernel)
    image = built.image.read_bytes()
    assert len(image) < built.kernel.stat().st_size
    if image.startswith(b"\x7fELF"):
        assert ELFFile(BytesIO(image))["e_shnum"] == 0


@pytest.mark.requirement("BLD-08")
@pytest.mark.parametrize("arch", ARCHES)
def test_the_debug_build_is_another_kernel_with_symbols(arch: Arch) -> None:
    debug = build(arch, "debug")
    release = build(arch)
    assert debug.directory != release.directory
    assert debug.build_id != release.build_id
    with debug.kernel.open("rb") as file:
        assert ELFFile(file).has_dwarf_info()


@pytest.mark.requirement("BLD-01")
def test_an_unchanged_tree_builds_nothing_on_three_architectures() -> None:
    for arch in ARCHES:
        build(arch)
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "build"], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("nothing built") == len(ARCHES)
