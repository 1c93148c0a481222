"""Machines are admitted by vCPU budget, over processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.board import Admission, AdmissionError
from harness.board.admission import default_budget

TOP = Path(__file__).resolve().parents[2]

HOLDER = """
import sys
from pathlib import Path
from harness.board import Admission
Admission(4, Path(sys.argv[1])).take(int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path, vcpus: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(vcpus)],
        cwd=TOP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.requirement("DEV-02")
def test_another_process_waits_and_gets_the_slots_of_one_that_was_killed(tmp_path: Path) -> None:
    process = holder(tmp_path, 3)
    try:
        mine = Admission(4, tmp_path)
        with mine.lease(1, timeout_s=5.0):
            pass
        with pytest.raises(AdmissionError, match="2 of 4 vCPU slots"):
            mine.take(2, timeout_s=0.1)
    finally:
        process.kill()
        process.communicate(timeout=10)
    with mine.lease(4, timeout_s=5.0):
        pass


@pytest.mark.requirement("DEV-02")
def test_a_thread_never_waits_for_itself_and_others_do(tmp_path: Path) -> None:
    admission = Admission(4, tmp_path)
    seen: list[str] = []

    def other() -> None:
        try:
            admission.take(1, timeout_s=0.05)
        except AdmissionError:
            seen.append("refused")

    with admission.lease(4), admission.lease(4, timeout_s=0.0), admission.lease(8, timeout_s=0.0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
    assert seen == ["refused"]
    with Admission(4, tmp_path).lease(4, timeout_s=0.5):
        pass


@pytest.mark.requirement("DEV-02")
def test_one_board_of_four_cpus_always_fits() -> None:
    assert default_budget() >= 4


@pytest.mark.requirement("DEV-02")
def test_only_one_process_at_a_time_goes_beyond_the_budget(tmp_path: Path) -> None:
    first, second = Admission(4, tmp_path), Admission(4, tmp_path)
    owner, other = first.take(2), second.take(2)
    first.take(4, timeout_s=0.1)
    with pytest.raises(AdmissionError):
        second.take(4, timeout_s=0.1)
    first.give_back(owner, 4)
    with pytest.raises(AdmissionError):
        second.take(3, timeout_s=0.1)
    first.give_back(owner, 2)
    second.take(4, timeout_s=0.1)
    assert holds(tmp_path) == 4
    second.give_back(other, 4)
    assert holds(tmp_path) == 2
    second.give_back(other, 2)
    assert holds(tmp_path) == 0


def holds(folder: Path) -> int:
    """Slots that anybody holds."""
    probe = Admission(4, folder)
    free = probe._free(4)
    for slot in free:
        os.close(slot)
    return 4 - len(free)
