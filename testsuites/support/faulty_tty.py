"""A serial line with faults: a real pty, a script at the target's end, and what lines do to bytes.

The pty is a whole tty for whoever opens it; its device has a stable name, a link
as udev makes them in /dev/serial/by-id. The faults are functions over bytes.
"""

from __future__ import annotations

import os
import pty
import select
import tty
from collections.abc import Iterable
from itertools import chain
from pathlib import Path


class FaultyTty:
    """An adapter in `folder`, plugged in; the target behind it says and hears what its test tells it to."""

    def __init__(self, folder: Path) -> None:
        self.link = folder / "usb-adapter"
        self._target, self._device = self._spare = pty.openpty()
        self.plug()

    @property
    def device(self) -> Path:
        """The name that the adapter has this time."""
        return Path(os.ttyname(self._device))

    def plug(self) -> None:
        self._target, self._device = self._spare
        tty.setraw(self._device)
        self.link.symlink_to(self.device)

    def unplug(self) -> None:
        """Hang up, as an adapter does that leaves its bus; it will have another name when it is back."""
        # Taken first, so that it is not the number that becomes free.
        self._spare = pty.openpty()
        self.link.unlink()
        os.close(self._device)
        os.close(self._target)

    def close(self) -> None:
        os.close(self._device)
        os.close(self._target)

    def says(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._target, data) :]

    def hears(self, count: int) -> bytes:
        """The next `count` bytes that were typed; fewer where no more come within half a minute."""
        heard = b""
        while len(heard) < count and select.select([self._target], [], [], 30)[0]:
            heard += os.read(self._target, count - len(heard))
        return heard


def dropped(data: bytes, at: int, count: int = 1) -> bytes:
    return data[:at] + data[at + count :]


def doubled(data: bytes, at: int, count: int = 1) -> bytes:
    return data[: at + count] + data[at:]


def changed(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def interleaved(one: bytes, other: bytes, turns: Iterable[int]) -> bytes:
    """Two writers on a line, who take turns of so many bytes each; what is left then comes whole, in order."""
    woven, left = b"", [one, other]
    for number, size in enumerate(turns):
        woven += left[number % 2][:size]
        left[number % 2] = left[number % 2][size:]
    return woven + left[0] + left[1]


def heard_at(data: bytes, sent_baud: int, read_baud: int) -> bytes:
    """What a UART at `read_baud` makes of bytes sent at `sent_baud`, 8N1, without pauses.

    It waits for a falling edge, looks at the middle of each of ten bits by its own
    clock, and delivers the byte whether or not its stop bit was right, as Linux
    does without INPCK (termios(3)).
    """
    bits = [1, *chain.from_iterable([0, *(byte >> bit & 1 for bit in range(8)), 1] for byte in data), 1]

    def level(at: float) -> int:
        """At a time, in bits of the sender."""
        return bits[int(at)] if at < len(bits) else 1

    width = sent_baud / read_baud
    heard, at = bytearray(), 0
    while True:
        while at + 1 < len(bits) and not (bits[at] and not bits[at + 1]):
            at += 1
        if at + 1 >= len(bits):
            return bytes(heard)
        start = at + 1
        heard.append(sum(level(start + (bit + 1.5) * width) << bit for bit in range(8)))
        at = int(start + 9.5 * width)
