"""The plugin as a stranger uses it: a folder with a board file, an image and tests.

The folder knows nothing of this tree's kernel; each run of pytest is a process
of its own, with real machines.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment, run_pytest

Run = subprocess.CompletedProcess[str]
Project = Callable[..., Run]


def qemus_of(folder: Path) -> list[str]:
    """Command lines of emulators that boot something in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # It ended while we looked.
        if "qemu-system" in line and str(folder) in line and state not in "ZX":
            found.append(line)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "tiny.yaml").write_text(BOARD)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")

    def run(tests: str, *arguments: str, text: str = "init: ready\n", then: Then = Then.ECHO) -> Run:
        write_tiny_guest(tmp_path / "guest", text, then)
        (tmp_path / "test_it.py").write_text("import pytest\n" + tests)
        done = run_pytest(tmp_path, "--board", "tiny", *arguments, timeout_s=120)
        assert qemus_of(tmp_path) == []
        return done

    return run


ECHOES = """
def test_echo(machine):
    machine.console.send("abc")
    machine.console.expect("abc", 5)

def test_again(machine, console):
    console.send("xyz")
    console.expect("xyz", 5)
"""


@pytest.mark.requirement("DEV-02", "TST-01")
def test_tests_of_one_board_share_a_boot_and_keep_a_log_each(project: Project, tmp_path: Path) -> None:
    done = project(ECHOES, "-v", "--junitxml=out.xml")
    assert done.returncode == 0, done.stdout
    assert "test_it.py::test_echo[tiny-smp1] PASSED" in done.stdout
    logs = tmp_path / "build" / "logs"
    assert len(list((logs / "boots").iterdir())) == 1
    first = (logs / "test_it.py_test_echo_tiny-smp1" / "console.log").read_text()
    second = (logs / "test_it.py_test_again_tiny-smp1" / "console.log").read_text()
    assert "init: ready" in first and "> abc" in first
    assert "init: ready" not in second and "> xyz" in second
    assert all(re.match(r" +\d+\.\d{6} [|>!] ", line) for line in (first + second).splitlines())
    cases = {case.get("name"): case for case in ElementTree.parse(tmp_path / "out.xml").getroot().iter("testcase")}
    properties = {p.get("name"): p.get("value") for p in cases["test_echo[tiny-smp1]"].iter("property")}
    assert properties == {"board": "tiny-smp1", "verdict": "passed"}


@pytest.mark.requirement("DEV-02", "TST-01")
def test_a_failure_names_verdict_lines_log_and_rerun_and_the_next_test_boots_anew(
    project: Project, tmp_path: Path
) -> None:
    tests = """
def test_waits(machine):
    machine.console.expect("never", 0.3)

def test_next(machine):
    machine.console.send("abc")
    machine.console.expect("abc", 5)
"""
    done = project(tests, text="hello\ninit: ready\n")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "verdict: spinning" in done.stdout
    assert "at test_it.py:4: machine.console.expect(" in done.stdout
    assert "| hello" in done.stdout
    log = re.search(r"console log: (.*)", done.stdout)
    assert log is not None and "hello" in Path(log[1]).read_text()
    assert "run just this: pytest --board tiny 'test_it.py::test_waits[tiny-smp1]'" in done.stdout
    assert len(list((tmp_path / "build" / "logs" / "boots").iterdir())) == 2


@pytest.mark.requirement("DEV-02", "OBS-09")
def test_a_test_without_complaint_is_red_when_its_machine_panicked(project: Project) -> None:
    tests = """
def test_calm(machine):
    with machine.broker.changed:
        machine.broker.changed.wait_for(lambda: machine.panic and machine.panic.complete, 5)
"""
    done = project(tests, text="init: ready\nPANIC cpu0: planted at kernel/src/trap.rs:77:5\nPANIC end\n")
    assert done.returncode == 1
    assert "panicked: PANIC cpu0: planted at kernel/src/trap.rs:77:5" in done.stdout


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    ("text", "then", "verdict"),
    [
        ("", Then.SLEEP, "never-booted"),
        ("for ever\n", Then.REPEAT, "never-booted"),
        ("boot: cpus: x\n", Then.RESET, "reset"),
    ],
)
def test_a_kernel_that_does_not_boot_is_an_error_with_its_cause(
    project: Project, tmp_path: Path, text: str, then: Then, verdict: str
) -> None:
    board = tmp_path / "boards" / "tiny.yaml"
    board.write_text(BOARD.replace("boot_timeout_s: 10", "boot_timeout_s: 1"))
    done = project(ECHOES, "-x", text=text, then=then)
    assert done.returncode == 1
    assert f"verdict: {verdict}" in done.stdout
    assert "run just this: pytest" in done.stdout


@pytest.mark.requirement("DEV-02")
def test_variants_are_parameters_and_needs_skip_with_a_reason(project: Project) -> None:
    tests = """
@pytest.mark.needs("smp>=2", "qmp")
def test_two(board):
    assert board.smp == 4
@pytest.mark.needs("jtag")
def test_jtag(machine):
    pass
"""
    done = project(tests, "-v", "-rs", "--smp", "1,4", "--memory", "256M")
    assert done.returncode == 0, done.stdout
    assert "test_two[tiny-smp4-256M] PASSED" in done.stdout
    assert "test_two[tiny-smp1-256M] SKIPPED" in done.stdout
    assert "needs smp>=2, has 1" in done.stdout
    assert "needs jtag; tiny has qmp" in done.stdout


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--board", "tinny"], "unknown board 'tinny' (did you mean 'tiny'?)"),
        (["--smp", "many"], "--smp takes numbers of CPUs"),
        (["--smp", "99"], "tiny takes 1 to 8 CPUs, not 99"),
        (["--memory", "12"], "memory is written like 128M or 2G"),
    ],
)
def test_a_wrong_option_is_a_usage_error_that_names_the_choice(
    project: Project, arguments: list[str], words: str
) -> None:
    done = project(ECHOES, *arguments)
    assert done.returncode == 4, done.stdout
    assert words in done.stdout + done.stderr


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("smp: 1", "spm: 1"), "tiny.yaml:10: unknown key 'spm'"),
        (("guest: ../guest", "guest: ../nothing"), "no such image"),
        (("binary: qemu-system-riscv64", "binary: qemu-system-absent64"), "qemu-system-absent64 is not installed"),
        (("cpu: rv64", "cpu: rv6"), "unable to find CPU model 'rv6'"),
        (("arch: riscv64", "arch: aarch64"), "image for riscv64, but the board is aarch64"),
    ],
)
def test_bad_input_ends_in_a_clear_message_and_no_machine(
    project: Project, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    (tmp_path / "boards" / "tiny.yaml").write_text(BOARD.replace(*change))
    done = project(ECHOES)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


@pytest.mark.requirement("DEV-02")
def test_boot_gives_machines_of_the_tests_own(project: Project) -> None:
    tests = """
from harness.console import ConsoleClosed
def test_two_at_once(boot):
    one, two = boot(), boot(smp=2)
    for session in (one, two):
        session.console.send("abc")
        session.console.expect("abc", 5)
def test_not_ready(boot):
    session = boot(ready=False, paused=True)
    assert session.machine.status() == "prelaunch"
    session.qmp("cont")
    session.wait_ready()
def test_fresh(fresh_machine):
    fresh_machine.console.send("abc")
    fresh_machine.console.expect("abc", 5)
"""
    done = project(tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.requirement("DEV-02")
def test_workers_keep_a_board_each(project: Project, tmp_path: Path) -> None:
    done = project(ECHOES, "-n", "2", "--smp", "1,2")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    assert len(list((tmp_path / "build" / "logs" / "boots").iterdir())) == 2


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_machine_outlives_an_interrupted_run(project: Project, tmp_path: Path, number: signal.Signals) -> None:
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SPIN)
    (tmp_path / "test_it.py").write_text("def test_waits(machine):\n    machine.console.expect('never', 60)\n")
    process = subprocess.Popen(
        command("--board", "tiny"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        log = tmp_path / "build" / "logs" / "test_it.py_test_waits_tiny-smp1" / "console.log"
        deadline = time.monotonic() + 30
        waiting = signal.sigtimedwait
        while not (log.is_file() and "init: ready" in log.read_text()):
            assert time.monotonic() < deadline, "the machine did not boot"
            waiting([], 0.02)
        assert len(qemus_of(tmp_path)) == 1
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode != 0
        deadline = time.monotonic() + 5
        while qemus_of(tmp_path):
            assert time.monotonic() < deadline, qemus_of(tmp_path)
            waiting([], 0.02)
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.requirement("DEV-02")
def test_a_run_that_takes_no_board_imports_nothing_of_the_lab(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_plain():\n    pass\n")
    program = (
        "import sys, pytest\n"
        "code = pytest.main(['-q', '-p', 'harness.plugin', '-p', 'no:labgrid', '-p', 'no:cacheprovider'])\n"
        "names = ('labgrid', 'qemu.qmp', 'elftools', 'yaml', 'harness.board', 'harness.machine', 'harness.build')\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "print('RESULT', int(code), heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    result = re.search(r"RESULT (\d+) (.*)", done.stdout)
    assert result is not None, done.stderr
    assert result.groups() == ("0", "[]")


@pytest.mark.requirement("DEV-02")
def test_benchmarks_run_only_when_they_are_named(project: Project) -> None:
    tests = "@pytest.mark.bench\ndef test_slow():\n    pass\ndef test_quick():\n    pass\n"
    assert "1 passed, 1 deselected" in project(tests).stdout
    assert "1 passed, 1 deselected" in project(tests, "-m", "bench").stdout


@pytest.mark.requirement("DEV-08")
def test_a_shared_machine_ends_before_a_test_that_does_not_use_it(project: Project) -> None:
    # Such a test may itself start a lab on that board, and wait for it: two that want the same vCPUs.
    done = project(
        "def test_one(machine):\n    pass\n"
        "def test_two(machine, lab, board):\n    assert lab.alive(board) is machine\n"
        "def test_three(lab, board):\n    assert lab.alive(board) is None\n"
        "def test_four(console):\n    pass\n"
    )
    assert "4 passed" in done.stdout, done.stdout


SWITCHED_OFF = """
def test_off(boot):
    session = boot(ready=False)
    with session.broker.changed:
        assert session.broker.changed.wait_for(lambda: session.panic is not None and session.panic.complete, 30)
    session.close()
"""


@pytest.mark.requirement("DEV-02", "TST-30")
def test_a_panic_that_nobody_saw_is_red_though_the_machine_was_switched_off(project: Project) -> None:
    done = project(SWITCHED_OFF, text="init: ready\nPANIC cpu0: oh at a.rs:1:2\nPANIC end\n")
    assert done.returncode == 1, done.stdout
    assert "panicked: PANIC cpu0: oh at a.rs:1:2" in done.stdout, done.stdout
