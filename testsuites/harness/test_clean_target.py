"""A target that each test finds as clean as after a boot, on real machines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.board import Board
from harness.console import Session, clean_target
from harness.machine import BootFiles, QemuMachine, snapshot
from harness.machine.tiny_guest import Then, write_tiny_guest

ROUNDS = 200


@pytest.mark.requirement("DEV-08", "TST-01")
@pytest.mark.parametrize("number", range(3))
def test_nothing_of_the_test_before_shows_on_a_fresh_target(fresh_target: Session, number: int) -> None:
    console = fresh_target.console
    console.expect(r"^\$ \Z")
    assert str(console.last_lines(1)[0]).startswith("init: ready")
    assert console.command("cpus").startswith("4 of 4 CPUs online")
    fresh_target.channel.ping()
    # All that a load must sweep away: an answer not waited for, half a line, frames under way.
    console.send("mem\nhalf a line")
    fresh_target.channel.send("ping", 10)
    console.send("x" * 100)


def timers_armed(session: Session) -> bool:
    """Whether a comparator that the guest has set is still to come, as the machine itself shows it."""
    cpus = range(session.board.smp)
    if session.board.arch == "x86_64":
        current = [session.machine.monitor(f"info lapic {cpu}") for cpu in cpus]
        return any(int(re.search(r"current_count = (\d+)", text)[1]) for text in current)
    with session.gdb() as gdb:
        for cpu in cpus:
            gdb.select(cpu)
            if session.board.arch == "aarch64":
                if any(gdb.read_register(f"CNT{which}_CTL_EL0") & 3 == 1 for which in "PV"):
                    return True
            elif gdb.read_register("stimecmp") != (1 << 64) - 1:
                return True
    return False


@pytest.mark.requirement("DEV-08")
@pytest.mark.needs("board==qemu-none")
def test_timers(fresh_target: Session) -> None:
    assert not timers_armed(fresh_target)
    fresh_target.console.sendline("sleep 600000")
    fresh_target.console.expect(r"sleep 600000\n")
    assert snapshot.wait_idle(fresh_target.machine, 20)
    assert timers_armed(fresh_target)


@pytest.mark.requirement("DEV-08", "TST-01")
def test_a_timer_of_before_the_load_neither_fires_nor_hides_a_new_one(fresh_target: Session) -> None:
    session, point = fresh_target, fresh_target.clean_point
    if point is None:
        pytest.skip("each fresh target is a new boot here")
    for _ in range(ROUNDS):
        session.console.sendline("sleep 600000")
        session.console.expect(r"sleep 600000\n")
        clean_target.load(session, point)
        assert session.console.command("sleep 2", 60) == ""
        clean_target.load(session, point)
