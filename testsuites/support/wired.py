"""Boards on wires for tests: the ones of boards/, with wires of their own."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from harness.board import Board, read_board

TOP = Path(__file__).resolve().parents[2]
UBOOT = {
    "aarch64": Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
    "riscv64": Path("/usr/lib/u-boot/qemu-riscv64_smode"),
}
GRUB = [
    Path(f"/usr/{name}")
    for name in (
        "bin/grub-mkrescue",
        "bin/xorriso",
        "bin/mformat",
        "lib/grub/i386-pc/multiboot2.mod",
        "lib/grub/x86_64-efi/multiboot2.mod",
        "share/OVMF/OVMF_CODE_4M.fd",
    )
]
SER2NET = Path("/usr/sbin/ser2net")
MISSING_GRUB = [str(path) for path in (*GRUB, SER2NET) if not path.exists()]
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


def no_tap() -> str:
    """Why nobody could have a tap in a network namespace here; looked for without the bench, which would hide it."""
    how = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]
    script = "PATH=$PATH:/usr/sbin; command -v dnsmasq nsenter >&2 && ip tuntap add dev lan mode tap"
    done = subprocess.run([*how, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "dnsmasq or nsenter is not installed"


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
    return wired_board(folder, f"uboot-{arch}", *changes)


def wired_board(folder: Path, name: str, *changes: tuple[str, str]) -> Board:
    """As `uboot_board`, of any board on the bench."""
    text = (TOP / "boards" / f"{name}.yaml").read_text()
    serial, power = free_ports(2)
    own = [(f"271{board}{wire}", port) for board in range(4) for wire, port in ((1, serial), (2, power))]
    text = text.replace("smp: 4", "smp: 1").replace("-smp 4", "-smp 1")
    for old, new in own:
        text = text.replace(old, str(new))
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    path = folder / "boards" / f"{name.partition('-')[2]}-{serial}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return read_board(path)


def tty_board(folder: Path, port: Path, power: str, off_time_s: float, reset: str = "") -> Board:
    """A board on a tty whose power, and reset line perhaps, is switched by a command; it needs no boot loader."""
    path = folder / f"tty-{folder.name}.yaml"
    driver = f"      QuoinResetDriver:\n        command: {reset}\n" if reset else ""
    path.write_text(TTY.format(port=port, power=power, off_time_s=off_time_s, reset=driver))
    return read_board(path)
