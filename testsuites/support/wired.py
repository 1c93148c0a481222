"""Boards on wires for tests: the ones of boards/, with wires of their own."""

from __future__ import annotations

import socket
from pathlib import Path

from harness.board import Board, read_board

TOP = Path(__file__).resolve().parents[2]
UBOOT = {
    "aarch64": Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
    "riscv64": Path("/usr/lib/u-boot/qemu-riscv64_smode"),
}
SER2NET = Path("/usr/sbin/ser2net")
MISSING = [str(path) for path in (*UBOOT.values(), SER2NET) if not path.exists()]

TTY = """\
targets:
  main:
    features: [reset]
    resources:
      RawSerialPort:
        port: {port}
        speed: 115200
    drivers:
      SerialDriver: {{}}
      ExternalPowerDriver:
        cmd_on: {power} on
        cmd_off: {power} off
{reset}      QuoinStrategy:
        arch: riscv64
        smp: 1
        memory: 128M
        ready: '^ready'
        off_time_s: {off_time_s}
        card: card.img
imports:
  - harness.hardware.labgrid_driver
"""


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody serves now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def uboot_board(folder: Path, arch: str, *changes: tuple[str, str]) -> Board:
    """boards/uboot-ARCH.yaml with one CPU, with ports and a name of its own, and with changes to its text."""
    text = (TOP / "boards" / f"uboot-{arch}.yaml").read_text()
    serial, power = free_ports(2)
    own = [("27101", serial), ("27111", serial), ("27102", power), ("27112", power)]
    text = text.replace("smp: 4", "smp: 1").replace("-smp 4", "-smp 1")
    for old, new in own:
        text = text.replace(old, str(new))
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    path = folder / "boards" / f"{arch}-{serial}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return read_board(path)


def tty_board(folder: Path, port: Path, power: str, off_time_s: float, reset: str = "") -> Board:
    """A board on a tty whose power, and reset line perhaps, is switched by a command; it needs no boot loader."""
    path = folder / f"tty-{folder.name}.yaml"
    driver = f"      QuoinResetDriver:\n        command: {reset}\n" if reset else ""
    path.write_text(TTY.format(port=port, power=power, off_time_s=off_time_s, reset=driver))
    return read_board(path)
