"""From power on to `ready`: stages, slides, memory sizes, command lines, and how it ends when it cannot go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.console import ConsoleError, Session, TargetPanicked
from harness.plugin.lab import Lab

STAGES = ["entry", "memory", "paging", "interrupts", "timer", "cpus", "user"]
Boot = Callable[..., Session]


def said(session: Session, pattern: str) -> re.Match[str]:
    """The first line since power on that matches."""
    for line in session.first_lines:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"no line matches {pattern!r} in:\n" + "\n".join(session.first_lines))


@pytest.mark.requirement("BTC-01", "BTC-02", "BTX-10", "BTX-11", "BTA-01", "BTA-06", "BTR-03", "BTR-04")
def test_every_stage_is_reported_in_order(fresh_machine: Session) -> None:
    found = [match[1] for line in fresh_machine.first_lines if (match := re.match(r"boot: (\w+):", line))]
    assert list(dict.fromkeys(found)) == STAGES


@pytest.mark.requirement("BTC-02", "BLD-09")
def test_the_first_line_names_the_image_that_was_built(fresh_machine: Session, artifacts: Artifacts) -> None:
    assert said(fresh_machine, r"build=([0-9a-f]+)")[1] == artifacts.build_id
    assert said(fresh_machine, r"^quoin \S+ (\S+) ")[1] == artifacts.arch


@pytest.mark.requirement("BTC-05", "PRF-02")
def test_boot_memory_comes_back_and_the_kernel_stays_small(fresh_machine: Session) -> None:
    assert int(said(fresh_machine, r"gave back (\d+) KiB")[1]) > 0
    assert fresh_machine.ready_line is not None
    match = re.search(r"kernel=(\d+)", fresh_machine.ready_line)
    assert match is not None
    assert int(match[1]) <= 4 << 20


@pytest.mark.requirement("HRD-07", "BTC-06")
def test_no_kernel_page_is_writable_and_executable(fresh_machine: Session) -> None:
    assert int(said(fresh_machine, r"paging: \d levels, (\d+) mappings, none writable and executable")[1]) > 10


@pytest.mark.requirement("BTX-12", "BTC-07")
@pytest.mark.parametrize("slide", [0x20_0000, 0x1F60_0000])
def test_the_image_runs_where_it_is_slid_to(boot: Boot, slide: int) -> None:
    session = boot(f"slide={slide:#x}")
    assert int(said(session, r"slide=(0x[0-9a-f]+)")[1], 16) == slide
    assert "ended" not in session.console.command("ps")


@pytest.mark.requirement("BTX-12", "BTC-06")
@pytest.mark.needs("board!=raspi3b")  # a part is the graphics processor's
@pytest.mark.parametrize("memory", ["64M", "1G", "5G"])
def test_any_size_of_memory_is_found_and_counted(boot: Boot, memory: str) -> None:
    session = boot(memory=memory)
    size = int(memory[:-1]) << (20 if memory[-1] == "M" else 30)
    total = int(said(session, r"memory: (\d+) KiB")[1]) << 10
    assert 0.97 * size <= total <= size


@pytest.mark.requirement("BTC-09")
def test_an_unknown_option_is_named_and_passed_over(boot: Boot) -> None:
    said(boot("frobnicate=7"), r"ignored unknown option 'frobnicate=7'")


@pytest.mark.requirement("BTC-09")
def test_quiet_keeps_the_stages_for_the_log(boot: Boot) -> None:
    session = boot("quiet")
    assert not [line for line in session.first_lines if line.startswith("boot: ")]
    assert "boot: cpus:" in session.console.command("log")


@pytest.mark.requirement("BTC-02", "BTC-09")
@pytest.mark.parametrize("option", ["slide=3", "slide=0x40000000", "cpus=0", "cpus=many"])
def test_a_bad_option_is_a_panic_that_names_it_with_file_and_line(boot: Boot, option: str) -> None:
    session = boot(option, ready=False)
    report = session.console.expect_panic(20)
    assert option.split("=")[0] in report.message
    assert report.location is not None
    file, line = report.location
    assert file.endswith(".rs")
    assert line > 0


@pytest.mark.requirement("TST-01")
def test_a_panic_fails_whoever_waits_with_file_and_line(boot: Boot) -> None:
    session = boot("cpus=0", ready=False)
    with pytest.raises(TargetPanicked) as failure:
        session.wait_ready(20)
    assert re.search(r"at \S+\.rs:\d+", str(failure.value))
    session.console.expect_panic()


@pytest.mark.requirement("OBS-09")
@pytest.mark.needs("!no-reboot")
def test_the_log_is_still_there_after_a_reset(boot: Boot) -> None:
    session = boot("first=boot", on_reset="restart")
    session.console.sendline("reboot")
    session.wait_ready()
    log = session.console.command("log", timeout_s=30)
    assert log.count("ignored unknown option 'first=boot'") == 2
    assert "boot 2 in this log" in log


@pytest.mark.requirement("SMP-07", "BTR-01")
@pytest.mark.needs("qmp", "!stays-on")
def test_poweroff_ends_the_machine(boot: Boot) -> None:
    session = boot()
    session.console.sendline("poweroff")
    with pytest.raises(ConsoleError):
        session.console.expect("never printed", 20)
    # QEMU's RISC-V finisher ends the emulator without an event, and the console may end a little before it.
    assert session.machine.guest_off is not None or session.machine.wait_exit(20)
    assert session.machine.guest_off is not None


@pytest.mark.requirement("BTC-09", "ERR-01")
def test_a_boot_archive_of_rubbish_is_refused_by_name(boot: Boot, board: Board, lab: Lab, tmp_path: Path) -> None:
    rubbish = tmp_path / "boot.cpio"
    rubbish.write_bytes(b"not an archive" * 100)
    session = boot(ready=False, files=replace(lab.files(board, ""), initrd=rubbish))
    assert "boot archive" in session.console.expect_panic(20).message
