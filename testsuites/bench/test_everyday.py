"""What is waited for many times a day: a build with nothing to do, help, and pytest without a board.

Run with `quoin bench -k everyday`. The best of three is taken: the host may be busy.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.measure.plugin import Metric

TOP = Path(__file__).resolve().parents[2]


def best(command: Sequence[str], folder: Path = TOP) -> float:
    """Seconds of the quickest of three runs."""

    def once() -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, check=True)
        return time.monotonic() - began

    return min(once() for _ in range(3))


@pytest.mark.bench
@pytest.mark.requirement("BLD-01")
def test_a_build_with_nothing_to_do(metric: Metric) -> None:
    bare = best(["-c", ""])
    spent = best(["-m", "harness.cli", "build"])
    print(f"unchanged tree, three architectures: {spent:.3f} s, {spent / bare:.1f} times bare Python")
    metric("build.unchanged", spent, unit="s", noise=None)


@pytest.mark.bench
@pytest.mark.requirement("DEV-02")
def test_pytest_without_a_board(tmp_path: Path, metric: Metric) -> None:
    (tmp_path / "test_it.py").write_text("def test_plain():\n    pass\n")
    plain = ["-m", "pytest", "-q", "-p", "no:labgrid", "-p", "no:cacheprovider"]
    without = best(plain, tmp_path)
    with_plugin = best([*plain, "-p", "harness.plugin"], tmp_path)
    cost = with_plugin - without
    print(
        f"plugin, no board taken: {cost * 1000:+.0f} ms on {without:.3f} s, {with_plugin / without:.2f} times",
    )
    metric("pytest.plugin", cost * 1000, unit="ms", noise=None)
