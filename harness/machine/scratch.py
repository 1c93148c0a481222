"""A machine's folder for sockets, which nothing outlives for long.

A lab that is killed cannot clean up, so the next one does: each folder is
locked (flock) by the process that made it, and the lock ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from harness.machine.errors import MachineError

PREFIX = "quoin-machine-"
# A folder is locked right after it was made; until then only its age protects it.
_NEWBORN_S = 60.0
# A socket's path has at most 107 bytes (unix(7)); those in a folder of ours have names of up to eight.
_LONGEST = 107 - len(f"/{PREFIX}01234567/monitors")


class Scratch:
    """A locked folder of one machine; `close` removes it."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        if len(os.fsencode(parent)) > _LONGEST:
            raise MachineError(
                f"wanted a folder for sockets, whose path is at most {_LONGEST} bytes long; found {parent}; "
                "next: set TMPDIR to a shorter one, such as /tmp"
            )
        _sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(parent: Path) -> None:
    """Remove folders whose owner was killed."""
    for path in parent.glob(PREFIX + "*"):
        # Somebody else's folder, or one that is removed meanwhile, is none of ours.
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _NEWBORN_S:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
