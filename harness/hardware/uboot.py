"""U-Boot at the other end of a console: stop it before it boots, give it commands, see that each was done.

GRUB's shell takes the same: a command in a line, `;` between two, and `$?`.

labgrid's UBootDriver stands in the board file, and says how U-Boot is to be
spoken to; it is not what speaks here, because it reads the console itself, looks
at it every two seconds, and does not check what commands of its `boot` answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.hardware.errors import HardwareError


class Talk(Protocol):
    """What a boot loader is spoken to through: a console (harness.console.Console)."""

    before: bytes

    def expect_any(self, patterns: list[str], timeout_s: float) -> tuple[int, re.Match[bytes]]: ...
    def send(self, text: str | bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class UBoot:
    """How one U-Boot is spoken to; patterns are regular expressions. Waits take `timeout_s` each."""

    prompt: str
    autoboot: str
    interrupt: str
    init_commands: tuple[str, ...]
    timeout_s: float
    write_card: Callable[[Path, Mapping[str, Path]], None]
    """Writes a card from which it loads files by their names."""

    @classmethod
    def of(cls, driver: Any, write_card: Callable[[Path, Mapping[str, Path]], None]) -> UBoot:
        """As labgrid's UBootDriver has it from the board file."""
        prompt, commands = driver.prompt or "=> ", tuple(driver.init_commands)
        return cls(prompt, driver.autoboot, driver.interrupt, commands, float(driver.login_timeout), write_card)

    def stop(self, console: Talk) -> None:
        """Keep it from booting by itself, and wait for its prompt."""
        which, _ = console.expect_any([self.autoboot, self.prompt], self.timeout_s)
        if which == 0:
            console.send(self.interrupt)
            console.expect_any([self.prompt], self.timeout_s)

    def run(self, console: Talk, command: str) -> None:
        """Give it a command at its prompt. Raises HardwareError where its status is not 0."""
        # The echo of the line has no number behind the sign.
        console.send(f"{command}; echo status=$?\n")
        _, match = console.expect_any([r"status=(\d+)"], self.timeout_s)
        console.expect_any([self.prompt], self.timeout_s)
        if int(match[1]) != 0:
            raise HardwareError(
                f"the boot loader did not do {command!r} (status {int(match[1])}): the console says why"
            )

    def read_memory(self, console: Talk, address: int, count: int) -> bytes:
        """Bytes at a physical address, by its `md.b`. Raises HardwareError where it does not show them all."""
        # At the begin of a line: what is shown as text beside the bytes may say anything.
        console.send(f"md.b {address:#x} {count:#x}; echo status=$?\n")
        console.expect_any([r"^status=\d+"], self.timeout_s)
        shown = re.findall(rb"^[0-9a-f]{8,16}:((?: [0-9a-f]{2}){1,16})", console.before, re.MULTILINE)
        console.expect_any([self.prompt], self.timeout_s)
        found = bytes.fromhex(b"".join(shown).decode())
        if len(found) != count:
            raise HardwareError(f"wanted {count} bytes at {address:#x} by U-Boot's md.b; found: {len(found)} of them")
        return found

    def boot(self, console: Talk, commands: Sequence[str]) -> None:
        """Run commands; the last one starts the kernel, and does not come back."""
        for command in (*self.init_commands, *commands[:-1]):
            self.run(console, command)
        console.send(f"{commands[-1]}\n")
        # Its echo: what comes behind it is no longer U-Boot's prompt, or says why the kernel was not started.
        console.expect_any([re.escape(commands[-1]) + r"\s*\n"], self.timeout_s)
