"""What a test needs of a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.board import NeedsError, lacks, read_board

BOARD = read_board(Path(__file__).resolve().parents[2] / "boards" / "qemu-riscv64.yaml")


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    "need",
    ["smp>=2", "smp == 4", "memory>=128M", "memory<2G", "arch==riscv64", "arch!=x86_64", "board==qemu-riscv64", "qmp"],
)
def test_a_board_meets_what_it_has(need: str) -> None:
    assert lacks(BOARD, [need]) is None


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ("smp>=8", "needs smp>=8, has 4"),
        ("memory>=256M", "needs memory>=256M, has 128M"),
        ("arch==x86_64", "needs arch==x86_64, has riscv64"),
        ("jtag", "needs jtag; qemu-riscv64 has"),
        ("!qmp", "needs no qmp"),
    ],
)
def test_what_it_lacks_is_the_reason(need: str, reason: str) -> None:
    assert reason in str(lacks(BOARD, ["qmp", need]))


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize("need", ["smp>=", "smp>=two", "cores>=2", "arch>=riscv64", "memory>=1", "a b"])
def test_an_unreadable_need_is_an_error_and_not_a_skip(need: str) -> None:
    with pytest.raises(NeedsError):
        lacks(BOARD, [need])
