"""A board as a value: what a suite may rely on, and what a driver must build.

A `Board` is one line of the matrix: a board file with its variants applied. It
owns no process and opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from harness.board.errors import BoardError

# QEMU keeps a seed in 64 bits (softmmu/vl.c, QEMU_OPTION_seed; util/guest-random.c).
LAST_SEED = 2**64 - 1
_UNITS_MIB = {"M": 1, "G": 1024}


def memory_mib(text: str) -> int:
    """Mebibytes in `128M` or `2G`. Raises BoardError on anything else."""
    match = re.fullmatch(r"([1-9]\d*)([MG])", text.strip())
    if match is None:
        raise BoardError(f"memory is written like 128M or 2G, not {text!r}")
    return int(match[1]) * _UNITS_MIB[match[2]]


def memory_text(mib: int) -> str:
    """The shortest way to write `mib` mebibytes: `128M`, `2G`."""
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"


@dataclass(frozen=True, slots=True)
class Wires:
    """What a physical board's file says beside labgrid's own resources and drivers.

    `load` are the boot loader's commands, the last of which starts the kernel. `firmware` and `image_id` are
    regular expressions with the groups `version` and `id`, or empty; so is `log_ring`, with the group `at`.
    `oldest_firmware` is the least version that is trusted, or empty. `command` makes the wires and keeps them as long
    as its input is open. `card` is a file or a block device. `place` is a place of labgrid's coordinator that has the
    wires; `coordinator` says which one, where that is said.
    """

    load: tuple[str, ...]
    firmware: str
    image_id: str
    off_time_s: float
    card: Path | None
    command: tuple[str, ...]
    oldest_firmware: str = ""
    log_ring: str = ""
    place: str = ""
    coordinator: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """A board, with one choice of CPUs, memory and build of the kernel; emulated, unless it has `wires`.

    `ready`, `panic`, `stage` and `prompt` are regular expressions over one
    console line; `prompt` also over a line that has not ended.
    """

    name: str
    path: Path
    arch: str
    binary: str
    machine: str
    cpu: str
    smp: int
    max_smp: int
    memory_mib: int
    default_memory_mib: int
    ready: str
    panic: str
    stage: str
    prompt: str
    boot_timeout_s: float
    features: frozenset[str]
    args: tuple[str, ...] = ()
    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None
    firmware_vars: Path | None = None
    device_tree: Path | None = None
    cmdline: str = ""
    exclusive: bool = False
    icount: bool = False
    debug: bool = False
    seed: int | None = None
    wires: Wires | None = None
    has_fixed_size: bool = False
    initrd_at: int = 0
    """Where the archive is put in memory, and the device tree says that it is; 0 for the emulator's own way."""
    monitor_cpus: int = 0
    """CPUs of the machine beside `smp`, on which no kernel runs."""
    oldest_qemu: tuple[int, ...] = (7, 2)
    cpu_online: str = ""
    """The shell command by which its kernel switches the CPU `{cpu}` on (`{online}` is 1) or off (0)."""

    @property
    def id(self) -> str:
        """The name that a test id carries, such as `qemu-riscv64-smp4`."""
        memory = "" if self.memory_mib == self.default_memory_mib else f"-{memory_text(self.memory_mib)}"
        counting = "-icount" if self.icount and self.seed is None else ""
        build = "-debug" if self.debug and self.seed is None else ""
        return f"{self.name}-smp{self.smp}{memory}{counting}{build}" + (
            "" if self.seed is None else f"-seed{self.seed}"
        )

    def variant(
        self,
        *,
        smp: int | None = None,
        memory: str | None = None,
        args: tuple[str, ...] = (),
        icount: bool | None = None,
        debug: bool | None = None,
        seed: int | None = None,
    ) -> Board:
        """This board with other CPUs, other memory, another build or more QEMU arguments.

        With `icount` the guest's clocks count instructions, one a nanosecond, and
        all CPUs run on one host thread: exact and repeatable with one CPU. With
        `seed`, 1 or more, all of the machine is repeatable, whatever its CPUs: the
        debug build, with icount, pausing where the seed says.

        Raises BoardError where the board cannot be built that way.
        """
        if reason := self.fixed(smp=smp, memory=memory, icount=bool(icount), args=args, seed=seed):
            raise BoardError(f"{reason} ({self.path})")
        cpus = self.smp if smp is None else smp
        if not 1 <= cpus <= self.max_smp:
            raise BoardError(f"{self.name} takes 1 to {self.max_smp} CPUs, not {cpus} ({self.path})")
        chosen = self.seed if seed is None else seed
        if chosen is not None and not 1 <= chosen <= LAST_SEED:
            raise BoardError(f"a seed is a number from 1 to {LAST_SEED}, not {chosen}")
        seeded = chosen is not None
        counting = seeded or (self.icount if icount is None else icount)
        debugging = seeded or (self.debug if debug is None else debug)
        features = self.features - {"icount", "debug", "release"}
        features |= {"debug" if debugging else "release", *(["icount"] if counting else [])}
        return replace(
            self,
            icount=counting,
            debug=debugging,
            seed=chosen,
            features=features,
            smp=cpus,
            memory_mib=self.memory_mib if memory is None else memory_mib(memory),
            args=self.args + args,
        )

    def fixed(
        self,
        *,
        smp: int | None = None,
        memory: str | None = None,
        icount: bool = False,
        args: tuple[str, ...] = (),
        seed: int | None = None,
    ) -> str | None:
        """Why this board cannot be built that way, where it is not built but stands there, or models one that does."""
        if not self.has_fixed_size:
            return None
        kind = "a model of a real board" if self.wires is None else "a physical board"
        if smp not in (None, self.smp):
            return f"{self.name} is {kind}: it has {self.smp} CPUs, not {smp}"
        if memory is not None and memory_mib(memory) != self.memory_mib:
            return f"{self.name} is {kind}: it has {memory_text(self.memory_mib)}, not {memory}"
        if self.wires is None:
            return None
        if icount or args or seed is not None:
            return f"{self.name} is a physical board: it counts no instructions, and takes no QEMU arguments or seeds"
        return None
