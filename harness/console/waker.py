"""Waking a thread that waits in `select`."""

from __future__ import annotations

import contextlib
import os
import threading


class Waker:
    """A pipe to select on. `wake` is safe from any thread, and harmless once it is closed."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._open = True

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        # A full pipe holds wake-ups already: one more says nothing new.
        with self._mutex, contextlib.suppress(BlockingIOError):
            if self._open:
                os.write(self._write, b"w")

    def clear(self) -> None:
        """Take the wake-ups so far; for the thread that was woken."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        with self._mutex:
            self._open = False
            os.close(self._read)
            os.close(self._write)
