"""`quoin replay [ID]`: what failed tests left, and the machine of one of them reopened under gdb."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.machine import QemuMachine

SUMMARY = "list what failed tests left, or reopen the machine of one under gdb"
PASSES_ON = False
_GDBS = ("gdb-multiarch", "gdb")
_ARCHITECTURES = {"x86_64": "i386:x86-64", "aarch64": "aarch64", "riscv64": "riscv:rv64"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which one, and whether to keep it."""
    parser.add_argument("id", nargs="?", help="a postmortem, or a part of its name; without one they are listed")
    parser.add_argument("--pin", action="store_true", help="only keep it, whatever else fails from now on")
    parser.add_argument("--unpin", action="store_true", help="only keep it no longer")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where they lie (build/postmortem)")
    parser.add_argument("--print", action="store_true", help="print gdb's command and wait for Ctrl-C")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """List, pin, or reopen and hand over to gdb."""
    from harness.build.artifacts import TOP
    from harness.verdict import postmortem

    root = args.folder or TOP / postmortem.FOLDER
    if args.id is None:
        return _list(postmortem.kept(root), root)
    one = postmortem.find(root, args.id)
    if args.pin or args.unpin:
        postmortem.pin(one, args.pin)
        return 0
    print(f"{one.verdict}: {one.test}\nread:   {one.path / 'README'}")
    machine = postmortem.reopen(one)
    try:
        if machine.board.arch == "riscv64":
            print("note: QEMU does not restore RISC-V's timers: look, but what waits for one will wait for ever")
        elf = one.path / "kernel.elf"
        return under_gdb(machine, elf if elf.exists() else None, postmortem.slide(one), only_print=args.print)
    finally:
        machine.off()


def _list(found: Sequence[object], root: Path) -> int:
    from harness.verdict.postmortem import Kept

    if not found:
        print(f"nothing in {root}: no test on a board has failed")
    for one in found:
        assert isinstance(one, Kept)
        marks = ("pinned " if one.pinned else "") + ("" if one.reopens else "(text only) ")
        print(f"{one.id}  {one.size >> 20} MiB  {marks}{one.verdict}: {one.test}")
    return 0


def under_gdb(machine: QemuMachine, elf: Path | None, slide: int, *, only_print: bool) -> int:
    """Hand a machine that is on to gdb; without one, say how and wait for Ctrl-C."""
    path = machine.scratch / "gdb"
    machine.monitor(f"gdbserver unix:{path},server=on,wait=off")
    board = machine.board
    return hand_over(path, board.arch, elf, slide, lambda: machine.running, board.monitor_cpus, only_print=only_print)


def find_gdb(arch: str) -> str | None:
    """A gdb of this machine that knows the architecture: a native one knows its own alone."""
    for gdb in filter(None, map(shutil.which, _GDBS)):
        asked = [gdb, "-nx", "-batch", "-ex", f"set architecture {_ARCHITECTURES[arch]}"]
        try:
            told = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if told.returncode == 0 and "Undefined item" not in told.stderr:
            return gdb
    return None


def _attaching(path: Path, elf: Path | None, slide: int, processes: Mapping[int, bool]) -> Iterator[str]:
    """gdb's commands to have all CPUs: each process of the stub's is an inferior, the kernel's with its symbols."""
    several = len(processes) > 1
    if several:
        yield "set schedule-multiple on"  # or the CPUs of the other inferiors stand still
    for inferior, (process, kernel) in enumerate(processes.items(), 1):
        if inferior > 1:
            yield from ("add-inferior", f"inferior {inferior}")
        if kernel and elf is not None:
            yield f"symbol-file -o {slide:#x} {elf}"
        if inferior > 1:
            yield f"attach {process}"
        else:
            yield f"target {'extended-remote' if several else 'remote'} {path}"


def hand_over(
    path: Path,
    arch: str,
    elf: Path | None,
    slide: int,
    alive: Callable[[], bool],
    monitor_cpus: int,
    *,
    only_print: bool,
) -> int:
    """Run gdb on a stub's socket; without one, say how and wait for Ctrl-C, as long as the machine is `alive`.

    No kernel runs on the machine's first `monitor_cpus`.
    """
    from harness.machine import GdbStub

    with GdbStub(path, arch, monitor_cpus) as stub:
        processes = stub.processes()
        stub.stay_stopped()
    gdb = find_gdb(arch)
    lines = [f"set architecture {_ARCHITECTURES[arch]}", *_attaching(path, elf, slide, processes)]
    command = [gdb or _GDBS[0], "-q", *(word for line in lines for word in ("-ex", line))]
    print(f"gdb:    {shlex.join(command)}", flush=True)
    if only_print or gdb is None or not sys.stdin.isatty():
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        print("the machine stands still until Ctrl-C", flush=True)
        while not ended.wait(0.2) and alive():
            pass
        return 0
    # gdb has Ctrl-C for itself.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.call(command)
    finally:
        signal.signal(signal.SIGINT, before)
