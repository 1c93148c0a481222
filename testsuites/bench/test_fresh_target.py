"""What a clean target costs: load to first byte, whole tests through pytest, beside a cold boot.

Run with `pytest -m bench testsuites/bench/test_fresh_target.py`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.board import Board
from harness.console import Session, clean_target
from harness.measure.plugin import Metric

TOP = Path(__file__).resolve().parents[2]
LOADS = 100
FEW, MANY = 5, 205
ROUNDS = 3

TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(fresh_target, number):
    assert fresh_target.console.command("sleep 0") == ""
"""


def run_seconds(folder: Path, board: Board, count: int) -> float:
    """Seconds of a whole run of pytest with `count` tests."""
    path = folder / f"test_{count}.py"
    path.write_text(TESTS.format(count=count))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "harness.plugin",
        "-p",
        "no:cacheprovider",
        f"--rootdir={TOP}",
        "-c",
        str(TOP / "pyproject.toml"),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--board", board.name, path], cwd=TOP, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - began


@pytest.mark.bench
@pytest.mark.requirement("DEV-08", "DEV-03")
def test_cost_of_a_fresh_target(board: Board, boot: Callable[..., Session], tmp_path: Path, metric: Metric) -> None:
    began = time.monotonic()
    session = boot()
    cold = time.monotonic() - began
    clean_target.wait_idle(session)
    point = clean_target.save(session)
    times = []
    for _ in range(LOADS):
        began = time.monotonic()
        clean_target.load(session, point)
        session.console.skip()
        session.console.send("a")
        session.console.expect("a")
        times.append(time.monotonic() - began)
    session.close()
    first = statistics.median(times)
    few = many = float("inf")
    # In turn, and the best of each: the host may be busy.
    for _ in range(ROUNDS):
        few = min(few, run_seconds(tmp_path, board, FEW))
        many = min(many, run_seconds(tmp_path, board, MANY))
    rate = (MANY - FEW) / (many - few)
    text = (
        f"{board.id}: first byte after {first * 1000:.1f} ms in the median of {LOADS}, "
        f"1/{cold / first:.0f} of a cold boot ({cold:.3f} s); {rate:.0f} tests a second through pytest"
    )
    print(text)
    first_bytes_ms = [1000 * took for took in times]
    metric.samples("fresh_target.first_byte", first_bytes_ms, unit="ms", warm_up=0, noise=None)
    metric("fresh_target.rate", rate, unit="tests/s", better="higher", noise=None)
