"""Folders of machines whose lab was killed are removed by the next one, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.machine import MachineError
from harness.machine.scratch import PREFIX, Scratch

OWNER = """
import sys
from harness.machine.scratch import Scratch
print(Scratch().path, flush=True)
sys.stdin.read()
"""


def aged(path: Path) -> Path:
    """Make a folder look an hour old."""
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
    return path


@pytest.mark.requirement("BLD-06", "TST-27")
def test_what_a_killed_lab_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def owner() -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", OWNER]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        return process, aged(Path(process.stdout.readline().strip()))

    killed, left = owner()
    killed.kill()
    killed.communicate(timeout=10)
    alive, kept = owner()
    try:
        assert left.exists() is False, "the second lab removes what the first one left"
        (left := tmp_path / f"{PREFIX}left").mkdir()
        aged(left)
        newborn = tmp_path / f"{PREFIX}newborn"
        newborn.mkdir()
        mine = Scratch()
        assert not left.exists()
        assert kept.exists(), "its lab lives"
        assert newborn.exists(), "its lab may be about to lock it"
        mine.close()
        assert not mine.path.exists()
    finally:
        alive.communicate(input="", timeout=10)


@pytest.mark.requirement("BLD-06", "ERR-01")
def test_a_temporary_folder_too_deep_for_sockets_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(MachineError, match=f"found {deep}; next: set TMPDIR"):
        Scratch()
    assert list(deep.iterdir()) == []
