"""A stranger's project: a folder with a board file and tests of its own, run by a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BOARD = """\
targets:
  main:
    features: [qmp]
    drivers:
      QuoinQemuDriver:
        arch: riscv64
        binary: qemu-system-riscv64
        machine: virt
        cpu: rv64
        smp: 1
        memory: 128M
        ready: '^init: ready'
        boot_timeout_s: 10
        kernel: guest
images:
  guest: ../guest
"""


def command(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "harness.plugin",
        "-p",
        "no:labgrid",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))}
    return {**kept, "PYTHONPATH": str(TOP), "COLUMNS": "200"}


def lay_out(folder: Path, tests: str, *, name: str = "tiny", board: str = BOARD) -> None:
    """Write a project with one board and `test_it.py`."""
    (folder / "boards").mkdir()
    (folder / "boards" / f"{name}.yaml").write_text(board)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(tests)


def run_pytest(folder: Path, *arguments: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
