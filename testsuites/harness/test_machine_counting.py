"""Instructions counted from outside: exact against what is known and what the guest counts, blind to sleep."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.machine import BootFiles, MachineError
from harness.machine.counting import Counting, plugin, totals
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.plugin.counting import Counted

CASE = "bench:markers_bound_what_is_counted"
# Pairs of markers around a thing (kernel-src/user/tests/bench).
SPIN, CALLS, SLEEP = (1, 2), (3, 4), (5, 6)
# Nanoseconds of a tick of the clock that programs read, where an instruction takes one:
# the time-stamp counter, CNTVCT at 62.5 MHz, and RISC-V's `time` at 10 MHz (QEMU 7.2).
TICK = {"x86_64": 1, "aarch64": 16, "riscv64": 100}
SLEEP_LIMIT = 2_000

Count = Callable[..., Counted]


def guest_difference(lines: list[str], what: str) -> int:
    """How much longer the longer of two runs was by the guest's own clock, in nanoseconds."""
    found = [int(match[1]) for line in lines if (match := re.search(rf"guest: {what} \d+ (\d+)", line))]
    assert len(found) == 2, lines
    return found[1] - found[0]


@pytest.mark.needs("release")
@pytest.mark.requirement("TST-16", "TMR-09")
def test_counts_agree_with_the_guest_and_sleep_is_not_counted(count: Count) -> None:
    counted = count(smp=1, icount=True)
    lines = counted.run(CASE)

    (short,), (long,) = counted.spans(*SPIN)
    spun = long - short
    # A million turns of two instructions, and no call: nothing to allow for.
    assert (spun.user, spun.kernel, spun.firmware) == (2_000_000, 0, 0)
    tick = TICK[counted.session.board.arch]
    assert abs(guest_difference(lines, "spin") - spun.total) <= tick

    (short,), (long,) = counted.spans(*CALLS)
    called = long - short
    assert called.kernel % 20_000 == 0, "each null call takes the same path in the kernel"
    assert called.kernel > called.user > 20_000
    assert abs(guest_difference(lines, "calls") - called.total) <= tick

    # Again, because x86_64's clock measures its rate once more a tenth of a second after the start.
    *_, slept_ns = re.findall(r"guest: sleep \d+ (\d+)", "\n".join(counted.run(CASE)))
    assert int(slept_ns) >= 100_000_000
    *_, (slept,) = counted.spans(*SLEEP)
    # All of it: the call, going to sleep, the timer's interrupt, and the way back.
    assert 100 < slept.total < SLEEP_LIMIT, slept


@pytest.mark.requirement("TST-16")
def test_each_cpu_is_counted_apart(count: Count) -> None:
    counted = count(smp=2)
    counted.run(CASE)
    spans = counted.spans(*SPIN)
    places = [marker.cpu for marker in counted.markers() if marker.number == SPIN[1]]
    for span, cpu, turns in zip(spans, places, (1_000, 1_001_000), strict=True):
        # A thread may be moved on its way; all its instructions are somewhere.
        assert totals(span).user >= 2 * turns
        assert len(span) == 2
        assert span[cpu].user > 0
    assert all(cpu.kernel > 10_000 for cpu in counted.instructions()), "each CPU started"
    if counted.session.board.arch == "riscv64":
        assert sum(cpu.firmware for cpu in counted.instructions()) > 10_000


@pytest.mark.needs("arch==riscv64")
@pytest.mark.requirement("TST-16")
def test_any_guest_can_be_counted(count: Count, tmp_path: Path) -> None:
    text = "not Quoin at all\n"
    guest = write_tiny_guest(tmp_path / "guest", text, Then.SLEEP)
    counted = count(smp=1, ready=False, files=BootFiles(guest))
    counted.session.console.expect("at all", 60)
    assert counted.markers() == []
    assert counted.instructions()[0].firmware > 1_000 * len(text) // 100


@pytest.mark.requirement("TST-16")
def test_counts_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = Counting(tmp_path / "nothing")
    with pytest.raises(MachineError, match="while the machine is on"):
        missing.counts()
    (tmp_path / "other").write_bytes(struct.pack("<4I", 1, 2, 3, 4) + bytes(4096))
    with pytest.raises(MachineError, match="remove build/plugin"):
        Counting(tmp_path / "other").counts()


@pytest.mark.requirement("TST-16")
def test_the_compiler_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"quoin setup"):
        plugin(tmp_path)
