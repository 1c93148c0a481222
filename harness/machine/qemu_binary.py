"""Finding the emulator, and refusing one that is too old."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from harness.machine.errors import QemuMissing

OLDEST = (7, 2)
_PACKAGES = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}


def find_qemu(binary: str, oldest: tuple[int, ...] = OLDEST) -> str:
    """Full path of an emulator of at least version `oldest`. Raises QemuMissing."""
    path = shutil.which(binary)
    if path is None:
        arch = binary.rsplit("-", 1)[-1]
        package = _PACKAGES.get(arch, "qemu-system-misc")
        raise QemuMissing(
            f"{binary} is not installed (looked in PATH); run `./quoin setup`, or `apt-get install {package}`"
        )
    status = Path(path).stat()
    version = _version(path, status.st_mtime_ns, status.st_size)
    if version < oldest:
        wanted, found = (".".join(map(str, v)) for v in (oldest, version))
        raise QemuMissing(
            f"{path} is version {found}, but {wanted} or later is needed; install a newer QEMU and put it first in PATH"
        )
    return path


@functools.lru_cache
def _version(path: str, _mtime_ns: int, _size: int) -> tuple[int, ...]:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QemuMissing(f"{path} --version does not run: {error}; reinstall QEMU") from error
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    if answer.returncode != 0 or match is None:
        words = (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"
        raise QemuMissing(f"{path} --version does not answer as QEMU does: {words}")
    return tuple(int(part) for part in match.groups(default="0"))
