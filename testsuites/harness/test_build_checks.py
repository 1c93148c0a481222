"""Linters, types and the kernel's host-side tests, as items of the same report as everything else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.build import BuildError
from harness.build.artifacts import ARCHES, SOURCE, TOP, Arch
from harness.build.cargo import clippy, format_check, host_clippy, run_host_test
from harness.build.host_tests import host_tests
from harness.build.toolchain import Toolchain, discover

_SHOWN_LINES = 60


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return discover()


def silent(line: str) -> None:
    """Output is shown when a check fails, not while it runs."""


def end_of(lines: list[str]) -> str:
    return "\n".join(lines[-_SHOWN_LINES:])


def tool(*command: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.requirement("TST-01", "TST-06")
@pytest.mark.parametrize(
    "name",
    [pytest.param(test.name, marks=pytest.mark.requirement(*test.requirements)) for test in host_tests()],
)
def test_the_kernels_pure_parts_pass_on_the_host(toolchain: Toolchain, name: str) -> None:
    status, lines = run_host_test(toolchain, name, silent)
    assert status == 0, end_of(lines)
    counts = [int(n) for line in lines for n in re.findall(r"test result: ok\. (\d+) passed", line)]
    assert sum(counts) > 0, "no host-side test ran\n" + end_of(lines)


@pytest.mark.requirement("TST-06")
def test_host_side_tests_say_which_requirements_they_prove(tmp_path: Path) -> None:
    file = tmp_path / "kernel/tests/parts.rs"
    file.parent.mkdir(parents=True)
    file.write_text("//! Parts, against a model.\n//!\n//! Proves: CAP-12, TST-24\n")
    (found,) = host_tests(tmp_path)
    assert (found.name, found.path, found.requirements) == ("parts", "kernel/tests/parts.rs", ("CAP-12", "TST-24"))
    file.write_text("//! Parts.\n// Proves: CAP-12\n")
    with pytest.raises(BuildError, match=r"parts\.rs"):
        host_tests(tmp_path)


@pytest.mark.requirement("ERR-08", "DEV-02")
@pytest.mark.parametrize("arch", ARCHES)
def test_clippy_has_nothing_to_say(toolchain: Toolchain, arch: Arch) -> None:
    if not (toolchain.candidate.bin / "cargo-clippy").exists():
        pytest.fail(f"{toolchain.candidate.name} has no clippy; next: ./quoin setup, or rustup component add clippy")
    status, lines = clippy(toolchain, arch, silent)
    assert status == 0, end_of(lines)


@pytest.mark.requirement("ERR-08")
def test_clippy_has_nothing_to_say_of_the_host_side_tests(toolchain: Toolchain) -> None:
    status, lines = host_clippy(toolchain, silent)
    assert status == 0, end_of(lines)


@pytest.mark.requirement("ERR-08")
def test_rust_is_formatted(toolchain: Toolchain) -> None:
    status, lines = format_check(toolchain, silent)
    assert status == 0, end_of(lines)


@pytest.mark.requirement("ERR-08")
def test_ruff_has_nothing_to_say() -> None:
    status, said = tool("ruff", "check", ".")
    assert status == 0, said


@pytest.mark.requirement("ERR-08")
def test_python_is_formatted() -> None:
    status, said = tool("ruff", "format", "--check", ".")
    assert status == 0, said


@pytest.mark.requirement("ERR-08")
def test_types_hold_everywhere() -> None:
    status, said = tool("mypy")
    assert status == 0, said


@pytest.mark.requirement("BLD-07")
def test_the_lock_file_is_in_the_tree_and_current(toolchain: Toolchain) -> None:
    done = subprocess.run(
        [toolchain.cargo, "metadata", "--locked", "--format-version", "1", "--no-deps"],
        cwd=SOURCE,
        env=toolchain.environment({"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.requirement("BLD-07")
def test_every_crate_from_outside_is_pinned_and_has_its_reason() -> None:
    workspace = tomllib.loads((SOURCE / "Cargo.toml").read_text())["workspace"]
    reasons = (TOP / "docs/dependencies.md").read_text()
    for name, wanted in workspace["dependencies"].items():
        if isinstance(wanted, dict) and "path" in wanted:
            continue
        version = wanted["version"] if isinstance(wanted, dict) else wanted
        assert version.startswith("="), f"{name} is not pinned"
        assert f"`{name}` {version.removeprefix('=')}" in reasons, f"docs/dependencies.md has no reason for {name}"
    for manifest in SOURCE.rglob("Cargo.toml"):
        if "target" in manifest.parts or manifest == SOURCE / "Cargo.toml":
            continue
        data = tomllib.loads(manifest.read_text())
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, wanted in data.get(kind, {}).items():
                from_workspace = isinstance(wanted, dict) and wanted.get("workspace")
                assert from_workspace, f"{manifest}: {name} is to be pinned in the workspace"


@pytest.mark.requirement("BLD-07")
def test_every_python_package_is_pinned_and_has_its_reason() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    reasons = (TOP / "docs/dependencies.md").read_text()
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        name, equals, version = wanted.partition("==")
        assert equals, f"{wanted} is not pinned"
        assert f"`{name}` {version}" in reasons, f"docs/dependencies.md has no reason for {wanted}"


@pytest.mark.requirement("BLD-07")
@pytest.mark.parametrize("crate", ["abi", "kernel", "user/rt"])
def test_a_bare_metal_crate_has_no_standard_library(crate: str) -> None:
    text = (SOURCE / crate / "src/lib.rs").read_text()
    assert re.search(r"^#!\[(no_std|cfg_attr\(not\((test|any\(test.*\))\), no_std\))\]", text, re.MULTILINE)


@pytest.mark.requirement("BLD-04")
def test_a_missing_linker_script_is_told_by_its_path(toolchain: Toolchain, tmp_path: Path) -> None:
    program = tmp_path / "build-script"
    subprocess.run(
        [toolchain.candidate.bin / "rustc", "--edition", "2024", "-o", program, SOURCE / "kernel/build.rs"], check=True
    )
    crate = tmp_path / "kernel"
    env = {"CARGO_CFG_TARGET_OS": "none", "CARGO_CFG_TARGET_ARCH": "riscv64", "CARGO_MANIFEST_DIR": str(crate)}
    refused = subprocess.run([program], env=env, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert f"{crate}/src/arch/riscv64/kernel.ld is missing" in refused.stderr
    script = crate / "src/arch/riscv64/kernel.ld"
    script.parent.mkdir(parents=True)
    shutil.copy(SOURCE / "kernel/src/arch/riscv64/kernel.ld", script)
    chosen = subprocess.run([program], env=env, capture_output=True, text=True, check=False)
    assert f"-T{script}" in chosen.stdout, chosen.stderr


@pytest.mark.requirement("BLD-04")
@pytest.mark.parametrize("arch", ARCHES)
def test_each_architecture_has_its_linker_script(arch: Arch) -> None:
    assert (SOURCE / "kernel/src/arch" / arch / "kernel.ld").is_file()


@pytest.mark.requirement("DEV-01")
def test_ci_runs_the_test_command_of_the_readme() -> None:
    text = (TOP / ".ci/run").read_text()
    assert "./quoin test" in text
    assert "./quoin test" in (TOP / "README.md").read_text()
    assert subprocess.run(["bash", "-n", TOP / ".ci/run"], check=False).returncode == 0
    assert subprocess.run(["sh", "-n", TOP / "quoin"], check=False).returncode == 0
