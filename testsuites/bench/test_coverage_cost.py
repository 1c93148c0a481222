"""What recording coverage costs: the boot suite of a board with it and without it.

Run with `quoin bench -k coverage`. The two take turns, and the best of three of each counts: the host may be busy.
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


def suite_seconds(board: Board, *options: str) -> float:
    """Seconds of one run of the boot suite."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--board", board.name, *options]
    began = time.monotonic()
    done = subprocess.run([*command, "testsuites/boot"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began


@pytest.mark.bench
@pytest.mark.requirement("TST-30", "TST-16")
def test_coverage_cost(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    assert artifacts.kernel.exists()
    plain = recorded = float("inf")
    for _ in range(ROUNDS):
        plain = min(plain, suite_seconds(board))
        recorded = min(recorded, suite_seconds(board, "--coverage", "--coverage-folder", str(tmp_path)))
    text = f"{board.id}: boot suite {plain:.1f} s, with coverage {recorded:.1f} s: {recorded / plain:.2f} times"
    print(text)
    metric("coverage.cost", recorded / plain, unit="times", noise=None)
