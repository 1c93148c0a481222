"""Runs of several workers: within the vCPU budget, and past workers that are killed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment, run_pytest

LIMIT_S = 240
TESTS = """
import os, signal
import pytest

WORKER = os.environ["PYTEST_XDIST_WORKER"]
journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def tell(vcpus):
    os.write(journal, f"{WORKER} {vcpus:+d}\\n".encode())

@pytest.mark.parametrize("number", range(3))
def test_boots(boot, board, number):
    session = boot()
    tell(board.smp)
    session.console.send("abc")
    session.console.expect("abc", 60)
    tell(-board.smp)
    if board.smp > 1 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


# The second worker ends when the first one's replacement collects, which goes on when the second has ended.
REPLACED = """
import fcntl, os, signal
import pytest

WORKER = os.environ["PYTEST_XDIST_WORKER"]
own = open(WORKER, "w")
fcntl.flock(own, fcntl.LOCK_EX)
if WORKER == "gw2":
    open("collecting", "w").close()
    for other in ("gw0", "gw1"):
        fcntl.flock(open(other), fcntl.LOCK_EX)

def test_one():
    os.kill(os.getpid(), signal.SIGKILL)

def test_two():
    open("collecting").close()
    os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.parametrize("number", range(6))
def test_others(number):
    pass
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder with a name that is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="quoin-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.requirement("DEV-02", "DEV-01")
def test_two_workers_stay_within_the_budget_and_others_take_the_place_of_killed_ones(
    tmp_path: Path, short_folder: Path
) -> None:
    """The journal is written after a boot and before its end, so that its sums are at most the vCPUs that run."""
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "tiny.yaml").write_text(BOARD.replace("boot_timeout_s: 10", "boot_timeout_s: 120"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.ECHO)
    (tmp_path / "test_it.py").write_text(TESTS)
    one_core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        command("-v", "-n", "2", "--board", "tiny", "--smp", "1,2,3,4"),
        cwd=tmp_path,
        # Slots of its own; and the budget of one core, which is four everywhere.
        env=environment() | {"TMPDIR": str(short_folder)},
        preexec_fn=lambda: os.sched_setaffinity(0, {one_core}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "3 failed, 9 passed" in done.stdout, done.stdout
    assert done.stdout.count("crashed while running") == 6  # each test once, with its failure and in the summary
    changes = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    assert len(changes) == 24
    assert len({worker for worker, _ in changes}) >= 3  # at least one in a killed one's place
    sums = list(itertools.accumulate(int(change) for _, change in changes))
    assert max(sums) == 4
    assert min(sums) == 0


@pytest.mark.requirement("DEV-01")
def test_a_worker_that_still_collects_is_given_no_tests(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(REPLACED)
    os.mkfifo(tmp_path / "collecting")  # opened by two at once: who comes first waits
    done = run_pytest(tmp_path, "-n", "2", timeout_s=LIMIT_S)
    assert "2 failed, 6 passed" in done.stdout, done.stdout
