"""What the lab costs beside bare QEMU: one boot and one trivial test, and each further test.

Run with `pytest -m bench testsuites/bench`. Both sides boot the same machine to
the same console line, in turn, and the best of three is taken: the host may be busy.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.machine import BootFiles, QemuMachine
from harness.measure.plugin import Metric

TOP = Path(__file__).resolve().parents[2]
ROUNDS = 3
FURTHER = 100

TESTS = f"""
import pytest

def test_first(machine):
    assert machine.ready_line

@pytest.mark.parametrize("number", range({FURTHER}))
def test_further(machine, number):
    assert machine.ready_line
"""


def bare_seconds(command: list[str], ready: str) -> float:
    """Seconds from the start of QEMU to the console line, with nothing but a socket between."""
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    serial = ["-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"]
    process = subprocess.Popen([*command, *serial], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    try:
        theirs.close()
        ours.settimeout(60)
        pattern = re.compile(ready.encode(), re.MULTILINE)
        text = b""
        while not pattern.search(text):
            piece = ours.recv(65536)
            assert piece, text
            text += piece
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait(10)
        ours.close()


def pytest_seconds(folder: Path, board: Board, chosen: str) -> float:
    """Seconds of a whole run of pytest, interpreter start included."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    plugins = ["-p", "harness.plugin", "-p", "no:labgrid", "-p", "no:xdist"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--board", board.name, "-k", chosen, "test_it.py"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return time.monotonic() - began


@pytest.mark.bench
@pytest.mark.requirement("DEV-02")
def test_overhead_of_the_lab(board: Board, artifacts: Artifacts, tmp_path: Path, metric: Metric) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / board.path.name).write_text(
        board.path.read_text().replace("        arch:", "        kernel: kernel\n        initrd: initrd\n        arch:")
        + f"images:\n  kernel: {artifacts.image}\n  initrd: {artifacts.archive}\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    command = QemuMachine(board, BootFiles(artifacts.image, artifacts.archive)).command()
    bare = one = all_of_them = float("inf")
    for _ in range(ROUNDS):
        bare = min(bare, bare_seconds(command, board.ready))
        one = min(one, pytest_seconds(tmp_path, board, "first"))
        all_of_them = min(all_of_them, pytest_seconds(tmp_path, board, "first or further"))
    further = (all_of_them - one) / FURTHER
    text = (
        f"{board.id}: bare QEMU {bare:.3f} s, one boot and one test {one:.3f} s: {one / bare:.2f} times bare, "
        f"{one - bare:+.3f} s; each further test {further * 1000:.2f} ms"
    )
    print(text)
    metric("lab.extra", one - bare, unit="s", noise=None)
    metric("lab.further_test", further * 1000, unit="ms", noise=None)
