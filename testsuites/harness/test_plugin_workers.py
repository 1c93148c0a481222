"""Runs of several workers: within the vCPU budget, past a worker that is killed, with the coverage of a single one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, TOP, command, environment

LIMIT_S = 500
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
    if board.smp == 3 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder with a name that is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="quoin-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.requirement("DEV-02", "DEV-01")
def test_two_workers_stay_within_the_budget_and_outlive_a_third(tmp_path: Path, short_folder: Path) -> None:
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
    assert "1 failed, 11 passed" in done.stdout, done.stdout
    assert "crashed while running" in done.stdout
    changes = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    assert len(changes) == 24
    assert len({worker for worker, _ in changes}) == 3  # two, and the one in the killed one's place
    sums = list(itertools.accumulate(int(change) for _, change in changes))
    assert max(sums) == 4
    assert min(sums) == 0


@pytest.mark.requirement("DEV-02", "TST-30")
def test_coverage_of_two_workers_is_that_of_one(tmp_path: Path) -> None:
    def covered(name: str, *arguments: str) -> Path:
        suite = "testsuites/boot/test_boot.py"
        options = ["--board", "qemu-riscv64", "--smp", "1,2", "--coverage", "--coverage-folder", str(tmp_path / name)]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-k",
                "names_it",
                *options,
                *arguments,
                suite,
            ],
            cwd=TOP,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return tmp_path / name

    one, two = covered("one"), covered("two", "-n", "2")
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert {path.relative_to(two) for path in two.rglob("*") if path.is_file()} == files
    assert sum(path.parts[0] == "tests" for path in files) >= 4
    for path in files:
        if path.parts[0] == "lines":
            assert (one / path).read_bytes() == (two / path).read_bytes(), path
        elif path.parts[0] == "tests":
            assert shape(one / path) == shape(two / path)
    assert known(one) == known(two)
    assert known(one)["total"] > 1000


def shape(path: Path) -> tuple[str, str, list[str]]:
    """What does not depend on when an interrupt came: the test, the sources' state, and files that it executes."""
    record = json.loads(path.read_text())
    return record["test"], record["tree"], sorted({*record["own"], *record["boot"]})


def known(folder: Path) -> dict[str, int]:
    """Lines that made code, by file, as the summary tells."""
    rows = (line.split() for line in (folder / "summary.txt").read_text().splitlines())
    return {row[0]: int(row[3]) for row in rows}
