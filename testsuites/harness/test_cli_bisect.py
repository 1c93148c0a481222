"""Bisecting with tests that fail now and then: how often each step runs, and what it finds in real revisions."""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.board import LabError
from harness.build.artifacts import TOP
from harness.cli.bisect import Candidate, attempt, bisect, commits, first_bad, repeats, trials
from harness.cli.revisions import worktree
from support.projects import environment

pytestmark = pytest.mark.requirement("DEV-01", "TST-30")


@given(some.floats(0.01, 0.99), some.integers(1, 12), some.floats(0.5, 0.999))
def test_steps_are_run_as_often_as_the_confidence_asks_and_no_more(rate: float, steps: int, confidence: float) -> None:
    def sure(count: int) -> float:
        return (1 - (1 - rate) ** count) ** steps

    count = repeats(rate, steps, confidence)
    assert sure(count) >= confidence - 1e-6
    assert count == 1 or sure(count - 1) < confidence + 1e-6


def test_what_always_fails_is_run_once() -> None:
    assert repeats(1.0, 10, 0.999) == 1


def lines() -> some.SearchStrategy[tuple[int, int, set[int]]]:
    """How many candidates, the first bad one, and those that cannot be tried."""
    return some.integers(2, 60).flatmap(
        lambda n: some.tuples(some.just(n), some.integers(1, n - 1), some.sets(some.integers(1, n - 1)))
    )


@given(lines())
def test_the_first_bad_one_is_among_those_that_are_told_and_what_cannot_be_tried_is_gone_round(
    case: tuple[int, int, set[int]],
) -> None:
    count, first, untried = case
    candidates = [Candidate(str(number)) for number in range(count)]
    tried: list[int] = []

    def bad(one: Candidate) -> bool | None:
        tried.append(int(one.name))
        return None if int(one.name) in untried else int(one.name) >= first

    found = [int(one.name) for one in first_bad(candidates, bad)]
    assert first in found
    assert set(found[:-1]) <= untried, "only what could not be tried is left beside the last"
    assert 0 not in tried and len(tried) == len(set(tried))
    if not untried:
        assert found == [first] and len(tried) <= math.ceil(math.log2(count - 1)) if count > 2 else not tried


def test_a_flake_is_found_as_often_as_the_confidence_says() -> None:
    dice = random.Random(5)
    candidates = [Candidate(str(number)) for number in range(33)]
    right = 0
    for _ in range(200):
        with contextlib.suppress(LabError):  # the bad end passed each time
            found = bisect(candidates, lambda one: int(one.name) < 20 or dice.random() > 0.3, rate=0.3, confidence=0.9)
            right += [one.name for one in found] == ["20"]
    assert right >= 170, "200 times 0.9, less more than three standard deviations"


@pytest.mark.parametrize(
    ("passes", "rate", "told"),
    [
        (True, None, "did not fail in 10 runs"),
        (True, 1.0, "said to be bad, and is not"),
        (False, None, "said to be good, and is not"),
        (None, None, "said to be bad, and the test cannot be run"),
        (None, 1.0, "said to be bad, and the test cannot be run"),
    ],
)
def test_ends_that_are_not_what_they_are_said_to_be_are_told(
    passes: bool | None, rate: float | None, told: str
) -> None:
    with pytest.raises(LabError, match=told):
        bisect([Candidate("0"), Candidate("1")], lambda one: passes, rate=rate, confidence=0.9)


def test_what_cannot_be_run_at_the_good_end_is_not_called_bad() -> None:
    with pytest.raises(LabError, match="0 is said to be good, and the test cannot be run"):
        bisect(
            [Candidate("0"), Candidate("1")], lambda one: None if one.name == "0" else False, rate=1.0, confidence=0.9
        )


def test_a_failure_in_quarantine_is_one_and_a_test_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npythonpath = {TOP}\naddopts = -p no:labgrid -p harness.plugin\nquarantine = known.yaml\n"
    )
    (tmp_path / "known.yaml").write_text(
        "- test: 'test_it.py::test_known'\n  owner: ada\n  reason: as ever\n  expires: 9999-12-31\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\ndef test_known():\n    assert False\n\n"
        "@pytest.mark.skip(reason='not today')\ndef test_skipped():\n    pass\n"
    )
    assert attempt(tmp_path, ["test_it.py::test_known"], {}) is False
    for test, told in [("test_skipped", "not today"), ("test_mistyped", "not found: ")]:
        assert attempt(tmp_path, [f"test_it.py::{test}"], {}) is None
        assert told in capsys.readouterr().out


TEST = """
from pathlib import Path

def test_value():
    assert int(Path("kernel-src/value").read_text()) < 4

def test_lab():
    assert Path("harness/kind").read_text() == "old"
"""


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Six commits of a tree: the kernel is bad since the fourth, the lab since the fifth; the third cannot be tried."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TOP}\naddopts = -p no:labgrid\n")
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / ".gitignore").write_text("build\n")
    for folder in ("kernel-src", "harness"):
        (tmp_path / folder).mkdir()
    for number in range(1, 7):
        (tmp_path / "kernel-src" / "value").write_text(str(number))
        (tmp_path / "harness" / "kind").write_text("new" if number >= 5 else "old")
        (tmp_path / "conftest.py").write_text(
            'pytest_plugins = ["harness.plugin"]\n' + ("raise OSError\n" if number == 3 else "")
        )
        git("add", "-A")
        git("commit", "-q", "-m", f"commit {number}")
        git("tag", f"c{number}")
    return tmp_path


@pytest.mark.parametrize(
    ("over", "test", "paths", "found"),
    [
        ("tree", "test_it.py::test_value", (), ["commit 3", "commit 4"]),
        ("kernel", "test_it.py::test_value", ("kernel-src",), ["commit 4"]),
        ("lab", "test_it.py::test_lab", ("harness",), ["commit 5"]),
    ],
)
def test_the_commit_is_found_in_a_worktree_and_the_tree_is_as_it_was(
    history: Path, over: str, test: str, paths: tuple[str, ...], found: list[str]
) -> None:
    candidates = commits(history, "c1", "c6", paths)
    with trials(history, candidates, over, [test]) as trial:
        answer = bisect(candidates, trial, rate=1.0, confidence=0.9)
    assert [one.words for one in answer] == found
    status = subprocess.run(["git", "status", "--porcelain"], cwd=history, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    assert not list((history / "build" / "compare").glob("*"))
    with pytest.raises(LabError, match="is good older"):
        commits(history, "c6", "c1", paths)


def test_the_worktree_of_a_killed_bisect_goes_with_the_next_one_and_that_of_a_living_one_stays(history: Path) -> None:
    def trees() -> list[str]:
        return sorted(path.name for path in (history / "build" / "compare").glob("*"))

    def known() -> str:
        command = ["git", "worktree", "list"]
        return subprocess.run(command, cwd=history, capture_output=True, text=True, check=True).stdout

    code = "import os, sys; from harness.cli.revisions import worktree; from pathlib import Path\n"
    code += "with worktree(Path.cwd(), sys.argv[1]): print(flush=True); sys.stdin.read(1); os.kill(os.getpid(), 9)"
    commit = commits(history, "c1", "c6", ())[0].name
    command = [sys.executable, "-c", code, commit]
    with subprocess.Popen(
        command, cwd=history, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None and killed.stdin is not None
        killed.stdout.readline()
        theirs = f"{commit[:12]}-{killed.pid}"
        with worktree(history, commit) as tree:
            assert trees() == sorted([theirs, tree.name]), "that of one that lives"
        killed.communicate(b"x")
    assert trees() == [theirs] and theirs in known()
    with worktree(history, commit) as tree:
        assert trees() == [tree.name]
        assert theirs not in known()
    assert trees() == []


def test_an_emulator_is_found_by_the_folder_that_goes_first(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import shutil\ndef test_it():\n    assert 'new' not in shutil.which('qemu-system-any')\n"
    )
    candidates = []
    for name in ("old-1", "old-2", "new-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "qemu-system-any").write_text("#!/bin/sh\n")
        (tmp_path / name / "qemu-system-any").chmod(0o755)
        candidates.append(Candidate(str(tmp_path / name)))
    with trials(tmp_path, candidates, "qemu", ["-p", "no:labgrid", "-p", "harness.plugin", "test_it.py"]) as trial:
        (found,) = bisect(candidates, trial, rate=1.0, confidence=0.9)
    assert found.name.endswith("new-3")
