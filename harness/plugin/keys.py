"""Where the plugin keeps what belongs to a run and to a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.plugin.coverage import Coverage
    from harness.plugin.lab import Lab

LAB: pytest.StashKey[Lab] = pytest.StashKey()
COVERAGE: pytest.StashKey[Coverage] = pytest.StashKey()


@dataclass(frozen=True, slots=True)
class Taken:
    """A machine that a test took, and where its console went meanwhile."""

    session: Session
    log: Path


@dataclass(frozen=True, slots=True)
class Told:
    """What a failure's text says, for who keeps it: `replay` is empty where the machine cannot be reopened."""

    verdict: str
    cause: str
    rerun: str
    postmortem: Path | None = None
    replay: str = ""


MACHINES: pytest.StashKey[list[Taken]] = pytest.StashKey()
TAKES_BOARD: pytest.StashKey[Board] = pytest.StashKey()
TOLD: pytest.StashKey[Told] = pytest.StashKey()
