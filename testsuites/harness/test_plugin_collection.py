"""Collection of kernel tests from this tree's own programs, in a run of pytest of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
CASE = "boot:clock_never_steps_back[qemu-x86_64-smp4]"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def suite(tmp_path: Path) -> Run:
    """Runs pytest in a folder that has a board file of this tree and one `kernel-tests.yaml`."""
    (tmp_path / "boards").mkdir()
    shutil.copy(TOP / "boards" / "qemu-x86_64.yaml", tmp_path / "boards")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "kernel-tests.yaml").write_text(text)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        plugins = ["-p", "harness.plugin", "-p", "no:labgrid"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "--board", "qemu-x86_64", *arguments],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(TOP), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.mark.requirement("TST-01", "TST-02")
def test_cases_are_items_that_can_be_chosen_and_nothing_boots_before_one_runs(suite: Run, tmp_path: Path) -> None:
    listed = suite("programs: [boot]\nfloor: 5\n", "--collect-only", "-q")
    assert f"kernel-tests.yaml::{CASE}" in listed.stdout, listed.stdout
    assert not (tmp_path / "build" / "logs").exists()
    done = suite("programs: [boot]\nfloor: 5\n", "-v", "-k", "clock_never_steps_back", "--junitxml=out.xml")
    assert re.search(r"1 passed, \d+ deselected", done.stdout), done.stdout
    assert f"{CASE} PASSED" in done.stdout
    assert 'name="requirement" value="TMR-08"' in (tmp_path / "out.xml").read_text()
    assert 'name="verdict" value="passed"' in (tmp_path / "out.xml").read_text()
    chosen = suite("programs: [boot]\nfloor: 5\n", f"kernel-tests.yaml::{CASE}")
    assert "1 passed" in chosen.stdout, chosen.stdout


@pytest.mark.requirement("TST-01")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("programs: [boot]\nfloor: 1000\n", "but the floor is 1000"),
        ("programs: [boot]\n", "floor is the least number of cases"),
        ("programs: [nothing]\nfloor: 1\n", "has no program 'nothing'; it has: bench, boot"),
        ("programs: [boot]\nfloor: 1\nflor: 2\n", "unknown key 'flor'; allowed: floor"),
        ("programs: boot\n", "wants the keys programs (a list)"),
        ("programs: [\n", "not YAML"),
        ("programs: [boot]\nfloor: 1\nsmp: 300\n", "takes 1 to 255 CPUs, not 300"),
    ],
)
def test_too_few_cases_or_a_wrong_file_is_red(suite: Run, text: str, words: str) -> None:
    done = suite(text)
    assert done.returncode == 2, done.stdout
    assert words in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.requirement("TST-01", "TST-02")
def test_a_kernel_that_panics_at_boot_is_red_with_file_and_line(suite: Run) -> None:
    done = suite("programs: [boot]\nfloor: 5\n", "--kernel-args", "cpus=0", "-x")
    assert done.returncode == 1
    assert "verdict: panicked" in done.stdout
    assert re.search(r"panicked: PANIC cpu0: .*cpus=0.* at kernel/src/\S+\.rs:\d+", done.stdout), done.stdout
    assert "run just this: pytest --board qemu-x86_64 --kernel-args cpus=0" in done.stdout
