"""A kernel that never boots: the verdict names the stage that it reached, each stage on each board."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.board import Board
from harness.build.artifacts import SOURCE
from harness.console import ConsoleError, Session
from harness.machine import BootFiles
from harness.machine.tiny_stuck import write_stuck_guest
from harness.verdict import Verdict, judge

# The kernel's own stages, in their order.
STAGES = list(
    dict.fromkeys(re.findall(r'log::stage\(format_args!\(\s*"([a-z]+): ', (SOURCE / "kernel/src/init.rs").read_text()))
)
LIMIT_S = 0.2
PATIENCE_S = 60.0


@pytest.mark.requirement("BTC-02")
def test_the_kernel_has_stages() -> None:
    assert STAGES[0] == "entry" and STAGES[-1] == "user" and len(STAGES) > 4, STAGES


@pytest.mark.needs("release")
@pytest.mark.requirement("DEV-02", "BTC-02")
@pytest.mark.parametrize("reached", [None, *STAGES])
def test_a_kernel_that_is_stuck_before_it_is_ready(
    boot: Callable[..., Session], board: Board, tmp_path: Path, reached: str | None
) -> None:
    said = STAGES[: STAGES.index(reached) + 1] if reached else []
    text = "".join(f"boot: {stage}: well\n" for stage in said)
    session = boot(smp=1, ready=False, files=BootFiles(write_stuck_guest(tmp_path / "guest", board.arch, text)))
    if reached:
        session.console.expect(f"boot: {reached}: well\n", PATIENCE_S)
    with pytest.raises(ConsoleError) as error:
        session.wait_ready(LIMIT_S)
    finding = judge(session, error.value)
    assert finding.verdict is Verdict.NEVER_BOOTED, finding
    expected = f"the last boot stage reached was '{reached}'" if reached else "it never printed a boot stage"
    assert expected in finding.cause
