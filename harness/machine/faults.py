"""Faults of an emulated machine's devices: what QEMU needs more than one command for."""

from __future__ import annotations

import contextlib
import datetime
import errno
from typing import Any

from harness.machine.errors import MachineError, Misuse, QemuRefused
from harness.machine.qemu import QemuMachine

_FAULT = "quoin-fault-"
_NO_SPACE = errno.ENOSPC
# Not `flush`: a disk that cannot be flushed cannot be mended either, for QEMU flushes it before.
_READS, _WRITES = ("read",), ("write", "write-zeroes", "discard")
# Registers of clocks: Arm PL031 (DDI 0224C, 3.3: load register, seconds), Google Goldfish (rtc: time_low and
# time_high, nanoseconds), at the addresses of QEMU's `virt` (hw/arm/virt.c, hw/riscv/virt.c).
_PL031_LOAD = 0x0901_0008
_GOLDFISH_LOW, _GOLDFISH_HIGH = 0x10_1000, 0x10_1004
# MC146818: date and time by register, the control register, and its bits SET (no updates) and DM (binary, not BCD).
_CMOS_B, _CMOS_SET, _CMOS_BINARY = 0x0B, 0x80, 0x04
_CMOS_CENTURY = 0x32
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# The first and the last second since then that each clock can show: years of four digits, 32 bits of seconds, 64 of
# nanoseconds.
_SHOWN_S = {
    "x86_64": (-62_135_596_800, 253_402_300_799),
    "aarch64": (0, (1 << 32) - 1),
    "riscv64": (0, ((1 << 64) - 1) // 1_000_000_000),
}


def asked(machine: QemuMachine, wanted: str, command: str, **arguments: object) -> None:
    """A command about what a test has named. Raises Misuse where QEMU refuses it."""
    try:
        machine.qmp(command, **arguments)
    except QemuRefused as error:
        raise Misuse(
            f"wanted {wanted}; {machine.board.id} has no such thing: {error}; "
            "next: boot it with one of that id, args=('-device', '...,id=...')"
        ) from error


# Disks.


def fail_disk(machine: QemuMachine, node: str, *, reads: bool, writes: bool, full: bool = False) -> None:
    """Let reads or writes of a disk fail from now on, with EIO, or ENOSPC where it is `full`.

    `node` is the name of a block node with a format (`-blockdev driver=raw,node-name=...`): a node of the driver
    blkdebug is put between it and its file. Raises MachineError.
    """
    kinds = (*(_READS if reads else ()), *(_WRITES if writes else ()))
    if not kinds:
        raise Misuse(f"wanted reads or writes of the disk {node!r} to fail; found neither")
    rules = [{"event": "none", "iotype": kind, "errno": _NO_SPACE if full else errno.EIO} for kind in kinds]
    file = _child(machine, node)
    if file.startswith(_FAULT):
        raise Misuse(f"the disk {node!r} of {machine.board.id} fails already; mend it first")
    fault = f"{_FAULT}{node.lstrip('#')}"
    machine.qmp("blockdev-add", **{"driver": "blkdebug", "node-name": fault, "image": file, "inject-error": rules})
    try:
        _put(machine, node, fault)
    except MachineError:
        machine.qmp("blockdev-del", **{"node-name": fault})
        raise


def mend_disk(machine: QemuMachine, node: str) -> None:
    """Undo `fail_disk`; a machine that had stopped for it goes on, and tries again. Raises MachineError."""
    fault = _child(machine, node)
    if not fault.startswith(_FAULT):
        raise Misuse(f"the disk {node!r} of {machine.board.id} does not fail: nothing is to be mended")
    _put(machine, node, _child(machine, fault))
    machine.qmp("blockdev-del", **{"node-name": fault})
    if machine.status() == "io-error":
        machine.qmp("cont")


def _put(machine: QemuMachine, node: str, file: str) -> None:
    facts = _node(machine, node)
    same: dict[str, Any] = {"driver": facts["drv"], "node-name": node, "read-only": facts["ro"], "file": file}
    machine.qmp("blockdev-reopen", options=[same])


def _node(machine: QemuMachine, name: str) -> dict[str, Any]:
    nodes = {str(node["node-name"]): node for node in machine.qmp("query-named-block-nodes", flat=True)}
    if name not in nodes:
        raise Misuse(
            f"wanted a disk with the node name {name!r}; {machine.board.id} has {', '.join(nodes) or 'no disk'}; "
            "next: give it one, -blockdev driver=raw,node-name=...,file=..."
        )
    return dict(nodes[name])


def _child(machine: QemuMachine, name: str) -> str:
    """What stands below a node: what it calls its file, or its image."""
    _node(machine, name)
    graph = machine.qmp("x-debug-query-block-graph")
    names = {node["id"]: str(node["name"]) for node in graph["nodes"]}
    for edge in graph["edges"]:
        if names[edge["parent"]] == name and edge["name"] in ("file", "image"):
            return names[edge["child"]]
    raise Misuse(
        f"the node {name!r} of {machine.board.id} stands on no other, so nothing can be put below it; "
        f"next: put a format above it, -blockdev driver=raw,node-name=...,file={name}"
    )


# Devices.


def unplug(machine: QemuMachine, device: str, timeout_s: float) -> bool:
    """Unplug a device by its id; whether it is gone within `timeout_s`. Raises MachineError.

    USB and SCSI devices go at once. One on PCI Express goes when the guest has let go of it: until then it is asked,
    by the attention button of its slot.
    """
    before = len(machine.events)
    asked(machine, f"{device!r} to go", "device_del", id=device)
    return unplugged(machine, device, timeout_s, since=before)


def unplugged(machine: QemuMachine, device: str, timeout_s: float, *, since: int = 0) -> bool:
    """Wait until a device is gone, at most `timeout_s`; whether it is."""
    with contextlib.suppress(TimeoutError):
        while True:
            event = machine.wait_event("DEVICE_DELETED", timeout_s, since=since)
            if event.data.get("device") == device:
                return True
            since = machine.events.index(event) + 1
    return False


def add_cpu(machine: QemuMachine) -> str:
    """Plug the next CPU in, and return its id. Raises MachineError where the machine has no place for one."""
    free = [cpu for cpu in machine.qmp("query-hotpluggable-cpus") if "qom-path" not in cpu]
    if not free:
        smp = machine.board.smp
        raise Misuse(
            f"wanted room for one more CPU; {machine.board.id} has {smp} and takes no more; "
            f"next: boot it with args=('-smp', '{smp},maxcpus={smp + 1}')"
        )
    place = min(free, key=lambda cpu: sorted(cpu["props"].items()))
    numbers = "-".join(str(number) for _, number in sorted(place["props"].items()))
    machine.qmp("device_add", driver=place["type"], id=f"cpu-{numbers}", **place["props"])
    return f"cpu-{numbers}"


# The clock with a battery.


def set_rtc(machine: QemuMachine, to: datetime.datetime) -> None:
    """Let the real-time clock jump; `to` has its time zone. The machine stands still meanwhile.

    The guest is not told. On x86_64 one that stands between its choice of a register and its access to it finds
    another register. Raises MachineError; Misuse for a time that the clock cannot show.
    """
    seconds = round((to - _EPOCH).total_seconds())
    first, last = _SHOWN_S[machine.board.arch]
    if not first <= seconds <= last:
        begin, end = (_EPOCH + datetime.timedelta(seconds=one) for one in (first, last))
        raise Misuse(f"wanted a time that the clock of {machine.board.id} can show, from {begin} to {end}; found: {to}")
    match machine.board.arch:
        case "x86_64":
            _set_cmos(machine, to.astimezone(datetime.UTC))
        case "aarch64":
            with machine.gdb() as gdb:
                gdb.write_device(_PL031_LOAD, seconds)
        case "riscv64":
            low, high = divmod(seconds * 1_000_000_000, 1 << 32)[::-1]
            with machine.gdb() as gdb:
                gdb.write_device(_GOLDFISH_HIGH, high)
                gdb.write_device(_GOLDFISH_LOW, low)


def _set_cmos(machine: QemuMachine, to: datetime.datetime) -> None:
    ran = machine.status() == "running"
    machine.qmp("stop")

    def write(register: int, value: int) -> None:
        machine.monitor(f"o /b 0x70 {register:#x}")
        machine.monitor(f"o /b 0x71 {value:#x}")

    machine.monitor(f"o /b 0x70 {_CMOS_B:#x}")
    control = int(machine.monitor("i /b 0x71").rpartition("=")[2], 16)
    century, year = divmod(to.year, 100)
    fields = {0: to.second, 2: to.minute, 4: to.hour, 6: to.isoweekday() % 7 + 1, 7: to.day, 8: to.month, 9: year}
    write(_CMOS_B, control | _CMOS_SET)
    for register, value in {**fields, _CMOS_CENTURY: century}.items():
        write(register, value if control & _CMOS_BINARY else int(str(value), 16))
    write(_CMOS_B, control & ~_CMOS_SET)
    if ran:
        machine.qmp("cont")
