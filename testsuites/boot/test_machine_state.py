"""What the kernel made of the machine, read from outside; and machines that hand over in other states."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.console import Session
from harness.verdict.symbols import Symbols

Boot = Callable[..., Session]

IMAGE_BASE = 0xFFFF_FFFF_8000_0000
# Where QEMU puts an image: the load address of the PVH program headers, and RAM + 2 MiB of the two `virt` machines.
LOADED_AT = {"x86_64": 0x20_0000, "aarch64": 0x4020_0000, "riscv64": 0x8020_0000}
# The same on a board whose memory begins elsewhere.
LOADED_AT_OF = {"raspi3b": 0x20_0000}


def registers(session: Session) -> list[str]:
    """QEMU's view of each CPU."""
    return session.machine.monitor("info registers -a").split("CPU#")[1:]


@pytest.mark.requirement("BTC-03", "BTA-08", "BTR-03", "BTX-10")
def test_bss_is_cleared_whatever_memory_held(boot: Boot, board: Board, artifacts: Artifacts) -> None:
    symbols = Symbols(artifacts.kernel)
    start, end = symbols.address("__bss_start"), symbols.address("__bss_end")
    assert start % 8 == 0
    assert end > start
    session = boot(paused=True, ready=False)
    with session.gdb() as gdb:
        gdb.physical(on=True)
        loaded_at = LOADED_AT_OF.get(board.name, LOADED_AT[artifacts.arch])
        gdb.write_memory(start - IMAGE_BASE + loaded_at, b"\xa5" * (end - start))
        gdb.physical(on=False)
    session.machine.qmp("cont")
    session.wait_ready()


@pytest.mark.requirement("BTX-08", "BTX-09")
@pytest.mark.needs("arch==x86_64", "gdbstub")
def test_each_cpu_has_its_segments_and_its_emergency_stacks(fresh_machine: Session, board: Board) -> None:
    bases = [int(re.search(r"TR =\w+ ([0-9a-f]+)", text)[1], 16) for text in registers(fresh_machine)]  # type: ignore[index]
    tables = [int(re.search(r"GDT= *([0-9a-f]+)", text)[1], 16) for text in registers(fresh_machine)]  # type: ignore[index]
    assert len(set(bases)) == board.smp
    assert len(set(tables)) == board.smp
    stacks = []
    with fresh_machine.gdb() as gdb:
        for base in bases:
            # Intel SDM volume 3, figure 8-11: seven interrupt stacks from offset 36 on.
            used = [stack for stack in struct.unpack("<7Q", gdb.read_memory(base + 36, 56)) if stack]
            assert len(used) >= 3, "NMI, double fault and machine check"
            stacks += used
    assert len(set(stacks)) == len(stacks)


@pytest.mark.requirement("INT-02")
@pytest.mark.needs("arch==x86_64", "gdbstub")
def test_both_legacy_interrupt_controllers_are_masked(fresh_machine: Session) -> None:
    text = fresh_machine.machine.monitor("info pic")
    assert re.findall(r"^pic\d:.* imr=([0-9a-f]{2})", text, re.MULTILINE) == ["ff", "ff"], text


@pytest.mark.requirement("UMA-09", "HRD-07")
@pytest.mark.needs("gdbstub")
def test_the_kernel_cannot_stray_into_user_memory(fresh_machine: Session, board: Board) -> None:
    if board.arch == "x86_64":
        smep, smap = 1 << 20, 1 << 21
        for text in registers(fresh_machine):
            control = int(re.search(r"CR4=([0-9a-f]+)", text)[1], 16)  # type: ignore[index]
            assert control & (smep | smap) == smep | smap, text
    elif board.arch == "riscv64":
        sum_bit = 1 << 18
        for text in registers(fresh_machine):
            status = int(re.search(r"mstatus +([0-9a-f]+)", text)[1], 16)  # type: ignore[index]
            assert not status & sum_bit, text
    else:
        with fresh_machine.gdb() as gdb:
            for cpu in range(board.smp):
                gdb.select(cpu)
                # SPAN clear: every exception to EL1 sets PAN; a CPU without has the bit set for good (D17.2.118).
                # WXN is not asked for: W^X is in the tables.
                has_pan = gdb.read_register("ID_AA64MMFR1_EL1") >> 20 & 0xF != 0
                assert bool(gdb.read_register("SCTLR") & 1 << 23) is not has_pan


@pytest.mark.requirement("BTA-05")
@pytest.mark.needs("board==qemu-aarch64")
def test_entered_at_el2_the_kernel_runs_at_el1(boot: Boot, board: Board) -> None:
    session = boot(args=("-machine", "virt,virtualization=on"))
    assert f"cpus={board.smp} " in (session.ready_line or "")
    assert all(re.search(r"EL1[ht]|EL0t", text) for text in registers(session))


@pytest.mark.requirement("BTA-05")
@pytest.mark.needs("board==qemu-aarch64")
def test_entered_at_el3_the_kernel_runs_at_el1(boot: Boot, artifacts: Artifacts, tmp_path: Path) -> None:
    # movz x0, #0x4000, lsl #16; movz x1, #0x4020, lsl #16; br x1: the tree is at the start of RAM, the image 2 MiB on.
    firmware = tmp_path / "firmware"
    firmware.write_bytes(struct.pack("<3I", 0xD2A8_0000, 0xD2A8_0401, 0xD61F_0020))
    loader = f"loader,file={artifacts.image},addr={LOADED_AT['aarch64']:#x},force-raw=on"
    args = ("-machine", "virt,secure=on", "-bios", str(firmware), "-device", loader)
    session = boot(smp=1, ready=False, args=args)
    # This firmware hands no boot archive over: the kernel gets as far as starting init, at EL1.
    report = session.console.expect_panic(20)
    assert "boot archive" in report.message
    assert session.last_stage() == "user"
    assert all("EL1" in text for text in registers(session))
