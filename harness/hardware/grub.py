"""A card that boots a PC: an ISO with GRUB for BIOS and UEFI on it, and the boot files, made by grub-mkrescue.

GRUB stops at its prompt, on the first serial port. It is told what to boot by
who speaks to it, so the card is the same for every command line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.hardware.errors import HardwareError
from harness.hardware.sd_image import is_unplugged

# A plain terminal, as wide as GRUB has them: any other is sent a cursor movement with each character. UEFI polls the
# serial port itself, where it is its console, and takes away what GRUB should read: so GRUB reads from that console.
_CONFIGURATION = """\
serial --unit=0 --speed=115200
terminal_output serial
terminfo -g 255x50 serial dumb
if [ "$grub_platform" != efi ]; then terminal_input serial; fi
"""
_MODULES = "normal serial terminfo terminal multiboot2 iso9660 part_msdos part_gpt echo boot test"
_LIMIT_S = 300.0


def write(card: Path, files: Mapping[str, Path]) -> None:
    """Write a card with GRUB and with `files` in its root folder, by name. Raises HardwareError."""
    if is_unplugged(card):
        raise HardwareError(f"wanted to write the card {card}; found: no such device; next: plug it in")
    try:
        with tempfile.TemporaryDirectory(prefix="quoin-grub-") as folder:
            content = Path(folder) / "content"
            (content / "boot" / "grub").mkdir(parents=True)
            (content / "boot" / "grub" / "grub.cfg").write_text(_CONFIGURATION, encoding="ascii")
            for name, source in files.items():
                shutil.copyfile(source, content / name)
            image = Path(folder) / "image"
            command = ["grub-mkrescue", f"--install-modules={_MODULES}", "--fonts=", "--locales=", "--themes="]
            done = subprocess.run(
                [*command, "-o", str(image), str(content)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
            # Without xorriso, or with neither BIOS nor UEFI modules, it says so and may call that a success.
            if done.returncode != 0 or not image.is_file():
                raise HardwareError(
                    f"wanted grub-mkrescue to make {card}; found: exit status {done.returncode}: "
                    f"{(done.stdout + done.stderr).strip()[-500:]}; next: quoin setup"
                )
            card.parent.mkdir(parents=True, exist_ok=True)
            with image.open("rb") as made, os.fdopen(os.open(card, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as disk:
                if card.is_file():
                    disk.truncate()
                shutil.copyfileobj(made, disk)
                disk.flush()
                os.fsync(disk.fileno())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(
            f"wanted to write the card {card} with grub-mkrescue; found: {error}; next: quoin setup, or is it yours?"
        ) from error
