"""Which lines have changed, and which tests execute them.

Coverage names lines of the sources as they were when it was recorded: a git
tree. What has changed since a revision is told in the numbers of that tree:
lines of it that the revision did not have, and lines of it that are no more.
"""

from __future__ import annotations

import enum
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.board import LabError

Hunks = dict[str, list[range]]
_SOURCES = "kernel-src"
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


class Touch(enum.IntEnum):
    """How a test is concerned with a change, nearest first."""

    EXECUTES = 0
    BOOTS = 1  # the machine that it ran on executed it before it was ready
    SHARES_FILE = 2  # no test is known to execute the change: a constant, perhaps
    UNKNOWN = 3  # no coverage of this test
    NONE = 4


@dataclass(frozen=True, slots=True)
class Record:
    """What a test executed, by file relative to kernel-src; `boot` before its machine was ready."""

    test: str
    tree: str
    own: dict[str, frozenset[int]]
    boot: dict[str, frozenset[int]]


def hunks(diff: str, side: Literal["old", "new"]) -> Hunks:
    """Lines of one side that a diff names, by file relative to kernel-src; where lines were only added or only
    taken away, those beside the gap."""
    found: Hunks = {}
    for part in re.split(r"^(?=--- )", diff, flags=re.MULTILINE)[1:]:
        names = dict(re.findall(r"^(---|\+\+\+) (?:[ab]/)?(.*?)\t?$", part, re.MULTILINE)[:2])
        name = names["---"] if names["---"] != "/dev/null" else names["+++"]
        if not name.startswith(f"{_SOURCES}/"):
            continue
        for match in _HUNK.finditer(part):
            start, count = (match[1], match[2]) if side == "old" else (match[3], match[4])
            first, length = int(start), 1 if count is None else int(count)
            lines = range(first, first + length) if length else range(first, first + 2)
            found.setdefault(name.removeprefix(f"{_SOURCES}/"), []).append(lines)
    return found


def touch(record: Record, changed: Hunks, executed: dict[str, set[int]]) -> tuple[Touch, int]:
    """How `record`'s test is concerned with `changed`, and how many changed lines it executes.

    `executed` is what any test executes: a hunk outside of it concerns all that execute its file.
    """
    nearest, hits = Touch.NONE, 0
    for file, parts in changed.items():
        for lines in parts:
            own = len(record.own.get(file, frozenset()).intersection(lines))
            hits += own
            if own:
                nearest = min(nearest, Touch.EXECUTES)
            elif record.boot.get(file, frozenset()).intersection(lines):
                nearest = min(nearest, Touch.BOOTS)
            elif not executed.get(file, set()).intersection(lines) and (
                file in record.own or file in record.boot or file not in executed
            ):
                nearest = min(nearest, Touch.SHARES_FILE)
    return nearest, hits


def executed_by_any(records: Iterable[Record]) -> dict[str, set[int]]:
    """All lines that some test executes."""
    found: dict[str, set[int]] = {}
    for record in records:
        for part in (record.own, record.boot):
            for file, lines in part.items():
                found.setdefault(file, set()).update(lines)
    return found


def source_tree(top: Path) -> str:
    """The sources as they are, as a tree of git's; the repository's own index is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(top, "read-tree", "HEAD", env=own)
        _git(top, "add", "--all", "--", _SOURCES, env=own)
        return _git(top, "write-tree", env=own).strip()


def changed_since(top: Path, revision: str, tree: str) -> Hunks:
    """Lines of `tree` that are new since `revision`, or that are no more. Raises LabError."""
    found = hunks(_git(top, "diff", "-U0", revision, tree, "--", _SOURCES), "new")
    for file, parts in hunks(_git(top, "diff", "-U0", tree, "--", _SOURCES), "old").items():
        found.setdefault(file, []).extend(parts)
    return found


def changed_files(top: Path, revision: str) -> set[str]:
    """Paths that differ from `revision`, new ones included. Raises LabError."""
    tracked = _git(top, "diff", "--name-only", revision, "--")
    new = _git(top, "ls-files", "--others", "--exclude-standard")
    return {*tracked.splitlines(), *new.splitlines()}


def _git(top: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", "-c", "core.quotePath=false", *arguments],
        cwd=top,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            f"git {' '.join(arguments)} failed in {top}: {done.stderr.strip().partition(chr(10))[0]}; "
            "coverage names the sources by git's trees, and --changed=REV wants a revision of this repository and "
            "coverage recorded in it (pytest --coverage)"
        )
    return done.stdout
