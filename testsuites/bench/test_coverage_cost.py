"""What recording coverage costs: all suites of the kernel on a board with it and without it, and the boot suite alone.

Run with `quoin bench -k coverage`. The two take turns, and the best of three of each counts: the host may be busy, so
CPU time is told beside the time that passed. The boot suite is boots and little else. Boots are on record before the
clock starts, as in daily work between two builds: QEMU 7.2 translates a third slower for a plugin that looks on.
"""

from __future__ import annotations

import resource
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


def suite_seconds(board: Board, suites: tuple[str, ...], *options: str) -> tuple[float, float]:
    """Seconds of one run of these suites: those that passed, and those of CPU time in user mode, QEMU's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--board", board.name, *options]
    began = time.monotonic()
    folders = [f"testsuites/{suite}" for suite in suites]
    done = subprocess.run([*command, *folders], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def cost(board: Board, folder: Path, suites: tuple[str, ...]) -> tuple[float, float]:
    """How many times as long these suites take with coverage as without, and how many times as much CPU time."""
    recording = ("--coverage", "--coverage-folder", str(folder))
    suite_seconds(board, suites, *recording)  # which reads the line tables and records the boots, once for each build
    plain, recorded = [], []
    for _ in range(ROUNDS):
        plain.append(suite_seconds(board, suites))
        recorded.append(suite_seconds(board, suites, *recording))
    times = []
    for at, what in enumerate(("passed", "of CPU time")):
        without, with_it = min(one[at] for one in plain), min(one[at] for one in recorded)
        times.append(with_it / without)
        print(f"{board.id}: {without:.1f} s {what}, with coverage {with_it:.1f} s: {times[-1]:.2f} times")
    return times[0], times[1]


@pytest.mark.bench
@pytest.mark.requirement("TST-30", "TST-16")
def test_coverage_cost(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    assert artifacts.kernel.exists()
    passed, cpu = cost(board, tmp_path, ALL)
    metric("coverage.cost", passed, unit="times", noise=None)
    metric("coverage.cpu_cost", cpu, unit="times", noise=None)


@pytest.mark.bench
@pytest.mark.requirement("TST-30", "TST-16")
def test_coverage_cost_of_boots(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    assert artifacts.kernel.exists()
    passed, cpu = cost(board, tmp_path, ("boot",))
    metric("coverage.boot_cost", passed, unit="times", noise=None)
    metric("coverage.boot_cpu_cost", cpu, unit="times", noise=None)
