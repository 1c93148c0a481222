"""`quoin clean`: what was built, gone."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "remove everything that was built (build/); --all removes .venv too"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether the virtual environment goes too."""
    parser.add_argument("--all", action="store_true", help="also .venv; the next ./quoin makes it anew")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Remove build/, and worktrees that mutants left there."""
    from harness.build.artifacts import TOP
    from harness.build.errors import BuildError

    doomed = [TOP / "build", *([TOP / ".venv"] if args.all else [])]
    for folder in doomed:
        if folder.is_symlink():
            raise BuildError(f"a folder at {folder}", "a link, which is not followed", next_step=f"rm {folder}")
        if folder.is_dir():
            _remove(folder)
            print(f"removed {folder}")
    subprocess.run(["git", "worktree", "prune"], cwd=TOP, check=False, capture_output=True)
    return 0


def _remove(folder: Path) -> None:
    from harness.build.errors import BuildError

    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise BuildError(f"to remove {folder}", f"{error.filename}: {error.strerror}") from error
