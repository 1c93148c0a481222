"""A small client for QEMU's gdb stub, for planting faults and looking inside.

It speaks the part of the GDB Remote Serial Protocol (GDB manual, appendix E)
that suites need: memory, registers, breakpoints, continue, stop.
"""

from __future__ import annotations

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


class GdbStub:
    """One connection. While it is stopped the machine is stopped; leaving it lets it run."""

    def __init__(self, path: Path, arch: str) -> None:
        self.arch = arch
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._buffer = b""
        self._registers: dict[str, Register] = {}
        self._running = False
        self._stays = False
        # Connecting stops a running machine, and QEMU reports that stop unasked.
        answer = self._ask("qSupported:qXfer:features:read+;multiprocess-")
        while answer[:1] in ("T", "S"):
            answer = self._receive()

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
                self._ask("D")
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
        self._checked(f"Hg{cpu + 1:x}")

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

    # Running.

    def set_breakpoint(self, address: int) -> None:
        self._checked(f"Z0,{address:x},4")

    def clear_breakpoint(self, address: int) -> None:
        self._checked(f"z0,{address:x},4")

    def resume(self, cpus: Iterable[int] | None = None) -> None:
        """Let all CPUs run, or these alone, from 0; the others stand still."""
        self._send("c" if cpus is None else "".join(["vCont", *(f";c:{cpu + 1:x}" for cpu in cpus)]))
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
