"""Machines are admitted by vCPU budget, over processes."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from harness.board import Admission, AdmissionError, read_board
from harness.board.admission import default_budget
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment

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


@dataclass
class Stands:
    """A machine of this test's own, which tells when it is paused."""

    done: list[str] = field(default_factory=list)

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")


@pytest.mark.requirement("DEV-02")
def test_two_that_hold_one_and_want_all_take_turns(tmp_path: Path) -> None:
    both_hold, machines = threading.Barrier(2), (Stands(), Stands())
    alone: list[bool] = []
    one = threading.Lock()

    def session(machine: Stands) -> None:
        admission = Admission(4, tmp_path)  # each opens slots of its own, as another process does
        first = admission.take(1, 60.0, machine)
        both_hold.wait(60)
        second = admission.take(4, 60.0)
        alone.append(one.acquire(blocking=False) and holds(tmp_path) == 4)
        one.release()
        admission.give_back(second)
        admission.give_back(first)

    threads = [threading.Thread(target=session, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert alone == [True, True]
    assert any(machine.done for machine in machines)
    assert all(machine.done in ([], ["pause", "resume"]) for machine in machines)
    assert holds(tmp_path) == 0


@pytest.mark.requirement("DEV-02")
def test_who_gets_no_room_goes_on_with_what_it_had(tmp_path: Path) -> None:
    mine, other, machine = Admission(4, tmp_path), Admission(4, tmp_path), Stands()
    with other.lease(1):
        first = mine.take(1, 5.0, machine)
        with pytest.raises(AdmissionError, match="4 of 4 vCPU slots"):
            mine.take(4, 0.1)
        assert machine.done == ["pause", "resume"]
        assert holds(tmp_path) == 2
        mine.give_back(first)
        assert holds(tmp_path) == 1


@pytest.mark.requirement("DEV-02")
def test_room_that_is_free_is_taken_without_a_pause(tmp_path: Path) -> None:
    admission, machine = Admission(4, tmp_path), Stands()
    first = admission.take(1, 0.0, machine)
    second = admission.take(3, 0.0)
    assert (holds(tmp_path), machine.done) == (3, [])
    admission.give_back(first)
    assert holds(tmp_path) == 3
    admission.give_back(second)
    assert holds(tmp_path) == 0


@pytest.mark.requirement("DEV-02")
def test_a_machine_larger_than_the_budget_runs_alone(tmp_path: Path) -> None:
    admission, other = Admission(4, tmp_path), holder(tmp_path, 1)
    try:
        with pytest.raises(AdmissionError):
            admission.take(9, 0.1)
    finally:
        other.kill()
        other.communicate(timeout=30)
    with admission.lease(9, 60.0):
        assert holds(tmp_path) == 4


CROWD = """
import os, random, sys
from pathlib import Path
from harness.board import Admission

journal = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
admission = Admission(4, Path(sys.argv[1]))
draw = random.Random(int(sys.argv[3]))

def tell(change):
    os.write(journal, f"{change:+d}\\n".encode())

class Machine:
    def __init__(self, vcpus):
        self.vcpus = vcpus
    def pause(self):
        tell(-self.vcpus)
    def resume(self):
        tell(self.vcpus)

print("up", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[4])):
    small, large = draw.randint(1, 3), draw.randint(1, 6)
    first = admission.take(small, 300.0, Machine(small))
    tell(small)
    second = admission.take(large, 300.0)
    more = max(min(large, 4), small) - small
    tell(more)
    sum(range(100_000))  # it runs for a while
    tell(-more)
    admission.give_back(second)
    tell(-small)
    admission.give_back(first)
print("done")
"""


@pytest.mark.requirement("DEV-02")
def test_a_crowd_never_exceeds_the_budget_and_never_waits_for_ever(tmp_path: Path) -> None:
    """Each tells of vCPUs after it took them and before it gives them back, so their sum is at most what is held."""
    journal = tmp_path / "journal"
    journal.touch()
    slots = tmp_path / "slots"
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD, str(slots), str(journal), str(seed), "12"],
            cwd=TOP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    try:
        for process in crowd:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        for process in crowd:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=400)[0] for process in crowd]
    finally:
        for process in crowd:
            process.kill()
    assert said == ["done\n"] * 4
    sums = list(itertools.accumulate(int(line) for line in journal.read_text().splitlines()))
    assert len(sums) >= 4 * 12 * 4
    assert max(sums) == 4
    assert sums[-1] == 0
    assert holds(slots) == 0


@pytest.mark.requirement("DEV-02")
def test_a_real_machine_stands_still_while_a_larger_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(BOARD)
    board = replace(read_board(tmp_path / "tiny.yaml"), kernel=None)
    files = BootFiles(write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SPIN))
    slots = tmp_path / "slots"
    monkeypatch.setattr(importlib.import_module("harness.board.admission"), "_admission", Admission(2, slots))
    small, large = QemuMachine(board, files), QemuMachine(replace(board, smp=2), files)
    other = Admission(2, slots)
    blocker = other.take(1)
    status: list[str] = []

    def look() -> None:
        try:
            small.wait_event("STOP", 60)
            status.append(small.status())
        except TimeoutError:
            status.append("never stopped")
        finally:
            other.give_back(blocker)

    looker = threading.Thread(target=look)
    try:
        small.on()
        looker.start()
        large.on()
        looker.join(60)
        assert status == ["paused"]
        assert [small.status(), large.status()] == ["running", "running"]
        assert holds(slots, 2) == 2
    finally:
        large.off()
        small.off()
    assert holds(slots, 2) == 0


def holds(folder: Path, budget: int = 4) -> int:
    """Slots that anybody holds, as the kernel lists its locks (proc(5), /proc/locks)."""
    slots = {path.stat().st_ino for path in folder.glob("slot-*")}
    assert len(slots) <= budget
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return len({int(words[-3].rpartition(":")[2]) for words in locks if "->" not in words} & slots)


@pytest.mark.requirement("DEV-02", "ERR-01")
def test_who_waits_long_is_told_once_for_whom(tmp_path: Path) -> None:
    """As a user sees it: pytest's terminal says it while the test still waits."""
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "mine.yaml").write_text(BOARD)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it(fresh_machine):\n    pass\n")
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SLEEP)
    slots = tmp_path / f"quoin-vcpu-{os.getuid()}"
    slots.mkdir()
    other = holder(slots, 4)
    wanted = "waiting for 1 of 4 vCPU slots, 600 s at most; they are held by process"
    try:
        ran = subprocess.Popen(
            ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command("-q", "--board", "mine")],
            cwd=tmp_path,
            env={**environment(), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ran.stdout is not None
        said = ""
        for line in ran.stdout:
            said += line
            if wanted in line:
                break
    finally:
        other.kill()
        other.communicate(timeout=30)
    rest, _ = ran.communicate(timeout=300)
    assert f"{wanted} {other.pid} ({sys.executable} -c" in said
    assert f" in {TOP}): 4\n" in said
    assert wanted not in rest
    assert "1 passed" in rest
