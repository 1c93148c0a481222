"""Coverage of the images that ship, and tests chosen by what has changed: proven by the kernel's mutants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.mutants import FOLDER, read_mutant
from harness.plugin.coverage import read_records
from harness.verdict.changes import Hunks, Record, Touch, executed_by_any, hunks, touch

TOP = Path(__file__).resolve().parents[2]
SUITES = ("testsuites/user", "testsuites/boot/kernel-tests.yaml")

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


def edited(patch: Path) -> Hunks:
    """The lines that a patch changes, without those around them that it only shows."""
    found: Hunks = {}
    for file, parts in hunks(patch.read_text(encoding="utf-8"), "old").items():
        text = patch.read_text(encoding="utf-8").split(f"b/kernel-src/{file}\n", 1)[1].split("\n--- ", 1)[0]
        for part, body in zip(parts, text.split("\n@@ ")[0:] if text.startswith("@@ ") else [text], strict=True):
            number = part.start
            for line in body.splitlines()[1:]:
                if line.startswith("-"):
                    found.setdefault(file, []).append(range(number, number + 1))
                elif line.startswith("+"):
                    found.setdefault(file, []).append(range(max(number - 1, 1), number + 1))
                number += not line.startswith("+")
    return found


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


@pytest.mark.requirement("TST-30")
def test_the_test_that_kills_a_mutant_is_among_the_first(tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--board", "qemu-riscv64"]
    done = subprocess.run(
        [*command, "--coverage", "--coverage-folder", str(tmp_path), *SUITES],
        cwd=TOP,
        env=kept,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    records = read_records(tmp_path)
    executed = executed_by_any(records)
    own = {record.test: record for record in records}
    mutants = [read_mutant(path) for path in sorted(FOLDER.glob("*.patch"))]
    tried = [mutant for mutant in mutants if mutant.kills in own and mutant.touches_kernel]
    assert len(tried) >= 5, sorted(own)
    late = []
    for mutant in tried:
        changed = edited(mutant.path)
        ranks = {test: touch(record, changed, executed) for test, record in own.items()}
        killer = ranks[mutant.kills]
        before = sum((rank, -hits) < (killer[0], -killer[1]) for rank, hits in ranks.values())
        if killer[0] > Touch.SHARES_FILE:
            late.append(f"{mutant.path.name}: {killer[0].name}, behind {before} of {len(ranks)}")
    assert not late
