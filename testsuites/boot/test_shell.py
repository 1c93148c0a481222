"""The shell as a person uses it."""

from __future__ import annotations

import pytest

from harness.console import Session


@pytest.mark.requirement("TST-02")
@pytest.mark.parametrize("command", ["help", "ps", "mem", "cpus", "test list", "test run", "log", "reboot", "poweroff"])
def test_help_names_every_command(machine: Session, command: str) -> None:
    assert command in machine.console.command("help")


@pytest.mark.requirement("TST-02", "DEV-02")
def test_a_case_runs_from_the_prompt(machine: Session) -> None:
    out = machine.console.command("test run boot:clock_never_steps_back", timeout_s=20)
    assert out.splitlines() == ["ok boot:clock_never_steps_back", "1 run, 0 failed"]


@pytest.mark.requirement("PRC-16", "BTC-04", "ERR-06")
def test_ps_shows_the_first_three(machine: Session) -> None:
    out = machine.console.command("ps")
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["init", "testd", "shell"]


@pytest.mark.requirement("TST-02")
def test_an_unknown_command_is_named(machine: Session) -> None:
    assert "nonsense" in machine.console.command("nonsense")


@pytest.mark.requirement("TST-02")
def test_backspace_and_control_u_edit_the_line(machine: Session) -> None:
    console = machine.console
    console.send("rubbish\x15helq\x7fp\r")
    console.expect("this list")
    console.expect(r"^\$ \Z")
