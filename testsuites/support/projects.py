"""A stranger's project: a folder with a board file and tests of its own, run by a pytest of its own."""

from __future__ import annotations

import os
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
