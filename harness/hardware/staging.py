"""Boot files put where a board's boot loader fetches them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.hardware.errors import HardwareError

IMAGE, ARCHIVE = "image", "boot.cpio"


def stage(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into the folder that a TFTP server serves; each is the old one or the new one, never a part."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            new = folder / f"{name}.new-{os.getpid()}"
            shutil.copyfile(source, new)
            new.chmod(0o644)  # a server of another user's serves it
            new.replace(folder / name)
    except OSError as error:
        raise HardwareError(
            f"wanted the boot files in {folder}, which TFTP serves; found: {error}; "
            "next: make that folder this user's, or name another as `internal:` of TFTPProvider"
        ) from error


def commands(load: Sequence[str], values: Mapping[str, str | None]) -> list[str]:
    """A board file's loader commands with `{image}`, `{initrd}` and `{cmdline}` filled in. Raises HardwareError."""
    filled = []
    for line in load:
        for key, value in values.items():
            if f"{{{key}}}" not in line:
                continue
            if value is None:
                raise HardwareError(f"the loader's command {line!r} wants {key!r}, and there is none to boot with")
            if any(character in value for character in "'\n\r\0"):
                raise HardwareError(f"the boot loader cannot be given {value!r} for {key!r}: it has no way to quote it")
            line = line.replace(f"{{{key}}}", value)
        filled.append(line)
    return filled
