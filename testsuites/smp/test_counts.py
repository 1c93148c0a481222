"""Any number of CPUs, from the machine's tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.board import Board
from harness.console import Session

Boot = Callable[..., Session]


@pytest.mark.requirement("SMP-01", "SMP-02", "SMP-05", "SMP-07", "SMP-08", "SMP-11", "BTR-02")
@pytest.mark.parametrize("count", [1, 2, 8])
def test_all_cpus_of_the_machine_come_up(boot: Boot, board: Board, count: int) -> None:
    if board.wires is None and count > board.max_smp:
        pytest.skip(f"{board.name} takes at most {board.max_smp} CPUs")
    session = boot(smp=count)
    assert session.ready_line is not None
    assert f"cpus={count} " in session.ready_line
    table = session.console.command("cpus").splitlines()
    assert table[0] == f"{count} of {count} CPUs online"
    assert len(table) == 2 + count


@pytest.mark.requirement("SMP-08", "SMP-11")
@pytest.mark.parametrize("count", [16, 64])
def test_more_than_eight_cpus_come_up(boot: Boot, board: Board, count: int) -> None:
    if count > board.max_smp:
        pytest.skip(f"{board.name} takes at most {board.max_smp} CPUs")
    session = boot(smp=count, memory="256M")
    assert session.ready_line is not None
    assert f"cpus={count} " in session.ready_line


@pytest.mark.requirement("SMP-01", "SMP-11")
def test_cpus_that_the_command_line_leaves_out_stay_off(boot: Boot) -> None:
    session = boot("cpus=2", smp=4)
    assert session.console.command("cpus").startswith("2 of 4 CPUs online")
