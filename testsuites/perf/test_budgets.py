"""Budgets of the boot: instructions to `ready`, and memory that the kernel keeps."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.console import Session

Boot = Callable[..., Session]

READY_INSTRUCTIONS = 5_000_000
KERNEL_BYTES = 4 << 20


def ready_value(session: Session, name: str) -> int:
    """A number on the ready line."""
    match = re.search(rf"\b{name}=(\d+)\b", session.ready_line or "")
    assert match, session.ready_line
    return int(match[1])


@pytest.mark.requirement("PRF-02")
@pytest.mark.needs("release")
def test_ready_is_reached_within_five_million_instructions(
    boot: Boot, record_property: Callable[[str, object], None]
) -> None:
    session = boot(smp=1, icount=True)
    spent = ready_value(session, "time_ns")
    record_property("metric", f"boot_to_ready {spent} instructions")
    assert 10_000 < spent <= READY_INSTRUCTIONS


@pytest.mark.requirement("PRF-02")
def test_the_kernel_keeps_at_most_four_mebibytes_with_four_cpus(boot: Boot) -> None:
    assert ready_value(boot(smp=4), "kernel") <= KERNEL_BYTES
