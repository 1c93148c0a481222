"""Coverage of the images that ship, and tests chosen by what has changed: proven by the kernel's mutants."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.board import Board
from harness.cli.mutants import FOLDER, read_mutant
from harness.plugin.coverage import SUMMARY, read_records
from harness.verdict.changes import Record, Touch, executed_by_any, hunks, touch
from support.projects import TOP, command, environment

BOARD = "qemu-riscv64"
SUITES = ("testsuites/user", "testsuites/boot/kernel-tests.yaml", "testsuites/smp/kernel-tests.yaml")
LIMIT_S = 600

DIFF = """--- a/kernel-src/kernel/src/a.rs
+++ b/kernel-src/kernel/src/a.rs
@@ -3,2 +3,0 @@
-gone
-gone
@@ -9,0 +8 @@
+new
--- a/docs/x.md
+++ b/docs/x.md
@@ -1 +1 @@
-a
+b
"""


@pytest.mark.requirement("TST-30")
def test_lines_of_a_diff_are_those_named_or_beside_the_gap() -> None:
    assert hunks(DIFF, "old") == {"kernel/src/a.rs": [range(3, 5), range(9, 11)]}
    assert hunks(DIFF, "new") == {"kernel/src/a.rs": [range(3, 5), range(8, 9)]}


@pytest.mark.requirement("TST-30")
def test_a_test_is_as_near_to_a_change_as_its_lines() -> None:
    def record(own: dict[str, frozenset[int]], boot: dict[str, frozenset[int]]) -> Record:
        return Record("t", "tree", own, boot)

    near, boots = record({"a.rs": frozenset({5})}, {}), record({}, {"a.rs": frozenset({5})})
    other, far = record({"a.rs": frozenset({9})}, {}), record({"b.rs": frozenset({1})}, {})
    executed = executed_by_any([near, boots, other, far])
    change = {"a.rs": [range(4, 6)]}
    ranks = [touch(each, change, executed) for each in (near, boots, other, far)]
    assert ranks == [(Touch.EXECUTES, 1), (Touch.BOOTS, 0), (Touch.NONE, 0), (Touch.NONE, 0)]
    assert touch(other, {"a.rs": [range(20, 21)]}, executed) == (Touch.SHARES_FILE, 0)
    assert touch(far, {"new.rs": [range(1, 2)]}, executed) == (Touch.SHARES_FILE, 0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the suites' tests execute, as two workers tell it."""
    folder = tmp_path_factory.mktemp("two")
    run("-n", "2", "--coverage", "--coverage-folder", str(folder), *SUITES)
    return folder


def run(*arguments: str, board: str = BOARD, env: dict[str, str] | None = None) -> str:
    """pytest on this tree: its output. It must pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--board", board, *arguments],
        cwd=TOP,
        env=environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def programs_of_tests(folder: Path) -> dict[str, set[str]]:
    """Files of its own program that each test executes. The kernel's differ from run to run, as interrupts come."""
    programs = "user/tests/"
    return {record.test: {file for file in record.own if file.startswith(programs)} for record in read_records(folder)}


def known_lines(folder: Path) -> dict[str, int]:
    """Lines that made code, by file, as the summary tells."""
    rows = (line.split() for line in (folder / SUMMARY).read_text().splitlines())
    return {row[0]: int(row[3]) for row in rows}


@pytest.mark.requirement("TST-30", "DEV-02")
def test_two_workers_tell_what_one_process_tells(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded / "lines", tmp_path / "lines")  # reading line tables takes longer than the tests
    run("--coverage", "--coverage-folder", str(tmp_path), SUITES[-1])
    two, one = programs_of_tests(recorded), programs_of_tests(tmp_path)
    assert len(one) >= 5 and all(one.values())
    assert one == {test: two[test] for test in one}
    assert known_lines(recorded) == known_lines(tmp_path)
    assert known_lines(tmp_path)["total"] > 1000


@pytest.mark.requirement("TST-30", "ERR-01")
@pytest.mark.parametrize("option", ["--coverage", "--changed"])
def test_a_folder_without_git_is_told(option: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    env = environment() | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    ran = subprocess.run(command("-q", option), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in ran.stdout + ran.stderr
    assert f"failed in {tmp_path}" in ran.stderr


CASES = ("boot:unknown_calls_are_refused", "boot:errors_are_typed")


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-30")
def test_what_runs_at_boot_later_or_never_is_told_apart(board: Board, tmp_path: Path) -> None:
    """Once where the boot is recorded, and once where it is known and recording begins when the machine is ready."""
    tests = [f"testsuites/boot/kernel-tests.yaml::{case}[{board.id}]" for case in CASES]
    options = ("--coverage", "--coverage-folder", str(tmp_path), *tests)
    lines = TOP / "build" / "coverage" / "lines"  # reading line tables takes longer than the tests
    lines.mkdir(parents=True, exist_ok=True)
    (tmp_path / "lines").symlink_to(lines)
    run(*options, board=board.name)
    (boot,) = (tmp_path / "boots").iterdir()
    written = boot.stat().st_ino
    first = read_records(tmp_path)
    run(*options, board=board.name)
    assert boot.stat().st_ino == written, "the boot was recorded again"
    again = read_records(tmp_path)

    calls, never = "user/tests/boot/src/calls.rs", "kernel/src/panic.rs"
    known = known_lines(tmp_path)
    for refused, typed in (sorted(first, key=in_order), sorted(again, key=in_order)):
        # Only after ready, and only in one of the two cases.
        own, other = line_of(calls, "probe::raw_call(number"), line_of(calls, "call::close(nowhere)")
        assert own in refused.own[calls]
        assert not {own, other} & refused.boot.get(calls, frozenset())
        assert own not in typed.own[calls]
        assert other in typed.own[calls] - refused.own[calls]
        # What the compiler dissolved into the case, and what both execute, one after the other on the same machine.
        assert refused.own["user/rt/src/probe.rs"]
        for both in ("user/testd/src/run.rs", "kernel/src/syscall.rs"):
            assert refused.own[both] & typed.own[both]
        for record in (refused, typed):
            # Only at boot, in the kernel and in a program.
            for file in ("kernel/src/cmdline.rs", "user/init/src/main.rs"):
                assert record.boot[file] - record.own.get(file, frozenset())
            # Never.
            executed = record.own.get(never, frozenset()) | record.boot.get(never, frozenset())
            assert known[never] > len(executed) + 20
    assert [record.boot for record in again] == [record.boot for record in first]


def in_order(record: Record) -> int:
    return next(number for number, case in enumerate(CASES) if case in record.test)


def line_of(file: str, text: str) -> int:
    lines = (TOP / "kernel-src" / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


# In the run that collects the tests: their order after each change, which is asked for as a tree to compare with.
ASKS = """
import json, os
from pathlib import Path
from harness.plugin.coverage import order, ranks

def pytest_collection_finish(session):
    found = {}
    for name, tree in json.loads(os.environ["TREES"]).items():
        items = list(session.items)
        order(session.config, items, tree)
        rank = ranks(session.config, items, tree)
        found[name] = [(session.items.index(item), item.nodeid, *rank[item]) for item in items]
    Path(os.environ["ORDERS"]).write_text(json.dumps(found))
"""


def tree_before(patch: Path, index: Path) -> str:
    """The files as they stand with `patch` applied: since that tree, the lines of the patch have changed."""

    def git(*arguments: str) -> str:
        own = environment() | {"GIT_INDEX_FILE": str(index)}
        return subprocess.run(["git", *arguments], cwd=TOP, env=own, capture_output=True, text=True, check=True).stdout

    git("read-tree", "HEAD")
    git("add", "--all")
    git("apply", "--cached", str(patch))
    return git("write-tree").strip()


@pytest.mark.requirement("TST-30")
def test_the_test_that_kills_a_mutant_is_among_the_first(recorded: Path, tmp_path: Path) -> None:
    """`--changed`, asked about each mutant of the kernel whose test is on record."""
    tests = {record.test for record in read_records(recorded)}
    mutants = {path.name: read_mutant(path) for path in sorted(FOLDER.glob("*.patch"))}
    tried = {name: mutant for name, mutant in mutants.items() if mutant.kills in tests and mutant.touches_kernel}
    assert len(tried) >= 10, sorted(tests)
    trees = {name: tree_before(mutant.path, tmp_path / "index") for name, mutant in tried.items()}
    (tmp_path / "asks.py").write_text(ASKS)
    env = {"PYTHONPATH": f"{tmp_path}:{TOP}", "TREES": json.dumps(trees), "ORDERS": str(tmp_path / "orders")}
    run("--collect-only", "-p", "asks", "--coverage-folder", str(recorded), *SUITES, env=env)
    told = json.loads((tmp_path / "orders").read_text())
    choosy = 0
    for name, mutant in tried.items():
        ranked = [(touch, hits, place) for place, _, touch, hits in told[name]]
        assert ranked == sorted(ranked), name  # by rank, and in the order of collection within one
        first = [test for _, test, touch, _ in told[name] if touch == ranked[0][0]]
        assert mutant.kills in first, f"{name}: {mutant.kills} comes after {len(first)} that are nearer"
        assert ranked[0][0] <= Touch.SHARES_FILE, name
        choosy += len(first) < len(ranked) / 2
    assert choosy >= 2  # where few tests execute a line, few come first

    # One that changes the order, and is nothing to some.
    name = next(
        name for name in tried if told[name][0][0] != 0 and any(touch == Touch.NONE for _, _, touch, _ in told[name])
    )
    listed = run("--collect-only", f"--changed={trees[name]}", "--coverage-folder", str(recorded), *SUITES)
    asked = [line for line in listed.splitlines() if "::" in line]
    assert asked == [test for _, test, _, _ in told[name]]
    kept = run(
        "--collect-only", "--changed-only", f"--changed={trees[name]}", "--coverage-folder", str(recorded), *SUITES
    )
    concerned = [test for _, test, touch, _ in told[name] if touch != Touch.NONE]
    assert [line for line in kept.splitlines() if "::" in line] == concerned
    assert len(concerned) < len(asked)
