"""`quoin mutants`: does each planted fault turn its test red?

`testsuites/mutants/*.patch` are one-line patches of kernel and harness. Each says in its
head which test must fail, and on which board that test runs:

    # kills: testsuites/boot/test_boot.py::test_stages_in_order
    # board: qemu-riscv64

A patch is applied in a worktree under build/, which stays there so that only what a patch
touches is compiled again. A test that is red without the patch, a patch that does not apply
and a mutant that does not build prove nothing, and count as failures of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.board import read_board
from harness.build.artifacts import TOP
from harness.build.errors import BuildError
from harness.build.process import END_LIMIT_S, end_group

SUMMARY = "apply each patch of testsuites/mutants in a worktree and see its test go red"
PASSES_ON = False

FOLDER = TOP / "testsuites" / "mutants"
TREE = TOP / "build" / "mutants" / "tree"
LOGS = TOP / "build" / "mutants" / "logs"
TEST_LIMIT_S = 600.0
# A mutant may leave an import or a constant unused. There that is no error.
_MANIFEST = "kernel-src/Cargo.toml"
_DENIED, _WARNED = 'unused = { level = "deny"', 'unused = { level = "warn"'
# pytest's exit codes: docs.pytest.org, reference/exit-codes.
_PASSED, _FAILED = 0, 1

Fate = Literal["killed", "survived", "does not apply", "does not build", "test did not run", "red without the patch"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch: the test that must go red, and the board it runs on (empty: the test takes none)."""

    path: Path
    kills: str
    board: str

    @property
    def touches_kernel(self) -> bool:
        """Whether the patch changes what is compiled."""
        return "+++ b/kernel-src/" in self.path.read_text(encoding="utf-8")


def read_mutant(path: Path) -> Mutant:
    """Read a patch's head. Raises BuildError when it names no test."""
    text = path.read_text(encoding="utf-8")
    head = dict(re.findall(r"^# (kills|board): *(\S.*?) *$", text, re.MULTILINE))
    if "kills" not in head:
        raise BuildError(f"a line `# kills: TEST` in {path}", "none", next_step="name the test that must go red")
    return Mutant(path, head["kills"], head.get("board", ""))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which mutants."""
    parser.add_argument("name", nargs="*", help="parts of patch names; all patches without one")
    parser.add_argument("--list", action="store_true", help="show the patches and their tests; run nothing")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run the chosen mutants and print what became of each; 1 unless all were killed."""
    paths = [p for p in sorted(FOLDER.glob("*.patch")) if not args.name or any(n in p.name for n in args.name)]
    if not paths:
        raise BuildError(f"patches in {FOLDER}", "none that match" if args.name else "none")
    mutants = [read_mutant(path) for path in paths]
    if args.list:
        for mutant in mutants:
            print(f"{mutant.path.name}  {mutant.kills}  {mutant.board}")
        return 0
    fates: dict[str, Fate] = {}
    with worktree() as tree:
        healthy: dict[tuple[str, str], bool] = {}
        for number, mutant in enumerate(mutants, start=1):
            key = (mutant.kills, mutant.board)
            if key not in healthy:
                healthy[key] = run_test(tree, mutant, "control") == _PASSED
            fate = fate_of(tree, mutant) if healthy[key] else "red without the patch"
            fates[mutant.path.name] = fate
            print(f"[{number}/{len(mutants)}] {mutant.path.name}: {fate}", flush=True)
    bad = {name: fate for name, fate in fates.items() if fate != "killed"}
    print(f"\n{len(fates) - len(bad)} of {len(fates)} mutants killed")
    for name, fate in bad.items():
        print(f"  {name}: {fate} (log: {LOGS / name}.log)")
    return 1 if bad else 0


@contextmanager
def worktree() -> Iterator[Path]:
    """This tree as it stands, changes that are not committed included, in a worktree that the next call uses again."""
    commit = _snapshot()
    if (TREE / ".git").exists():
        _git(TREE, "reset", "--hard", "--quiet", commit)
    else:
        shutil.rmtree(TREE, ignore_errors=True)
        _git(TOP, "worktree", "prune")
        TREE.parent.mkdir(parents=True, exist_ok=True)
        _git(TOP, "worktree", "add", "--detach", "--quiet", str(TREE), commit)
    manifest = TREE / _MANIFEST
    if manifest.exists():
        manifest.write_text(manifest.read_text(encoding="utf-8").replace(_DENIED, _WARNED), encoding="utf-8")
    try:
        yield TREE
    finally:
        _take_back(TREE)


def _snapshot() -> str:
    """A commit of the files as they stand; made through an index of its own, so neither branch nor index change."""
    LOGS.mkdir(parents=True, exist_ok=True)
    own = {
        "GIT_INDEX_FILE": str(LOGS.parent / "index"),
        **{f"GIT_{who}_{what}": "mutants" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    _git(TOP, "read-tree", "HEAD", env=own)
    _git(TOP, "add", "--all", env=own)
    tree = _git(TOP, "write-tree", env=own).strip()
    return _git(TOP, "commit-tree", "-p", "HEAD", "-m", "As it stands", tree, env=own).strip()


def fate_of(tree: Path, mutant: Mutant) -> Fate:
    """Apply, test, take back."""
    if subprocess.run(["git", "apply", str(mutant.path)], cwd=tree, capture_output=True, check=False).returncode != 0:
        return "does not apply"
    try:
        if mutant.touches_kernel and mutant.board and not _builds(tree, mutant):
            return "does not build"
        status = run_test(tree, mutant, "mutant")
    finally:
        _take_back(tree)
        _git(tree, "clean", "-fdq", "--exclude=build", "--", "harness", "kernel-src", "testsuites")
    if status == _FAILED:
        return "killed"
    return "survived" if status == _PASSED else "test did not run"


def _take_back(tree: Path) -> None:
    _git(tree, "checkout", "--quiet", "--", ".", f":!{_MANIFEST}")


def _builds(tree: Path, mutant: Mutant) -> bool:
    arch = read_board(tree / "boards" / f"{mutant.board}.yaml").arch
    return _run(tree, [sys.executable, "-m", "harness.cli", "build", arch], _log(mutant, "build")) == 0


def run_test(tree: Path, mutant: Mutant, kind: str) -> int:
    """The mutant's test in `tree`: pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutant.kills]
    if mutant.board:
        command += ["--board", mutant.board]
        if not mutant.touches_kernel:
            command += ["--lab-retries", "0"]  # a fault planted in the lab is a lab fault, and would be forgiven
    return _run(tree, command, _log(mutant, kind))


def _log(mutant: Mutant, kind: str) -> Path:
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / (f"{mutant.path.name}.log" if kind == "mutant" else f"{mutant.path.name}.{kind}.log")


def _run(tree: Path, command: Sequence[str], log: Path) -> int:
    """Run in the worktree, importing the harness from there; one that does not end is ended and counts as red."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        try:
            return process.wait(TEST_LIMIT_S)
        except subprocess.TimeoutExpired:
            return _FAILED
        finally:
            end_group(process, END_LIMIT_S)


def _git(where: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=where, env=os.environ | dict(env or {}), capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise BuildError(
            f"git {' '.join(arguments[:2])} to succeed in {where}",
            answer.stderr.strip() or f"status {answer.returncode}",
            next_step="rm -r build/mutants && git worktree prune, then again",
        )
    return answer.stdout
