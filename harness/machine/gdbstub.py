"""A small client for QEMU's gdb stub, for planting faults and looking inside.

It speaks the part of the GDB Remote Serial Protocol (GDB manual, appendix E)
that suites need: memory, registers, breakpoints, continue, stop. QEMU shows
each cluster of CPUs as a process of its own (its docs, system/gdb); all of them
are attached, and a CPU goes by its number alone.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.machine.errors import MachineError

_TIMEOUT_S = 10.0
_PIECE = 1024
# QEMU looks memory up as the CPU may in its mode. By architecture: the register that holds the mode, its bits, and the
# kernel's modes, of which the first is taken. RISC-V Privileged ISA 20211203, 1.2; Arm ARM, C5.2.18 (EL1h, EL1t).
# On x86_64 QEMU 7.2 asks for no right.
_KERNEL_MODES = {"riscv64": ("priv", 3, (1,)), "aarch64": ("cpsr", 0xF, (5, 4))}


@dataclass(frozen=True, slots=True)
class Register:
    """Where a register stands in the target description."""

    number: int
    bits: int


@dataclass(frozen=True, slots=True)
class Thread:
    """A CPU as the stub names it: its cluster's process, and its number among all CPUs, from 1."""

    process: int
    number: int

    def __str__(self) -> str:
        return f"p{self.process:x}.{self.number:x}"


class GdbStub:
    """One connection. While it is stopped the machine is stopped; leaving it lets it run.

    CPUs count from 0, after the first `monitor_cpus` of the machine, on which no kernel runs; CPU 0 is selected.
    """

    def __init__(self, path: Path, arch: str, monitor_cpus: int = 0) -> None:
        self.arch = arch
        self._monitors = monitor_cpus
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._buffer = b""
        self._registers: dict[str, Register] = {}
        self._threads: list[Thread] = []
        self._running = False
        self._stays = False
        # Connecting stops a running machine, and QEMU reports that stop unasked.
        answer = self._ask("qSupported:multiprocess+;qXfer:features:read+")
        while answer[:1] in ("T", "S"):
            answer = self._receive()
        # The first cluster is attached already.
        for process in itertools.count(2):
            if not self._ask(f"vAttach;{process:x}").startswith("T"):
                break
        self.select(0)

    def __enter__(self) -> GdbStub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def open(self) -> bool:
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Detach: the machine goes on."""
        if not self.open:
            return
        try:
            if self._running:
                self.interrupt()
            if not self._stays:
                # With the last the machine goes on.
                for process in self.processes():
                    self._checked(f"D;{process:x}")
        except (OSError, MachineError):
            pass  # QEMU is gone, and with it everything that a detach would undo.
        finally:
            self._socket.close()

    def stay_stopped(self) -> None:
        """Leave without letting the machine go on."""
        self._stays = True

    # Memory, by the virtual addresses of the CPU that is selected.

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises MachineError where nothing is mapped."""
        result = b""
        with self._as_kernel(address):
            while len(result) < length:
                count = min(_PIECE, length - len(result))
                result += bytes.fromhex(self._checked(f"m{address + len(result):x},{count:x}"))
        return result

    def write_memory(self, address: int, data: bytes) -> None:
        """Write `data` at `address`, read-only pages included. Raises MachineError where it is not there afterwards."""
        with self._as_kernel(address):
            for offset in range(0, len(data), _PIECE):
                piece = data[offset : offset + _PIECE]
                self._checked(f"M{address + offset:x},{len(piece):x}:{piece.hex()}")
        # QEMU says OK as well where there is no memory.
        if self.read_memory(address, len(data)) != data:
            raise MachineError(f"{len(data)} bytes written at {address:#x} are not there: no memory, or not mapped now")

    @contextmanager
    def _as_kernel(self, address: int) -> Iterator[None]:
        """See an address of the kernel's also while the CPU runs a program, or RISC-V's firmware, and cannot."""
        register, mask, modes = _KERNEL_MODES.get(self.arch, ("", 0, (0,)))
        before = self.read_register(register) if register and address >> 63 else 0
        switch = bool(register and address >> 63) and before & mask not in modes
        if switch:
            self.write_register(register, before & ~mask | modes[0])
        try:
            yield
        finally:
            if switch:
                self.write_register(register, before)

    def physical(self, on: bool) -> None:
        """Whether addresses are physical from now on (QEMU's own extension)."""
        self._checked(f"Qqemu.PhyMemMode:{int(on)}")

    def write_device(self, address: int, value: int) -> None:
        """Write 32 bits to a device's register, at a physical address; it need not read as the same afterwards."""
        self.physical(True)
        try:
            self._checked(f"M{address:x},4:{value.to_bytes(4, 'little').hex()}")
        finally:
            self.physical(False)

    # Registers.

    def select(self, cpu: int) -> None:
        """Choose the CPU, from 0, that registers and memory are read through."""
        self._checked(f"Hg{self._thread(cpu)}")

    def read_register(self, name: str) -> int:
        """Value of a register, by GDB's name for it."""
        answer = self._checked(f"p{self._register(name).number:x}")
        return int.from_bytes(bytes.fromhex(answer), "little")

    def write_register(self, name: str, value: int) -> None:
        register = self._register(name)
        data = value.to_bytes(register.bits // 8, "little")
        self._checked(f"P{register.number:x}={data.hex()}")

    def _register(self, name: str) -> Register:
        if not self._registers:
            self._describe("target.xml", 0)
        if name not in self._registers:
            raise MachineError(f"{self.arch} has no register {name!r} in QEMU's description")
        return self._registers[name]

    def _describe(self, annex: str, number: int) -> int:
        text, offset = "", 0
        while True:
            answer = self._ask(f"qXfer:features:read:{annex}:{offset:x},{_PIECE:x}")
            if answer[:1] not in ("l", "m"):
                raise MachineError(f"QEMU does not describe its registers: {answer!r}")
            text, offset = text + answer[1:], offset + len(answer) - 1
            if answer[0] == "l":
                break
        for match in re.finditer(r"<xi:include href=\"([^\"]+)\"|<reg ([^>]*)/>", text):
            if match[1]:
                number = self._describe(match[1], number)
                continue
            attributes = dict(re.findall(r"([\w-]+)=\"([^\"]*)\"", match[2]))
            number = int(attributes.get("regnum", number))
            self._registers.setdefault(attributes["name"], Register(number, int(attributes["bitsize"])))
            number += 1
        return number

    # CPUs.

    def processes(self) -> dict[int, bool]:
        """The processes that clusters of CPUs are shown as, in order, and whether a kernel runs in each."""
        threads = self._threads
        return {
            process: any(thread.process == process for thread in threads[self._monitors :])
            for process in sorted({thread.process for thread in threads})
        }

    def _thread(self, cpu: int) -> Thread:
        index = self._monitors + cpu
        if index >= len(self._threads):  # nothing was asked yet, or it was plugged in since
            self._threads = self._list()
        if not self._monitors <= index < len(self._threads):
            raise MachineError(
                f"wanted CPU {cpu}; QEMU's gdb stub shows {len(self._threads)} CPUs, of which the first "
                f"{self._monitors} run no kernel"
            )
        return self._threads[index]

    def _list(self) -> list[Thread]:
        """All CPUs of the machine, by number."""
        threads, answer = [], self._ask("qfThreadInfo")
        while answer.startswith("m"):
            found = re.findall(r"p([0-9a-f]+)\.([0-9a-f]+)", answer)
            threads += [Thread(int(process, 16), int(number, 16)) for process, number in found]
            answer = self._ask("qsThreadInfo")
        return sorted(threads, key=lambda thread: thread.number)

    # Running.

    def set_breakpoint(self, address: int) -> None:
        self._checked(f"Z0,{address:x},4")

    def clear_breakpoint(self, address: int) -> None:
        self._checked(f"z0,{address:x},4")

    def resume(self, cpus: Iterable[int] | None = None) -> None:
        """Let all CPUs run, or these alone, from 0, and those of the machine's monitor; the others stand still."""
        if cpus is None:
            self._send("c")
        else:
            threads = [*self._threads[: self._monitors], *map(self._thread, cpus)]
            self._send("".join(["vCont", *(f";c:{thread}" for thread in threads)]))
        self._running = True

    def wait_stop(self, timeout_s: float) -> str:
        """Wait until the machine stops, for a breakpoint or otherwise; GDB's stop reply."""
        self._socket.settimeout(timeout_s)
        try:
            reply = self._receive()
        except TimeoutError:
            raise TimeoutError(f"the machine did not stop within {timeout_s:g} s") from None
        finally:
            self._socket.settimeout(_TIMEOUT_S)
        self._running = False
        return reply

    def interrupt(self) -> str:
        """Stop all CPUs."""
        self._socket.sendall(b"\x03")
        return self.wait_stop(_TIMEOUT_S)

    # Packets.

    def _checked(self, command: str) -> str:
        answer = self._ask(command)
        if not answer or re.fullmatch(r"E[0-9a-f]{2}", answer):
            raise MachineError(f"QEMU's gdb stub refused {command[:40]!r}: {answer or 'unknown'}")
        return answer

    def _ask(self, command: str) -> str:
        if self._running:
            raise MachineError(f"the machine runs; stop it before {command[:20]!r}")
        self._send(command)
        return self._receive()

    def _send(self, command: str) -> None:
        data = command.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _receive(self) -> str:
        while True:
            match = re.search(rb"\$([^#]*)#([0-9a-f]{2})", self._buffer, re.DOTALL)
            if match:
                self._buffer = self._buffer[match.end() :]
                self._socket.sendall(b"+")
                if sum(match[1]) & 0xFF == struct.unpack("B", bytes.fromhex(match[2].decode()))[0]:
                    return _expand(match[1]).decode("latin-1")
                raise MachineError("a torn packet from QEMU's gdb stub")
            piece = self._socket.recv(65536)
            if not piece:
                raise MachineError("QEMU closed its gdb stub")
            self._buffer += piece


def _expand(data: bytes) -> bytes:
    """Undo escapes and run lengths (GDB manual, E.1)."""
    result = bytearray()
    index = 0
    while index < len(data):
        byte = data[index]
        if byte == 0x7D:
            result.append(data[index + 1] ^ 0x20)
            index += 2
        elif byte == 0x2A:
            result += result[-1:] * (data[index + 1] - 29)
            index += 2
        else:
            result.append(byte)
            index += 1
    return bytes(result)
