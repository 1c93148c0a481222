"""Measuring git revisions: each built and measured in a worktree of its own under build/, removed after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.board import LabError
from harness.build.process import END_LIMIT_S, bound, end_group

if TYPE_CHECKING:
    from harness.measure.store import Record

_RUN = "compare"
_TREES = Path("build") / "compare"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a stored run, or the commit of a revision."""

    name: str
    stored: bool


def resolved(top: Path, name: str) -> Side:
    """What `name` means. Raises LabError when it is neither a stored run nor a revision that can measure."""
    from harness.measure.store import Store

    store = Store(top)
    if any(record.run == name for record in store.read()):
        return Side(name, True)
    told = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if told.returncode != 0:
        raise LabError(
            f"{name!r} is no git revision of {top}, and no run in {store.path}; see git log and bench --history"
        )
    commit = told.stdout.strip()
    if _git(top, "cat-file", "-e", f"{commit}:harness/measure/plugin.py").returncode != 0:
        raise LabError(
            f"{name} ({commit[:12]}) has no harness/measure: it is from before numbers were kept; take a later one"
        )
    return Side(commit, False)


def measured(top: Path, commit: str, arguments: Sequence[str]) -> list[Record]:
    """Build and measure a commit with its own lab and its own tests. Raises LabError when its tests fail."""
    from harness.measure.store import Store

    print(f"measuring {commit[:12]}", flush=True)
    with worktree(top, commit) as tree:
        log = top / "build" / "metrics" / f"{commit[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        status = _pytest(tree, ["-p", "no:cacheprovider", "--metrics-run", _RUN, *arguments], log)
        records = Store(tree).run(_RUN)
        if status != 0:
            raise LabError(
                f"the tests of {commit[:12]} that measure do not pass (pytest's status {status}); log: {log}"
            )
        if not records:
            raise LabError(f"{commit[:12]} measured nothing; log: {log}; give no -k, or another")
        return records


@contextmanager
def worktree(top: Path, commit: str) -> Iterator[Path]:
    """The files of a commit, in a folder that is removed after. Raises LabError in git's words.

    The folders of processes that were killed go first.
    """
    tree = top / _TREES / f"{commit[:12]}-{os.getpid()}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    sweep(top)
    made = _git(top, "worktree", "add", "--detach", "--quiet", str(tree), commit)
    if made.returncode != 0:
        raise LabError(f"no worktree for {commit[:12]} in {tree}: {made.stderr.strip()}; try: git worktree prune")
    try:
        yield tree
    finally:
        _git(top, "worktree", "remove", "--force", str(tree))


def sweep(top: Path) -> None:
    """Remove the worktrees of processes that are no more, and git's entries of them."""
    for tree in (top / _TREES).glob("*-*"):
        pid = tree.name.rpartition("-")[2]
        if pid.isdecimal() and tree.is_dir() and not Path("/proc", pid).exists():
            _git(top, "worktree", "remove", "--force", "--force", str(tree))
            shutil.rmtree(tree, ignore_errors=True)  # where git does not know it
    _git(top, "worktree", "prune")


def _pytest(tree: Path, arguments: Sequence[str], log: Path) -> int:
    """pytest in the worktree, importing the lab from there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    with log.open("w") as file:
        process = subprocess.Popen(
            bound([sys.executable, "-m", "pytest", *arguments]),
            cwd=tree,
            env=environment | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        try:
            return process.wait()
        finally:
            end_group(process, END_LIMIT_S)


def _git(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=top, capture_output=True, text=True, check=False)
