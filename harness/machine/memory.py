"""The main memory of an emulated machine: a file without a name that QEMU and the lab both map.

So a snapshot need not take memory through QEMU, which looks at every page of it: the lab keeps the pages that
hold something, and a page that nobody has ever touched costs nothing, neither to save nor to restore.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

_PAGE = mmap.PAGESIZE
_ZEROS = bytes(_PAGE)
# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class Contents:
    """What memory held: the pages that were not zero, as runs by their offset in bytes, lowest first."""

    runs: tuple[tuple[int, bytes], ...]


class GuestMemory:
    """`size` bytes, zeros at first. The machine must stand still for `save` and `restore`."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._size = size
        self._map = mmap.mmap(self.fd, size)

    def arguments(self) -> list[str]:
        """QEMU's arguments for it; QEMU must inherit `fd`."""
        backend = f"memory-backend-file,id=ram,size={self._size},mem-path=/proc/self/fd/{self.fd},share=on"
        return ["-object", backend, "-machine", "memory-backend=ram"]

    def save(self) -> Contents:
        """What it holds now."""
        runs = []
        for start, end in self._data():
            first = None
            for page in range(start, end, _PAGE):
                empty = self._map[page : page + _PAGE] == _ZEROS
                if first is not None and empty:
                    runs.append((first, self._map[first:page]))
                    first = None
                elif first is None and not empty:
                    first = page
            if first is not None:
                runs.append((first, self._map[first:end]))
        return Contents(tuple(runs))

    def restore(self, contents: Contents) -> None:
        """Make it what it was when `contents` were saved."""
        ends = [(at, at + len(data)) for at, data in contents.runs]
        for start, end in list(self._data()):
            # What lies between the runs was zeros; a hole is zeros again, in QEMU's map too.
            for first, after in ends:
                if first >= end:
                    break
                if after > start:
                    self._punch(start, first)
                    start = after
            self._punch(start, end)
        for at, data in contents.runs:
            self._map[at : at + len(data)] = data

    def close(self) -> None:
        """Give the memory back, once QEMU has ended."""
        self._map.close()
        os.close(self.fd)

    def _data(self) -> Iterator[tuple[int, int]]:
        """Start and end of each part that somebody has written to (lseek(2), SEEK_DATA)."""
        at = 0
        while True:
            try:
                at = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(self.fd, at, os.SEEK_HOLE)
            yield at, end
            at = end

    def _punch(self, start: int, end: int) -> None:
        if start < end and _libc.fallocate(self.fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start):
            raise OSError(ctypes.get_errno(), "fallocate", "guest-memory")
