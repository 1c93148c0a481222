"""What recording coverage costs: all suites of the kernel on a board with it and without it, and the boot suite alone.

Run with `quoin bench -k coverage`. The two take turns, and the best of three of each counts: the host may be busy.
The boot suite is the worst case, boots and little else: QEMU 7.2 translates a third slower with any plugin, also with
one that asks for nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.measure.plugin import Metric

TOP = Path(__file__).resolve().parents[2]
ROUNDS = 3


# Those that need one host thread and count instructions are not what coverage is recorded of.
ALL = ("boot", "smp", "user", "caps", "ipc", "notification")


def suite_seconds(board: Board, suites: tuple[str, ...], *options: str) -> float:
    """Seconds of one run of these suites."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--board", board.name, *options]
    began = time.monotonic()
    folders = [f"testsuites/{suite}" for suite in suites]
    done = subprocess.run([*command, *folders], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began


def cost(board: Board, folder: Path, suites: tuple[str, ...]) -> float:
    """How many times as long these suites take with coverage as without."""
    recording = ("--coverage", "--coverage-folder", str(folder))
    suite_seconds(board, suites, *recording)  # which reads the line tables, once for each build
    plain = recorded = float("inf")
    for _ in range(ROUNDS):
        plain = min(plain, suite_seconds(board, suites))
        recorded = min(recorded, suite_seconds(board, suites, *recording))
    print(f"{board.id}: {plain:.1f} s, with coverage {recorded:.1f} s: {recorded / plain:.2f} times")
    return recorded / plain


@pytest.mark.bench
@pytest.mark.requirement("TST-30", "TST-16")
def test_coverage_cost(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    assert artifacts.kernel.exists()
    metric("coverage.cost", cost(board, tmp_path, ALL), unit="times", noise=None)


@pytest.mark.bench
@pytest.mark.requirement("TST-30", "TST-16")
def test_coverage_cost_of_boots(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    assert artifacts.kernel.exists()
    metric("coverage.boot_cost", cost(board, tmp_path, ("boot",)), unit="times", noise=None)
