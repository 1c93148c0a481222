"""What holds for a call by which nobody has called before, on a machine on which nothing has happened yet."""

from __future__ import annotations

import pytest

from harness.console import Session
from harness.plugin.counting import run_case


@pytest.mark.requirement("SYS-06", "SYS-09", "ERR-01")
def test_no_name_means_anything_before_it_was_looked_up(fresh_machine: Session) -> None:
    run_case(fresh_machine, "ipc:other_objects_take_no_messages")
