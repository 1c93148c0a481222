"""Counting from outside: instructions by CPU and level between markers, and blocks that were executed.

A TCG plugin (`quoin_count.c`, which tells the rules) writes both to a file that
is mapped here. It is compiled on first use by the system's C compiler, into build/.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from harness.board import Board
from harness.build.artifacts import TOP
from harness.machine.errors import MachineError

if TYPE_CHECKING:
    from harness.machine.qemu import QemuMachine

SOURCE = Path(__file__).with_name("quoin_count.c")
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-shared", "-fPIC")
_COMPILE_LIMIT_S = 120.0
# Where firmware runs that stays after the boot: OpenSBI, below the kernel (QEMU 7.2, hw/riscv/virt.c, boot.c).
_FIRMWARE = {"riscv64": (0x8000_0000, 0x8020_0000)}

# struct header, block and marker of quoin_count.c.
_HEADER = struct.Struct("<4I 11Q 3I")
_BLOCK = struct.Struct("<QII48s")
_MARKER = struct.Struct("<II")
_MAGIC, _LAYOUT = 0x436E6F51, 2
_COUNTS_STRIDE, _LONGEST_STRETCH = 8, 3
_WORD, _COUNT = struct.Struct("<I"), struct.Struct("<Q")
_EPOCH_AT, _ASKED_AT = _HEADER.size - 12, _HEADER.size - 8
_BEGIN_LIMIT_S = 20.0
_LOOK_S = 0.0005
_RING_BLOCKS = 2


def plugin(top: Path = TOP) -> Path:
    """The compiled plugin. Raises MachineError in the compiler's words."""
    source = SOURCE.read_bytes()
    key = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]
    path = top / "build" / "plugin" / f"quoin_count-{key}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        raise MachineError("counting wants a C compiler, and there is no cc in PATH; run `./quoin setup`")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *_FLAGS, "-o", str(made), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_LIMIT_S, check=False)
        if done.returncode != 0:
            raise MachineError(f"{SOURCE} does not compile: {' '.join(command)}\n{done.stderr.strip()}")
        made.replace(path)
    return path


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instructions of one CPU, by level; addresses tell the level (see quoin_count.c)."""

    user: int
    kernel: int
    firmware: int

    @property
    def total(self) -> int:
        return self.user + self.kernel + self.firmware

    def __sub__(self, other: Instructions) -> Instructions:
        return Instructions(self.user - other.user, self.kernel - other.kernel, self.firmware - other.firmware)


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker that CPU `cpu` executed, and each CPU's instructions until then; markers are not counted."""

    number: int
    cpu: int
    counts: tuple[Instructions, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Code that QEMU translated as one: `size` bytes at `address`, and the first of them.

    There is one object for each block, whichever machine ran it: sets of many thousands are made for each boot.
    """

    address: int
    size: int
    code: bytes


class _Blocks(dict[bytes, Block]):
    """The blocks known to this process, by their record in the plugin's file."""

    def __missing__(self, record: bytes) -> Block:
        address, size, kept, code = _BLOCK.unpack(record)
        # Two threads may come here with the same record.
        return self.setdefault(record, Block(address, size, code[:kept]))


_BLOCKS = _Blocks()


class Counting:
    """The file of one machine: what its plugin counts.

    Give `arguments` to QEMU; then read while it runs, or after. `counting`
    counts instructions (a guest runs several times slower), `covering` notes blocks: from the start on,
    or from `begin` on. `cut`, a CPU and a number of instructions, counts, and kills QEMU when the CPU has executed
    so many.
    """

    def __init__(
        self,
        path: Path,
        *,
        counting: bool = False,
        covering: Literal["", "on", "asked"] = "",
        cut: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        on = {"count": "on" if counting or cut else "", "cover": covering, "cut": "{}:{}".format(*cut) if cut else ""}
        self._on = [f"{name}={how}" for name, how in on.items() if how]
        self._map: mmap.mmap | None = None
        self._blocks: list[Block] = []
        self._taken = 0

    def arguments(self, board: Board) -> tuple[str, ...]:
        """QEMU's arguments for a machine like `board`. Raises MachineError where the plugin cannot be compiled."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        words = [_escaped(plugin()), f"to={_escaped(self.path)}", *self._on]
        if board.arch in _FIRMWARE:
            low, high = _FIRMWARE[board.arch]
            words.append(f"firmware={low:#x}-{high:#x}")
        return "-plugin", ",".join(words)

    def __enter__(self) -> Counting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, and remove it: it is of the size of the memory that it was."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self.path.unlink(missing_ok=True)

    # Instructions.

    def counts(self) -> tuple[Instructions, ...]:
        """Instructions so far, a CPU each."""
        header, data = self._header()
        return tuple(
            Instructions(*struct.unpack_from("<3Q", data, header.counts_at + 8 * _COUNTS_STRIDE * cpu))
            for cpu in range(header.vcpus)
        )

    def stretches(self) -> tuple[int, ...]:
        """The most kernel instructions with interrupts off, a CPU each, since the last call.

        They are off wherever a kernel like ours runs, but where it looks for them (`sees_interrupts` in the plugin).
        """
        header, data = self._header()
        longest: list[int] = []
        for cpu in range(header.vcpus):
            at = header.counts_at + 8 * (_COUNTS_STRIDE * cpu + _LONGEST_STRETCH)
            longest.append(*_COUNT.unpack_from(data, at))
            _COUNT.pack_into(data, at, 0)
        return tuple(longest)

    def markers(self) -> list[Marker]:
        """All markers so far, oldest first. Raises MachineError when there were too many to keep."""
        header, data = self._header()
        if header.markers > header.most_markers:
            raise MachineError(f"{header.markers} markers were executed, and {self.path} holds {header.most_markers}")
        found = []
        for place in range(header.markers):
            at = header.markers_at + place * header.marker_bytes
            number, cpu = _MARKER.unpack_from(data, at)
            if number == 0:  # being written
                break
            rows = (struct.unpack_from("<3Q", data, at + 8 + 32 * row) for row in range(header.vcpus))
            found.append(Marker(number - 1, cpu, tuple(Instructions(*row) for row in rows)))
        return found

    def spans(self, start: int, end: int) -> list[tuple[Instructions, ...]]:
        """What each CPU executed from a marker `start` to the next `end`, one entry for each time."""
        found: list[tuple[Instructions, ...]] = []
        first: Marker | None = None
        for marker in self.markers():
            if marker.number == start:
                first = marker
            elif marker.number == end and first is not None:
                found.append(tuple(b - a for a, b in zip(first.counts, marker.counts, strict=True)))
                first = None
        return found

    # Blocks.

    def begin(self, machine: QemuMachine) -> None:
        """Note blocks from now on: none that runs after this call is missed. The guest stands still meanwhile.

        Raises MachineError.
        """
        _, data = self._header()
        _WORD.pack_into(data, _ASKED_AT, 1)
        machine.qmp("stop")
        deadline = time.monotonic() + _BEGIN_LIMIT_S
        while not self._header()[0].covering:
            if machine.wait_exit(_LOOK_S):
                raise machine.death()
            if time.monotonic() > deadline:
                raise MachineError(f"QEMU did not begin to record coverage within {_BEGIN_LIMIT_S:g} s; run again")
        machine.qmp("cont")

    def take_executed(self) -> list[Block]:
        """Blocks executed since the last call. One that runs at this very moment may be told again, or next time."""
        header, data = self._header()
        _WORD.pack_into(data, _EPOCH_AT, header.epoch + 1)
        touched, ring = self._header()[0].touched, _RING_BLOCKS * header.most_blocks
        numbers = array("I")
        while self._taken < touched:
            first = self._taken % ring
            start = header.touched_at + 4 * first
            part = array("I", data[start : start + 4 * min(touched - self._taken, ring - first)])
            whole = part.index(0) if 0 in part else len(part)  # a number may be on its way to its place
            data[start : start + 4 * whole] = bytes(4 * whole)
            self._taken += whole
            numbers += part[:whole]
            if whole < len(part):
                break
        known = header.blocks_at + len(self._blocks) * _BLOCK.size
        new = data[known : header.blocks_at + min(self._header()[0].blocks, header.most_blocks) * _BLOCK.size]
        records = (new[at : at + _BLOCK.size] for at in range(0, len(new), _BLOCK.size))
        self._blocks += map(_BLOCKS.__getitem__, records)
        return [self._blocks[number - 1] for number in numbers]

    @property
    def lost_blocks(self) -> int:
        """How many blocks found no place."""
        header, _ = self._header()
        return max(header.blocks - header.most_blocks, 0)

    def _header(self) -> tuple[_Header, mmap.mmap]:
        if self._map is None:
            with contextlib.suppress(OSError), self.path.open("r+b") as file:
                if os.fstat(file.fileno()).st_size >= _HEADER.size:
                    self._map = mmap.mmap(file.fileno(), 0)
        if self._map is None:
            raise MachineError(f"no counts in {self.path}; they are there while the machine is on, from its start")
        header = _Header(*_HEADER.unpack_from(self._map))
        if (header.magic, header.layout) != (_MAGIC, _LAYOUT):
            raise MachineError(f"{self.path} is not what this lab's plugin writes; remove build/plugin and run again")
        return header, self._map


@dataclass(frozen=True, slots=True)
class _Header:
    magic: int
    layout: int
    vcpus: int
    levels: int
    counts_at: int
    epochs_at: int
    touched_at: int
    blocks_at: int
    markers_at: int
    marker_bytes: int
    most_blocks: int
    most_markers: int
    blocks: int
    markers: int
    touched: int
    epoch: int
    asked: int
    covering: int


def _escaped(path: Path) -> str:
    """A path within a QEMU option, where a comma is written twice."""
    return str(path).replace(",", ",,")


def totals(span: Sequence[Instructions]) -> Instructions:
    """The instructions of all CPUs together."""
    return Instructions(sum(c.user for c in span), sum(c.kernel for c in span), sum(c.firmware for c in span))
