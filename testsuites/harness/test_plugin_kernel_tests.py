"""Kernel tests as items: records read from an ELF, a row of cases run, crashes survived.

The target here is a script at the other end of a socket; the suites of the
kernel prove the same with the kernel.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.board import LabError, read_board
from harness.console import Broker, Channel, Console, ConsoleFault, TargetPanicked
from harness.console.framing import Frame, decode, encode
from harness.plugin.records import Record, read_records
from harness.plugin.runner import CaseRun
from support.projects import run_pytest

TOP = Path(__file__).resolve().parents[2]
BOARD = read_board(TOP / "boards" / "qemu-riscv64.yaml")
FAULTING = ("an_illegal_instruction_ends_the_program", "a_breakpoint_ends_the_program")


class ScriptedTarget:
    """A test daemon that runs cases as its script says: `ok`, a cause, `panic`, or `torn`.

    It has the parts of a Session that a run of cases uses.
    """

    def __init__(self, script: dict[str, str]) -> None:
        ours, self._socket = socket.socketpair()
        self.script = script
        self.asked: list[list[str]] = []
        self.dirty: str | None = None
        self.ready_line = "init: ready"
        self.broker = Broker(ours)
        self.console = Console(self.broker)
        self.channel = Channel(self.broker)
        self.broker.start()
        self._sequence = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def mark_dirty(self, why: str) -> None:
        self.dirty = why

    def wait_ready(self) -> None:
        pass

    def close(self) -> None:
        self._socket.close()
        self.broker.close()

    def _say(self, payload: str) -> None:
        self._sequence += 1
        self._socket.sendall(encode(self._sequence, payload))

    def _serve(self) -> None:
        for line in self._socket.makefile("rb"):
            frame = decode(line.rstrip(b"\n"))
            if not isinstance(frame, Frame):
                continue
            self._say(f"ack {frame.sequence:04x}")
            cases = frame.payload.split()[1:]
            self.asked.append(cases)
            self._say("KTAP version 1")
            self._say(f"1..{len(cases)}")
            for number, case in enumerate(cases, 1):
                if not self._run(number, case):
                    return

    def _run(self, number: int, case: str) -> bool:
        self._say(f"# start {case}")
        self._socket.sendall(b"output of %s\r\n" % case.encode())
        does = self.script.get(case, "ok")
        if does == "panic":
            self._socket.sendall(b"PANIC cpu0: planted at kernel/src/x.rs:7:1\nPANIC end\n")
            return False
        if does == "torn":
            self._socket.sendall(encode(self._sequence + 1, f"ok {number} {case}").replace(b"ok", b"oK"))
            return False
        self._say(f"ok {number} {case} # time_ns=5" if does == "ok" else f"not ok {number} {case} # {does}")
        return True


class ScriptedLab:
    """Gives a new target when the last one is dirty, as the lab does."""

    def __init__(self, script: dict[str, str]) -> None:
        self.script = script
        self.targets: list[ScriptedTarget] = []

    def shared(self, _board: object, _sinks: object = ()) -> tuple[ScriptedTarget, bool]:
        if self.targets and self.targets[-1].dirty is None:
            return self.targets[-1], False
        self.targets.append(ScriptedTarget(self.script))
        return self.targets[-1], True

    def run(self, cases: list[str]) -> CaseRun:
        return CaseRun(cast(Any, self), BOARD, cases)


@pytest.fixture
def script() -> Iterator[dict[str, str]]:
    yield {}


@pytest.fixture
def lab(script: dict[str, str]) -> Iterator[ScriptedLab]:
    lab = ScriptedLab(script)
    yield lab
    for target in lab.targets:
        target.close()


@pytest.mark.requirement("TST-01", "TST-02")
def test_cases_of_a_row_travel_together_and_each_has_its_own_result(lab: ScriptedLab, script: dict[str, str]) -> None:
    cases = ["vm:one", "vm:two", "vm:three"]
    script["vm:two"] = "exit 101"
    run = lab.run(cases)
    outcomes = []
    for case in cases:
        run.open()
        outcomes.append(run.outcome(case, 5.0))
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert outcomes[1].note == "exit 101"
    assert [outcome.lines for outcome in outcomes] == [(f"output of {case}",) for case in cases]
    assert outcomes[0].time_ns == 5
    assert lab.targets[0].asked == [cases]


@pytest.mark.requirement("TST-01", "TST-02")
def test_after_a_crash_only_the_rest_is_run_on_a_new_boot(lab: ScriptedLab, script: dict[str, str]) -> None:
    cases = ["vm:one", "vm:two", "vm:three", "vm:four"]
    script["vm:two"] = "panic"
    run = lab.run(cases)
    run.open()
    assert run.outcome("vm:one", 5.0).ok
    run.open()
    with pytest.raises(TargetPanicked, match="planted"):
        run.outcome("vm:two", 5.0)
    assert [text for _, text in run.lines_of("vm:two")][:2] == [
        "output of vm:two",
        "PANIC cpu0: planted at kernel/src/x.rs:7:1",
    ]
    for case in ("vm:three", "vm:four"):
        run.open()
        assert run.outcome(case, 5.0).ok
    assert [target.asked for target in lab.targets] == [[cases], [["vm:three", "vm:four"]]]


@pytest.mark.requirement("TST-02")
def test_a_torn_result_is_a_fault_and_not_a_verdict(lab: ScriptedLab, script: dict[str, str]) -> None:
    script["vm:one"] = "torn"
    run = lab.run(["vm:one"])
    run.open()
    with pytest.raises(ConsoleFault):
        run.outcome("vm:one", 5.0)


@pytest.mark.requirement("TST-02")
def test_a_long_row_goes_in_several_frames(lab: ScriptedLab) -> None:
    cases = [f"program:a_case_with_a_long_name_{number:03}" for number in range(60)]
    run = lab.run(cases)
    for case in cases:
        run.open()
        assert run.outcome(case, 5.0).ok
    assert len(lab.targets) == 1
    assert len(lab.targets[0].asked) > 1
    assert [case for batch in lab.targets[0].asked for case in batch] == cases


SOURCE = """
typedef unsigned long u64;
struct record {
    u64 name, name_length, file, file_length, ids, ids_length, needs, needs_length, run;
    unsigned line, flags;
};
static const char name[] = "reads_back", file[] = "user/tests/vm/src/main.rs";
static const char ids[] = "VMM-01 VMM-02", needs[] = "smp>=2";
__attribute__((section(".quoin.tests"), used)) static struct record records[] = {
    { (u64)name, 10, (u64)file, 25, (u64)ids, 13, (u64)needs, 6, 0, 42, 0 },
    { (u64)name, 5, (u64)file, LENGTH, 0, 0, 0, 0, 0, 43, 0 },
};
void _start(void) {}
"""


def program(folder: Path, length: int) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this host")
    (folder / "vm.c").write_text(SOURCE.replace("LENGTH", str(length)))
    flags = ["-nostdlib", "-static", "-no-pie", "-Wno-pointer-to-int-cast"]
    subprocess.run([compiler, *flags, "-o", "vm", "vm.c"], cwd=folder, check=True, timeout=60, capture_output=True)
    return folder / "vm"


@pytest.mark.requirement("TST-02")
def test_records_are_read_from_the_elf_without_booting(tmp_path: Path) -> None:
    assert read_records(program(tmp_path, 25)) == [
        Record("vm", "reads_back", "user/tests/vm/src/main.rs", 42, ("VMM-01", "VMM-02"), ("smp>=2",)),
        Record("vm", "reads", "user/tests/vm/src/main.rs", 43, (), ()),
    ]


@pytest.mark.requirement("TST-02")
def test_a_record_that_points_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="which no segment holds"):
        read_records(program(tmp_path, 1 << 30))


@pytest.mark.requirement("TST-02")
def test_a_program_that_is_no_elf_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "vm"
    path.write_text("no")
    with pytest.raises(LabError, match="vm: cannot be read as an ELF file"):
        read_records(path)


@pytest.mark.requirement("DEV-08", "DEV-02")
def test_each_case_has_its_own_boot_where_asked() -> None:
    def processes(*options: str) -> list[int]:
        """The numbers of the processes that two cases let fault."""
        cases = [f"testsuites/user/kernel-tests.yaml::user:{name}" for name in FAULTING]
        done = run_pytest(TOP, "-p", "no:cacheprovider", "-rP", "--board", BOARD.name, *options, *cases)
        assert done.returncode == 0, done.stdout
        return [int(number) for number in re.findall(r"fault: faults\[(\d+)\]", done.stdout)]

    first, second = processes("--cold")
    assert first == second
    shared, later = processes()
    assert shared == first < later
