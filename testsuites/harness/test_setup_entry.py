"""The script at the top of the tree: it says what it lacks, and costs little once it has it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.build.artifacts import TOP

pytestmark = pytest.mark.requirement("BLD-01")
LIMIT_S = 60.0


def fresh(folder: Path) -> Path:
    """The entry script and what it reads, without a .venv."""
    folder.mkdir()
    for name in ("quoin", "pyproject.toml"):
        shutil.copy(TOP / name, folder / name)
    return folder


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "quoin", "--help"], env=os.environ | env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_an_older_python_is_refused_with_both_versions(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    old = script(tmp_path / "python3", '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1')
    done = run(tree, QUOIN_PYTHON=str(old))
    assert done.returncode == 1
    assert "3.11" in done.stderr
    assert "3.9.2" in done.stderr
    assert not (tree / ".venv").exists()


def test_a_python_without_venv_is_told_with_the_command(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    bare = script(tmp_path / "python3", 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    tools = tmp_path / "bin"
    tools.mkdir()
    script(tools / "id", "echo 1000")  # nobody who may install
    script(tools / "sudo", "exit 1")
    done = run(tree, QUOIN_PYTHON=str(bare), PATH=f"{tools}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "sudo apt-get install -y --no-install-recommends python3-venv" in done.stderr


def test_root_installs_venv_by_apt(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    bare = script(tmp_path / "python3", 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    tools = tmp_path / "bin"
    tools.mkdir()
    script(tools / "id", "echo 0")
    script(tools / "apt-get", f'echo "$@" >> {tmp_path}/apt')
    run(tree, QUOIN_PYTHON=str(bare), PATH=f"{tools}:/usr/bin:/bin")
    asked = (tmp_path / "apt").read_text()
    assert "update" in asked
    assert "install -y -qq --no-install-recommends python3-venv" in asked


def test_a_tree_that_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    (tree / ".venv/bin").mkdir(parents=True)
    script(tree / ".venv/bin/python", 'echo "handed over: $*"')
    shutil.copy(tree / "pyproject.toml", tree / ".venv/quoin-installed.toml")
    done = run(tree, QUOIN_PYTHON="/nonexistent")
    assert done.returncode == 0
    assert done.stdout == "handed over: -m harness.cli --help\n"


def test_a_change_of_pyproject_installs_again(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    (tree / ".venv/bin").mkdir(parents=True)
    script(tree / ".venv/bin/python", f'echo "$*" >> {tmp_path}/calls')
    (tree / ".venv/quoin-installed.toml").write_text("older\n")
    done = run(tree)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert "-m pip install" in calls
    assert f"-e {tree}[test]" in calls
    assert (tree / ".venv/quoin-installed.toml").read_text() == (tree / "pyproject.toml").read_text()


def test_pip_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    tree = fresh(tmp_path / "tree")
    (tree / ".venv/bin").mkdir(parents=True)
    script(tree / ".venv/bin/python", 'case "$*" in *"pip install"*) exit 1;; esac')
    done = run(tree)
    assert done.returncode == 1
    assert "pip failed" in done.stderr
    assert not (tree / ".venv/quoin-installed.toml").exists()


@pytest.mark.requirement("BLD-07")
def test_one_distribution_alone_owns_the_module_serial() -> None:
    owners = importlib.metadata.packages_distributions().get("serial", [])
    assert sorted(set(owners)) == ["pyserial-labgrid"]
