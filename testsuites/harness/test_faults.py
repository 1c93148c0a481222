"""Faults are one word in a test, and a guest meets them: Quoin, or U-Boot where a driver is needed."""

from __future__ import annotations

import datetime
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.board import Board
from harness.console import Broker, Console, ConsoleClosed, ConsoleFault, ExpectTimeout, Session
from harness.console.noise import Noise
from harness.hardware import SerialTty
from harness.machine import MachineError, Misuse
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.plugin.faults import Faults
from harness.verdict.verdict import Verdict, judge
from support.faulty_tty import FaultyTty
from support.projects import BOARD, lay_out, run_pytest
from support.uboot_guest import DISK, NIC, SECTOR, SLOT_DEVICE, UBootGuest

Boot = Callable[..., Session]
_LIMIT_S = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(2048 * SECTOR))
    return path


def kept(disk: Path, sector: int) -> bytes:
    """What stands at the beginning of a sector of an image."""
    return disk.read_bytes()[sector * SECTOR :][:4]


# Devices.


@pytest.mark.requirement("TST-26", "DEV-09")
@pytest.mark.needs("qmp")
def test_a_guest_meets_a_full_and_a_broken_disk_and_a_power_cut(
    board: Board, boot: Boot, faults: Faults, disk: Path
) -> None:
    guest = UBootGuest(board, boot, disk)
    guest.writes(5, b"one.")
    assert kept(disk, 5) == b"one."
    faults.disk_full(DISK)
    said = guest.writes(5, b"two.")
    assert "ERROR" in said or "timeout" in said
    assert guest.session.machine.wait_event("BLOCK_IO_ERROR", _LIMIT_S).data["reason"] == "No space left on device"
    assert guest.reads(5)[1] == kept(disk, 5) == b"one."
    with pytest.raises(MachineError, match="fails already; mend it first"):
        faults.disk_error(DISK)
    faults.disk_mended(DISK)
    guest.writes(5, b"two.")
    assert guest.reads(5)[1] == kept(disk, 5) == b"two."
    faults.disk_error(DISK, writes=False)
    said, text = guest.reads(5)
    assert ("ERROR" in said or "timeout" in said) and text != b"two."
    guest.writes(6, b"six.")
    assert kept(disk, 6) == b"six."
    faults.cut_power()
    assert guest.session.closed
    again = UBootGuest(board, boot, disk)
    assert (again.reads(5)[1], again.reads(6)[1]) == (b"two.", b"six.")


@pytest.mark.requirement("TST-26", "DEV-09")
@pytest.mark.needs("qmp", "arch==riscv64")
def test_a_guest_that_stops_for_a_full_disk_tries_again_when_it_is_mended(
    board: Board, boot: Boot, faults: Faults, disk: Path
) -> None:
    guest = UBootGuest(board, boot, disk, werror="enospc")
    faults.disk_full(DISK)
    guest.does(f"mw.l {guest.kind.memory:#x} 0x2e656e6f")
    guest.console.send(f"virtio write {guest.kind.memory:#x} 7 1\n")
    guest.session.machine.wait_event("STOP", _LIMIT_S)
    assert guest.session.machine.status() == "io-error"
    faults.disk_mended(DISK)
    guest.console.expect("1 blocks written: OK", _LIMIT_S)
    assert kept(disk, 7) == b"one."
    with pytest.raises(MachineError, match="does not fail: nothing is to be mended"):
        faults.disk_mended(DISK)
    with pytest.raises(MachineError, match=r"wanted a disk with the node name 'tape'; .* has .*disk"):
        faults.disk_full("tape")
    with pytest.raises(MachineError, match=r"stands on no other.*next: put a format above it"):
        faults.disk_full("file")


@pytest.mark.requirement("TST-26", "DEV-09", "DEV-10")
@pytest.mark.needs("qmp")
def test_a_guest_meets_a_pulled_cable_an_unplugged_device_and_a_clock_that_jumps(
    board: Board, boot: Boot, faults: Faults, disk: Path
) -> None:
    guest = UBootGuest(board, boot, disk)
    ping = "ping 10.0.2.2"
    assert "is alive" in guest.does(f"setenv ipaddr 10.0.2.15; {ping}")
    faults.link_down(NIC)
    status, said = guest.run(ping)
    assert status == 1 and "Link not detected" in said
    faults.link_up(NIC)
    assert "is alive" in guest.does(ping)

    # The guest is asked by its slot, and lets go by switching the slot off (PCI Express 4.0, 7.5.3.10 and 7.5.3.11).
    slot = next(line.split()[0] for line in guest.does("pci 0").splitlines() if re.search(r"0x1b36 +0x000c", line))
    assert "0x1044" in guest.does("pci 1")
    assert not faults.unplug(SLOT_DEVICE)
    pressed = re.search(r"0000006e: [0-9a-f]{3}([0-9a-f])", guest.does(f"pci display.w {slot} 6e 1"))
    assert pressed is not None and int(pressed[1], 16) & 1, "the attention button is not pressed"
    assert "0x1044" in guest.does("pci 1")
    guest.does(f"pci write.w {slot} 6c 7c0")
    assert faults.unplugged(SLOT_DEVICE)
    assert "0x1044" not in guest.run("pci 1")[1]

    with pytest.raises(ValueError, match="wanted a time with its time zone"):
        faults.rtc_jumps(datetime.datetime(2040, 1, 1))
    faults.rtc_jumps(datetime.datetime(2038, 1, 19, 3, 14, 8, tzinfo=datetime.UTC))
    if board.arch == "riscv64":  # U-Boot has no driver for it; the lower half keeps the upper one for who reads it next
        guest.does("md.l 0x101000 1")
        high = re.search(r"00101004: ([0-9a-f]{8})", guest.does("md.l 0x101004 1"))
        assert high is not None
        at = datetime.datetime.fromtimestamp(int(high[1], 16) * 2**32 / 1e9, datetime.UTC)
        assert abs(at - datetime.datetime(2038, 1, 19, 3, 14, 8, tzinfo=datetime.UTC)) < datetime.timedelta(hours=1)
    else:
        assert "Date: 2038-01-19 (Tuesday)    Time:  3:" in guest.does("date")


# CPUs, and what only x86_64 has.


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("qmp")
def test_a_frozen_machine_does_nothing_and_goes_on(machine: Session, faults: Faults) -> None:
    machine.console.command("ps")
    faults.freeze()
    machine.broker.drain()
    machine.console.sendline("ps")
    with machine.broker.changed:
        heard = machine.broker.received
        assert not machine.broker.changed.wait_for(lambda: machine.broker.received > heard, 0.5)
    assert machine.machine.status() == "paused"
    faults.thaw()
    machine.console.expect(r"^ +\d+ .* testd$", _LIMIT_S)


def takes_input(session: Session, board: Board) -> int:
    """The CPU that the console interrupts: on RISC-V the one that has booted, which is any."""
    if board.arch != "riscv64":
        return 0
    with session.gdb() as gdb:
        gdb.physical(on=True)
        # Which interrupts a context of the PLIC has on (RISC-V PLIC specification 1.0.0, 5); a CPU has two of them.
        words = [gdb.read_memory(0xC00_2000 + 0x80 * context, 4) for context in range(2 * (board.smp + 1))]
        gdb.physical(on=False)
    return next(context // 2 for context, word in enumerate(words) if any(word)) - board.monitor_cpus


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("gdbstub", "smp>=2")
def test_a_stopped_cpu_takes_no_part_until_it_is_started(machine: Session, faults: Faults, board: Board) -> None:
    for cpus in ((), (0, board.smp)):
        with pytest.raises(ValueError, match=rf"wanted CPUs of {board.id}, 0 to {board.smp - 1}; found: "):
            faults.stop_cpus(*cpus)
    # The kernel's last, on which neither shell nor test daemon runs: it begins to count where it has booted.
    last = board.smp - 1
    faults.stop_cpus(last - 1 if takes_input(machine, board) == last else last)
    assert machine.machine.status() == "running"
    machine.channel.send("run smp:threads_run_on_all_cpus_at_once", _LIMIT_S)
    with pytest.raises(ExpectTimeout):
        for _ in machine.channel.answers(1.0):
            pass
    faults.start_cpus()
    assert any("ok" in answer for answer in itertools.islice(machine.channel.answers(_LIMIT_S), 2))


@pytest.mark.requirement("TST-26", "OBS-09")
@pytest.mark.needs("nmi")
def test_an_nmi_is_a_panic_that_names_it(boot: Boot, faults: Faults) -> None:
    session = boot(smp=1)
    faults.nmi()
    assert "non-maskable interrupt" in session.console.expect_panic(_LIMIT_S).message


@pytest.mark.requirement("TST-26", "OBS-09")
@pytest.mark.needs("nmi")
def test_an_nmi_within_a_line_of_text_is_a_panic_all_the_same(boot: Boot, faults: Faults) -> None:
    session = boot(smp=1)
    session.console.send("log\n" * 12)  # of which each repeats what the one before has printed
    session.console.expect(r"\$ log\n.*\$ log\n.*\$ log\n", _LIMIT_S)
    faults.nmi()
    assert "non-maskable interrupt" in session.console.expect_panic(_LIMIT_S).message


@pytest.mark.requirement("TST-26", "OBS-09")
@pytest.mark.needs("machine-check")
def test_a_machine_check_is_a_panic_that_names_it_and_its_cpu(boot: Boot, faults: Faults) -> None:
    session = boot(smp=2)
    faults.machine_check(cpu=1)
    assert session.console.expect_panic(_LIMIT_S).message.startswith("PANIC cpu1: kernel hardware error")


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("cpu-hotplug")
def test_a_cpu_that_is_added_is_found_by_the_next_boot(boot: Boot, faults: Faults) -> None:
    session = boot(smp=2, args=("-smp", "2,maxcpus=3"), on_reset="restart")  # firmware that counts anew resets it
    assert len(session.machine.vcpu_threads()) == 2
    faults.add_cpu()
    assert len(session.machine.vcpu_threads()) == 3
    session.console.command("ps")
    with pytest.raises(MachineError, match="has 2 and takes no more; next: boot it with args="):
        faults.add_cpu()
    session.reset()
    session.wait_ready()
    assert session.ready_line is not None and "cpus=3" in session.ready_line


@pytest.mark.requirement("TST-26", "TST-31")
@pytest.mark.needs("!nmi")
def test_what_a_board_cannot_do_is_a_skip_that_names_what_it_lacks(machine: Session, faults: Faults) -> None:
    # Quoin switches no CPU off; Linux does, and docs/examples/linux tests it there.
    verbs: dict[str, Callable[..., object]] = {
        "nmi": faults.nmi,
        "machine-check": faults.machine_check,
        "cpu-hotplug": faults.add_cpu,
    }
    for lacked, verb in {**verbs, "cpu-online": lambda: faults.cpu_off(1)}.items():
        with pytest.raises(pytest.skip.Exception, match=f"needs {lacked}; {machine.board.name} has .*gdbstub"):
            verb()
    assert machine.dirty is None


# Power.


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("qmp", "release")
def test_a_power_cut_comes_at_the_chosen_instruction(boot: Boot, faults: Faults) -> None:
    def cut(instructions: int) -> str:
        """What the machine has said by then."""
        done = faults.cut_power_after(instructions, smp=1, icount=True)
        assert [cpu.total for cpu in done.executed] == [instructions]
        assert done.session.closed
        return re.sub(r"time_ns=\d+", "", "\n".join(done.session.first_lines))

    early = cut(3_000_000)
    assert cut(3_000_000) == early
    assert cut(3_500_001).startswith(early)


@pytest.mark.requirement("TST-26", "DEV-08")
@pytest.mark.needs("gdbstub", "release")
def test_a_power_cut_comes_before_a_function(machine: Session, faults: Faults) -> None:
    machine.console.command("log")
    with pytest.raises(Misuse, match=r"wanted one function 'nowhere' of the kernel; found: .*: 0 symbols match"):
        faults.cut_power_at("nowhere")
    faults.cut_power_at("syscall::log_read", when_armed=lambda: machine.console.sendline("log"), timeout_s=_LIMIT_S)
    assert machine.closed
    said = [str(line) for line in machine.console.last_lines(2)]
    assert any(line.endswith("log") for line in said) and not any("init: ready" in line for line in said)


# The console.


@pytest.mark.requirement("TST-26", "TST-05")
@given(st.binary(max_size=200), st.lists(st.integers(1, 50)), st.integers(0, 9))
def test_noise_is_a_matter_of_seed_and_place_and_not_of_pieces(data: bytes, sizes: list[int], seed: int) -> None:
    whole, pieces = Noise(0.2, 0.2, seed), Noise(0.2, 0.2, seed)
    heard, rest = b"", data
    for size in sizes:
        heard, rest = heard + pieces(rest[:size]), rest[size:]
    assert heard + pieces(rest) == whole(data)
    assert (pieces.changed, pieces.lost) == (whole.changed, whole.lost)
    assert len(whole(data)) <= len(data)
    assert Noise(0.0, 0.0, seed)(data) == data and Noise(0.0, 1.0, seed)(data) == b""
    assert all((a ^ b).bit_count() == 1 for a, b in zip(data, Noise(1.0, 0.0, seed)(data), strict=True))


@pytest.mark.requirement("TST-26", "TST-05")
@pytest.mark.needs("arch==riscv64")
def test_a_bad_line_is_told_by_the_lab_and_survived_by_the_protocol(machine: Session, faults: Faults) -> None:
    faults.typing_loss(0.02)
    for _ in range(5):
        machine.channel.ping(_LIMIT_S)  # what is lost is sent again
    faults.console_clear()
    faults.console_noise(0.02)
    with pytest.raises((ConsoleFault, ExpectTimeout)) as error:
        for _ in range(1000):
            machine.channel.ping(2.0)
    assert "console: " in str(error.value) or "frame" in str(error.value)
    faults.console_loss(1.0)
    machine.console.skip()
    machine.console.sendline("ps")
    with pytest.raises(ExpectTimeout):
        machine.console.expect("testd", 0.3)
    faults.console_clear()
    machine.console.sendline("ps")
    machine.console.expect("testd", _LIMIT_S)


@pytest.mark.requirement("TST-26", "TST-05")
@pytest.mark.needs("arch==riscv64")
def test_an_emulated_console_that_is_cut_stays_so_and_is_no_fault_of_the_lab(machine: Session, faults: Faults) -> None:
    faults.console_cut()
    with pytest.raises(ConsoleClosed):
        machine.console.expect("never", _LIMIT_S)
    assert machine.machine.status() == "running"
    assert judge(machine, None).verdict is Verdict.PASSED
    machine.cut_expected = False
    assert judge(machine, None).verdict is Verdict.LAB_FAULT
    machine.cut_expected = True


@pytest.mark.requirement("TST-26", "TST-05")
def test_a_tty_that_is_cut_comes_back_and_the_hole_is_told(tmp_path: Path) -> None:
    tty = FaultyTty(tmp_path)
    broker = Broker(SerialTty(tty.link, return_s=_LIMIT_S))
    console = Console(broker)
    broker.start()
    try:
        tty.says(b"before\n")
        console.expect("before", _LIMIT_S)
        broker.cut()
        with pytest.raises(
            ConsoleFault, match=r"adapter gone: .* vanished, came back as .*; what .* meanwhile is lost"
        ):
            console.expect("never", _LIMIT_S)
        console.skip()
        broker.hear = Noise(0.0, 1.0, 1)
        tty.says(b"lost\n")
        with pytest.raises(ExpectTimeout):
            console.expect("lost", 0.2)
        broker.hear = None
        tty.says(b"after\n")
        console.expect("after", _LIMIT_S)
    finally:
        broker.close()
        tty.close()


# A test's own mistakes.

MISTAKES = """
import datetime
import pytest
from harness.machine import Misuse

def at(year):
    return datetime.datetime(year, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-9)))

def test_condition(nodes):
    nodes(2, link="los=1%")

def test_too_many(nodes):
    nodes(1000)

def test_no_such_disk(boot, faults):
    boot()
    faults.disk_full("tape")

def test_too_large(boot, faults):
    boot()
    faults.cut_power_at(1 << 64)

def test_off(boot, faults):
    boot()
    faults.cut_power()
    faults.freeze()

def test_others(boot, faults, nodes):
    boot()
    for mistake, words in (
        (lambda: boot(smp=9), "takes 1 to 8 CPUs, not 9"),
        (lambda: nodes(3, uart=""), "wanted 2 boards .*, found 3"),
        (lambda: faults.stop_cpus(1), r"wanted CPUs of tiny-smp1, 0 to 0; found: \\(1,\\)"),
        (lambda: faults.link_down("nic"), "wanted the link of 'nic' down; .*'nic' not found; next: boot it with"),
        (lambda: faults.unplug("stick"), "wanted 'stick' to go; .*'stick' not found; next: boot it with"),
        (lambda: faults.disk_error("tape", reads=False, writes=False), "wanted reads or writes .*; found neither"),
        (lambda: faults.cut_power_at(0, nth=0), "at its first execution or a later one; found: 0x0, nth=0"),
        (lambda: faults.cut_power_after(0), "wanted a power cut after 1 to .* instructions; found: 0"),
        (lambda: faults.cut_power_after(1, cpu=1), r"wanted CPUs of tiny-smp1, 0 to 0; found: \\(1,\\)"),
        (lambda: nodes("3"), r"wanted one machine of tiny or more; found: nodes\\('3'\\)"),
        (lambda: nodes(1.5), r"wanted one machine of tiny or more; found: nodes\\(1.5\\)"),
        (lambda: nodes(2, link=5), "wanted conditions of a link .*; found '5'"),
        (lambda: faults.console_noise(7), "wanted a share of the bytes from 0 to 1; found: 7"),
        (lambda: faults.console_loss("x"), "wanted a share of the bytes from 0 to 1; found: 'x'"),
        (lambda: faults.typing_loss(-1), "wanted a share of the bytes from 0 to 1; found: -1"),
        (lambda: faults.rtc_jumps(at(1960)), "can show, from 1970-01-01 .* to 2554-.*; found: 1960-"),
        (lambda: faults.rtc_jumps(at(9999)), "can show, .*; found: 9999-"),
        (lambda: faults.rtc_jumps(3), "wanted a time with its time zone"),
        (lambda: (faults.stop_cpus(0), faults.cut_power_at(0)), "wanted the gdb stub of .*; next: .*start_cpus"),
        (lambda: (faults.cut_power(), faults.cut_power_at("f")), "wanted tiny-smp1 on, .*; found: it is off"),
        (lambda: faults.console_cut(), "console cut; found: it is off"),
    ):
        with pytest.raises(Misuse, match=words):
            mistake()
"""


@pytest.mark.requirement("TST-26", "ERR-01")
def test_a_tests_own_mistake_is_a_failure_with_what_was_wanted_and_found_and_is_not_run_again(tmp_path: Path) -> None:
    lay_out(tmp_path, MISTAKES, board=BOARD.replace("[qmp]", "[qmp, gdbstub, rtc]"))
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.SLEEP)
    done = run_pytest(tmp_path, "-q", "--board", "tiny", "--junitxml=junit.xml")
    assert "5 failed, 1 passed" in done.stdout, done.stdout
    told = [(p.get("name"), p.get("value")) for p in ElementTree.parse(tmp_path / "junit.xml").iter("property")]
    assert sorted(str(value) for name, value in told if name == "verdict") == ["failed"] * 5 + ["passed"]
    assert not any(name == "retried" for name, _ in told)
    for words in (
        "failed: wanted conditions of a link such as .*; found 'los=1%'; next: .*\nat test_it.py:10: nodes",
        r"failed: wanted at most \d+ machines of tiny with 1 CPUs each, .* a budget of \d+ vCPUs; found: nodes\(1000\)",
        "failed: wanted tiny-smp1 on, for a fault: freeze; found: it is off; next: boot another",
        "failed: wanted a disk with the node name 'tape'; tiny-smp1 has ",
        "failed: wanted a power cut at an address from 0 to 0xf{16}, .*; found: 0x10{16}, nth=1",
    ):
        assert re.search(words, done.stdout), (words, done.stdout)


# Their end.


@pytest.mark.requirement("TST-26", "DEV-02")
def test_a_fault_ends_with_its_test_and_its_seed_is_told(tmp_path: Path) -> None:
    write_tiny_guest(tmp_path / "guest", "init: ready\n", Then.ECHO)
    lay_out(
        tmp_path,
        "def works(machine):\n    machine.console.send('abc')\n    machine.console.expect('abc', 60)\n"
        "def test_frozen(machine, faults):\n    faults.freeze()\n"
        "def test_one(machine):\n    works(machine)\n"
        "def test_fails(machine, faults):\n    faults.console_noise(0.5)\n    assert faults.random.random() is None\n"
        "def test_two(machine):\n    works(machine)\n"
        "def test_gdb(machine, faults):\n    faults.stop_cpus(0)\n"
        "def test_off(machine, faults):\n    faults.cut_power()\n    assert machine.closed\n"
        "def test_three(machine):\n    works(machine)\n",
    )
    done = run_pytest(tmp_path, "--board", "tiny", "-rs", "--faults-seed", "4711")
    assert "1 failed, 5 passed, 1 skipped" in done.stdout, done.stdout
    assert "needs gdbstub; tiny has qmp, release" in done.stdout
    assert "seed 4711; again: --faults-seed 4711" in done.stdout
    again = random.Random(4711)
    again.randrange(1 << 32)  # for the noise
    assert f"assert {again.random()} is None" in done.stdout
    log = next((tmp_path / "build" / "logs").glob("*frozen*/console.log")).read_text()
    assert "! fault: freeze" in log
