"""Retries of what the lab spoilt, and tests in quarantine: forgiven only so far, and always shown."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.machine.tiny_guest import Then, write_tiny_guest
from support.projects import BOARD, command, environment

pytestmark = pytest.mark.requirement("TST-30", "ERR-01")

# A board whose machine never gets on: the host has no such emulator until the file says so.
SPOILT = """
import pytest
from harness.board import LabError

RUNS = []

@pytest.mark.parametrize("spoilt", [SPOILT])
def test_it(board, request, spoilt):
    from harness.plugin.keys import TAKES_BOARD
    request.node.stash[TAKES_BOARD] = board
    RUNS.append(1)
    if len(RUNS) <= spoilt:
        raise LabError("the switch did not answer")
    assert spoilt != 0, "the kernel's own fault"
"""
TESTS = """
def test_known():
    assert False, "as ever"

def test_good():
    pass
"""
SOON = datetime.date.today() + datetime.timedelta(days=30)
PAST = datetime.date.today() - datetime.timedelta(days=1)


def project(folder: Path, tests: str, quarantine: str = "") -> Path:
    (folder / "boards").mkdir()
    (folder / "boards" / "mine.yaml").write_text(BOARD)
    (folder / "testsuites").mkdir()
    (folder / "testsuites" / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = testsuites\n")
    if quarantine:
        (folder / "testsuites" / "quarantine.yaml").write_text(quarantine)
    return folder


def entry(test: str, expires: datetime.date = SOON) -> str:
    return f"- test: '{test}'\n  owner: ada\n  reason: the comparator fires early\n  expires: {expires}\n"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("-q", "--board", "mine", "--junitxml=junit.xml", *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_the_lab_spoilt_is_run_again_and_shown(tmp_path: Path) -> None:
    ran = run(project(tmp_path, SPOILT.replace("SPOILT", "1", 1)))
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout
    shown = "retried: testsuites/test_it.py::test_it[mine-smp1-1]: lab-fault: the switch did not answer\n"
    assert shown in ran.stdout
    properties = {p.get("name"): p.get("value") for p in ElementTree.parse(tmp_path / "junit.xml").iter("property")}
    assert (properties["verdict"], properties["retried"]) == ("passed", "lab-fault")


def test_it_is_run_again_only_so_often(tmp_path: Path) -> None:
    ran = run(project(tmp_path, SPOILT.replace("SPOILT", "2", 1)))
    assert ran.returncode == 1
    assert "the switch did not answer" in ran.stdout
    assert "retried: testsuites/test_it.py::test_it[mine-smp1-2]: lab-fault" in ran.stdout
    again = run(tmp_path, "--lab-retries", "2")
    assert again.returncode == 0, again.stdout
    never = run(tmp_path, "--lab-retries", "0")
    assert never.returncode == 1
    assert "retried" not in never.stdout


STARVED = """
import os, signal

RUNS = []

def test_it(boot):
    session = boot()
    RUNS.append(1)
    if len(RUNS) == 1:
        os.kill(session.machine.pid, signal.SIGSTOP)
    session.console.send("abc")
    session.console.expect("abc", 60 if len(RUNS) > 1 else 0.1)
"""


def test_a_starved_machine_is_booted_again_and_that_is_shown(tmp_path: Path) -> None:
    folder = project(tmp_path, STARVED)
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.ECHO)
    ran = run(folder)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout
    assert "retried: testsuites/test_it.py::test_it[mine-smp1]: starved" in ran.stdout


def test_a_fault_of_the_kernel_is_not_run_again(tmp_path: Path) -> None:
    ran = run(project(tmp_path, SPOILT.replace("SPOILT", "0", 1)), "--lab-retries", "5")
    assert ran.returncode == 1
    assert "retried" not in ran.stdout
    assert "the kernel's own fault" in ran.stdout


BOTH = """
import pytest
from harness.board import LabError

RUNS = []

@pytest.fixture
def switch():
    yield
    raise LabError("the switch did not answer")

def test_it(board, request, switch):
    from harness.plugin.keys import TAKES_BOARD
    request.node.stash[TAKES_BOARD] = board
    RUNS.append(1)
    assert len(RUNS) > 1, "the kernel's own fault"
"""


def test_a_fault_of_the_kernel_is_not_hidden_by_one_of_the_lab_behind_it(tmp_path: Path) -> None:
    ran = run(project(tmp_path, BOTH))
    assert ran.returncode == 1
    assert "retried" not in ran.stdout
    assert "the kernel's own fault" in ran.stdout
    assert "1 failed, 1 error" in ran.stdout


def test_an_entry_for_a_board_that_was_left_out_is_no_entry_without_a_test(tmp_path: Path) -> None:
    tests = "def test_known(board):\n    pass\n"
    folder = project(tmp_path, tests, entry("testsuites/test_it.py::test_known[other-smp1]"))
    (folder / "boards" / "other.yaml").write_text(BOARD)
    part = run(folder)
    assert part.returncode == 0, part.stdout
    assert "no such test" not in part.stdout
    (folder / "testsuites" / "quarantine.yaml").write_text(entry("testsuites/test_it.py::test_renamed[other-smp1]"))
    renamed = run(folder)
    assert renamed.returncode == 1, renamed.stdout
    assert "test_renamed[other-smp1]: in quarantine, but there is no such test" in renamed.stdout


def test_a_known_failure_runs_is_shown_and_does_not_count(tmp_path: Path) -> None:
    ran = run(project(tmp_path, TESTS, entry("testsuites/test_it.py::test_known")))
    assert ran.returncode == 0, ran.stdout
    assert "1 passed, 1 xfailed" in ran.stdout
    known = f"the comparator fires early (ada, until {SOON})"
    assert f"quarantined: testsuites/test_it.py::test_known: {known}" in ran.stdout
    assert known in (tmp_path / "junit.xml").read_text()


def test_a_star_covers_many_and_brackets_are_letters(tmp_path: Path) -> None:
    tests = "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_p(n):\n    assert n == 3\n"
    ran = run(project(tmp_path, tests, entry("testsuites/test_it.py::test_p[*]")))
    assert ran.returncode == 0, ran.stdout
    assert "2 xfailed" in ran.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_an_expired_entry_is_red_even_when_its_test_passes(workers: tuple[str, ...], tmp_path: Path) -> None:
    ran = run(project(tmp_path, TESTS, entry("testsuites/test_it.py::test_good", PAST)), "-k", "good", *workers)
    assert ran.returncode == 1, ran.stdout
    assert f"its quarantine expired on {PAST}" in ran.stdout


def test_an_expired_entry_covers_nothing(tmp_path: Path) -> None:
    ran = run(project(tmp_path, TESTS, entry("testsuites/test_it.py::test_known", PAST)))
    assert ran.returncode == 1
    assert "1 failed, 1 passed" in ran.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_an_entry_without_a_test_is_red_where_all_tests_are_collected(workers: tuple[str, ...], tmp_path: Path) -> None:
    folder = project(tmp_path, "def test_good():\n    pass\n", entry("testsuites/test_it.py::test_renamed"))
    ran = run(folder, *workers)
    assert ran.returncode == 1, ran.stdout
    assert "test_renamed: in quarantine, but there is no such test" in ran.stdout
    part = run(folder, "testsuites/test_it.py", *workers)
    assert part.returncode == 0, part.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- [\n", "not YAML"),
        ("test: x\n", "wants a list of entries"),
        ("- test: x\n  owner: ada\n", "entry 1 wants the keys test, owner, reason, expires; it has: test, owner"),
        (entry("x").replace(str(SOON), "soon"), "entry 1: expires is a date such as 2027-01-31, not 'soon'"),
        (entry("x").replace("ada", "''"), "none is empty"),
    ],
)
def test_a_malformed_file_is_named_with_what_it_wants(text: str, words: str, tmp_path: Path) -> None:
    ran = run(project(tmp_path, TESTS, text))
    assert ran.returncode == 4
    assert words in ran.stderr
    assert "quarantine.yaml" in ran.stderr
    assert "Traceback" not in ran.stderr
