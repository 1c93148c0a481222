"""Other kernels under this lab: the examples in docs/examples, as a stranger would run them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.console import Direction, Lines, PanicWatcher
from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, TOP, command, environment, lay_out

LINUX = TOP / "docs" / "examples" / "linux"
# Where it runs: what is fetched stays there.
HERE = TOP / "build" / "examples" / "linux"
LIMIT_S = 1500


CLEAN = r"""
import pytest

@pytest.mark.parametrize("round", [1, 2])
def test_what_stands_between_ready_and_prompt_is_there_each_time(fresh_target, round):
    fresh_target.console.expect(r"^a word of welcome\n\$ \Z", 30)
"""


def run(words: list[str], folder: Path = HERE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.requirement("TST-29", "TST-26", "BLD-10", "DOC-18", "OBS-14")
def test_debians_kernels_pass_the_example_on_three_architectures() -> None:
    """Each to its panic and to a shell; on one, because links differ in nothing there, two machines with links."""
    shutil.copytree(LINUX, HERE, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build", "__pycache__"))
    fetched = run([sys.executable, "fetch.py"])
    if fetched.returncode and fetched.stderr.startswith("fetch: "):
        pytest.skip(f"Debian's packages cannot be had here: {fetched.stderr.strip().splitlines()[0]}")
    assert fetched.returncode == 0, fetched.stderr
    ran = run(command("-q", "--board", "linux-*", "-k", "not test_links or aarch64"))
    assert ran.returncode == 0, ran.stdout[-8000:]
    assert re.search(r"^19 passed, 3 skipped, 2 deselected", ran.stdout, re.MULTILINE), ran.stdout[-2000:]


@pytest.mark.requirement("DOC-23", "DOC-18")
def test_the_lab_knows_no_linux_but_its_words_for_a_panic() -> None:
    """What a kernel needs of the lab stands in its board file; a Linux *Image* is a file format that others use too."""
    knows = re.compile(r"\b(?:busybox|debian|initramfs|vmlinuz|rootfs|sysrq)\b|/sbin/init", re.IGNORECASE)
    lab = [
        path for part in ("board", "machine", "console", "plugin") for path in (TOP / "harness" / part).rglob("*.py")
    ]
    assert len(lab) > 30
    found = {path.name for path in lab if knows.search(path.read_text(encoding="utf-8"))}
    assert found <= {"panic.py"}, found


@pytest.mark.requirement("OBS-14", "DOC-19")
@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("VFS: Unable to mount root fs on unknown-block(0,0)", "it has no root file system"),
        ("No working init found.  Try passing init= option to kernel.", "no program that it can start"),
        ("Attempted to kill init! exitcode=0x00000100", "its first process has ended"),
        ("Fatal exception in interrupt", ""),
    ],
)
def test_a_panic_in_linuxs_words_is_whole_and_says_what_it_comes_to(message: str, cause: str) -> None:
    said = f"Kernel panic - not syncing: {message}"
    watcher = PanicWatcher("Kernel panic - not syncing: ", r"\$ ")
    text = f"[    1.850837] {said}\n[    1.850900] Call Trace:\n[    1.851106] ---[ end {said} ]---\n[    1.9] more\n"
    watcher.see(Lines(text.encode(), 1.0, Direction.FROM_TARGET))
    assert watcher.report is not None
    assert watcher.report.complete and len(watcher.report.lines) == 3, watcher.report.lines
    assert watcher.report.message == said, "without its time: the same panic reads the same in each run"
    assert watcher.report.cause.startswith(said) and cause in watcher.report.cause
    assert cause or watcher.report.cause == said


@pytest.mark.requirement("TST-29")
def test_a_clean_target_shows_again_what_a_kernel_says_before_its_prompt(tmp_path: Path) -> None:
    lay_out(tmp_path, CLEAN, board=BOARD.replace("[qmp]", "[qmp, snapshot]"))
    write_tiny_guest(tmp_path / "guest", "init: ready\na word of welcome\n$ ", Then.SLEEP)
    ran = run(command("-q", "-rA", "--board", "tiny"), tmp_path)
    assert ran.stdout.count("loaded from a snapshot") == 1 and "2 passed" in ran.stdout, ran.stdout[-4000:]
