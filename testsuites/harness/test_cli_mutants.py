"""Mutants: what is killed is killed by its own test, and what proves nothing is not counted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.build.artifacts import TOP
from harness.build.errors import BuildError
from harness.cli import mutants
from harness.cli.mutants import Mutant, fate_of, read_mutant, run_test, worktree

pytestmark = pytest.mark.requirement("TST-04")

PRODUCT = "def double(x):\n    return 2 * x\n"
TEST = """from harness.product import double


def test_double():
    assert double(3) == 6


def test_blind():
    assert double(0) == 0
"""


def git(where: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one product file and its tests."""
    top = tmp_path / "top"
    (top / "harness").mkdir(parents=True)
    (top / "testsuites/mutants").mkdir(parents=True)
    (top / "harness/__init__.py").write_text("")
    (top / "harness/product.py").write_text(PRODUCT)
    (top / "testsuites/test_product.py").write_text(TEST)
    (top / "pytest.ini").write_text("[pytest]\n")
    (top / ".gitignore").write_text("build/\n")
    git(tmp_path, "init", "-q", "top")
    git(top, "add", ".")
    git(top, "commit", "-qm", "one")
    monkeypatch.setattr(mutants, "TOP", top)
    monkeypatch.setattr(mutants, "TREE", top / "build/mutants/tree")
    monkeypatch.setattr(mutants, "LOGS", top / "build/mutants/logs")
    return top


def patch(top: Path, *, old: str, new: str, kills: str) -> Mutant:
    path = top / "testsuites/mutants/one.patch"
    path.write_text(
        f"# kills: {kills}\n--- a/harness/product.py\n+++ b/harness/product.py\n@@ -1,2 +1,2 @@\n"
        f" def double(x):\n-{old}\n+{new}\n"
    )
    return read_mutant(path)


def test_a_fault_that_its_test_sees_is_killed(repository: Path) -> None:
    mutant = patch(
        repository, old="    return 2 * x", new="    return 3 * x", kills="testsuites/test_product.py::test_double"
    )
    with worktree() as tree:
        assert run_test(tree, mutant, "control") == 0
        assert fate_of(tree, mutant) == "killed"
        assert (tree / "harness/product.py").read_text() == PRODUCT  # taken back
    assert (repository / "harness/product.py").read_text() == PRODUCT  # never touched


def test_a_fault_that_its_test_does_not_see_survives(repository: Path) -> None:
    mutant = patch(
        repository, old="    return 2 * x", new="    return 3 * x", kills="testsuites/test_product.py::test_blind"
    )
    with worktree() as tree:
        assert fate_of(tree, mutant) == "survived"


def test_a_patch_of_other_text_does_not_apply(repository: Path) -> None:
    mutant = patch(
        repository, old="    return x + x", new="    return 3 * x", kills="testsuites/test_product.py::test_double"
    )
    with worktree() as tree:
        assert fate_of(tree, mutant) == "does not apply"


def test_a_test_that_is_not_there_kills_nothing(repository: Path) -> None:
    mutant = patch(
        repository, old="    return 2 * x", new="    return 3 * x", kills="testsuites/test_product.py::test_none"
    )
    with worktree() as tree:
        assert fate_of(tree, mutant) == "test did not run"


def test_changes_that_are_not_committed_take_part(repository: Path) -> None:
    (repository / "harness/product.py").write_text(PRODUCT.replace("2 * x", "x * 2"))
    with worktree() as tree:
        assert "x * 2" in (tree / "harness/product.py").read_text()
    (repository / "harness/product.py").write_text(PRODUCT)
    with worktree() as tree:  # the same worktree again
        assert "2 * x" in (tree / "harness/product.py").read_text()


def test_what_a_mutant_leaves_unused_is_no_error(repository: Path) -> None:
    lint = next(line for line in (TOP / "kernel-src/Cargo.toml").read_text().splitlines() if line.startswith("unused"))
    manifest = repository / "kernel-src/Cargo.toml"
    manifest.parent.mkdir()
    manifest.write_text(f"{lint}\n")
    mutant = patch(
        repository, old="    return 2 * x", new="    return 3 * x", kills="testsuites/test_product.py::test_double"
    )
    with worktree() as tree:
        assert fate_of(tree, mutant) == "killed"
        assert (tree / "kernel-src/Cargo.toml").read_text() == lint.replace("deny", "warn") + "\n"
    assert manifest.read_text() == f"{lint}\n"


def test_a_patch_without_its_test_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.patch"
    path.write_text("--- a/x\n+++ b/x\n")
    with pytest.raises(BuildError, match="# kills"):
        read_mutant(path)


def test_each_mutant_of_the_tree_applies_and_names_a_test_that_is_there() -> None:
    wrong = []
    for path in sorted(mutants.FOLDER.glob("*.patch")):
        file, _, case = read_mutant(path).kills.partition("::")
        name = case.partition("[")[0]
        # Cases of kernel tests are in programs; running the mutant tells whether they are there.
        there = (TOP / file).is_file() and f"def {name}" in (TOP / file).read_text()
        if not there and not file.endswith(".yaml"):
            wrong.append(f"{path.name}: {file} has no test {name}")
        applied = subprocess.run(
            ["git", "apply", "--check", str(path)], cwd=TOP, capture_output=True, text=True, check=False
        )
        if applied.returncode != 0:
            wrong.append(f"{path.name}: {applied.stderr.strip()}")
    assert not wrong
